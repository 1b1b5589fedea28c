"""What a sample of scores proves about inputs that were not seen: one-sided confidence bounds.

- a share of inputs: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial"
  (Biometrika 1934); exact for every sample size;
- a quantile: the order statistic that the same binomial argument gives (Wilks, "Determination of sample sizes for setting
  tolerance limits", 1941); it asks nothing of the distribution, where a bootstrap of a tail quantile is not consistent;
- a mean: the bias-corrected and accelerated bootstrap (Efron, "Better bootstrap confidence intervals", JASA 1987);
- a mean of scores between 0 and 1, where many samples may score exactly 1 and a bootstrap would then prove anything: exact for
  yes and no (Clopper-Pearson), else by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
  betting", JRSS-B 2023, arXiv:2010.09686), which holds for every sample size too.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

#: Fewer samples than this say too little about their own spread for a bootstrap to be trusted.
BOOTSTRAP_LEAST = 30
RESAMPLES = 2000
_INDICES_AT_ONCE = 1 << 22


def share_at_least(successes: int, samples: int, confidence: float) -> float:
    """Lower bound of a share after ``successes`` in ``samples`` independent tries (Clopper-Pearson, one-sided)."""
    if successes <= 0:
        return 0.0
    return float(special.betaincinv(successes, samples - successes + 1, 1 - confidence))


def samples_needed(share: float, confidence: float, misses: int = 0) -> int:
    """The least number of samples, ``misses`` of them misses, that proves a share: 299 for 0.99 at 0.95 without a miss.

    Raises:
        ValueError: no number does, as ``share`` is 1 or more.
    """
    if not 0 <= share < 1:
        raise ValueError(f"no number of samples proves a share of {share:g}")
    if share == 0:
        return misses + 1
    if misses == 0:
        # the rounding of the logarithms is undone by looking at the neighbours
        n = max(1, math.ceil(math.log(1 - confidence) / math.log(share)) - 1)
        while share**n > 1 - confidence:
            n += 1
        return n
    low, high = misses + 1, samples_needed(share, confidence) * (misses + 2) * 4
    while low < high:
        middle = (low + high) // 2
        if share_at_least(middle - misses, middle, confidence) >= share:
            high = middle
        else:
            low = middle + 1
    return low


def misses_allowed(share: float, samples: int, confidence: float) -> int:
    """How many of ``samples`` may miss while ``share`` is still proved; -1 where even none is too many."""
    low, high = -1, samples
    while low < high:
        middle = (low + high + 1) // 2
        if share_at_least(samples - middle, samples, confidence) >= share:
            low = middle
        else:
            high = middle - 1
    return low


def quantile_at_least(scores: np.ndarray, share: float, confidence: float) -> float | None:
    """The largest score of which is proved that at least ``share`` of all inputs reach it; None: too few samples."""
    misses = misses_allowed(share, len(scores), confidence)
    return None if misses < 0 else float(np.partition(scores, misses)[misses])


def mean_at_least(
    scores: np.ndarray, confidence: float, *, weights: np.ndarray | None = None, seed: int = 0
) -> float | None:
    """Lower bound of the mean by the BCa bootstrap over samples.

    Args:
        scores: f64 ``[samples]``, finite.
        confidence: one-sided.
        weights: per sample; the mean is then ``sum(w * s) / sum(w)``, and samples are drawn with their weights.
        seed: of the resampling.

    Returns:
        The bound; None with fewer than :data:`BOOTSTRAP_LEAST` samples.
    """
    n = len(scores)
    if n < BOOTSTRAP_LEAST:
        return None
    w = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    weighted, total = w * scores, float(w.sum())
    mean = float(weighted.sum() / total)
    if np.ptp(scores) == 0:
        return mean
    random = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    step = max(1, _INDICES_AT_ONCE // n)
    for start in range(0, RESAMPLES, step):
        chosen = random.integers(0, n, (min(step, RESAMPLES - start), n))
        drawn[start : start + step] = weighted[chosen].sum(1) / w[chosen].sum(1)
    bias = special.ndtri(np.clip(((drawn < mean).sum() + 0.5 * (drawn == mean).sum()) / RESAMPLES, 1e-6, 1 - 1e-6))
    left_out = (weighted.sum() - weighted) / (total - w)  # the mean without each sample in turn
    spread = left_out.mean() - left_out
    squares = float((spread**2).sum())
    acceleration = float((spread**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    z = bias + special.ndtri(1 - confidence)
    level = special.ndtr(bias + z / (1 - acceleration * z)) if acceleration * z < 1 else 0.0
    return float(np.quantile(drawn, level))


def share_mean_at_least(scores: np.ndarray, confidence: float) -> float:
    """Lower bound of the mean of independent scores in [0, 1]; holds for every number of samples.

    Yes and no alone (0 and 1) is a share and gets its exact bound. Everything else is bet on: a mean of ``m`` is rejected when
    a gambler who bets against it, without looking ahead, multiplies the stake by ``1 / (1 - confidence)``.
    """
    x = np.asarray(scores, np.float64)
    n = len(x)
    if n == 0:
        return 0.0
    if np.isin(x, (0.0, 1.0)).all():
        return share_at_least(int(x.sum()), n, confidence)
    goal = math.log(1 / (1 - confidence))
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(x)) / (counts + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (counts + 1)
    before = np.concatenate([[0.25], variances[:-1]])  # a stake may depend on what was seen already, no more
    stakes = np.sqrt(2 * goal / (n * before))

    def rejected(m: float) -> bool:
        capital = np.cumsum(np.log1p(np.minimum(stakes, 0.75 / m) * (x - m)))
        return bool(capital.max() >= goal)

    low, high = 0.0, 1.0
    for _ in range(50):  # the capital falls as m grows
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low
