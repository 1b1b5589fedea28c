"""The range with the least mean squared error of the values: finer steps for most, saturation for few (Sung et al. 2015,
arXiv:1511.06488; Nagel et al. 2021, arXiv:2106.08295, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import Range
from .histogram import Histogram


@dataclass(frozen=True)
class MeanSquaredError:
    """Try parts of the seen range and keep the best: the bound if symmetric, else one end after the other, twice.

    Attributes:
        tried: how many parts are tried of an end.
        least: the smallest part.
        points: at most so many stand for the values.
    """

    name: str = "mse"
    tried: int = 64
    least: float = 0.15
    points: int = 2048

    def range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        """The range of least error."""
        values, counts = histogram.points(self.points)
        parts = np.linspace(1.0, self.least, self.tried)
        low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
        if symmetric:
            bounds = max(-low, high) * parts
            bound = bounds[int(np.argmin(mean_squared_errors(values, counts, -bounds, bounds, symmetric=True)))]
            return max(low, -bound), min(high, bound)
        best_low, best_high = low, high
        for _ in range(2):
            errors = mean_squared_errors(values, counts, np.full(len(parts), best_low), high * parts, symmetric=False)
            best_high = high * parts[int(np.argmin(errors))]
            errors = mean_squared_errors(values, counts, low * parts, np.full(len(parts), best_high), symmetric=False)
            best_low = low * parts[int(np.argmin(errors))]
        return float(best_low), float(best_high)


def mean_squared_errors(
    values: np.ndarray, counts: np.ndarray, lows: np.ndarray, highs: np.ndarray, *, symmetric: bool
) -> np.ndarray:
    """The errors f64 ``[P]`` when ``values``, each seen ``counts`` times, are quantised over each of ``lows .. highs``."""
    ranges = [Range.over(low, high, symmetric=symmetric) for low, high in zip(lows, highs, strict=True)]
    scale = np.array([r.scale for r in ranges], np.float64)[:, None]
    zero = np.array([r.zero or 0 for r in ranges], np.float64)[:, None]
    q = values / scale
    np.rint(q, out=q)
    np.clip(q, (-127 if symmetric else -128) - zero, 127 - zero, out=q)
    q *= scale
    q -= values
    return np.square(q, out=q) @ counts / counts.sum()


OBSERVER = MeanSquaredError()
