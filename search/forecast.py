"""How long a search will still take: what its steps took so far, times how many of each kind are still to come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

#: Kind of step -> kinds whose seconds stand in for it until one has been done, each with how many of those it takes about.
_LIKE: Mapping[str, tuple[tuple[str, float], ...]] = {
    "uniform": (),
    "kept": (("uniform", 1.5),),
    "losses": (("uniform", 2.0),),
    "trial": (("kept", 1.0), ("uniform", 1.0)),
    "proof": (("trial", 0.5), ("uniform", 0.5)),
}


class Forecast:
    """Counts steps and times them.

    Args:
        limit: seconds that the whole search may take; None for no limit.
        now: the clock, in seconds.
    """

    def __init__(self, limit: float | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._limit = now, limit
        self._began = now()
        self._left: dict[str, int] = {}
        self._spent: dict[str, list[float]] = {}
        self._kind, self._kind_began = "", self._began

    def expect(self, kind: str, count: int) -> None:
        """Say how many steps of ``kind`` are still to come."""
        self._left[kind] = count

    def begin(self, kind: str) -> None:
        """A step of ``kind`` begins; the one before it is done. A kind that nobody expects is timed by nobody."""
        self.end()
        self._kind, self._kind_began = kind, self._now()
        self._left[kind] = max(self._left.get(kind, 0) - 1, 0)

    def end(self) -> None:
        """The step at hand is done."""
        if self._kind in _LIKE:
            self._spent.setdefault(self._kind, []).append(self._now() - self._kind_began)
        self._kind = ""

    def seconds(self) -> float | None:
        """About how many seconds are left; None while that cannot be told."""
        total = 0.0
        for kind, count in self._left.items():
            each = self._each(kind)
            if count and each is None:
                return None
            total += count * (each or 0.0)
        running = self._each(self._kind) if self._kind in _LIKE else 0.0
        if running is None:
            return None
        total += max(running - (self._now() - self._kind_began), 0.0)
        if self._limit is not None:
            total = min(total, max(self._limit - (self._now() - self._began), 0.0))
        return total

    def words(self) -> str:
        """ " (about 1:10 min to the end)", or nothing while that cannot be told."""
        left = self.seconds()
        if left is None or left < 1:
            return ""
        whole = round(left)
        return f" (about {f'{whole} s' if whole < 60 else f'{whole // 60}:{whole % 60:02d} min'} to the end)"

    def _each(self, kind: str) -> float | None:
        spent = self._spent.get(kind)
        if spent:
            return sum(spent) / len(spent)
        for other, factor in _LIKE.get(kind, ()):
            known = self._spent.get(other)
            if known:
                return factor * sum(known) / len(known)
        return None
