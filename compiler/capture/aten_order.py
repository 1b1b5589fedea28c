"""ATen ops that depend on order: sorting and what is picked from it, running reductions, searching, histograms."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..dims import Dim, floordiv, product
from ..graph import Value
from ..types import DType
from .lowering import Lowering, Scalar, aten
from .symbols import Unsupported


def sorted_along(b: Lowering, x: Value, axis: int, descending: bool = False) -> list[Value]:
    """The elements along an axis in order, and their places."""
    return b.insert("sort", [x], {"axis": axis, "descending": descending}).outputs


@aten("sort", "sort.stable")
def _sort(b: Lowering, self: Value, dim: int = -1, descending: bool = False, stable: bool | None = None) -> list[Value]:
    if not self.type.rank:
        return [self, b.scalar(0, DType.i64)]
    return sorted_along(b, self, dim % self.type.rank, descending)


@aten("argsort", "argsort.stable")
def _argsort(b: Lowering, self: Value, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Value:
    return _sort(b, self, dim, descending)[1]


@aten("topk")
def _topk(b: Lowering, self: Value, k: Dim, dim: int, largest: bool, sorted: bool = True) -> list[Value]:
    if not self.type.rank:
        return _sort(b, b.slice(b.reshape(self, (1,)), 0, 0, k)) if k != 1 else _sort(b, self)
    return b.insert("topk", [self], {"k": k, "axis": dim % self.type.rank, "largest": largest}).outputs


@aten("kthvalue")
def _kthvalue(b: Lowering, self: Value, k: Dim, dim: int, keepdim: bool) -> list[Value]:
    if not self.type.rank:
        return _sort(b, self)
    axis = dim % self.type.rank
    both = b.insert("topk", [self], {"k": k, "axis": axis, "largest": False}).outputs
    last = [b.slice(v, axis, k - 1, k) for v in both]
    return last if keepdim else [_without(b, v, axis) for v in last]


def _without(b: Lowering, x: Value, axis: int) -> Value:
    return b.reshape(x, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _median(b: Lowering, x: Value, axis: int) -> list[Value]:
    """The lower median along an axis, which stays with size 1; a NaN is the median (``nanmedian``: does not count)."""
    values, places = sorted_along(b, x, axis)
    size = x.shape[axis]
    middle = floordiv(size - 1, 2)
    if not x.dtype.is_float:
        return [b.slice(v, axis, middle, middle + 1) for v in (values, places)]
    whole = b.scalar(size, DType.i64)
    gone = b.emit("reduce_sum", b.cast(b.emit("isnan", x), DType.i64), axes=(axis,), keepdim=True)
    left = b.emit("sub", whole, gone)  # NaNs are sorted behind the rest
    if "nan" in b.op:
        half = b.emit("floordiv", b.emit("sub", left, b.scalar(1, DType.i64)), b.scalar(2, DType.i64))
        at = b.emit("maximum", half, b.scalar(0, DType.i64))
    else:
        at = b.emit("where", b.emit("eq", gone, b.scalar(0, DType.i64)), b.scalar(middle, DType.i64), left)
    return [b.emit("take_along", v, at, axis=axis) for v in (values, places)]


@aten("median", "nanmedian")
def _median_all(b: Lowering, self: Value) -> Value:
    return b.reshape(_median(b, b.reshape(self, (product(self.shape),)), 0)[0], ())


@aten("median.dim", "nanmedian.dim")
def _median_along(b: Lowering, self: Value, dim: int, keepdim: bool) -> list[Value]:
    if not self.type.rank:
        return _sort(b, self)
    axis = dim % self.type.rank
    both = _median(b, self, axis)
    return both if keepdim else [_without(b, v, axis) for v in both]


@aten("mode")
def _mode(b: Lowering, self: Value, dim: int, keepdim: bool) -> list[Value]:
    """The most frequent element, the smallest of several: the first longest run of the sorted elements."""
    if not self.type.rank:
        return _sort(b, self)
    axis = dim % self.type.rank
    values, places = sorted_along(b, self, axis)
    size = self.shape[axis]
    steps = b.emit("arange", end=size, dtype=DType.i64)
    steps = b.reshape(steps, [size if i == axis else 1 for i in range(self.type.rank)])
    before = b.slice(values, axis, 0, size - 1)
    begins = b.emit("ne", b.slice(values, axis, 1, size), before)
    later = b.slice(steps, axis, 1, size)
    starts = b.emit("where", begins, later, b.scalar(0, DType.i64))
    first = b.emit(
        "full", value=0, shape=tuple(1 if i == axis else d for i, d in enumerate(self.shape)), dtype=DType.i64
    )
    run = b.insert("cummax", [b.emit("concat", first, starts, axis=axis)], {"axis": axis}).outputs[0]
    at = b.emit("argmax", b.emit("sub", steps, run), axis=axis, keepdim=True)
    both = [b.emit("take_along", v, at, axis=axis) for v in (values, places)]
    return both if keepdim else [_without(b, v, axis) for v in both]


# -- running reductions ---------------------------------------------------------------------------------------------------
def _scan(op: str, b: Lowering, self: Value, dim: int, dtype: Any = None) -> Value:
    x = b.cast(self, b.out_dtype)
    return b.emit(op, x, axis=dim % x.type.rank) if x.type.rank else x


aten("cumsum")(partial(_scan, "cumsum"))
aten("cumprod")(partial(_scan, "cumprod"))
aten("logcumsumexp")(partial(_scan, "logcumsumexp"))


@aten("cummax", "cummin")
def _scan_extreme(b: Lowering, self: Value, dim: int) -> list[Value]:
    if not self.type.rank:
        return [self, b.scalar(0, DType.i64)]
    return b.insert(b.op, [self], {"axis": dim % self.type.rank}).outputs


# -- searching ------------------------------------------------------------------------------------------------------------
def search(b: Lowering, edges: Value, x: Value, right: bool, dtype: DType = DType.i64) -> Value:
    """How many of the sorted ``edges`` are below (``right``: not above) each ``x``."""
    flat = b.reshape(x, (1,)) if not x.type.rank else x
    found = b.emit("searchsorted", edges, b.cast(flat, edges.dtype), right=right, dtype=dtype)
    return b.reshape(found, x.shape)


@aten("searchsorted.Tensor", "searchsorted.Scalar")
def _searchsorted(
    b: Lowering, sorted_sequence: Value, self: Value | Scalar, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Value | None = None,
) -> Value:  # fmt: skip
    edges = sorted_sequence
    if sorter is not None:
        edges = b.emit("take_along", edges, sorter, axis=edges.type.rank - 1)
    x = self if isinstance(self, Value) else b.scalar(self, edges.dtype)
    return search(b, edges, x, right or side == "right", b.out_dtype)


@aten("bucketize.Tensor", "bucketize.Scalar")
def _bucketize(
    b: Lowering, self: Value | Scalar, boundaries: Value, out_int32: bool = False, right: bool = False
) -> Value:
    x = self if isinstance(self, Value) else b.scalar(self, boundaries.dtype)
    return search(b, boundaries, x, right, b.out_dtype)


@aten("histc")
def _histc(b: Lowering, self: Value, bins: int, min: Scalar, max: Scalar) -> Value:
    """Counts of equal bins; what lies outside of them, or is NaN, does not count."""
    if not isinstance(bins, int):
        raise Unsupported("a number of bins that varies is not supported")
    x = b.reshape(self, (product(self.shape),))
    low, high = b.operand(min, x.dtype), b.operand(max, x.dtype)
    if min == max:  # the range of the data; a single number stands in the middle of a range of 2
        low, high = (b.emit(f"reduce_{which}", x, axes=(0,), keepdim=False) for which in ("min", "max"))
        lone, one = b.emit("eq", low, high), b.scalar(1.0, x.dtype)
        low, high = (
            b.emit("where", lone, b.emit("sub", low, one), low),
            b.emit("where", lone, b.emit("add", high, one), high),
        )
    inside = b.emit("logical_and", b.emit("ge", x, low), b.emit("le", x, high))
    part = b.emit("div", b.emit("sub", x, low), b.emit("sub", high, low))
    place = b.emit("mul", part, b.scalar(float(bins), x.dtype))
    place = b.emit("clamp", b.emit("where", inside, place, b.scalar(0.0, x.dtype)), min=0.0, max=float(bins - 1))
    empty = b.emit("full", value=0.0, shape=(bins,), dtype=x.dtype)
    ids = b.cast(place, DType.i64)
    return b.emit("put_along", empty, ids, b.cast(inside, x.dtype), axis=0, reduce="sum")
