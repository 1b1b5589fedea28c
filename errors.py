"""The base of every error a user can meet: the compiler's (``compiler/errors.py``) and the runtime's
(``runtime/errors.py``) both stand on it, so one ``except planish.PlanishError`` catches all."""

from __future__ import annotations


class PlanishError(Exception):
    """Any failure that planish explains.

    Args:
        message: one plain sentence.
        hint: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


class UsageError(PlanishError):
    """The call or the command line is wrong: exit status 2."""

    exit_code = 2
