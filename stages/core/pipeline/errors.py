"""Exceptions that end a stage without a traceback: a mistake that a person can fix, and an interruption."""


class PipelineError(SystemExit):
    """End the stage with exit status 1 and this message on stderr, without a traceback.

    The message says what was found, where, what was expected, and the key or command that fixes it.
    """


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM at a point from which the work can be resumed; the message says how."""
