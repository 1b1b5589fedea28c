"""What a long command says while it works."""

from __future__ import annotations

import sys
import time

_BEGAN = time.monotonic()


def say(words: str) -> None:
    """A line of progress, with the seconds since the command began."""
    print(f"{time.monotonic() - _BEGAN:7.1f} s  {words}", file=sys.stderr, flush=True)


class Progress:
    """Says what a compile does, one line for each kind of step."""

    def __init__(self, name: str) -> None:
        """``name`` stands in front."""
        self._name, self._last = name, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """As ``planish.compile`` calls it."""
        kind = what.split("(")[0].split(":")[0]
        if kind != self._last:
            say(f"{self._name}:   {what}")
        self._last = kind
