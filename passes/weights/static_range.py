"""Static activations: smoothing and range together, by the error of the output.

Observers judge a range by the values alone; what counts is what becomes of the output. So smoothing (``smoothquant``) is chosen
with the range that the mean squared error proposes, then every observer asked proposes ranges, symmetric and with a zero point,
for the smoothed input, and the calibration rows decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.precision import PRECISIONS
from ..observers import Histogram, Observer, Range, find_observer
from ..observers.histogram import ChannelHistograms
from .rtn import fake_quantize_rows
from .smoothquant import Smoothing, Trial, channel_amax, channel_scale, deciding, tally

#: The exponents tried: one step for the whole tensor asks for more than a step per row.
ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9)
#: Part of the symmetric range's step that one with a zero point must save to be tried.
_SAVING = 0.97
_SCHEME = PRECISIONS["w8a8"].weight


@dataclass(frozen=True)
class StaticInput:
    """The outcome for one input.

    Attributes:
        smoothing: of its channels; ``centred`` never.
        range: the quantisation of the smoothed input.
        error: squared error of the outputs, relative to the outputs' own energy.
        plain_error: the same without smoothing over the whole range.
    """

    smoothing: Smoothing
    range: Range
    error: float
    plain_error: float


def proposed(histogram: Histogram, observers: Sequence[Observer]) -> list[Range]:
    """What ``observers`` propose for a histogram, symmetric and, where that makes the step finer, with a zero point."""
    found: list[Range] = []
    for observer in observers:
        even = Range.over(*observer.range(histogram, symmetric=True), symmetric=True, observer=observer.name)
        found.append(even)
        skew = Range.over(*observer.range(histogram, symmetric=False), symmetric=False, observer=observer.name)
        if skew.scale < _SAVING * even.scale:
            found.append(skew)
    return found


def choose_smoothed(
    x: np.ndarray,
    channels: ChannelHistograms,
    weights: Sequence[np.ndarray],
    observers: Sequence[Observer],
    *,
    smooth: bool,
) -> StaticInput:
    """Choose for an input that one or more linears read.

    Args:
        x: f32 ``[M, K]``, calibration rows.
        channels: of all calibration rows.
        weights: f32 ``[N_i, K]`` each.
        observers: the ranges that are tried.
        smooth: whether smoothing may be chosen.
    """
    weights = deciding(weights)
    plain = channels.tensor()
    first = (find_observer("mse"),) if len(observers) > 1 else tuple(observers)
    whole = Range.over(plain.low, plain.high, symmetric=True)
    before = Trial(None, None, whole.rounded(x))
    alike = [[before, *(Trial(None, None, r.rounded(x)) for r in proposed(plain, first))]]
    smoothings = [Smoothing()]
    if smooth:
        w_amax = channel_amax(weights)
        middle = ((channels.low + channels.high) / 2).astype(np.float32)
        amax = np.maximum(np.abs(channels.low), np.abs(channels.high))
        half = (channels.high - channels.low) / 2
        for alpha in ALPHAS:
            for reach, shift in ((amax, None), (half, middle)):
                smoothing = Smoothing(channel_scale(reach, w_amax, alpha), shift, alpha=alpha)
                alike.append(_trials(x, channels, smoothing, proposed(_histogram(channels, smoothing), first)))
                smoothings.append(smoothing)
    energy = sum(tally(x, weight, alike, _SCHEME) for weight in weights) or 1.0
    best_at, best = 0, min(trial.error for trial in alike[0])
    for i, trials in enumerate(alike[1:], 1):
        # a shift costs a subtraction at run time and has to be worth it
        worth = 0.9 if smoothings[i].shift is not None else 1.0
        least = min(trial.error for trial in trials)
        if least < worth * best:
            best_at, best = i, least
    smoothing = smoothings[best_at]
    ranges = proposed(_histogram(channels, smoothing), observers)
    trials = _trials(x, channels, smoothing, ranges)
    for weight in weights:
        tally(x, weight, [trials], _SCHEME)
    at = int(np.argmin([trial.error for trial in trials]))
    return StaticInput(smoothing, ranges[at], trials[at].error / energy, before.error / energy)


def _histogram(channels: ChannelHistograms, smoothing: Smoothing) -> Histogram:
    return channels.tensor(smoothing.scale, smoothing.shift)


def _trials(x: np.ndarray, channels: ChannelHistograms, smoothing: Smoothing, ranges: Sequence[Range]) -> list[Trial]:
    scaled = smoothing.scaled(x)
    offset = smoothing.offset(scaled)
    rows = scaled if offset is None else scaled - offset
    return [Trial(smoothing.alpha, smoothing.scale, r.rounded(rows), shift=offset) for r in ranges]


def choose_range(
    windows: Sequence[np.ndarray], histogram: Histogram, weights: Sequence[np.ndarray], observers: Sequence[Observer]
) -> StaticInput:
    """Choose the range of an input that convolutions read.

    Args:
        windows: f32 ``[M, K_i]``, what reaches the kernel of each group of each convolution.
        histogram: of the whole input.
        weights: f32 ``[N_i, K_i]``, the kernels of the same groups.
        observers: the ranges that are tried.
    """
    whole = Range.over(histogram.low, histogram.high, symmetric=True)
    ranges = [whole, *proposed(histogram, observers)]
    errors, energy = np.zeros(len(ranges)), 0.0
    for x, weight in zip(windows, weights, strict=True):
        want, q = x @ weight.T, fake_quantize_rows(weight).T
        energy += float(np.square(want).sum())
        errors += [float(np.square(r.rounded(x) @ q - want).sum()) for r in ranges]
    at = 1 + int(np.argmin(errors[1:]))
    energy = energy or 1.0
    return StaticInput(Smoothing(), ranges[at], float(errors[at]) / energy, float(errors[0]) / energy)
