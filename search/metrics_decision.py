"""Metrics of decisions: what is read off logits. The last axis holds the classes; a score function turns others that way.

A sample's score is the mean over its positions, where it has some: one for each token of ``[rows, tokens, classes]``.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from ..compiler.errors import UsageError
from .metrics_base import Metric, rowwise

#: A label that stands for "no label here", as in PyTorch's cross entropy.
IGNORED = -100


class _OfLogits(Metric):
    """A metric that needs a last axis of classes."""

    def _check(self, reference: np.ndarray) -> int:
        """The number of classes."""
        if reference.ndim < 2 or reference.shape[-1] < 2:
            raise UsageError(
                f"{self.name} needs a last axis of at least two classes, and the outputs are {list(reference.shape)}",
                "give a score function that returns logits [rows, ..., classes], or name the output",
            )
        return int(reference.shape[-1])


def _positions(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1, array.shape[-1])


def _kl(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    a, b = (special.log_softmax(_positions(x), axis=-1) for x in (reference, output))
    p = np.exp(a)
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (a - b), 0.0)  # a class that is masked out counts nothing
    return np.maximum(terms.sum(-1), 0.0).mean(-1)


class Kl(_OfLogits):
    """Kullback-Leibler divergence of the output's distribution from the float model's, in nats: softmax over the last axis."""

    name = "kl"
    better = "lower"
    identical = 0.0
    worst = np.inf

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        self._check(reference)
        return rowwise(_kl, reference, output)

    def loss(self, scores: np.ndarray) -> np.ndarray:
        """The divergence itself: second order in the error, so independent errors add."""
        return np.maximum(scores, 0.0)


def _overlap(reference: np.ndarray, output: np.ndarray, k: int) -> np.ndarray:
    a, b = _positions(reference), _positions(output)
    if k == 1:
        return (a.argmax(-1) == b.argmax(-1)).mean(-1)
    if k == a.shape[-1]:
        return np.ones(len(a))
    marks = []
    for x in (a, b):
        mark = np.zeros(x.shape, bool)
        np.put_along_axis(mark, np.argpartition(-x, k - 1, axis=-1)[..., :k], True, axis=-1)
        marks.append(mark)
    return ((marks[0] & marks[1]).sum(-1) / k).mean(-1)


class TopK(_OfLogits):
    """Share of the float model's ``k`` largest classes that are among the output's; ``top1``: the decision is kept."""

    proxy = "kl"
    shares = True

    def __init__(self, k: int) -> None:
        """For ``k`` classes."""
        self.k, self.name = k, f"top{k}"

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        classes = self._check(reference)
        if self.k > classes:
            raise UsageError(f"{self.name} needs {self.k} classes, and the outputs have {classes}")
        return rowwise(_overlap, reference, output, k=self.k)

    def loss(self, scores: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, 1.0 - scores)


class Flips(_OfLogits):
    """Share of decisions (the largest class) that differ from the float model's: 0 or 1 for a sample with one decision."""

    name = "flips"
    better = "lower"
    proxy = "kl"
    shares = True
    identical = 0.0
    worst = 1.0

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        self._check(reference)
        return 1.0 - rowwise(_overlap, reference, output, k=1)

    def loss(self, scores: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, scores)


def _discordant(reference: np.ndarray, output: np.ndarray, k: int) -> np.ndarray:
    a, b = _positions(reference), _positions(output)
    top = (
        np.argpartition(-a, k - 1, axis=-1)[..., :k]
        if k < a.shape[-1]
        else np.arange(k) + np.zeros_like(a[..., :1], int)
    )
    a, b = np.take_along_axis(a, top, axis=-1), np.take_along_axis(b, top, axis=-1)
    first, second = np.triu_indices(k, 1)
    orders = [np.sign(x[..., first] - x[..., second]) for x in (a, b)]
    decided = orders[0] != 0
    wrong = np.where(decided, (1 - orders[0] * orders[1]) / 2, 0.0)
    return np.divide(wrong.sum(-1), decided.sum(-1), out=np.zeros(wrong.shape[:-1]), where=decided.any(-1)).mean(-1)


class Rank(_OfLogits):
    """Share of pairs among the float model's ``k`` largest entries that the output ranks the other way round.

    That is (1 - Kendall's tau) / 2 over those entries; a pair that the output ties counts half, one that the float model ties
    does not count. ``rank`` is ``rank10``.
    """

    better = "lower"
    proxy = "kl"
    shares = True
    identical = 0.0
    worst = 1.0

    def __init__(self, k: int, name: str) -> None:
        """For the ``k`` largest entries, or all where there are fewer."""
        self.k, self.name = k, name

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        return rowwise(_discordant, reference, output, k=min(self.k, self._check(reference)))

    def loss(self, scores: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, scores)


def positions_of(metric: str, labels: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Class labels as i64 ``[rows, positions]`` for outputs of ``shape`` (``[rows, ..., classes]``).

    Raises:
        UsageError: they are no classes, or not one for each position.
    """
    if labels is None:
        raise UsageError(f"{metric} needs labels, and the data has none", "planish.Dataset(data, label=...)")
    if labels.shape != shape[:-1]:
        raise UsageError(
            f"{metric} needs a label for each of {list(shape[:-1])}, and the labels are {list(labels.shape)}",
            "transform= of planish.Dataset can cut them, or a score function the outputs",
        )
    whole = labels.astype(np.int64)
    if labels.dtype.kind == "f" and (whole != labels).any():
        raise UsageError(f"{metric} needs classes as labels, and some are no whole numbers")
    outside = (whole != IGNORED) & ((whole < 0) | (whole >= shape[-1]))
    if outside.any():
        raise UsageError(f"the label {int(whole[outside][0])} is none of the {shape[-1]} classes")
    return whole.reshape(len(whole), -1)


def _correct(output: np.ndarray, same: np.ndarray, labels: np.ndarray) -> np.ndarray:
    right = (_positions(output).argmax(-1) == labels) & (labels != IGNORED)
    return right.sum(-1) / (labels != IGNORED).sum(-1)


class Accuracy(_OfLogits):
    """Share of decisions that agree with the labels; the float model does not enter. Labels of -100 are left out."""

    name = "accuracy"
    proxy = "kl"
    shares = True
    needs_labels = True
    identical = None

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        self._check(output)
        classes = positions_of(self.name, labels, output.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            return rowwise(_correct, output, output, classes)

    def loss(self, scores: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, 1.0 - scores)
