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
    """

    name: str = "mse"
    tried: int = 64
    least: float = 0.15

    def range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        """The range of least error."""
        values, counts = histogram.points()
        parts = np.linspace(1.0, self.least, self.tried)
        low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
        if symmetric:
            bound = max(-low, high)
            errors = [mean_squared_error(values, counts, -bound * p, bound * p, symmetric=True) for p in parts]
            bound *= parts[int(np.argmin(errors))]
            return max(low, -bound), min(high, bound)
        best_low, best_high = low, high
        for _ in range(2):
            errors = [mean_squared_error(values, counts, best_low, high * p, symmetric=False) for p in parts]
            best_high = high * parts[int(np.argmin(errors))]
            errors = [mean_squared_error(values, counts, low * p, best_high, symmetric=False) for p in parts]
            best_low = low * parts[int(np.argmin(errors))]
        return float(best_low), float(best_high)


def mean_squared_error(values: np.ndarray, counts: np.ndarray, low: float, high: float, *, symmetric: bool) -> float:
    """The error when ``values``, each seen ``counts`` times, are quantised over ``low .. high``."""
    rounded = Range.over(low, high, symmetric=symmetric).rounded(values)
    return float(np.dot(counts, np.square(rounded - values)) / counts.sum())


OBSERVER = MeanSquaredError()
