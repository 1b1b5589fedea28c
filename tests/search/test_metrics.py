"""Metrics against scipy, PyTorch and brute force; scorers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from planish.compiler.errors import UsageError
from planish.compiler.types import DType, float_to_bf16
from planish.search.budget import Bar
from planish.search.executor import _pickled
from planish.search.layout import Layout, Port
from planish.search.metrics import Scorer, metric
from planish.search.metrics_table import names
from planish.search.samples import Batch, Sample, Samples


def pair(*shape: int, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    reference = random.standard_normal(shape).astype(np.float32)
    return reference, (reference + noise * random.standard_normal(shape)).astype(np.float32)


def batch(rows: int, labels: Any = None, batched: bool = True) -> Batch:
    ids = tuple(f"data[{i}]" for i in range(rows))
    return Batch(
        {"x": np.zeros((rows, 1))}, rows, ids, ("data",) * rows, None if labels is None else np.asarray(labels), batched
    )


def test_cosine_is_over_the_whole_row() -> None:
    a, b = pair(5, 7, 3)
    expected = F.cosine_similarity(torch.from_numpy(a).double().flatten(1), torch.from_numpy(b).double().flatten(1))
    assert metric("cosine").per_sample(a, b) == pytest.approx(expected.numpy())


def test_cosine_of_zeros() -> None:
    a = np.array([[0.0, 0], [0, 0], [1, 0], [1, 0]])
    b = np.array([[0.0, 0], [1, 0], [0, 0], [-1, 0]])
    assert metric("cosine").per_sample(a, b).tolist() == [1, 0, 0, -1]


def test_sqnr_and_relative_error() -> None:
    a, b = pair(4, 50)
    ratio = ((b.astype(float) - a) ** 2).sum(1) / (a.astype(float) ** 2).sum(1)
    assert metric("sqnr").per_sample(a, b) == pytest.approx(-10 * np.log10(ratio))
    assert metric("relative-error").per_sample(a, b) == pytest.approx(np.sqrt(ratio))
    assert metric("sqnr").per_sample(a, a).tolist() == [200.0] * 4
    assert metric("relative-error").per_sample(np.zeros((2, 3)), np.array([[0, 0, 0], [0, 1, 0]])).tolist() == [
        0,
        np.inf,
    ]


def test_equal_infinities_are_left_out() -> None:
    a, b = pair(2, 6)
    expected = metric("cosine").per_sample(a[:, :5], b[:, :5])
    a[:, 5] = b[:, 5] = -np.inf
    assert metric("cosine").per_sample(a, b) == pytest.approx(expected)


def test_kl_is_torchs_averaged_over_positions() -> None:
    a, b = pair(3, 4, 9)
    log_a, log_b = (F.log_softmax(torch.from_numpy(x).double(), -1) for x in (a, b))
    expected = F.kl_div(log_b, log_a, log_target=True, reduction="none").sum(-1).mean(-1)
    assert metric("kl").per_sample(a, b) == pytest.approx(expected.numpy())
    a[..., 0] = b[..., 0] = -np.inf  # a class that is masked out
    assert np.isfinite(metric("kl").per_sample(a, b)).all()


def test_top_k_and_flips_against_sorting() -> None:
    a, b = pair(6, 5, 20, noise=0.5)
    for k in (1, 3, 5, 20):
        tops = [np.argsort(-x, axis=-1, kind="stable")[..., :k] for x in (a, b)]
        expected = [
            np.mean([len(set(p) & set(q)) / k for p, q in zip(u, v, strict=True)]) for u, v in zip(*tops, strict=True)
        ]
        assert metric(f"top{k}").per_sample(a, b) == pytest.approx(expected)
    assert metric("flips").per_sample(a, b) == pytest.approx(1 - metric("top1").per_sample(a, b))
    with pytest.raises(UsageError, match="top21 needs 21 classes, and the outputs have 20"):
        metric("top21").per_sample(a, b)
    with pytest.raises(UsageError, match="last axis of at least two classes"):
        metric("flips").per_sample(a[:, 0, :1], b[:, 0, :1])


def test_rank_is_kendalls_tau_of_the_top() -> None:
    a, b = pair(8, 30, noise=0.4)
    expected = []
    for x, y in zip(a, b, strict=True):
        top = np.argsort(-x)[:10]
        expected.append((1 - stats.kendalltau(x[top], y[top]).statistic) / 2)
    assert metric("rank").per_sample(a, b) == pytest.approx(expected)
    assert metric("rank10").per_sample(a, b) == pytest.approx(expected)
    assert metric("rank5").per_sample(a[:, :3], -a[:, :3]).tolist() == [1.0] * 8  # fewer entries than asked for
    assert metric("rank").per_sample(np.array([[2.0, 1.0]]), np.array([[0.0, 0.0]])).tolist() == [0.5]
    assert metric("rank").per_sample(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]])).tolist() == [0.0]


def test_accuracy_is_against_labels() -> None:
    output = np.eye(4)[[0, 1, 2, 2]]
    assert metric("accuracy").per_sample(output * 0, output, np.array([0, 1, 2, 3])).tolist() == [1, 1, 1, 0]
    tokens = metric("accuracy").per_sample(output[None], output[None], np.array([[0, -100, 2, 3]]))
    assert tokens == pytest.approx([2 / 3])
    for labels, message in (
        (np.array([0, 1, 2, 4]), "the label 4 is none of the 4 classes"),
        (np.array([0, 1]), "a label for each of"),
        (np.array([0.5, 1, 2, 3]), "no whole numbers"),
        (None, "accuracy needs labels"),
    ):
        with pytest.raises(UsageError, match=message):
            metric("accuracy").per_sample(output, output, labels)


def test_perplexity_ratio_is_cross_entropy() -> None:
    a, b = pair(3, 6, 11, noise=0.5)
    labels = np.random.default_rng(1).integers(0, 11, (3, 6))
    labels[0, :4] = -100
    nll = [
        F.cross_entropy(torch.from_numpy(x).double().transpose(1, 2), torch.from_numpy(labels), reduction="none")
        for x in (a, b)
    ]
    counts = (labels != -100).sum(1)
    kind = metric("perplexity-ratio")
    scores = kind.per_sample(a, b, labels)
    assert scores == pytest.approx(np.exp((nll[1] - nll[0]).sum(1).numpy() / counts))
    weights = kind.weights(labels, 3)
    corpus = np.exp(float((nll[1] - nll[0]).sum()) / counts.sum())
    assert kind.from_mean(float(np.average(kind.to_mean(scores), weights=weights))) == pytest.approx(corpus)


def test_spearman_is_scipys() -> None:
    a, b = pair(20, 2, 4, noise=0.7)
    unit = [x.reshape(20, -1) / np.linalg.norm(x.reshape(20, -1), axis=1, keepdims=True) for x in (a, b)]
    similar = [u @ u.T for u in unit]
    expected = [stats.spearmanr(np.delete(similar[0][i], i), np.delete(similar[1][i], i)).statistic for i in range(20)]
    assert metric("spearman").per_sample(a, b) == pytest.approx(expected, abs=1e-6)
    assert metric("spearman").per_sample(a, a) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="at least two others"):
        metric("spearman").per_sample(a[:2], b[:2])


@pytest.mark.parametrize("name", names())
def test_losses_are_zero_for_equal_outputs_and_positive_else(name: str) -> None:
    a, b = pair(12, 8, noise=0.6)
    labels = np.random.default_rng(2).integers(0, 8, 12)
    kind = metric(name)
    if kind.identical is not None:
        scores = kind.per_sample(a, a, labels)
        assert scores == pytest.approx(kind.identical)
        assert kind.loss(scores) == pytest.approx(0.0)
    scores = kind.per_sample(a, b, labels)
    assert scores.shape == (12,)
    assert (kind.loss(scores) >= 0).all()
    assert kind.loss(scores).sum() > 0
    smooth = kind.smooth(a)
    assert (smooth.losses(a, b, labels) > 0).all()
    assert smooth.losses(a, a, labels) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["cosine", "sqnr", "relative-error", "kl"])
def test_smooth_losses_add_over_independent_errors(name: str) -> None:
    random = np.random.default_rng(3)
    a = random.standard_normal((8, 4000))
    one, two = (1e-3 * random.standard_normal(a.shape) for _ in range(2))
    kind = metric(name)
    both = kind.losses(a, a + one + two)
    assert both == pytest.approx(kind.losses(a, a + one) + kind.losses(a, a + two), rel=0.1)


def test_large_rows_are_scored_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(7, 3, 10)
    labels = np.random.default_rng(0).integers(0, 10, (7, 3))
    whole = {n: metric(n).per_sample(a, b, labels) for n in names()}
    monkeypatch.setattr("planish.search.metrics_base._AT_ONCE", 31)
    monkeypatch.setattr("planish.search.metrics_corpus._ROWS_AT_ONCE", 2)
    for n, scores in whole.items():
        assert metric(n).per_sample(a, b, labels) == pytest.approx(scores)


# -- scorers -----------------------------------------------------------------------------------------------------------
def test_scores_by_term_and_output() -> None:
    bar = Bar.parse("cosine >= 0.9 and cosine(second) >= 0.9 and relative-error(first) <= 1 mean")
    first, second = pair(4, 3), pair(4, 5, 2, seed=1)
    scores = Scorer(bar, None, ["first", "second"]).scores([first[0], second[0]], [first[1], second[1]], batch(4))
    assert list(scores) == [str(t) for t in bar.terms]
    assert scores["cosine >= 0.9 each"] == pytest.approx(metric("cosine").per_sample(*first))
    assert scores["cosine(second) >= 0.9 each"] == pytest.approx(metric("cosine").per_sample(*second))
    assert scores["relative-error(first) <= 1 mean"] == pytest.approx(metric("relative-error").per_sample(*first))
    with pytest.raises(UsageError, match=r"no output 'secnd' \(did you mean 'second'"):
        Scorer(Bar.parse("cosine(secnd) >= 0.9"), None, ["first", "second"])


def test_bf16_outputs_are_read_as_numbers() -> None:
    a, _ = pair(3, 8)
    bits = float_to_bf16(a)
    scores = Scorer(Bar.parse("cosine >= 0.9")).scores([a], [bits], batch(3))
    assert (scores["cosine >= 0.9 each"] > 0.9999).all()


def test_a_model_without_batch_axis_is_one_sample() -> None:
    a, b = pair(5, 4)
    scores = Scorer(Bar.parse("cosine >= 0.9")).scores([a], [b], batch(1, batched=False))
    assert scores["cosine >= 0.9 each"] == pytest.approx(metric("cosine").per_sample(a[None], b[None]))


def test_an_output_without_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="no row for each of the 4 samples"):
        Scorer(Bar.parse("cosine >= 0.9")).scores([np.zeros(3)], [np.zeros(3)], batch(4))


@pytest.mark.parametrize(
    "score",
    [
        lambda outputs: outputs["hidden"].mean(1),
        lambda outputs: outputs.hidden.mean(1),
        lambda outputs: outputs[0].mean(1),
        lambda output: output.mean(1),
        lambda hidden: hidden.mean(1),
        lambda outputs, inputs: outputs["hidden"].mean(1) + 0 * inputs["x"],
        lambda outputs: torch.from_numpy(outputs["hidden"]).mean(1),
    ],
)
def test_a_score_function_says_what_is_compared(score: Any) -> None:
    a, b = pair(4, 6, 3)
    scores = Scorer(Bar.parse("cosine >= 0.9"), score, ["hidden"]).scores([a], [b], batch(4))
    expected = metric("cosine").per_sample(a.mean(1), b.mean(1))
    assert scores["cosine >= 0.9 each"] == pytest.approx(expected, abs=1e-6)


def test_a_score_function_may_name_what_it_returns() -> None:
    a, b = pair(4, 6)
    bar = Bar.parse("cosine(left) >= 0.9 and cosine(hidden) >= 0.9")
    scorer = Scorer(bar, lambda outputs: {"left": outputs["hidden"][:, :3]}, ["hidden"])
    scores = scorer.scores([a], [b], batch(4))
    assert scores["cosine(left) >= 0.9 each"] == pytest.approx(metric("cosine").per_sample(a[:, :3], b[:, :3]))
    assert scores["cosine(hidden) >= 0.9 each"] == pytest.approx(metric("cosine").per_sample(a, b))
    with pytest.raises(UsageError, match="no output 'right'"):
        Scorer(Bar.parse("cosine(right) >= 0.9"), lambda outputs: outputs, ["hidden"]).scores([a], [b], batch(4))


def test_a_score_function_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def first(outputs):\n    return outputs['a'][:, :1]\nNUMBER = 3\n")
    scorer = Scorer(Bar.parse("relative-error <= 0.9"), f"{tmp_path}/mine.py:first", ["a"])
    assert scorer.words == "first"
    with pytest.raises(UsageError, match="did you mean 'first'"):
        Scorer(Bar.parse("cosine >= 0.9"), f"{tmp_path}/mine.py:frist")
    with pytest.raises(UsageError, match=r"'NUMBER' in .* is a int, not a callable"):
        Scorer(Bar.parse("cosine >= 0.9"), f"{tmp_path}/mine.py:NUMBER")


def _raises(outputs: Any) -> Any:
    raise RuntimeError("no way")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (_raises, "the score function _raises raised RuntimeError: no way"),
        (lambda outputs: outputs["hidden"][:2], r"returned shape \[2, 6\] for 4 samples"),
        (lambda outputs: np.array(["a"] * 4), "not numbers"),
        (lambda outputs: {}, "nothing to compare"),
        (lambda: 3, "cannot be called"),
        (lambda a, b, c: 3, "cannot be called"),
        (3, "not a int"),
    ],
)
def test_a_bad_score_function_is_one_sentence(score: Any, message: str) -> None:
    a, b = pair(4, 6)
    with pytest.raises(UsageError, match=message):
        Scorer(Bar.parse("cosine >= 0.9"), score, ["hidden"]).scores([a], [b], batch(4))


def test_a_broken_precision_scores_worst_and_a_broken_float_model_is_an_error() -> None:
    scorer = Scorer(Bar.parse("cosine >= 0.9 and top1 >= 0.9 and relative-error <= 1"))
    a, b = pair(3, 4)
    b[1, 2], b[2, 0] = np.nan, np.inf
    scores = scorer.scores([a], [b], batch(3))
    assert scores["cosine >= 0.9 each"][1:].tolist() == [-1, -1]
    assert scores["top1 >= 0.9 each"][1] == 0
    assert scores["relative-error <= 1 each"][1:].tolist() == [np.inf, np.inf]
    assert np.isinf(scorer.losses([a], [b], batch(3))["cosine >= 0.9 each"][1])
    a[2, 0] = np.nan
    with pytest.raises(UsageError, match=r"the float model's output is NaN for the sample data\[2\]"):
        scorer.scores([a], [b], batch(3))


def test_own_metrics() -> None:
    a, b = pair(5, 3)
    worst = {"far": lambda reference, output: np.abs(output - reference).max(1)}
    bar = Bar.parse("far <= 0.5 mean", worst)
    scorer = Scorer(bar)
    expected = np.abs(b - a).max(1)
    assert scorer.scores([a], [b], batch(5))[str(bar.terms[0])] == pytest.approx(expected)
    assert scorer.losses([a], [b], batch(5))[str(bar.terms[0])] == pytest.approx(expected)
    high = Bar.parse(
        "hits >= 0.5", {"hits": lambda reference, output, labels: labels - 0.5 * (output[:, 0] != reference[:, 0])}
    )
    assert Scorer(high).losses([a], [b], batch(5, np.ones(5)))["hits >= 0.5 each"] == pytest.approx([0.5] * 5)
    with pytest.raises(UsageError, match=r"hits needs labels, and the sample data\[0\] has none"):
        Scorer(high).scores([a], [b], batch(5))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda r, o: 1.0, r"shape \[\] for 5 samples"),
        (lambda r, o: np.zeros((5, 2)), r"shape \[5, 2\] for 5 samples"),
        (lambda r, o: np.array(["x"] * 5), "one number for each sample"),
        (lambda r, o: np.r_[np.zeros(3), np.nan, 0], r"mine is NaN for the sample data\[3\]"),
        (lambda r, o: 1 / 0, "raised ZeroDivisionError"),
        (lambda r: 0, "cannot be called with"),
        (7, "is a int, not a function"),
    ],
)
def test_a_bad_metric_is_one_sentence(function: Any, message: str) -> None:
    a, b = pair(5, 3)
    with pytest.raises(UsageError, match=message):
        Scorer(Bar.parse("mine >= 0.5", {"mine": function})).scores([a], [b], batch(5))


def test_the_direction_of_an_own_metric() -> None:
    def mine(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
        return np.zeros(len(output))

    mine.better = "lower"  # type: ignore[attr-defined]
    assert Bar.parse("mine <= 1", {"mine": mine}).terms[0].kind.better == "lower"
    with pytest.raises(UsageError, match="lower mine is better"):
        Bar.parse("mine >= 1", {"mine": mine})
    mine.better = "smaller"  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="'higher' or 'lower'"):
        Bar.parse("mine <= 1", {"mine": mine})


def test_an_own_metric_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def gap(reference, output):\n    return abs(output - reference).max(axis=1)\n")
    bar = Bar.parse(f"{tmp_path}/mine.py:gap <= 0.5 p90")
    a, b = pair(4, 3)
    scores = Scorer(Bar.parse(str(bar))).scores([a], [b], batch(4))
    assert scores[str(bar)] == pytest.approx(np.abs(b - a).max(1))


def split_of(rows: int, labels: bool = False) -> Samples:
    symbol = "batch"
    layout = Layout((Port("x", DType.f32, (3,)),), {symbol: (1, 64)}, symbol, False, frozenset({"x"}))
    return Samples.of(
        (
            Sample(f"d[{i}]", "d", {"x": np.full((1, 3), float(i))}, np.asarray(i % 3) if labels else None)
            for i in range(rows)
        ),
        layout,
    )


def test_whole_splits_are_scored_in_the_order_of_their_ids() -> None:
    samples = split_of(40)
    bar = Bar.parse("spearman >= 0.5 mean and cosine >= 0.9 mean")
    a, b = pair(40, 6)
    cut = [(x.rows, i) for i, x in enumerate(samples.batches)]
    starts = np.cumsum([0, *(rows for rows, _ in cut)])
    references, outputs = ([[x[starts[i] : starts[i + 1]]] for _, i in cut] for x in (a, b))
    scorer = Scorer(bar)
    scores = scorer.all_scores(references, outputs, samples)
    assert scores["spearman >= 0.5 mean"] == pytest.approx(metric("spearman").per_sample(a, b))
    assert scores["cosine >= 0.9 mean"] == pytest.approx(metric("cosine").per_sample(a, b))
    assert list(scorer.scores(references[0], outputs[0], samples.batches[0])) == ["cosine >= 0.9 mean"]
    verdicts = scorer.verdicts(scores, samples)
    assert [v.term for v in verdicts] == list(bar.terms)
    ragged = [[x[0][:, :5] if i else x[0]] for i, x in enumerate(references)]
    with pytest.raises(UsageError, match="their outputs differ in shape"):
        Scorer(Bar.parse("spearman >= 0.5 mean")).finish(ragged, ragged, samples)


def test_what_needs_labels_says_so_before_any_work() -> None:
    scorer = Scorer(Bar.parse("accuracy >= 0.9 mean and cosine >= 0.9"))
    assert scorer.against == "the float model and labels"
    scorer.check(split_of(4, labels=True))
    with pytest.raises(UsageError, match="accuracy needs labels, and the data has none"):
        scorer.check(split_of(4))


def test_losses_of_decisions_move_before_a_decision_falls() -> None:
    a, _ = pair(6, 10)
    near, nearer = (a + np.float32(s) * pair(6, 10, seed=5)[0] for s in (1e-2, 1e-3))
    bar = Bar.parse("top1 >= 0.9 and spearman >= 0.9")
    scorer = Scorer(bar)
    first, second = (scorer.losses([a], [x], batch(6)) for x in (near, nearer))
    for term in bar.terms:
        assert (first[str(term)] > second[str(term)]).all()
        assert (second[str(term)] > 0).all()


def test_a_scorer_of_a_file_reaches_a_process_that_never_saw_the_file(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    (tmp_path / "mine.py").write_text(
        "def gap(reference, output):\n    return abs(output - reference).max(axis=1)\n"
        "def first(outputs):\n    return outputs[0][:, :1]\n"
    )
    scorer = Scorer(Bar.parse(f"{tmp_path}/mine.py:gap <= 0.5"), f"{tmp_path}/mine.py:first", ["a"])
    a, b = pair(4, 3)
    (tmp_path / "sent").write_bytes(_pickled((scorer, [a], [b], batch(4))))
    (tmp_path / "mine.py").unlink()
    script = (
        "import pickle, sys\n"
        "scorer, a, b, batch = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(*next(iter(scorer.scores(a, b, batch).values())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "sent")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [float(x) for x in done.stdout.split()] == pytest.approx(np.abs(b - a)[:, 0])
