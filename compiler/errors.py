"""The errors of compiling, on the base that the runtime shares.

Each is one plain sentence and, where there is one, a hint on what to do.
"""

from __future__ import annotations

from ..errors import PlanishError, UsageError

__all__ = [
    "BudgetError",
    "CaptureError",
    "LoweringError",
    "PassError",
    "PlanishError",
    "ToolchainError",
    "UsageError",
    "VerifyError",
]


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
