"""Format the results of the benchmarks."""

import statistics


def spread(values: list[float]) -> str:
    """Median, minimum and maximum of one or more values, as text."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
