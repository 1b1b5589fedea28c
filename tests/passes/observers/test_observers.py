"""Observers against brute force over all values, and histograms that widen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.compiler.errors import UsageError
from planish.passes.observers import Range, find_observer, observers
from planish.passes.observers.entropy import divergence
from planish.passes.observers.histogram import BINS, ChannelHistograms, Histogram

RNG = np.random.default_rng(0)
SAMPLES = {
    "normal": RNG.standard_normal(20_000),
    "heavy": RNG.standard_t(2, 20_000),
    "one-sided": np.maximum(RNG.standard_normal(20_000), 0),
    "lopsided": RNG.gamma(2.0, 1.0, 20_000) - 0.3,
    "constant": np.full(50, 3.25),
    "zero": np.zeros(50),
    "tiny": RNG.standard_normal(500) * 1e-30,
}


def error(values: np.ndarray, found: Range) -> float:
    return float(np.square(found.rounded(values) - values).mean())


# -- histograms -----------------------------------------------------------------------------------------------------------
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1), min_size=1, max_size=6))
def test_a_histogram_does_not_depend_on_how_data_is_cut(parts: list[list[float]]) -> None:
    whole, cut = Histogram.of(np.concatenate([np.array(p) for p in parts])), Histogram()
    for part in parts:
        cut.add(np.array(part))
    assert cut.total == whole.total == sum(map(len, parts))
    assert (cut.low, cut.high) == (whole.low, whole.high)
    if cut.exponent == whole.exponent:
        np.testing.assert_array_equal(cut.counts, whole.counts)
    else:  # a first batch of one value far from zero has coarse bins from the start
        assert cut.exponent > whole.exponent


@pytest.mark.parametrize("name", SAMPLES)
def test_a_histogram_holds_every_value_in_its_bin(name: str) -> None:
    values = SAMPLES[name]
    found = Histogram()
    for part in np.array_split(values, 7):
        found.add(part)
    edges = (np.arange(BINS + 1) + found.first) * found.width
    np.testing.assert_array_equal(found.counts, np.histogram(values, edges)[0])
    assert found.edges()[0] == values.min() and found.edges()[-1] == values.max()
    if values.max() > values.min():
        assert found.width <= 4 * (values.max() - values.min()) / BINS


def test_channels_make_the_histogram_of_any_smoothing() -> None:
    rows = (RNG.standard_normal((3000, 5)) * [1, 0.01, 40, 0, 3] + [0, 5, 0, 2, -7]).astype(np.float32)
    channels = ChannelHistograms(5)
    for part in np.array_split(rows, 9):
        channels.add(part)
    np.testing.assert_array_equal(channels.counts.sum(axis=1), 3000)
    np.testing.assert_array_equal(channels.low, rows.min(axis=0))
    scale, shift = np.array([1, 0.01, 20, 1, 3], np.float32), np.array([0, 5, 0, 2, -7], np.float32)
    for s, c in ((None, None), (scale, None), (scale, shift)):
        want = (rows - (0 if c is None else c)) / (1 if s is None else s)
        found = channels.tensor(s, c)
        assert found.total == pytest.approx(15_000)
        assert (found.low, found.high) == pytest.approx((want.min(), want.max()), abs=1e-5)
        for part in (0.001, 0.2, 0.5, 0.8, 0.999):
            edges, cumulative = found.edges(), np.cumsum(found.counts)
            at = edges[np.searchsorted(cumulative, part * 15_000)]
            reach = (want.max() - want.min()) / 50
            assert (
                np.quantile(want, max(part - 0.01, 0)) - reach <= at <= np.quantile(want, min(part + 0.01, 1)) + reach
            )


# -- ranges ---------------------------------------------------------------------------------------------------------------
def test_a_range_covers_its_ends_and_zero() -> None:
    assert Range.over(-1.27, 0.5, symmetric=True).scale == np.float32(0.01)
    one = Range.over(0.5, 2.55, symmetric=False)
    assert (one.scale, one.zero) == (np.float32(0.01), -128)
    assert Range.over(0.0, 0.0, symmetric=False).rounded(np.zeros(3)).tolist() == [0, 0, 0]
    both = Range.over(-1.0, 3.0, symmetric=False)
    x = np.linspace(-1, 3, 500)
    assert np.abs(both.rounded(x) - x).max() <= both.scale  # the zero point itself is rounded
    assert both.rounded(np.array([0.0]))[0] == 0.0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", SAMPLES)
def test_minmax_and_percentile_against_all_values(name: str, symmetric: bool) -> None:
    values = SAMPLES[name]
    histogram = Histogram.of(values)
    assert find_observer("minmax").range(histogram, symmetric=symmetric) == (values.min(), values.max())
    low, high = find_observer("percentile").range(histogram, symmetric=symmetric)
    assert values.min() <= low <= high <= values.max()
    inside = np.mean((values >= low - histogram.width) & (values <= high + histogram.width))
    assert inside >= 0.9999 - 1 / len(values)
    if symmetric and len(values) > 10_000:
        want = np.quantile(np.abs(values), 0.9999)
        gap = np.diff(np.sort(np.abs(values))[-4:]).max()  # two neighbours enclose a quantile; any point between is one
        assert max(-low, high) == pytest.approx(want, abs=gap + 2 * histogram.width)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", SAMPLES)
def test_mse_is_near_the_best_of_all_ranges(name: str, symmetric: bool) -> None:
    values = SAMPLES[name]
    low, high = find_observer("mse").range(Histogram.of(values), symmetric=symmetric)
    found = error(values, Range.over(low, high, symmetric=symmetric))
    ends = np.linspace(0.1, 1, 46)
    lows = ends if not symmetric else [1.0]
    best = min(
        error(values, Range.over(values.min() * (a if not symmetric else b), values.max() * b, symmetric=symmetric))
        for a in lows
        for b in ends
    )
    assert found <= best * 1.1 + 1e-12


def test_mse_and_entropy_clip_outliers_that_minmax_does_not() -> None:
    values = np.concatenate([RNG.standard_normal(500_000), [20.0, -15.0]])
    histogram = Histogram.of(values)
    for name in ("mse", "entropy", "percentile"):
        low, high = find_observer(name).range(histogram, symmetric=True)
        assert 2.5 < max(-low, high) < 10, name
        assert error(values[:-2], Range.over(low, high, symmetric=True)) < error(
            values[:-2], Range.over(-20, 20, symmetric=True)
        )


def test_divergence_against_its_definition() -> None:
    counts = RNG.integers(0, 20, 64).astype(float)
    kept, levels, end = counts[:48], 16, 48
    p = kept.copy()
    p[-1] += counts[48:].sum()
    q = np.zeros(end)
    for level in range(levels):
        part = slice(level * 3, level * 3 + 3)
        held = kept[part] > 0
        if held.any():
            q[part] = np.where(held, kept[part].sum() / held.sum(), 0)
    p, q = p / p.sum(), q / q.sum()
    if kept[-1] > 0:
        want = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        assert divergence(counts, end, levels) == pytest.approx(want)
    assert divergence(np.ones(64), 64, 64) == 0.0


def test_observers_by_name() -> None:
    assert set(observers()) == {"minmax", "percentile", "mse", "entropy"}
    with pytest.raises(UsageError, match="no observer 'entorpy'"):
        find_observer("entorpy")
