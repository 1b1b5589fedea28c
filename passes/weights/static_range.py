"""Static activations: smoothing and range together, by the error of the output.

Observers judge a range by the values alone; what counts is what becomes of the output. So smoothing (``smoothquant``) is chosen
with the range that the mean squared error proposes, then every observer asked proposes ranges, symmetric and with a zero point,
for the smoothed input, and the calibration rows decide. Rows that reach furthest are rare and are what a range is about: a sample
of typical rows would clip them gladly, and the one input in a hundred that has them would be lost. So the rows that reached
furthest of all that were seen count as much as a sample of all of them.
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
#: What a range that clips some of what was seen has to bring the error down to, relative to one that clips nothing: data not seen
#: reaches further still, and what saturates is lost, whereas a coarser step costs every input a little.
CLIPPING = 0.5
#: How much further than what was seen a range of smoothed channels reaches. Each channel is scaled by its own rows, so of many
#: channels some will be exceeded by every other input, and one value that saturates costs more than a coarser step for all.
MARGIN = 1.25
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


def proposed(histogram: Histogram, observers: Sequence[Observer], margin: float = 1.0) -> list[Range]:
    """What ``observers`` propose for a histogram, ``margin`` times as wide, symmetric and, where that makes the step finer, with
    a zero point."""
    found: list[Range] = []
    for observer in observers:
        low, high = observer.range(histogram, symmetric=True)
        even = Range.over(margin * low, margin * high, symmetric=True, observer=observer.name)
        found.append(even)
        low, high = observer.range(histogram, symmetric=False)
        skew = Range.over(margin * low, margin * high, symmetric=False, observer=observer.name)
        if skew.scale < _SAVING * even.scale:
            found.append(skew)
    return found


def choose_smoothed(
    x: np.ndarray,
    extremes: np.ndarray,
    channels: ChannelHistograms,
    weights: Sequence[np.ndarray],
    observers: Sequence[Observer],
    *,
    smooth: bool,
) -> StaticInput:
    """Choose for an input that one or more linears read.

    Args:
        x: f32 ``[M, K]``, calibration rows.
        extremes: f32 ``[E, K]``, those of all rows that reached furthest.
        channels: of all calibration rows.
        weights: f32 ``[N_i, K]`` each.
        observers: the ranges that are tried.
        smooth: whether smoothing may be chosen.
    """
    weights = deciding(weights)
    plain = channels.tensor()
    first = (find_observer("minmax"),) if len(observers) > 1 else tuple(observers)
    whole = Range.over(plain.low, plain.high, symmetric=True)
    x, counts = weighted(x, extremes, weights)
    alike = [_trials(x, counts, Smoothing(), [whole, *proposed(plain, first)])]
    before = alike[0][0]
    smoothings = [Smoothing()]
    if smooth:
        w_amax = channel_amax(weights)
        middle = ((channels.low + channels.high) / 2).astype(np.float32)
        amax = np.maximum(np.abs(channels.low), np.abs(channels.high))
        half = (channels.high - channels.low) / 2
        for alpha in ALPHAS:
            for reach, shift in ((amax, None), (half, middle)):
                smoothing = Smoothing(channel_scale(reach, w_amax, alpha), shift, alpha=alpha)
                alike.append(_trials(x, counts, smoothing, proposed(_histogram(channels, smoothing), first, MARGIN)))
                smoothings.append(smoothing)
    energy = sum(tally(x * counts, weight, alike, _SCHEME) for weight in weights) or 1.0
    best_at, best = 0, min(trial.error for trial in alike[0])
    for i, trials in enumerate(alike[1:], 1):
        # a shift costs a subtraction at run time and has to be worth it
        worth = 0.9 if smoothings[i].shift is not None else 1.0
        error = min(trial.error for trial in trials)
        if error < worth * best:
            best_at, best = i, error
    smoothing = smoothings[best_at]
    margin = MARGIN if smoothing.scale is not None else 1.0
    ranges = proposed(_histogram(channels, smoothing), observers, margin)
    trials = _trials(x, counts, smoothing, ranges)
    for weight in weights:
        tally(x * counts, weight, [trials], _SCHEME)
    at = least([trial.error for trial in trials], ranges)
    return StaticInput(smoothing, ranges[at], trials[at].error / energy, before.error / energy)


def _histogram(channels: ChannelHistograms, smoothing: Smoothing) -> Histogram:
    return channels.tensor(smoothing.scale, smoothing.shift)


def least(errors: Sequence[float], ranges: Sequence[Range]) -> int:
    """Which of ``ranges`` to take: a narrower one than what was seen has to be worth it."""
    found = [error if r.observer == "minmax" else error / CLIPPING for error, r in zip(errors, ranges, strict=True)]
    return int(np.argmin(found))


def weighted(x: np.ndarray, extremes: np.ndarray, weights: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows f32 ``[M + E, K]``, and what each is multiplied by f32 ``[M + E, 1]`` before its error is squared.

    Both parts count alike. Within them, a row whose output has far more energy than most counts for less: its error drowns in it,
    or in the next norm.
    """
    rows = np.concatenate([x, extremes])
    energy = np.zeros(len(rows), np.float32)
    for weight in weights:
        energy += np.square(rows @ weight.T).sum(axis=1)
    counts = 1.0 / np.maximum(energy + np.median(energy[: len(x)]), np.finfo(np.float32).tiny)
    counts[: len(x)] /= max(len(x), 1)
    counts[len(x) :] /= max(len(extremes), 1)
    return rows, np.sqrt(counts / counts.max())[:, None].astype(np.float32)


def _trials(x: np.ndarray, counts: np.ndarray, smoothing: Smoothing, ranges: Sequence[Range]) -> list[Trial]:
    scaled = smoothing.scaled(x)
    offset = smoothing.offset(scaled)
    trials = []
    for r in ranges:
        rows = r.rounded(scaled if offset is None else scaled - offset)
        if offset is not None:  # it comes back behind the product
            rows += offset
        trials.append(Trial(smoothing.alpha, smoothing.scale, rows * counts))
    return trials


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
    at = 1 + least(list(errors[1:]), ranges[1:])
    energy = energy or 1.0
    return StaticInput(Smoothing(), ranges[at], float(errors[at]) / energy, float(errors[0]) / energy)
