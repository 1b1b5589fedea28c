"""The range that loses least information: the least Kullback-Leibler divergence of the quantised from the seen distribution
(Migacz 2017, "8-bit inference with TensorRT", GTC)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .histogram import Histogram


@dataclass(frozen=True)
class Entropy:
    """Thresholds on the magnitude are tried; what lies beyond counts as its last bin, and the bins within are merged into as
    many as int8 has levels.

    Attributes:
        bins: bins of the magnitudes between zero and the greatest.
        step: every ``step``-th threshold is tried.
    """

    name: str = "entropy"
    bins: int = 2048
    step: int = 8

    def range(self, histogram: Histogram, *, symmetric: bool) -> tuple[float, float]:
        """The range of least divergence; one-sided values have all 256 levels if not symmetric, others 128 for each sign."""
        bound = max(abs(histogram.low), abs(histogram.high))
        if bound == 0:
            return 0.0, 0.0
        values, counts = histogram.points()
        magnitudes, _ = np.histogram(np.abs(values), self.bins, (0.0, bound), weights=counts)
        one_sided = histogram.low >= 0 or histogram.high <= 0
        levels = 256 if one_sided and not symmetric else 128
        tried = range(levels, self.bins + 1, self.step)
        losses = [divergence(magnitudes, end, levels) for end in tried]
        best = tried[int(np.argmin(losses))] if losses else self.bins
        threshold = bound * best / self.bins
        return max(histogram.low, -threshold), min(histogram.high, threshold)


def divergence(counts: np.ndarray, end: int, levels: int) -> float:
    """KL(P || Q) when the first ``end`` bins of ``counts`` are kept: P with the rest in its last bin, Q what ``levels`` merged
    bins say about them, spread evenly over the bins that hold something."""
    kept = counts[:end].astype(np.float64)
    p = kept.copy()
    p[-1] += counts[end:].sum()
    level = np.arange(end) * levels // end
    held = kept > 0
    mass = np.bincount(level, kept, minlength=levels)
    share = np.bincount(level, held, minlength=levels)
    q = np.where(held, mass[level] / np.maximum(share[level], 1), 0.0)
    p, q = p / p.sum(), q / max(q.sum(), 1e-30)
    both = (p > 0) & (q > 0)
    # a bin that holds nothing but the clipped tail has no counterpart: as in Migacz's smoothing, it costs a fixed penalty
    lost = p[(p > 0) & ~both].sum()
    return float(np.sum(p[both] * np.log(p[both] / q[both])) + lost * 30.0)


OBSERVER = Entropy()
