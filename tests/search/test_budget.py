"""Bars: their text, and what scores say about them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as hs

from planish.compiler.errors import UsageError
from planish.search.budget import Bar, Term, fixed_sequence
from planish.search.verdict import Verdict

METRICS = ["cosine", "sqnr", "relative-error", "kl", "top1", "top5", "flips", "rank", "rank5", "accuracy", "spearman",
           "perplexity-ratio"]  # fmt: skip
LOWER = {"relative-error", "kl", "flips", "rank", "rank5", "perplexity-ratio"}


def term(text: str) -> Term:
    (only,) = Bar.parse(text).terms
    return only


def judge(text: str, scores: np.ndarray, slices: list[str] | None = None) -> Verdict:
    return term(text).judge(scores, slices or ["data"] * len(scores))


def test_reads_every_part() -> None:
    bar = Bar.parse("cosine(last_hidden_state) >= 0.999 mean AND flips <= 1% each  and\n sqnr>3.5e1 p99.9")
    assert bar.terms == (
        Term("cosine", "last_hidden_state", True, 0.999, "mean"),
        Term("flips", None, False, 0.01, "each"),
        Term("sqnr", None, True, 35.0, "p99.9", strict=True),
    )
    assert str(bar) == "cosine(last_hidden_state) >= 0.999 mean and flips <= 0.01 each and sqnr > 35 p99.9"
    assert term("cosine >= .5").statistic == "each"
    assert Bar.parse(bar) is bar


@given(
    hs.lists(
        hs.tuples(
            hs.sampled_from(METRICS), hs.sampled_from(["", "(out)", "(hidden_states.0)"]),
            hs.floats(-1e6, 1e6, allow_nan=False), hs.sampled_from(["", "="]),
            hs.sampled_from(["each", "mean", "worst-slice", "p50", "p99.5"]),
        ),
        min_size=1, max_size=3, unique_by=lambda t: t[:3],
    )
)  # fmt: skip
def test_text_round_trips(parts: list[tuple[str, str, float, str, str]]) -> None:
    text = " and ".join(f"{m}{o} {'<' if m in LOWER else '>'}{e} {b!r} {s}" for m, o, b, e, s in parts)
    bar = Bar.parse(text)
    assert Bar.parse(str(bar)) == bar
    assert [t.bound for t in bar.terms] == [b for _, _, b, _, _ in parts]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a quality bar is text"),
        ("cosine", "'cosine' is no quality bar (write METRIC"),
        ("cosine >= high", "is no quality bar"),
        ("cosine >= nan", "is no quality bar"),
        ("cosine = 0.9", "is no quality bar"),
        ("cosine >= 0.9 and", "'' in 'cosine >= 0.9 and' is no quality bar"),
        ("cosinus >= 0.9", "there is no metric 'cosinus' (did you mean 'cosine'?)"),
        ("top0 >= 0.9", "there is no metric 'top0'"),
        ("rank1 <= 0.1", "there is no metric 'rank1'"),
        ("cosine >= 0.9 median", "'median' in 'cosine >= 0.9 median' is no statistic"),
        ("cosine >= 0.9 p0", "is no share of inputs"),
        ("cosine >= 0.9 p100", "is no share of inputs"),
        ("cosine() >= 0.9", "names no output"),
        ("cosine <= 0.9", "asks for poor quality: higher cosine is better (write cosine >= 0.9)"),
        ("kl >= 0.1", "asks for poor quality: lower kl is better (write kl <= 0.1)"),
        ("cosine >= 0.9 and cosine >= .90 each", "twice"),
    ],
)
def test_a_bad_bar_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        Bar.parse(text)
    assert message in str(error.value)


def test_own_metrics_are_terms() -> None:
    bar = Bar.parse("wer <= 0.1 mean", {"wer": lambda reference, output: np.zeros(len(output))})
    assert bar.terms[0].kind.better == "lower"
    with pytest.raises(UsageError, match="did you mean 'wer'"):
        Bar.parse("were <= 0.1", {"wer": lambda reference, output: 0})
    with pytest.raises(UsageError, match="planish's own"):
        Bar.parse("cosine >= 0.9", {"cosine": lambda reference, output: 0})


def test_how_many_samples_prove_it() -> None:
    assert Bar.parse("cosine >= 0.9").needs() == (299, 1)
    assert Bar.parse("cosine >= 0.9 p95 and kl <= 1 mean").needs() == (59, 1)
    assert Bar.parse("top1 >= 0.98 mean").needs() == (149, 1)
    assert Bar.parse("flips <= 2% mean").needs() == (149, 1)
    assert Bar.parse("cosine >= 0.9 worst-slice").needs() == (1, 30)
    assert Bar.parse("cosine >= 0.9").needs(0.99, 0.9) == (44, 1)
    with pytest.raises(UsageError, match="no number of samples can prove 'top1 >= 1 mean'"):
        Bar.parse("top1 >= 1 mean").needs()


def test_each_is_coverage_not_the_minimum() -> None:
    scores = np.full(500, 0.999)
    scores[7] = 0.9
    verdict = judge("cosine >= 0.995 each", scores)
    assert verdict.holds
    assert (verdict.samples, verdict.misses) == (500, 1)
    assert verdict.proven == 0.999
    assert verdict.share == pytest.approx(0.99054, abs=1e-5)
    assert (
        verdict.sentence == "at least 99.05 % of inputs have cosine >= 0.995, at 95 % confidence: 500 samples, 1 below"
    )
    scores[8] = 0.9
    verdict = judge("cosine >= 0.995 each", scores)
    assert not verdict.holds
    assert verdict.observed
    assert verdict.proven == 0.9
    assert "only 98.74 % of inputs are sure to have cosine >= 0.995" in verdict.sentence


def test_each_with_too_few_samples_proves_nothing() -> None:
    verdict = judge("cosine >= 0.9 each", np.ones(298))
    assert not verdict.holds
    assert verdict.proven is None
    assert verdict.needed == 299
    assert "fewer than 299 samples cannot prove it" in verdict.sentence
    assert judge("cosine >= 0.9 each", np.ones(299)).holds


def test_downward_terms_mirror_upward_ones() -> None:
    scores = np.random.default_rng(0).exponential(size=400)
    for statistic in ("each", "p90", "mean", "worst-slice"):
        down = judge(f"kl <= 3 {statistic}", scores)
        up = judge(f"sqnr >= -3 {statistic}", -scores)
        assert (down.holds, down.misses, down.observed) == (up.holds, up.misses, up.observed)
        assert down.value == -up.value
        assert down.proven == pytest.approx(-up.proven)  # type: ignore[operator]
    assert "above" in judge("kl <= 3 each", scores).sentence


def test_strict_terms_exclude_the_bound() -> None:
    scores = np.zeros(300)
    assert judge("flips <= 0 each", scores).holds
    assert not judge("flips < 0 each", scores).holds
    assert judge("cosine > 0 each", scores).misses == 300


def test_a_quantile_speaks_of_a_share_of_inputs() -> None:
    scores = np.r_[np.full(95, 0.99), np.full(5, 0.5)]
    assert judge("cosine >= 0.9 p90", scores).observed
    assert judge("cosine >= 0.9 p89", scores).holds
    assert not judge("cosine >= 0.9 p95", scores).holds  # 95 of 100 show 95 %, they do not prove it
    assert judge("cosine >= 0.9 p90", scores).value == 0.99
    assert judge("cosine >= 0.9 p96", scores).value == 0.5


def test_mean_is_proved_by_its_bound() -> None:
    scores = 0.99 + 0.001 * np.random.default_rng(0).standard_normal(200)
    verdict = judge("cosine >= 0.9895 mean", scores)
    assert verdict.holds
    assert verdict.proven is not None
    assert verdict.proven < verdict.value == pytest.approx(scores.mean())
    assert not judge(f"cosine >= {float(scores.mean())!r} mean", scores).holds
    assert judge("cosine >= 0.9 mean", scores[:20]).proven is None


def test_the_mean_of_decisions_is_not_proved_by_their_agreement_alone() -> None:
    """A bootstrap of 100 ones proves a mean of 1; the exact bound does not."""
    assert not judge("top1 >= 0.98 mean", np.ones(100)).holds
    assert judge("top1 >= 0.98 mean", np.ones(149)).holds
    assert judge("flips <= 0.02 mean", np.zeros(149)).holds
    assert not judge("flips <= 0.02 mean", np.zeros(148)).holds


def test_the_worst_slice_decides() -> None:
    random = np.random.default_rng(0)
    scores = np.r_[0.999 + 1e-4 * random.standard_normal(100), 0.95 + 1e-4 * random.standard_normal(100)]
    slices = ["easy"] * 100 + ["hard"] * 100
    verdict = judge("cosine >= 0.96 worst-slice", scores, slices)
    assert not verdict.holds
    assert judge("cosine >= 0.96 mean", scores, slices).holds
    assert verdict.by_slice == pytest.approx({"easy": scores[:100].mean(), "hard": scores[100:].mean()})
    assert verdict.value == verdict.by_slice["hard"]
    assert verdict.proven == verdict.proven_by_slice["hard"]
    assert "'hard'" in verdict.sentence
    assert judge("cosine >= 0.94 worst-slice", scores, slices).holds
    few = judge("cosine >= 0.9 worst-slice", scores[:110], slices[:110])
    assert few.proven is None
    assert not few.holds


def test_worst_slice_keeps_its_promise_without_a_correction() -> None:
    """Three slices exactly at the bar: all three are claimed far more rarely than one in twenty times."""
    random = np.random.default_rng(8)
    slices = [name for name in "abc" for _ in range(40)]
    claimed = [judge("sqnr >= 0 worst-slice", random.standard_normal(120), slices).holds for _ in range(150)]
    one_bad = [
        judge("sqnr >= 0 worst-slice", random.standard_normal(120) + np.repeat([0.0, 5, 5], 40), slices).holds
        for _ in range(300)
    ]
    assert np.mean(claimed) <= 0.02
    assert np.mean(one_bad) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_perplexity_is_averaged_over_tokens() -> None:
    nll, tokens = np.array([0.1, 0.0] * 40), np.array([1.0, 9.0] * 40)
    verdict = term("perplexity-ratio <= 1.02 mean").judge(np.exp(nll), ["data"] * 80, weights=tokens)
    assert verdict.value == pytest.approx(np.exp(0.01))
    assert verdict.proven is not None
    assert np.exp(0.01) < verdict.proven < 1.02


def test_an_infinitely_bad_score_is_no_accident() -> None:
    verdict = judge("relative-error <= 0.1 mean", np.r_[np.zeros(50), np.inf])
    assert not verdict.holds
    assert verdict.proven == np.inf


def test_nan_names_metric_and_sample() -> None:
    with pytest.raises(UsageError, match=r"cosine is NaN for the sample b\[1\]"):
        term("cosine >= 0.9").judge(np.array([1.0, np.nan]), ["b", "b"], ids=["b[0]", "b[1]"])
    with pytest.raises(UsageError, match="there are no scores"):
        term("cosine >= 0.9").judge(np.array([]), [])


def test_the_promise_of_a_bar_is_kept() -> None:
    """A model of which 2 % of inputs miss the bar must not be passed more than one time in twenty."""
    random = np.random.default_rng(9)
    passed = [judge("cosine >= 0.9", np.where(random.random(400) < 0.011, 0.5, 0.95)).holds for _ in range(2000)]
    assert np.mean(passed) <= 0.05


def test_a_fixed_sequence_stops_at_the_first_failure() -> None:
    good, bad = judge("cosine >= 0.9", np.ones(299)), judge("cosine >= 0.9", np.zeros(299))
    seen: list[int] = []

    def plans() -> object:
        for i, verdicts in enumerate([[good], [good, good], [good, bad], [good]]):
            seen.append(i)
            yield verdicts

    assert fixed_sequence(plans()) == 1  # type: ignore[arg-type]
    assert seen == [0, 1, 2]  # the fourth was never looked at
    assert fixed_sequence([[bad], [good]]) is None
    assert fixed_sequence([]) is None
    with pytest.raises(ValueError, match="without verdicts"):
        fixed_sequence([[]])


def test_a_fixed_sequence_keeps_the_promise_over_many_plans() -> None:
    """Nineteen plans, every one with 2 % misses: choosing any is an error, and rare; testing all on their own is not."""
    random = np.random.default_rng(10)
    bar = term("cosine >= 0.9 each")
    chosen = naive = 0
    for _ in range(300):
        scores = np.where(random.random((19, 300)) < 0.0101, 0.5, 0.95)
        verdicts = [[bar.judge(s, ["data"] * 300)] for s in scores]
        chosen += fixed_sequence(verdicts) is not None
        naive += any(v[0].holds for v in verdicts)
    assert chosen / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert naive / 300 > 0.3


def test_a_verdict_is_data() -> None:
    data = judge("cosine >= 0.9", np.ones(299)).to_data()
    assert data["term"] == "cosine >= 0.9 each"
    assert data["holds"] is True
    assert data["by_slice"] == {"data": 1.0}
