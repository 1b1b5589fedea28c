"""Smoothing: make activations easy to quantise by moving their outlier channels into the weights, and their offsets into the
bias, before either is rounded. Exact in real numbers: ``x @ w.T = ((x - c) / s) @ (w * s).T + w @ c``. The last term is computed
with the rounded weights, so that the shift itself costs nothing.

The scale ``s = amax(x - c)**alpha / amax(w)**(1 - alpha)`` per input channel is SmoothQuant's (Xiao et al. 2022,
arXiv:2211.10438), the shift ``c``, the middle of each channel's range, that of Outlier Suppression+ (Wei et al. 2023,
arXiv:2304.09145). Where rows are lopsided in a way that differs from row to row (behind a GELU), ``c`` is the middle of the row's
own range instead, found at run time; ``w @ c`` is then that number times the row sums of the weights: what is usually called an
asymmetric activation with a zero point. The papers set one alpha for the model; here alpha and the kind of shift are chosen per
linear, as what gives the least error of the linear's output on calibration rows (nothing at all is among the choices).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .rtn import fake_quantize_rows

#: The exponents tried.
ALPHAS = (0.45, 0.55, 0.65, 0.75)


@dataclass(frozen=True)
class Smoothing:
    """The outcome for one input.

    Attributes:
        scale: f32 ``[K]`` that the channels are divided by; None where nothing helps.
        shift: f32 ``[K]`` that is taken off first; None without a static shift.
        centred: every row is centred at run time (after the scale); excludes ``shift``.
        alpha: the chosen exponent; None without a scale.
        error: squared error of the outputs, relative to the outputs' own energy.
        plain_error: the same for plain rounding.
    """

    scale: np.ndarray | None
    shift: np.ndarray | None
    centred: bool
    alpha: float | None
    error: float
    plain_error: float


def channel_scale(x_amax: np.ndarray, w_amax: np.ndarray, alpha: float) -> np.ndarray:
    """SmoothQuant's scale per input channel (f32 ``[K]``), geometric mean 1; 1 where a channel is always zero."""
    usable = (x_amax > 0) & (w_amax > 0)
    safe_x, safe_w = np.where(usable, x_amax, 1.0), np.where(usable, w_amax, 1.0)
    log_scale = alpha * np.log(safe_x) - (1.0 - alpha) * np.log(safe_w)
    log_scale = np.where(usable, log_scale - log_scale[usable].mean() if usable.any() else 0.0, 0.0)
    return np.exp(log_scale).astype(np.float32)


def choose(x: np.ndarray, low: np.ndarray, high: np.ndarray, weights: Sequence[np.ndarray]) -> Smoothing:
    """Choose the smoothing of an input that one or more linears read.

    Args:
        x: f32 ``[M, K]``, calibration rows.
        low, high: f32 ``[K]``, the range of every channel over all calibration data.
        weights: f32 ``[N_i, K]`` each.
    """
    weight = np.concatenate(weights) if len(weights) > 1 else weights[0]
    want = x @ weight.T
    energy = float(np.square(want).sum()) or 1.0

    def error(shift: np.ndarray | None, scale: np.ndarray | None, centred: bool = False) -> float:
        a, b = (x, weight) if scale is None else (x / scale, weight * scale)
        rounded = fake_quantize_rows(b)
        target = want
        if shift is not None:
            moved = shift if scale is None else shift / scale
            a, target = a - moved, target - rounded @ moved
        if centred:
            middle = (a.max(axis=1, keepdims=True) + a.min(axis=1, keepdims=True)) / 2
            a, target = a - middle, target - middle * rounded.sum(axis=1)
        return float(np.square(fake_quantize_rows(a) @ rounded.T - target).sum()) / energy

    plain = error(None, None)
    best = Smoothing(None, None, False, None, plain, plain)
    w_amax = np.abs(weight).max(axis=0)
    middle = ((low + high) / 2).astype(np.float32)
    amax, half = np.maximum(np.abs(low), np.abs(high)), (high - low) / 2
    # What costs more at run time has to be worth it.
    for shift, reach, centred, worth in ((None, amax, False, 1.0), (middle, half, False, 0.9), (None, amax, True, 0.7)):
        found = [
            (error(shift, s, centred), alpha, s) for alpha in ALPHAS for s in [channel_scale(reach, w_amax, alpha)]
        ]
        now, alpha, scale = min(found, key=lambda f: f[0])
        if now < worth * best.error:
            best = Smoothing(scale, shift, centred, alpha, now, plain)
    return best
