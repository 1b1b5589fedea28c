"""Fourier transforms and mel weights.

A transform is a product with the matrix of its roots of unity: for the few hundred points that audio models use, matrix kernels
are quicker than the bookkeeping of a fast transform. Longer ones are taken apart into two (Cooley & Tukey 1965).
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from ...dims import Dim, floordiv
from ...graph import Value
from ...types import DType
from ..unsupported import NotConstant, Unsupported
from .importing import Importer
from .moving import axis_in
from .registry import op

#: Transforms of more points are taken apart where they can be.
MOST_POINTS = 1024
#: Elements that the matrix of one transform may have.
MOST_ELEMENTS = 1 << 25


def _angles(rows: int, columns: int, points: int) -> np.ndarray:
    """2 pi j k / points for rows j and columns k, exactly reduced to one turn."""
    turns = (np.arange(rows)[:, None] * np.arange(columns)[None, :]) % points
    return turns * (2 * np.pi / points)


def _matrix(at: Importer, parts: np.ndarray, dtype: DType) -> Value:
    """A weight [points out * parts out, points in * parts in] from [in, parts in, out, parts out]."""
    rows = parts.shape[0] * parts.shape[1]
    if parts.size > MOST_ELEMENTS:
        raise Unsupported(f"a transform of {parts.shape[0]} points is too long, and cannot be taken apart")
    return at.constant(np.ascontiguousarray(parts.reshape(rows, -1).T.astype(dtype.numpy)), dtype, "roots")


def _spectrum(at: Importer, x: Value, points: int, bins: int, sign: int, window: np.ndarray | None = None) -> Value:
    """[..., given, 1 or 2] real or complex numbers to [..., bins, 2]: the sum over n of x[n] window[n] exp(sign 2 pi i n k /
    points)."""
    given, kinds = x.shape[-2:]
    if not isinstance(given, int) or kinds not in (1, 2) or not isinstance(kinds, int):
        raise Unsupported(f"its last axis has {kinds} elements, where 1 (real) or 2 (complex) are expected")
    turned = _angles(given, bins, points)
    parts = np.empty((given, kinds, bins, 2))
    parts[:, 0, :, 0], parts[:, 0, :, 1] = np.cos(turned), sign * np.sin(turned)
    if kinds == 2:
        parts[:, 1, :, 0], parts[:, 1, :, 1] = -sign * np.sin(turned), np.cos(turned)
    if window is not None:
        parts *= window.astype(np.float64).reshape(-1, 1, 1, 1)
    flat = at.reshape(x, (*x.shape[:-2], given * kinds))
    return at.reshape(at.emit("linear", flat, _matrix(at, parts, x.dtype)), (*x.shape[:-2], bins, 2))


def _transform(at: Importer, x: Value, points: int, bins: int, sign: int) -> Value:
    """The first ``bins`` of the transform of [..., points, 1 or 2], in two steps where it is long."""
    first = next((d for d in range(isqrt(points), 1, -1) if points % d == 0), 1)
    if points <= MOST_POINTS or first == 1:
        return _spectrum(at, x, points, bins, sign)
    second = points // first
    lead, rank = x.shape[:-2], x.type.rank - 2
    # n = second a + b, k = c + first d: over a for each b, a turn by b c, then over b
    apart = at.reshape(x, (*lead, first, second, x.shape[-1]))
    inner = _transform(at, at.transpose(apart, (*range(rank), rank + 1, rank, rank + 2)), first, first, sign)
    turned = _angles(second, first, points)
    cosine, sine = (at.constant(f(turned).astype(x.dtype.numpy), x.dtype, "turn") for f in (np.cos, np.sin))
    real, imaginary = (at.reshape(at.slice(inner, rank + 2, i, i + 1), (*lead, second, first)) for i in range(2))
    if sign < 0:
        sine = at.emit("neg", sine)
    pair = (
        at.emit("sub", at.emit("mul", real, cosine), at.emit("mul", imaginary, sine)),
        at.emit("add", at.emit("mul", real, sine), at.emit("mul", imaginary, cosine)),
    )
    joined = at.emit("concat", *(at.reshape(v, (*lead, second, first, 1)) for v in pair), axis=rank + 2)
    outer = _transform(at, at.transpose(joined, (*range(rank), rank + 1, rank, rank + 2)), second, second, sign)
    ordered = at.transpose(outer, (*range(rank), rank + 1, rank, rank + 2))
    return at.slice(at.reshape(ordered, (*lead, points, 2)), rank, 0, bins)


def _signal(at: Importer, half: Value, points: int) -> Value:
    """Real numbers [..., points, 1] from the first half [..., given, 2] of their spectrum; the other half mirrors it."""
    given = half.shape[-2]
    assert isinstance(given, int)
    turned = _angles(given, points, points)
    twice = np.where((np.arange(given) == 0) | (2 * np.arange(given) == points), 1.0, 2.0)[:, None] / points
    parts = np.stack((np.cos(turned) * twice, -np.sin(turned) * twice), 1)[..., None]
    flat = at.reshape(half, (*half.shape[:-2], given * 2))
    return at.reshape(at.emit("linear", flat, _matrix(at, parts, half.dtype)), (*half.shape[:-2], points, 1))


def _dft(at: Importer, x: Value, length: Value | None, axis: int, inverse: int, onesided: int) -> Value:
    place = axis_in(axis, x.type.rank)
    if place == x.type.rank - 1:
        raise Unsupported("its axis is the one of real and imaginary parts")
    given, dtype = x.shape[place], x.dtype
    if not isinstance(given, int):
        raise Unsupported(f"a transform of {given} points, a number that varies, is not supported")
    back = bool(inverse and onesided)
    if back and x.shape[-1] != 2:
        raise Unsupported("half a spectrum must be complex")
    points = 2 * (given - 1) if back else given
    if length is not None:
        (points,) = at.ints(length, "the length of the transform")
    wanted = min(points // 2 + 1 if back else points, given)
    x = at.slice(x, place, 0, wanted)
    if dtype in (DType.f16, DType.bf16):
        x = at.cast(x, DType.f32)
    order = [*(i for i in range(x.type.rank - 1) if i != place), place, x.type.rank - 1]
    x = at.transpose(x, order)
    if back:
        result = _signal(at, x, points)
    else:
        bins = points // 2 + 1 if onesided else points
        if points > MOST_POINTS and wanted < points:
            edges = (0,) * (x.type.rank - 2)
            x = at.emit("pad", x, low=(*edges, 0, 0), high=(*edges, points - wanted, 0), value=0.0)
        whole = x.shape[-2] == points
        result = (_transform if whole else _spectrum)(at, x, points, bins, 1 if inverse else -1)
        if inverse:
            result = at.emit("div", result, at.scalar(points, result.dtype))
    return at.cast(at.transpose(result, [order.index(i) for i in range(len(order))]), dtype)


@op("DFT", since=20)
def dft(
    at: Importer,
    x: Value,
    length: Value | None = None,
    axis: Value | None = None,
    *,
    inverse: int = 0,
    onesided: int = 0,
) -> Value:
    return _dft(at, x, length, -2 if axis is None else at.ints(axis, "the axis")[0], inverse, onesided)


@op("DFT", since=17)
def dft_of_attribute(
    at: Importer, x: Value, length: Value | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0
) -> Value:
    return _dft(at, x, length, axis, inverse, onesided)


@op("STFT", since=17)
def stft(
    at: Importer, x: Value, step: Value, window: Value | None = None, length: Value | None = None, *, onesided: int = 1
) -> Value:
    """Frames of the signal, gathered, times one matrix that holds a constant window too."""
    (hop,) = at.ints(step, "the step between frames")
    size: Dim = x.shape[1] if window is None else window.shape[0]
    if length is not None:
        (size,) = at.ints(length, "the length of a frame")
    if not isinstance(size, int):
        raise Unsupported(f"frames of {size} points, a number that varies, are not supported")
    if onesided and x.shape[-1] == 2:
        raise Unsupported("half the spectrum of complex numbers does not hold all of it")
    frames = floordiv(x.shape[1] - size, hop) + 1
    starts = at.reshape(at.emit("arange", end=frames * hop, step=hop, dtype=DType.i64), (frames, 1))
    places = at.emit("add", starts, at.emit("arange", end=size, dtype=DType.i64))
    cut = at.emit("gather", x, places, axis=1)
    held = at.array(window)
    if window is not None and (held is None or window.dtype is DType.bf16):
        cut, held = at.emit("mul", cut, at.reshape(window, (size, 1))), None
    bins = size // 2 + 1 if onesided else size
    return _spectrum(at, cut, size, bins, -1, held)


@op("MelWeightMatrix", since=17)
def mel_weight_matrix(at: Importer, *operands: Value, output_datatype: int = 1) -> Value:
    """It is made of numbers alone, which decide its shape; ONNX's reference computes it where they are known."""
    unknown = sorted({name for v in operands if at.array(v) is None for name in at.sources(v)})
    if unknown:
        raise NotConstant("its shape depends on the data", unknown)
    raise Unsupported("its edges are out of order")
