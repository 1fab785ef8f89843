"""What ends a stage without a traceback: what a person can mend, and a person's wish to stop."""


class Mistake(SystemExit):
    """Ends a stage with exit status 1 and its message on stderr, without a traceback.

    The message says what was found, where, what was expected, and the key or command that mends it.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, obeyed at a point from which the work can go on; the message says how."""


def many(count: int, thing: str) -> str:
    """A count and what is counted: 1 patient, 1,200 patients."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def some(names: list[str], most: int = 5) -> str:
    """The first ``most`` of ``names`` for a message, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
