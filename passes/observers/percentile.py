"""All but the most extreme values: a fixed part of what was seen may saturate (as in McKinstry et al. 2018, arXiv:1809.04191,
and Wu et al. 2020, arXiv:2004.09602)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .histogram import Histogram


@dataclass(frozen=True)
class Percentile:
    """The range that ``percent`` of the values lie in: of their magnitudes if symmetric, else half of the rest is cut off at
    each end. Exact to the width of a bin."""

    name: str = "percentile"
    percent: float = 99.99

    def range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        """The percentiles, by linear interpolation within a bin."""
        edges = histogram.edges()
        cumulative = np.concatenate([[0.0], np.cumsum(histogram.counts)])
        cumulative /= cumulative[-1]
        tail = 1.0 - self.percent / 100.0
        if not symmetric:
            return float(_quantile(edges, cumulative, tail / 2)), float(_quantile(edges, cumulative, 1 - tail / 2))
        magnitudes = np.unique(np.abs(edges))
        inside = np.interp(magnitudes, edges, cumulative) - np.interp(-magnitudes, edges, cumulative, left=0.0)
        bound = float(_quantile(magnitudes, inside, 1 - tail))
        return max(histogram.low, -bound), min(histogram.high, bound)


def _quantile(edges: np.ndarray, cumulative: np.ndarray, part: float) -> float:
    """Where ``cumulative`` (rising, at ``edges``) first reaches ``part``."""
    at = int(np.searchsorted(cumulative, part))
    if at == 0:
        return float(edges[np.searchsorted(cumulative, cumulative[0], side="right") - 1])
    if at == len(edges):
        return float(edges[-1])
    rise = cumulative[at] - cumulative[at - 1]
    return float(edges[at - 1] + (edges[at] - edges[at - 1]) * (part - cumulative[at - 1]) / rise)


OBSERVER = Percentile()
