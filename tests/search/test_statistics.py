"""Confidence bounds, against scipy, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from planish.search import statistics as st


@pytest.mark.parametrize(("successes", "samples"), [(299, 299), (472, 473), (1, 40), (17, 60), (990, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_share_is_clopper_and_pearsons(successes: int, samples: int, confidence: float) -> None:
    expected = stats.binomtest(successes, samples, alternative="greater").proportion_ci(confidence, "exact").low
    assert st.share_at_least(successes, samples, confidence) == pytest.approx(expected, abs=1e-12)


def test_no_success_proves_nothing() -> None:
    assert st.share_at_least(0, 500, 0.95) == 0.0


@pytest.mark.parametrize(
    ("share", "misses", "needed"),
    [(0.99, 0, 299), (0.99, 1, 473), (0.95, 0, 59), (0.9, 0, 29), (0.5, 0, 5), (0.999, 0, 2995)],
)
def test_samples_needed(share: float, misses: int, needed: int) -> None:
    assert st.samples_needed(share, 0.95, misses) == needed
    assert st.share_at_least(needed - misses, needed, 0.95) >= share
    assert st.share_at_least(needed - 1 - misses, needed - 1, 0.95) < share


def test_no_number_of_samples_proves_certainty() -> None:
    with pytest.raises(ValueError, match="no number of samples"):
        st.samples_needed(1.0, 0.95)


@pytest.mark.parametrize(("samples", "allowed"), [(298, -1), (299, 0), (472, 0), (473, 1), (627, 1), (628, 2)])
def test_misses_allowed(samples: int, allowed: int) -> None:
    assert st.misses_allowed(0.99, samples, 0.95) == allowed


def test_the_promise_of_a_share_is_kept() -> None:
    """At a share just below what is promised, at most 5 % of experiments may prove it."""
    random, coverage = np.random.default_rng(1), 0.99
    misses = random.binomial(500, 1 - coverage + 1e-4, 20000)
    proved = misses <= st.misses_allowed(coverage, 500, 0.95)
    assert 0.02 < proved.mean() <= 0.05


def test_quantile_is_the_order_statistic_and_keeps_its_promise() -> None:
    random = np.random.default_rng(2)
    truth = stats.expon.ppf(0.1)  # 90 % of all inputs lie above it
    bounds = np.array([st.quantile_at_least(s, 0.9, 0.95) for s in random.exponential(size=(4000, 100))], float)
    assert (bounds > truth).mean() <= 0.05 + 0.01
    assert st.quantile_at_least(np.arange(299.0), 0.99, 0.95) == 0.0
    assert st.quantile_at_least(np.arange(473.0)[::-1], 0.99, 0.95) == 1.0
    assert st.quantile_at_least(np.arange(298.0), 0.99, 0.95) is None


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_mean_agrees_with_scipys_bca(draw: str) -> None:
    random = np.random.default_rng(3)
    scores = getattr(random, draw)(size=120)
    theirs = stats.bootstrap(
        (scores,), np.mean, confidence_level=0.95, alternative="greater", method="BCa", n_resamples=20000, rng=random
    ).confidence_interval.low
    mine = st.mean_at_least(scores, 0.95)
    assert mine is not None
    assert mine == pytest.approx(theirs, abs=0.03 * scores.std())
    assert mine < scores.mean()


def test_mean_keeps_its_promise_for_skewed_losses() -> None:
    random = np.random.default_rng(4)
    scores = -random.gamma(2.0, size=(600, 200))  # a long tail on the bad side, as losses have
    bounds = np.array([st.mean_at_least(s, 0.95, seed=i) for i, s in enumerate(scores)], float)
    assert (bounds > -2.0).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_weighted_mean_is_the_mean_of_repeated_samples() -> None:
    random = np.random.default_rng(5)
    scores, weights = random.normal(size=200), random.integers(1, 9, 200).astype(float)
    mean = np.average(scores, weights=weights)
    drawn = [np.average(scores[c], weights=weights[c]) for c in random.integers(0, 200, (4000, 200))]
    bound = st.mean_at_least(scores, 0.95, weights=weights)
    assert bound is not None
    assert bound == pytest.approx(np.quantile(drawn, 0.05), abs=0.05 * (mean - np.quantile(drawn, 0.05)) + 0.02)


def test_bootstrap_is_seeded_and_refuses_few_samples() -> None:
    scores = np.random.default_rng(6).normal(size=50)
    assert st.mean_at_least(scores, 0.95, seed=1) == st.mean_at_least(scores, 0.95, seed=1)
    assert st.mean_at_least(scores, 0.95, seed=1) != st.mean_at_least(scores, 0.95, seed=2)
    assert st.mean_at_least(scores[:29], 0.95) is None
    assert st.mean_at_least(np.full(30, 0.5), 0.95) == 0.5


def test_yes_and_no_get_the_exact_bound() -> None:
    scores = np.r_[np.ones(95), np.zeros(5)]
    assert st.share_mean_at_least(scores, 0.95) == st.share_at_least(95, 100, 0.95)
    assert st.share_mean_at_least(np.zeros(0), 0.95) == 0.0


@pytest.mark.parametrize(("a", "b"), [(20.0, 1.0), (2.0, 2.0), (0.5, 0.1)])
def test_mean_of_shares_keeps_its_promise(a: float, b: float) -> None:
    random = np.random.default_rng(7)
    scores = random.beta(a, b, size=(400, 100))
    bounds = np.array([st.share_mean_at_least(s, 0.95) for s in scores])
    truth = a / (a + b)
    assert (bounds > truth).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert bounds.mean() > truth - 6 * np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)) / 100) - 0.05  # and says something


def test_perfect_shares_do_not_prove_perfection() -> None:
    scores = np.r_[np.ones(100), 0.9999]
    assert 0.9 < st.share_mean_at_least(scores, 0.95) < 0.98
