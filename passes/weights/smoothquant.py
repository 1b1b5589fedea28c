"""Smoothing: make activations easy to quantise by moving their outlier channels into the weights, and their offsets into the
bias, before either is rounded. Exact in real numbers: ``x @ w.T = ((x - c) / s) @ (w * s).T + w @ c``. The last term is computed
with the rounded weights, so that the shift itself costs nothing.

The scale ``s = amax(x - c)**alpha / amax(w)**(1 - alpha)`` per input channel is SmoothQuant's (Xiao et al. 2022,
arXiv:2211.10438), the shift ``c``, the middle of each channel's range, that of Outlier Suppression+ (Wei et al. 2023,
arXiv:2304.09145). Where rows are lopsided in a way that differs from row to row (behind a GELU), ``c`` is the middle of the row's
own range instead, found at run time; ``w @ c`` is then that number times the row sums of the weights: what is usually called an
asymmetric activation with a zero point. The papers set one alpha for the model; here alpha and the kind of shift are chosen per
linear, as what gives the least error of the linear's output on calibration rows (nothing at all is among the choices).

Here rows are rounded as they come (dynamic); ``static_range`` chooses for static activations with what stands here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.precision import PRECISIONS, Scheme
from . import QuantisedWeight, Reaching
from .rtn import METHOD as ROUND_TO_NEAREST
from .rtn import dtype_of, fake_quantize_rows, greatest_scales, round_to

#: The exponents tried.
ALPHAS = (0.45, 0.55, 0.65, 0.75)
#: Output channels that decide; of more, every second, third, ... is looked at.
MOST_OUTPUTS = 2048
#: Elements of the weight that are multiplied at a time, which bounds what is held beside it, and of those that are rounded
#: at a time, which stay in a second-level cache.
BLOCK, PIECE = 4 << 20, 64 << 10


#: What int8 per output channel is.
_CHANNEL = PRECISIONS["w8a8-dynamic"].weight


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

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    centred: bool = False
    alpha: float | None = None
    error: float = 0.0
    plain_error: float = 0.0

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """The rows that the weights ``w * scale`` see: ``x / scale``."""
        return x if self.scale is None else x / self.scale

    def offset(self, scaled: np.ndarray) -> np.ndarray | None:
        """What is taken off the scaled rows before they are rounded and comes back behind the product: f32 ``[K]``, or
        ``[M, 1]`` where each row is centred; None without a shift."""
        if self.centred:
            return (scaled.max(axis=1, keepdims=True) + scaled.min(axis=1, keepdims=True)) / 2
        if self.shift is None:
            return None
        return self.shift if self.scale is None else self.shift / self.scale

    def words(self) -> str:
        """What was chosen."""
        if self.alpha is None and self.shift is None and not self.centred:
            return "without smoothing"
        how = "smoothed" if self.alpha is None else f"smoothed with alpha {self.alpha}"
        return how + (", channels shifted" if self.shift is not None else ", rows centred" if self.centred else "")


def channel_scale(x_amax: np.ndarray, w_amax: np.ndarray, alpha: float) -> np.ndarray:
    """SmoothQuant's scale per input channel (f32 ``[K]``), geometric mean 1; 1 where a channel is always zero."""
    usable = (x_amax > 0) & (w_amax > 0)
    safe_x, safe_w = np.where(usable, x_amax, 1.0), np.where(usable, w_amax, 1.0)
    log_scale = alpha * np.log(safe_x) - (1.0 - alpha) * np.log(safe_w)
    log_scale = np.where(usable, log_scale - log_scale[usable].mean() if usable.any() else 0.0, 0.0)
    return np.exp(log_scale).astype(np.float32)


@dataclass
class Trial:
    """A way to round the input.

    Attributes:
        alpha: the exponent of ``scale``; None without a scale.
        scale: f32 ``[K]`` that the weights are multiplied by.
        rows: what is multiplied, rounded already.
        shift: ``rounded weight @ shift`` is added back.
        middle: ``middle * row sums of the rounded weight`` is added back.
        error: squared error of the outputs so far.
    """

    alpha: float | None
    scale: np.ndarray | None
    rows: np.ndarray
    shift: np.ndarray | None = None
    middle: np.ndarray | None = None
    error: float = 0.0


