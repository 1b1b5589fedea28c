"""The errors of loading and running an artifact. One plain sentence each, with a hint where there is one."""

from __future__ import annotations

from ..errors import PlanishError, UsageError


class ArtifactError(PlanishError):
    """The file is no artifact, damaged, edited, too new, or cannot run here; or it cannot be written."""


class InputError(UsageError, ValueError):
    """An input, output or argument of a call is wrong: its name, type, rank or size."""


class RunError(PlanishError):
    """The model failed while it ran: an index out of range, or no memory."""
