"""Pooling, over windows and over everything, and its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from ...dims import Dim, dim_max, product
from ...graph import Value
from ...ops_spatial import conv_output
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op
from .windows import Windows, padded, windows_over


def _overhang(x: Value, w: Windows) -> list[Dim]:
    """Cells behind the padding that the last windows reach."""
    found: list[Dim] = []
    for size, n, s, r, a, b in zip(x.shape[2:], w.count, w.stride, w.reach, w.low, w.high, strict=True):
        more = (n - 1) * s + r - size - a - b
        found.append(max(more, 0) if isinstance(more, int) else dim_max(more, 0))
    return found


def _around(at: Importer, x: Value, w: Windows, ceil: bool, value: float | int) -> Value:
    """``x`` with every cell around it that a window reaches."""
    high = [b + more for b, more in zip(w.high, _overhang(x, w), strict=True)] if ceil else w.high
    return padded(at, x, w.low, high, value)


def _symmetric(x: Value, w: Windows, ceil: bool) -> bool | None:
    """How the windows are those of a pool with as much padding behind as in front, where only cells of ``x`` count: whether it
    reaches over the end (ceil); None: they are not."""
    if w.even:
        return ceil
    if not w.fixed or not all(isinstance(d, int) for d in x.shape[2:]):
        return None  # the number of windows would be another expression, though the same number
    given = list(zip(x.shape[2:], w.kernel, w.stride, w.low, w.dilation, w.count, strict=True))
    for over in (False, True):
        if all(conv_output(d, k, s, a, g, a, over) == n for d, k, s, a, g, n in given):  # type: ignore[arg-type]
            return over
    return None


# -- the largest ------------------------------------------------------------------------------------------------------
@op("MaxPool")
def max_pool(
    at: Importer,
    x: Value,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Any:
    w = windows_over(x, kernel_shape, strides, pads, dilations, auto_pad, bool(ceil_mode))
    ceil = bool(ceil_mode) and auto_pad == "NOTSET"
    attrs = {"kernel": w.kernel, "stride": w.stride, "dilation": None if w.dense else w.dilation}
    over = _symmetric(x, w, ceil)
    if over is not None:
        result = at.emit("max_pool", x, **attrs, padding=w.low, ceil_mode=over)
    else:
        whole = _around(at, x, w, ceil, _lowest(x))
        result = at.emit("max_pool", whole, **attrs, padding=(0,) * len(w.kernel), ceil_mode=False)
    if len(at.results) < 2 or not at.results[1]:
        return result
    return [result, _places(at, x, _around(at, x, w, ceil, _lowest(x)), w, result.shape[2:], bool(storage_order))]


def _lowest(x: Value) -> float | int:
    return -float("inf") if x.dtype.is_float else int(np.iinfo(x.dtype.numpy).min)


def _places(at: Importer, x: Value, whole: Value, w: Windows, count: Sequence[Dim], column_major: bool) -> Value:
    """Where in ``x``, counted over all its axes, the largest element of each window lies; the first of several.

    The cells of each window are put side by side (``whole`` is ``x`` with its padding) and the largest is found among them.
    """
    offsets = list(cartesian(*(range(k) for k in w.kernel)))
    cells = []
    for offset in offsets:
        piece = whole
        for axis, (o, d, s, n) in enumerate(zip(offset, w.dilation, w.stride, count, strict=True), start=2):
            piece = at.slice(piece, axis, o * d, o * d + (n - 1) * s + 1, s)
        cells.append(at.reshape(piece, (*piece.shape, 1)))
    side_by_side = at.emit("concat", *cells, axis=whole.type.rank)
    cell = at.emit("argmax", side_by_side, axis=whole.type.rank, keepdim=False)
    space, rank = x.shape[2:], len(count)
    order = list(range(rank)) if not column_major else list(range(rank))[::-1]
    total: Value | None = None
    for i, (s, d, a, n) in enumerate(zip(w.stride, w.dilation, w.low, count, strict=True)):
        table = at.constant(np.array([o[i] * d for o in offsets], np.int64), DType.i64, "cells")
        first = at.emit("mul", at.emit("arange", end=n, dtype=DType.i64), at.scalar(s, DType.i64))
        first = at.emit("sub", first, at.scalar(a, DType.i64))
        first = at.reshape(first, tuple(n if j == i else 1 for j in range(rank)))
        place = at.emit("add", at.emit("gather", table, cell, axis=0), first)
        step = product(space[j] for j in order[order.index(i) + 1 :])
        place = place if step == 1 else at.emit("mul", place, at.scalar(step, DType.i64))
        total = place if total is None else at.emit("add", total, place)
    assert total is not None
    plane = at.emit("arange", end=x.shape[0] * x.shape[1], dtype=DType.i64)
    start = at.emit("mul", plane, at.scalar(product(space), DType.i64))
    return at.emit("add", total, at.reshape(start, (*x.shape[:2], *(1 for _ in space))))


@op("MaxUnpool")
def max_unpool(
    at: Importer,
    x: Value,
    ids: Value,
    output_shape: Value | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """Ids count over the shape that the pooled tensor had by the attributes; a wanted shape adds zeros behind it."""
    w = windows_over(x, kernel_shape, strides, pads)
    sizes = [
        (d - 1) * s - a - b + k for d, s, a, b, k in zip(x.shape[2:], w.stride, w.low, w.high, w.kernel, strict=True)
    ]
    inner = (*x.shape[:2], *sizes)
    zeros = at.emit("full", value=0.0, shape=(product(inner),), dtype=x.dtype)
    flat = (x.type.elements,)
    placed = at.emit("put_along", zeros, at.reshape(ids, flat), at.reshape(x, flat), axis=0)
    result = at.reshape(placed, inner)
    if output_shape is None:
        return result
    wanted = at.dims(output_shape, "the shape of the result")
    return padded(at, result, (0,) * len(sizes), [a - b for a, b in zip(wanted[2:], sizes, strict=True)])


# -- means and norms --------------------------------------------------------------------------------------------------
@op("AveragePool")
def average_pool(
    at: Importer,
    x: Value,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    w = windows_over(x, kernel_shape, strides, pads, dilations, auto_pad, bool(ceil_mode))
    ceil = bool(ceil_mode) and auto_pad == "NOTSET"
    over = ceil if w.even else None if count_include_pad else _symmetric(x, w, ceil)
    if over is not None and w.dense and all(2 * a <= k for a, k in zip(w.low, w.kernel, strict=True)):  # type: ignore[operator]
        attrs = {"kernel": w.kernel, "stride": w.stride, "padding": w.low, "ceil_mode": over}
        return at.emit("avg_pool", x, **attrs, count_include_pad=bool(count_include_pad))
    wide = DType.f64 if x.dtype is DType.f64 else DType.f32
    total = _summed(at, _around(at, at.cast(x, wide), w, ceil, 0.0), w)
    ones = at.emit("full", value=1.0, shape=(1, 1, *x.shape[2:]), dtype=wide)
    if count_include_pad:  # what a window reaches behind the padding never counts
        none = (0,) * len(w.kernel)
        counted = padded(at, padded(at, ones, w.low, w.high, 1.0), none, _overhang(x, w) if ceil else none)
    else:
        counted = _around(at, ones, w, ceil, 0.0)
    return at.cast(at.emit("div", total, _summed(at, counted, w)), x.dtype)


def _summed(at: Importer, whole: Value, w: Windows) -> Value:
    """The sum of every window over a tensor that is padded already."""
    none = (0,) * len(w.kernel)
    if w.dense:
        return at.emit("avg_pool", whole, kernel=w.kernel, stride=w.stride, padding=none, divisor=1)
    if len(w.kernel) > 3:
        raise Unsupported("windows with gaps over more than 3 axes")
    ones = at.constant(np.ones((1, 1, *w.kernel), whole.dtype.numpy), whole.dtype, "window")
    apart = at.reshape(whole, (whole.shape[0] * whole.shape[1], 1, *whole.shape[2:]))
    sums = at.emit("conv", apart, ones, stride=w.stride, padding=none, dilation=w.dilation)
    return at.reshape(sums, (*whole.shape[:2], *sums.shape[2:]))


def _powers(at: Importer, x: Value, p: int) -> Value:
    match p:
        case 1:
            return at.emit("abs", x)
        case 2:
            return at.emit("square", x)
    return at.emit("pow", at.emit("abs", x), at.scalar(float(p), x.dtype))


def _root(at: Importer, x: Value, p: int) -> Value:
    match p:
        case 1:
            return x
        case 2:
            return at.emit("sqrt", x)
    return at.emit("pow", x, at.scalar(1.0 / p, x.dtype))


@op("LpPool", since=2)
def lp_pool(
    at: Importer,
    x: Value,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    w = windows_over(x, kernel_shape, strides, pads, dilations, auto_pad, bool(ceil_mode))
    wide = at.cast(x, DType.f64 if x.dtype is DType.f64 else DType.f32)
    whole = _around(at, _powers(at, wide, p), w, bool(ceil_mode) and auto_pad == "NOTSET", 0.0)
    return at.cast(_root(at, _summed(at, whole, w), p), x.dtype)


def _everything(x: Value) -> dict[str, Any]:
    return {"axes": tuple(range(2, x.type.rank)), "keepdim": True}


@op("GlobalAveragePool")
def global_average_pool(at: Importer, x: Value) -> Value:
    return at.emit("reduce_mean", x, **_everything(x))


@op("GlobalMaxPool")
def global_max_pool(at: Importer, x: Value) -> Value:
    return at.emit("reduce_max", x, **_everything(x))


@op("GlobalLpPool", since=2)
def global_lp_pool(at: Importer, x: Value, *, p: int = 2) -> Value:
    wide = at.cast(x, DType.f64 if x.dtype is DType.f64 else DType.f32)
    total = at.emit("reduce_sum", _powers(at, wide, p), **_everything(x))
    return at.cast(_root(at, total, p), x.dtype)
