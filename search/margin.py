"""How far a plan is from being proved: what its development samples let expect of the final ones.

Hundreds of samples say little about one input in a hundred, so the tail of the losses is extrapolated: their logarithms are
taken as normal where that leaves more to the tail than was seen. Errors here cost speed or another trial, never the promise,
which rests on the final samples alone.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from .statistics import misses_allowed

#: A plan is taken to be good when it is at least this likely to be proved on the final samples.
LIKELY = 0.85
#: A usage that stands for "far too much" where no finite one is known.
FAR = 1e6


def acceptable_rate(samples: int, coverage: float, confidence: float) -> float:
    """The share of inputs that may miss the bar so that ``samples`` fresh ones prove "each" with probability :data:`LIKELY`;
    0 where so few samples prove nothing."""
    allowed = misses_allowed(coverage, samples, confidence)
    if allowed < 0:
        return 0.0
    # P(at most k misses of n at rate p) is the survival function of Beta(k + 1, n - k) at p
    return float(stats.beta.isf(LIKELY, allowed + 1, samples - allowed))


def usage_of_each(losses: np.ndarray, limit: float, samples: int, coverage: float, confidence: float) -> float:
    """The loss that as good as no input exceeds, as a share of the loss at the bar: up to 1 the plan will likely be proved.

    Args:
        losses: f64 ``[n]`` >= 0, of the development samples.
        limit: the loss at the bar, > 0.
        samples: how many final samples there are.
        coverage, confidence: what is to be proved.
    """
    rate = acceptable_rate(samples, coverage, confidence)
    positive = losses[losses > 0]
    if not len(positive):
        return 0.0
    if limit <= 0 or rate <= 0 or not np.isfinite(losses).all():
        return FAR
    logs = np.log(positive)
    # of few samples the spread is underestimated; Student's t knows by how much
    spread = float(logs.std(ddof=1)) if len(logs) > 1 else 0.5
    share = rate * len(losses) / len(positive)
    tail = float(logs.mean() + stats.t.isf(min(share, 0.5), max(len(logs) - 1, 1)) * spread)
    seen = float(np.quantile(losses, 1 - rate)) if (losses > limit).any() else 0.0
    return max(float(np.exp(min(tail, 700.0))), seen) / limit


def usage_of_flips(misses: int, count: int, samples: int, coverage: float, confidence: float) -> float:
    """The same for scores that jump: the share of ``count`` development samples that missed, over the share that may."""
    rate = acceptable_rate(samples, coverage, confidence)
    return FAR if rate <= 0 else (misses / count) / rate
