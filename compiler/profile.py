"""Where the time and the memory of a compilation go: phases, measured where they happen and gathered in one place.

Who compiles opens :func:`profiling`; what takes time says so with :func:`phase`, or :func:`record` where it was measured
already. Outside of :func:`profiling` both do nothing.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Phase:
    """One phase.

    Attributes:
        path: the phases it is part of, outermost first, and its own name.
        seconds: wall-clock time, inner phases included.
        peak_bytes: the most memory the process has held by its end (the high-water mark of the resident set); 0 if unknown.
        nodes: of a pass, nodes of the graph before and after it.
        detail: more about it, in words.
    """

    path: tuple[str, ...]
    seconds: float = 0.0
    peak_bytes: int = 0
    nodes: tuple[int, int] | None = None
    detail: str = ""

    def to_data(self) -> dict[str, Any]:
        """As JSON-able data."""
        data: dict[str, Any] = {"phase": list(self.path), "seconds": self.seconds, "peak_bytes": self.peak_bytes}
        if self.nodes is not None:
            data["nodes"] = list(self.nodes)
        if self.detail:
            data["detail"] = self.detail
        return data


@dataclass
class Profile:
    """Phases in the order in which they began."""

    phases: list[Phase] = field(default_factory=list)
    _open: tuple[str, ...] = ()

    def seconds(self) -> dict[str, float]:
        """Seconds of the outermost phases by name; phases of the same name are added."""
        found: dict[str, float] = {}
        for p in self.phases:
            if len(p.path) == 1:
                found[p.path[0]] = found.get(p.path[0], 0.0) + p.seconds
        return found

    def to_data(self) -> list[dict[str, Any]]:
        """As JSON-able data: see :meth:`Phase.to_data`."""
        return [p.to_data() for p in self.phases]


_CURRENT: ContextVar[Profile | None] = ContextVar("planish_profile", default=None)


@contextmanager
def profiling() -> Iterator[Profile]:
    """Gather the phases of what runs inside, in this thread; an outer profile goes on gathering where there is one."""
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    profile = Profile()
    token = _CURRENT.set(profile)
    try:
        yield profile
    finally:
        _CURRENT.reset(token)


@contextmanager
def phase(name: str, detail: str = "") -> Iterator[None]:
    """What runs inside is the phase ``name``, part of the phase it runs in."""
    profile = _CURRENT.get()
    if profile is None:
        yield
        return
    outer = profile._open
    entry = Phase((*outer, name), detail=detail)
    profile.phases.append(entry)
    profile._open = entry.path
    began = time.perf_counter()
    try:
        yield
    finally:
        entry.seconds, entry.peak_bytes = time.perf_counter() - began, peak_bytes()
        profile._open = outer


def record(name: str, seconds: float, *, nodes: tuple[int, int] | None = None, detail: str = "") -> None:
    """A phase that has just ended and was measured by others."""
    profile = _CURRENT.get()
    if profile is not None:
        profile.phases.append(Phase((*profile._open, name), seconds, peak_bytes(), nodes, detail))


def peak_bytes() -> int:
    """The most memory that this process has held; 0 where the system does not say."""
    # getrusage says the most of the process *or of the one that started it*: exec carries the parent's mark over
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
