"""What a metric is: scores of samples against the float model, and the loss that a sum over layers can predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Better = Literal["higher", "lower"]

#: Elements of one array that are widened to f64 at a time.
_AT_ONCE = 1 << 22


class Metric:
    """A way to score the outputs of a compiled model.

    Attributes:
        name: as it stands in a bar.
        better: whether ``higher`` or ``lower`` scores are better.
        proxy: the smooth metric that stands in for this one where losses of single layers are measured: a metric that counts
            decisions does not move until one falls over. None: its own loss is smooth.
        shares: the scores lie in [0, 1], so a mean of them has a bound that holds for every sample size.
        needs_labels: scores need the samples' labels.
        whole: a score is about a sample among all others of its split, so scores need the whole split at once.
        identical: the score of outputs that equal the reference; None where that depends on the sample.
        worst: the score of an output that is NaN or infinite where the reference is not.
    """

    name: str
    better: Better = "higher"
    proxy: str | None = None
    shares: bool = False
    needs_labels: bool = False
    whole: bool = False
    identical: float | None = 1.0
    worst: float = 0.0

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """One score for each row.

        Args:
            reference: of the float model, ``[rows, ...]``, any real dtype.
            output: of the model that is judged, of the same shape.
            labels: ``[rows, ...]`` where the samples have some.

        Returns:
            f64 ``[rows]``.

        Raises:
            UsageError: the outputs or labels are none that this metric can score.
        """
        raise NotImplementedError

    def loss(self, scores: np.ndarray) -> np.ndarray:
        """Scores as losses: at least 0, 0 for a perfect score, and roughly additive over independent small errors."""
        raise NotImplementedError

    def losses(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """The losses of every row, f64 ``[rows]``."""
        return self.loss(self.per_sample(reference, output, labels))

    def smooth(self, reference: np.ndarray) -> Metric:
        """The metric whose losses are measured for outputs like ``reference``: this one, or its proxy.

        Divergence of logits needs a last axis of classes; without one it is the relative error.
        """
        from .metrics_table import named

        if self.proxy is None:
            return self
        return named(
            "relative-error" if self.proxy == "kl" and (reference.ndim < 2 or reference.shape[-1] < 2) else self.proxy
        )

    def weights(self, labels: np.ndarray | None, rows: int) -> np.ndarray | None:
        """What each row counts in a mean over samples, f64 ``[rows]``; None: all the same."""
        return None

    def to_mean(self, scores: np.ndarray) -> np.ndarray:
        """Scores on the scale on which they are averaged; increasing."""
        return scores

    def from_mean(self, mean: float) -> float:
        """The inverse of :meth:`to_mean`."""
        return mean


def rowwise(
    compute: Callable[..., np.ndarray], reference: np.ndarray, output: np.ndarray, *more: np.ndarray, **options: Any
) -> np.ndarray:
    """``compute`` over as many rows at a time as fit a fixed amount of memory, its arrays widened to f64."""
    rows = len(reference)
    step = max(1, min(rows, _AT_ONCE // max(1, reference[:1].size)))
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # what a broken output gives is looked at where scores are checked
        parts = [
            compute(
                reference[i : i + step].astype(np.float64),
                output[i : i + step].astype(np.float64),
                *(m[i : i + step] for m in more),
                **options,
            )
            for i in range(0, rows, step)
        ]
    return np.concatenate(parts) if parts else np.zeros(0)
