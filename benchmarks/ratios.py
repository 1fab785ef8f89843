"""How the benchmarks print what they measured."""

import statistics


def spread(values: list[float]) -> str:
    """Of one value or several: the median, and the least to the most."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
