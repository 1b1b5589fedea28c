"""Metrics of distance between two outputs as they stand: cosine, signal to noise, relative error.

Each takes a sample's whole output as one vector. Elements that are infinite or NaN in the same way in both outputs (a mask,
say) are left out.
"""

from __future__ import annotations

import numpy as np

from .metrics_base import Metric, rowwise

#: Decibels beyond which nothing is told apart: float32 ends near 150.
SQNR_LIMIT = 200.0


def _vectors(reference: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = reference.reshape(len(reference), -1), output.reshape(len(output), -1)
    odd = ~np.isfinite(a)
    if odd.any():
        same = odd & ((a == b) | (np.isnan(a) & np.isnan(b)))
        a, b = np.where(same, 0.0, a), np.where(same, 0.0, b)
    return a, b


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", a, b)


def _cosine(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    a, b = _vectors(reference, output)
    lengths = np.sqrt(_dot(a, a)) * np.sqrt(_dot(b, b))
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosine = np.divide(_dot(a, b), lengths, out=np.asarray(both_zero, np.float64), where=lengths != 0)
    return np.clip(cosine, -1.0, 1.0)


class Cosine(Metric):
    """Cosine of the angle between the two outputs of a sample; two outputs of zeros agree (1), one alone does not (0)."""

    name = "cosine"
    worst = -1.0

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        return rowwise(_cosine, reference, output)

    def loss(self, scores: np.ndarray) -> np.ndarray:
        """``1 - cosine``: half the squared distance of the directions, to which independent errors add."""
        return np.maximum(0.0, 1.0 - scores)


def _powers(reference: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _vectors(reference, output)
    return _dot(a, a), _dot(b - a, b - a)


def _noise_ratio(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Power of the error over that of the reference; infinite where the reference is zero and the error is not."""
    signal, noise = _powers(reference, output)
    otherwise: np.ndarray = np.where(noise > 0, np.inf, noise)
    return np.divide(noise, signal, out=otherwise, where=signal != 0)


class Sqnr(Metric):
    """Signal to quantisation noise in dB, ``10 log10(|reference|^2 / |output - reference|^2)``, within ±200."""

    name = "sqnr"
    identical = SQNR_LIMIT
    worst = -SQNR_LIMIT

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        with np.errstate(divide="ignore"):
            decibels = -10 * np.log10(rowwise(_noise_ratio, reference, output))
        return np.clip(decibels, -SQNR_LIMIT, SQNR_LIMIT)

    def loss(self, scores: np.ndarray) -> np.ndarray:
        """The noise for a signal of power one, to which independent errors add."""
        return np.where(scores >= SQNR_LIMIT, 0.0, 10 ** (-scores / 10))


class RelativeError(Metric):
    """Euclidean norm of the error over that of the reference."""

    name = "relative-error"
    better = "lower"
    identical = 0.0
    worst = np.inf

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        return np.sqrt(rowwise(_noise_ratio, reference, output))

    def loss(self, scores: np.ndarray) -> np.ndarray:
        """The square, to which independent errors add."""
        return scores**2
