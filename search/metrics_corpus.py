"""Metrics of a corpus: perplexity of a language model, and the similarities of a collection's embeddings."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from ..compiler.errors import UsageError
from .metrics_base import Metric, rowwise
from .metrics_decision import IGNORED, positions_of

_ROWS_AT_ONCE = 256


def _surplus(reference: np.ndarray, output: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean over the labelled tokens of what the output's negative log likelihood exceeds the reference's by, in nats."""
    known = labels != IGNORED
    at = np.where(known, labels, 0)[..., None]
    nll = []
    for array in (reference, output):
        logits = array.reshape(len(array), -1, array.shape[-1])
        nll.append(special.logsumexp(logits, axis=-1) - np.take_along_axis(logits, at, axis=-1)[..., 0])
    return np.where(known, nll[1] - nll[0], 0.0).sum(-1) / known.sum(-1)


class PerplexityRatio(Metric):
    """Perplexity of the output over that of the float model, from logits and the tokens that came next as labels.

    A sample scores ``exp(mean over its tokens of nll - float nll)``; ``mean`` is the corpus's own ratio, in which every token
    counts the same: ``exp(mean over all tokens of nll - float nll)``. Labels of -100 are left out.
    """

    name = "perplexity-ratio"
    better = "lower"
    proxy = "kl"
    needs_labels = True
    worst = np.inf

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        if reference.ndim < 2 or reference.shape[-1] < 2:
            raise UsageError(
                f"{self.name} needs logits [rows, tokens, vocabulary], and the outputs are {list(reference.shape)}"
            )
        tokens = positions_of(self.name, labels, reference.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.exp(np.minimum(rowwise(_surplus, reference, output, tokens), 700.0))

    def loss(self, scores: np.ndarray) -> np.ndarray:
        """Nats that a token costs more."""
        return np.maximum(0.0, np.log(scores))

    def weights(self, labels: np.ndarray | None, rows: int) -> np.ndarray | None:
        """The number of tokens."""
        return None if labels is None else (labels.reshape(rows, -1) != IGNORED).sum(-1).astype(np.float64)

    def to_mean(self, scores: np.ndarray) -> np.ndarray:
        return np.log(scores)

    def from_mean(self, mean: float) -> float:
        return float(np.exp(mean))


class Spearman(Metric):
    """Rank correlation (Spearman's rho) of a sample's cosine similarities to all other samples of its split.

    What a search among embeddings stands on: 1 where every sample sees the others in the same order as with the float model.
    The scores of a split share its samples, so they are not quite independent.
    """

    name = "spearman"
    proxy = "cosine"
    whole = True
    worst = -1.0

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        n = len(reference)
        if n < 3:
            raise UsageError(f"spearman compares a sample with at least two others, and there are {n} samples")
        embeddings = [_directions(x) for x in (reference, output)]
        found = np.empty(n)
        for start in range(0, n, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, n))
            others = np.arange(n)[None, :] != rows[:, None]
            ranks = [stats.rankdata((e[rows] @ e.T)[others].reshape(len(rows), n - 1), axis=1) for e in embeddings]
            a, b = (r - (n / 2) for r in ranks)  # the mean of the ranks 1 .. n - 1
            lengths = np.sqrt((a * a).sum(1)) * np.sqrt((b * b).sum(1))
            both_flat = (~a.any(1) & ~b.any(1)).astype(np.float64)
            found[rows] = np.divide((a * b).sum(1), lengths, out=both_flat, where=lengths > 0)
        return found

    def loss(self, scores: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, 1.0 - scores)


def _directions(array: np.ndarray) -> np.ndarray:
    flat = array.reshape(len(array), -1).astype(np.float64)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)
