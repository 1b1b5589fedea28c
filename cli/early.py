"""The output file while a search goes on: a valid artifact from the first minute, replaced by every better one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ..compiler.errors import PlanishError


class Interrupted(PlanishError):
    """The user stopped a search."""

    exit_code = 130


class EarlyResults:
    """Writes every better artifact to ``path``, whole or not at all, and puts back what was there if the search fails.

    A search that is interrupted keeps the last one: it is valid, though nothing is proved of it yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = False
        self._before: Path | None = None

    def __call__(self, artifact: Any) -> None:
        """Write ``artifact``."""
        if not self.written and self.path.exists():
            self._before = self.path.with_name(f".{self.path.name}.{os.getpid()}.before")
            try:
                os.link(self.path, self._before)
            except OSError:  # a file system without links
                shutil.copyfile(self.path, self._before)
        artifact.save(self.path)
        self.written = True

    def take_back(self) -> None:
        """As it was before: the search failed."""
        if self._before is not None:
            os.replace(self._before, self.path)
            self._before = None
        elif self.written:
            self.path.unlink(missing_ok=True)

    def done(self) -> None:
        """The result is in its place: what was there before is gone for good."""
        if self._before is not None:
            self._before.unlink(missing_ok=True)
            self._before = None
