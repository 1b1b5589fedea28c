"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): move outlier channels of the activations into the weights.

``x @ w.T = (x / s) @ (w * s).T`` for any positive ``s`` per input channel. The paper sets
``s = amax(x)**alpha / amax(w)**(1 - alpha)`` with one alpha for the model; here alpha is chosen per linear, as the one (or
no smoothing at all) with the least error of the linear's output on calibration rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .rtn import fake_quantize_rows

ALPHAS = (0.35, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Smoothing:
    """The outcome for one input.

    Attributes:
        scale: f32 ``[K]``; None where smoothing does not help.
        alpha: the chosen exponent; None without smoothing.
        error: squared error of the outputs, relative to the outputs' own energy.
        plain_error: the same without smoothing.
    """

    scale: np.ndarray | None
    alpha: float | None
    error: float
    plain_error: float


def channel_scale(x_amax: np.ndarray, w_amax: np.ndarray, alpha: float) -> np.ndarray:
    """The paper's scale per input channel (f32 ``[K]``), geometric mean 1; 1 where a channel is always zero."""
    usable = (x_amax > 0) & (w_amax > 0)
    safe_x, safe_w = np.where(usable, x_amax, 1.0), np.where(usable, w_amax, 1.0)
    log_scale = alpha * np.log(safe_x) - (1.0 - alpha) * np.log(safe_w)
    log_scale = np.where(usable, log_scale - log_scale[usable].mean() if usable.any() else 0.0, 0.0)
    return np.exp(log_scale).astype(np.float32)


def choose(x: np.ndarray, x_amax: np.ndarray, weights: Sequence[np.ndarray]) -> Smoothing:
    """Choose the smoothing of an input that one or more linears read.

    Args:
        x: f32 ``[M, K]``, calibration rows.
        x_amax: f32 ``[K]``, largest magnitude per channel over all calibration data.
        weights: f32 ``[N_i, K]`` each.
    """
    weight = np.concatenate(weights) if len(weights) > 1 else weights[0]
    want = x @ weight.T
    energy = float(np.square(want).sum()) or 1.0

    def error(scale: np.ndarray | None) -> float:
        a, b = (x, weight) if scale is None else (x / scale, weight * scale)
        return float(np.square(fake_quantize_rows(a) @ fake_quantize_rows(b).T - want).sum()) / energy

    plain = error(None)
    best = Smoothing(None, None, plain, plain)
    w_amax = np.abs(weight).max(axis=0)
    for alpha in ALPHAS:
        scale = channel_scale(x_amax, w_amax, alpha)
        now = error(scale)
        if now < best.error:
            best = Smoothing(scale, alpha, now, plain)
    return best
