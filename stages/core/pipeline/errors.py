"""Exceptions that end a stage without a traceback: a mistake that a person can fix, and an interruption; and numbers in
words."""


class Mistake(SystemExit):
    """End the stage with exit status 1 and this message on stderr, without a traceback.

    The message says what was found, where, what was expected, and the key or command that fixes it.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM at a point from which the work can be resumed; the message says how."""


def many(count: int, thing: str) -> str:
    """A count with its noun: "1 patient", "1,200 patients"."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def some(names: list[str], most: int = 5, total: int | None = None) -> str:
    """The first ``most`` of ``names``, and how many more there are of ``total`` (None: of these), for a message."""
    shown = names[:most]
    rest = (len(names) if total is None else total) - len(shown)
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")


def chance(p: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
