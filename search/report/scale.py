"""Axes: which scale fits the values, and round numbers to mark on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: A span of more than this is drawn on a logarithmic axis.
LOG_FROM = 20.0


@dataclass(frozen=True)
class Axis:
    """A scale from data to 0..1.

    Attributes:
        kind: linear or log.
        low, high: ends of the axis in data; ``low < high``, and above zero on a log axis.
        ticks: (position in 0..1, label) of the marks, in order of the data.
    """

    kind: Literal["linear", "log"]
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()

    def at(self, value: float) -> float:
        """Where ``value`` is on the axis; values beyond an end sit on it."""
        if self.kind == "log":
            low, high = math.log(self.low), math.log(self.high)
            value = math.log(max(value, self.low))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))


def axis(values: Iterable[float], label: Callable[[float], str], *, most: int = 6, zero: bool = False) -> Axis:
    """The axis that shows ``values``: logarithmic where they are positive and span more than :data:`LOG_FROM`.

    Args:
        values: at least one finite number.
        label: a number of the axis in words.
        most: marks at most.
        zero: begin a linear axis at zero where that costs less than half of it.
    """
    found = [v for v in values if math.isfinite(v)]
    low, high = min(found), max(found)
    if low > 0 and high / low > LOG_FROM:
        return _log(low, high, label, most)
    if low == high:
        low, high = (low - abs(low) / 2 - 1e-12, high + abs(high) / 2 + 1e-12)
    step = _step((high - low) / max(1, most - 1))
    start = 0.0 if zero and 0 <= low < (high - low) else math.floor((low - 0.05 * (high - low)) / step) * step
    end = math.ceil((high + 0.05 * (high - low)) / step) * step
    made = Axis("linear", start, end)
    count = round((end - start) / step)
    marks = [start + step * i for i in range(count + 1)]
    return Axis("linear", start, end, tuple((made.at(m), label(m)) for m in marks))


def _log(low: float, high: float, label: Callable[[float], str], most: int) -> Axis:
    low, high = low / 1.4, high * 1.4
    made = Axis("log", low, high)
    marks: Sequence[float] = _decades(low, high, (1, 2, 5))
    if len(marks) > most:
        marks = _decades(low, high, (1,))
    while len(marks) > most:
        marks = marks[:: math.ceil(len(marks) / most)]
    return Axis("log", low, high, tuple((made.at(m), label(m)) for m in marks))


def _decades(low: float, high: float, digits: Sequence[int]) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [d * 10.0**e for e in range(first, last + 1) for d in digits]
    return [m for m in every if low <= m <= high]


def _step(rough: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * digit for digit in (1, 2, 2.5, 5, 10) if power * digit >= rough * (1 - 1e-9))


def number(value: float) -> str:
    """Three digits; of a value near one as many as tell it from one: ``0.99987``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 0.5 < abs(value) < 1:
        digits = max(2, min(8, 2 - math.floor(math.log10(1 - abs(value)))))
        text = f"{value:.{digits}f}".rstrip("0")
        return text + "0" if text.endswith(".") else text
    return f"{value:.3g}"
