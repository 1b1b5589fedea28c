"""The errors a user can meet. Each is one plain sentence and, where there is one, a hint on what to do."""

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


class CaptureError(PlanishError):
    """The model cannot be captured; names the Python line of the model where that is known."""


class PassError(PlanishError):
    """A pass failed or broke an invariant; names the pass, the node and the reason."""


class VerifyError(PlanishError):
    """The graph breaks an invariant of the IR."""


class LoweringError(PlanishError):
    """The target has no kernel for a node."""


class ToolchainError(PlanishError):
    """The C++ compiler is missing or failed; says what to install, or the command and its first error line."""


class BudgetError(PlanishError):
    """The quality bar cannot be met; says the best reached."""

    exit_code = 3
