"""Tasks that a worker can import by name, for the tests of the executor."""

from __future__ import annotations

import os
from typing import Any

from planish.compiler.errors import UsageError


def add(shared: dict[str, int], task: int) -> int:
    """The sum of what is shared and one's own."""
    return shared["base"] + task


def fail(shared: Any, task: int) -> int:
    """Never works."""
    raise UsageError(f"task {task} cannot be done", "try another")


def where(shared: Any, task: int) -> int:
    """The process that did it."""
    return os.getpid()
