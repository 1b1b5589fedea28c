"""Measuring calls: interleaved, so that contenders share the machine's good and bad moments alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Times:
    """Seconds of single calls, in the order they were made."""

    seconds: tuple[float, ...]

    def percentile(self, p: float) -> float:
        """The time that ``p`` percent of the calls stayed within."""
        return float(np.percentile(self.seconds, p))

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return self.percentile(50)

    @property
    def best(self) -> float:
        """The shortest: what the machine can do when nothing else runs on it."""
        return min(self.seconds)

    def as_dict(self) -> dict[str, float]:
        """Percentiles, extremes and mean in seconds, and the number of calls."""
        named = {f"p{p}": self.percentile(p) for p in (50, 90, 95, 99)}
        return {"calls": len(self.seconds), "min": self.best, **named, "max": max(self.seconds),
                "mean": float(np.mean(self.seconds))}  # fmt: skip


def interleaved(
    contenders: Mapping[str, Callable[[], Any]], seconds: float = 2.0, least: int = 5, most: int = 10_000
) -> dict[str, Times]:
    """Call the contenders in turn until the time is used up.

    Args:
        contenders: what to call, by name.
        seconds: how long all of them together may take; the first call of each (a warm-up) is not counted.
        least, most: how often each is called at least and at most, whatever ``seconds`` says.
    """
    for call in contenders.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(most):
            if i >= least and time.perf_counter() > end:
                break
            for name, call in contenders.items():
                start = time.perf_counter()
                call()
                found[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return {name: Times(tuple(values)) for name, values in found.items()}
