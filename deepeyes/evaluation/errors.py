"""What ends an evaluation, with a message for the user and an exit status."""

from __future__ import annotations


class EvalError(Exception):
    """Ends an evaluation with a message for the user and the exit status `status`."""

    status = 2


class UsageError(EvalError):
    """An option is wrong; the message says which, and what is expected."""


class BenchError(EvalError):
    """The benchmark can't be read at all; the message says what was found and what was expected."""
