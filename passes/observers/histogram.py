"""Histograms of fixed size that widen as data streams by.

A bin is ``[i * 2**e, (i + 1) * 2**e)`` for an integer ``i``. When values no longer fit, ``e`` rises and bins fall together in
pairs, which is exact; so the result depends on what was seen, never on the order or on how it was cut into batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

#: Bins of a tensor's histogram: at least half of them are in use, 4 to 8 for every step of int8.
BINS = 4096
#: Bins of a channel's histogram.
CHANNEL_BINS = 256
#: Points that stand for a bin of a channel when it is spread over the finer bins of a tensor.
_POINTS = 4
#: Channels that are spread at a time, which bounds what is held.
_TOGETHER = 64


def _exponents(low: np.ndarray, high: np.ndarray, bins: int) -> np.ndarray:
    """The least ``e`` for which ``bins`` bins of width ``2**e`` cover ``low .. high``, element by element."""
    widest = np.maximum(np.abs(low), np.abs(high))
    # below this width a bin is finer than the numbers themselves
    finest = np.frexp(np.where(widest > 0, widest, 1.0))[1] - 30
    spread = np.where(high > low, high - low, 0.0)
    wanted = np.where(spread > 0, np.frexp(np.where(spread > 0, spread, 1.0) / bins)[1] - 1, finest)
    e = np.maximum(wanted, finest).astype(np.int64)
    for _ in range(3):  # the ends may each stand in the middle of a bin
        e += np.floor(np.ldexp(high, -e)) - np.floor(np.ldexp(low, -e)) >= bins
    return e


@dataclass
class Histogram:
    """How often values of one tensor were seen.

    Attributes:
        counts: f64 ``[bins]``.
        low, high: the exact ends of what was seen.
        exponent: a bin is ``2**exponent`` wide.
        first: the number of the first bin.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    low: float = np.inf
    high: float = -np.inf
    exponent: int = 0
    first: int = 0

    @staticmethod
    def of(values: np.ndarray) -> Histogram:
        """The histogram of finite ``values``, of any shape."""
        found = Histogram()
        found.add(values)
        return found

    def add(self, values: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count finite ``values``; ``weights`` f64 of the same size are how often each was seen."""
        flat = np.asarray(values, np.float64).ravel()
        if not flat.size:
            return
        self._widen(float(flat.min()), float(flat.max()))
        index = np.floor(np.ldexp(flat, -self.exponent)).astype(np.int64) - self.first
        weights = None if weights is None else weights.ravel()
        self.counts += np.bincount(index, weights, minlength=len(self.counts))

    def _widen(self, low: float, high: float) -> None:
        bins, empty = len(self.counts), self.high < self.low
        if not empty and low >= self.low and high <= self.high:
            return
        self.low, self.high = min(low, self.low), max(high, self.high)
        exponent = int(_exponents(np.array(self.low), np.array(self.high), bins))
        if not empty:
            exponent = max(exponent, self.exponent)
        first = int(np.floor(np.ldexp(self.low, -exponent)))
        if not empty:
            place = ((np.arange(bins) + self.first) >> (exponent - self.exponent)) - first
            held = self.counts > 0
            self.counts = np.bincount(place[held], self.counts[held], minlength=bins).astype(np.float64)
        self.exponent, self.first = exponent, first

    @property
    def total(self) -> float:
        """How many values were seen."""
        return float(self.counts.sum())

    @property
    def width(self) -> float:
        """The width of a bin."""
        return float(np.ldexp(1.0, self.exponent))

    def edges(self) -> np.ndarray:
        """f64 ``[bins + 1]``: the ends of the bins, cut off at what was seen."""
        return np.clip((np.arange(len(self.counts) + 1) + self.first) * self.width, self.low, self.high)

    def points(self, most: int = BINS) -> tuple[np.ndarray, np.ndarray]:
        """The middles of the bins that hold something, and their counts; neighbouring bins are merged into at most ``most``."""
        edges, step = self.edges(), -(-len(self.counts) // most)
        middles = (edges[:-1] + edges[1:]) / 2
        counts = self.counts.reshape(-1, step).sum(axis=1)
        held = counts > 0
        sums = (middles * self.counts).reshape(-1, step).sum(axis=1)
        return sums[held] / counts[held], counts[held]


class ChannelHistograms:
    """A histogram for every channel of a tensor, from which that of the tensor follows for any smoothing of the channels.

    Attributes:
        low, high: f32 ``[K]``, exact ends of what each channel held.
        counts: u32 ``[K, CHANNEL_BINS]``.
    """

    def __init__(self, channels: int) -> None:
        self.low = np.full(channels, np.inf, np.float32)
        self.high = np.full(channels, -np.inf, np.float32)
        self.counts = np.zeros((channels, CHANNEL_BINS), np.uint32)
        self._exponent = np.zeros(channels, np.int64)
        self._first = np.zeros(channels, np.int64)

    def add(self, rows: np.ndarray) -> None:
        """Count the finite rows f32 ``[M, K]``."""
        if not len(rows):
            return
        self._widen(rows.min(axis=0), rows.max(axis=0))
        channels = len(self.low)
        offset = np.arange(channels) * CHANNEL_BINS
        inverse = np.ldexp(1.0, -self._exponent)
        step = max(1, (1 << 20) // channels)
        for start in range(0, len(rows), step):
            index = np.floor(rows[start : start + step] * inverse).astype(np.int64)
            index += offset - self._first
            found = np.bincount(index.ravel(), minlength=channels * CHANNEL_BINS)
            self.counts += found.reshape(channels, CHANNEL_BINS).astype(np.uint32)

    def _widen(self, low: np.ndarray, high: np.ndarray) -> None:
        wider = (low < self.low) | (high > self.high)
        if not wider.any():
            return
        empty = self.high < self.low
        self.low, self.high = np.minimum(low, self.low), np.maximum(high, self.high)
        exponent = _exponents(self.low.astype(np.float64), self.high.astype(np.float64), CHANNEL_BINS)
        exponent = np.where(empty, exponent, np.maximum(exponent, self._exponent))
        first = np.floor(np.ldexp(self.low.astype(np.float64), -exponent)).astype(np.int64)
        moved = np.flatnonzero(~empty & ((exponent != self._exponent) | (first != self._first)))
        if len(moved):
            was = np.arange(CHANNEL_BINS) + self._first[moved, None]
            place = (was >> (exponent - self._exponent)[moved, None]) - first[moved, None]
            counts = self.counts[moved]
            held = counts > 0
            place += np.arange(len(moved))[:, None] * CHANNEL_BINS
            found = np.bincount(place[held], counts[held], minlength=counts.size)
            self.counts[moved] = found.reshape(counts.shape).astype(np.uint32)
        self._exponent, self._first = exponent, first

    def _spread(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the channels ``start .. end``: the channel of each bin that holds something ``[B]``, points that stand for it
        ``[B, _POINTS]``, and their weights ``[B * _POINTS]``."""
        channel, at = np.nonzero(self.counts[start:end])
        weights = np.repeat(self.counts[start + channel, at] / _POINTS, _POINTS)
        channel += start
        points = (np.arange(_POINTS) + 0.5) / _POINTS + (self._first[channel] + at)[:, None]
        points *= np.ldexp(1.0, self._exponent[channel])[:, None]
        # what the ends of a channel cut off
        np.clip(points, self.low[channel, None], self.high[channel, None], out=points)
        return channel, points, weights

    def tensor(self, scale: np.ndarray | None = None, shift: np.ndarray | None = None) -> Histogram:
        """The histogram of ``(x - shift) / scale`` over all channels (f32 ``[K]`` each, scales positive); its ends are exact, a
        value is placed within the bin of its channel."""
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        if shift is not None:
            low, high = low - shift, high - shift
        if scale is not None:
            low, high = low / scale, high / scale
        found = Histogram()
        found.add(np.array([low.min(), high.max()]), np.zeros(2))
        for start in range(0, len(self.low), _TOGETHER):
            channel, points, weights = self._spread(start, start + _TOGETHER)
            if shift is not None:
                points -= shift[channel, None]
            if scale is not None:
                points /= scale[channel, None]
            found.add(
                np.clip(points, found.low, found.high, out=points), weights
            )  # arithmetic may round beyond the ends
        return found