def choose(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, weights: Sequence[np.ndarray], scheme: Scheme = _CHANNEL
) -> Smoothing:
    """Choose the smoothing of an input that one or more linears read.

    Args:
        x: f32 ``[M, K]``, calibration rows.
        low, high: f32 ``[K]``, the range of every channel over all calibration data.
        weights: f32 ``[N_i, K]`` each; of many output channels an even sample decides.
        scheme: how the weights are rounded.
    """
    weights = deciding(weights)
    w_amax = channel_amax(weights)
    middle = ((low + high) / 2).astype(np.float32)
    amax, half = np.maximum(np.abs(low), np.abs(high)), (high - low) / 2
    plain = Trial(None, None, fake_quantize_rows(x))
    scaled: list[Trial] = []
    shifted: list[Trial] = []
    centred: list[Trial] = []
    for alpha in ALPHAS:
        scale = channel_scale(amax, w_amax, alpha)
        rows = x / scale
        centre = (rows.max(axis=1, keepdims=True) + rows.min(axis=1, keepdims=True)) / 2
        scaled.append(Trial(alpha, scale, fake_quantize_rows(rows)))
        centred.append(Trial(alpha, scale, fake_quantize_rows(rows - centre), middle=centre))
        scale = channel_scale(half, w_amax, alpha)
        shifted.append(Trial(alpha, scale, fake_quantize_rows((x - middle) / scale), shift=middle / scale))
    alike = [[plain], *([a, b] for a, b in zip(scaled, centred, strict=True)), *([a] for a in shifted)]
    energy = sum(tally(x, weight, alike, scheme) for weight in weights) or 1.0
    best = Smoothing(None, None, False, None, plain.error / energy, plain.error / energy)
    # What costs more at run time has to be worth it.
    for kind, worth in ((scaled, 1.0), (shifted, 0.9), (centred, 0.7)):
        least = min(kind, key=lambda trial: trial.error)
        if least.error / energy < worth * best.error:
            shift = middle if kind is shifted else None
            best = Smoothing(
                least.scale, shift, kind is centred, least.alpha, least.error / energy, plain.error / energy
            )
    return best


def deciding(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """An even sample of the output channels f32 ``[N_i, K]``, at most :data:`MOST_OUTPUTS` or so in all."""
    step = -(-sum(map(len, weights)) // MOST_OUTPUTS)
    return [w[::step] for w in weights]


def channel_amax(weights: Iterable[np.ndarray]) -> np.ndarray:
    """The greatest magnitude f32 ``[K]`` of each input channel."""
    return np.maximum.reduce([np.abs(w).max(axis=0) for w in weights])


def tally(x: np.ndarray, weight: np.ndarray, alike: Sequence[Sequence[Trial]], scheme: Scheme = _CHANNEL) -> float:
    """Add to each trial its error with ``weight`` f32 ``[N, K]`` rounded by ``scheme``; trials with the same scale stand
    together. Returns the squared outputs."""
    energy = 0.0
    step = max(1, BLOCK // weight.shape[1])
    rounded = np.empty((min(step, len(weight)), weight.shape[1]), np.float32)
    for start in range(0, len(weight), step):
        block = weight[start : start + step]
        want = x @ block.T
        energy += float(np.square(want).sum())
        for trials in alike:
            q = rounded[: len(block)]
            _fake_quantize_scaled(block, trials[0].scale, q, scheme)
            for trial in trials:
                got = trial.rows @ q.T
                got -= want
                if trial.shift is not None:
                    got += q @ trial.shift
                if trial.middle is not None:
                    got += trial.middle * q.sum(axis=1)
                trial.error += float(np.square(got, out=got).sum())
    return energy


def _fake_quantize_scaled(weight: np.ndarray, scale: np.ndarray | None, out: np.ndarray, scheme: Scheme) -> None:
    """``weight * scale`` rounded by ``scheme`` into ``out``, a few rows at a time that stay in the cache."""
    step = max(1, PIECE // weight.shape[1])
    for start in range(0, len(weight), step):
        rows, into = weight[start : start + step], out[start : start + step]
        if scale is not None:
            rows = np.multiply(rows, scale, out=into)
        if scheme.group_size:
            steps = greatest_scales(rows, scheme)
            q = round_to(rows, steps, dtype_of(scheme)).reshape(*steps.shape, -1)
            into[:] = (q * steps[:, :, None]).reshape(rows.shape)
            continue
        amax = np.maximum(rows.max(axis=1, keepdims=True), -rows.min(axis=1, keepdims=True))
        np.multiply(rows, np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=amax > 0), out=into)
        np.multiply(np.rint(into, out=into), amax / np.float32(127), out=into)


@dataclass(frozen=True)
class SmoothQuant:
    """Smoothed activations, and weights rounded to nearest."""

    name: str = "smoothquant"
    wants_hessian: bool = False
    smooths: bool = True

    def quantize(self, weight: np.ndarray, reaching: Reaching | None, scheme: Scheme) -> QuantisedWeight:
        """See :class:`Method`; ``weight`` is smoothed already."""
        return ROUND_TO_NEAREST.quantize(weight, reaching, scheme)


METHOD = SmoothQuant()
