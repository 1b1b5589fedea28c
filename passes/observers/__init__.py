"""How the range of a static activation is found: one file per observer.

An observer reads a :class:`~.histogram.Histogram`, a sketch of fixed size, and says which range the quantised values cover;
what lies beyond saturates. A module of this folder with an attribute ``OBSERVER`` is one; there is nothing else to register.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

import numpy as np

from ...compiler.errors import UsageError
from ...compiler.options import nearest
from .histogram import Histogram

__all__ = ["Histogram", "Observer", "Range", "find_observer", "observers"]


class Observer(Protocol):
    """A way to choose the range."""

    name: str

    def range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        """The range that int8 shall cover, ``low <= high``.

        Args:
            histogram: what was seen; not empty.
            symmetric: the range becomes ``[-max(-low, high), max(-low, high)]`` in 255 levels; else 256 levels cover it.
        """


@dataclass(frozen=True)
class Range:
    """A static quantisation to int8: ``clamp(round(x / scale) + zero)``, as the op ``quantize`` has it.

    Attributes:
        scale: the step, a positive f32.
        zero: what zero becomes, in [-128, 127]; None is symmetric, with values in [-127, 127].
        observer: what found it.
    """

    scale: np.float32
    zero: int | None
    observer: str = ""

    @staticmethod
    def over(low: float, high: float, *, symmetric: bool, observer: str = "") -> Range:
        """The quantisation that covers ``low .. high`` and zero."""
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        steps, width = (127.0, max(-low, high)) if symmetric else (255.0, high - low)
        tiny = float(np.finfo(np.float32).tiny)
        scale = np.float32(max(width / steps, tiny))
        if symmetric:
            return Range(scale, None, observer)
        return Range(scale, int(np.clip(np.rint(-128.0 - low / float(scale)), -128, 127)), observer)

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """What ``x`` f32 becomes when it goes through int8 and back."""
        zero = self.zero or 0
        q = x / self.scale
        np.rint(q, out=q)
        np.clip(q, (-127 if self.zero is None else -128) - zero, 127 - zero, out=q)
        q *= self.scale
        return q


@cache
def observers() -> dict[str, Observer]:
    """The observers there are, by name."""
    modules = [import_module(f".{m.name}", __name__) for m in iter_modules(__path__)]
    found = [module.OBSERVER for module in modules if hasattr(module, "OBSERVER")]
    return {observer.name: observer for observer in sorted(found, key=lambda o: o.name)}


def find_observer(name: str) -> Observer:
    """The observer called ``name``.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name not in observers():
        raise UsageError(f"there is no observer {name!r}", nearest(name, observers()))
    return observers()[name]
