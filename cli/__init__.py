"""The command line: one file for each command, ``app`` puts them together. ``main`` is the console script ``planish``."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0 done, 1 failure, 2 the call is wrong, 3 a bar was missed, 130 interrupted.
    """
    from .app import run

    return run(argv)
