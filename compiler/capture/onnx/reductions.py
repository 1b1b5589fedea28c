"""Reductions, arg reductions, softmax, running sums, sorting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ...dims import product
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .moving import axes_in, axis_in, counting, flip
from .registry import op

Reduce = Callable[[Importer, Value, Sequence[int], bool], Value]


# -- reductions -------------------------------------------------------------------------------------------------------------
def total(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """The sum over axes; over none of them ``x`` itself."""
    return at.emit("reduce_sum", x, axes=tuple(axes), keepdim=keepdim) if axes else x


def _product(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return at.emit("reduce_prod", x, axes=tuple(axes), keepdim=keepdim) if axes else x


def _mean(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    if not axes:
        return x
    if x.dtype.is_float:
        return at.emit("reduce_mean", x, axes=tuple(axes), keepdim=keepdim)
    wide = at.cast(x, DType.i64)
    count = at.scalar(product(x.shape[a] for a in axes), DType.i64)
    return at.cast(at.emit("div", total(at, wide, axes, keepdim), count), x.dtype)


def _least(dtype: DType) -> float | int | bool:
    """The number that is below all others."""
    if dtype.is_float:
        return -float("inf")
    if dtype in (DType.bool, DType.u8):
        return dtype is DType.u8 and 0
    return -(1 << (dtype.size * 8 - 1))


def _greatest(dtype: DType) -> float | int | bool:
    if dtype.is_float:
        return float("inf")
    if dtype is DType.bool:
        return True
    return 255 if dtype is DType.u8 else (1 << (dtype.size * 8 - 1)) - 1


def _extreme(which: str, at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    if not axes:
        return x
    if any(isinstance(x.shape[a], int) and x.shape[a] == 0 for a in axes):  # of nothing: what changes no other
        shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape) if keepdim or i not in axes)
        return at.emit("full", value=(_least if which == "max" else _greatest)(x.dtype), shape=shape, dtype=x.dtype)
    return at.emit(f"reduce_{which}", x, axes=tuple(axes), keepdim=keepdim)


def _l1(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return total(at, at.emit("abs", x), axes, keepdim)


def _sum_of_squares(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return total(at, at.emit("square", x), axes, keepdim)


def _in_floats(x: Value) -> DType:
    """The element type in which roots and logarithms of ``x`` are taken."""
    return x.dtype if x.dtype.is_float else DType.f64


def _l2(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    squares = at.cast(_sum_of_squares(at, x, axes, keepdim), _in_floats(x))
    return at.cast(at.emit("sqrt", squares), x.dtype)


def _log_sum(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return at.cast(at.emit("log", at.cast(total(at, x, axes, keepdim), _in_floats(x))), x.dtype)


def _log_sum_exp(at: Importer, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    """Exponentials of the distance to the largest, which cannot overflow; where that is infinite, of the numbers."""
    if not axes:
        return x
    wide = at.cast(x, _in_floats(x))
    peak = _extreme("max", at, wide, axes, True)
    peak = at.emit("where", at.emit("isinf", peak), at.scalar(0, wide.dtype), peak)
    result = at.emit("add", at.emit("log", total(at, at.emit("exp", at.emit("sub", wide, peak)), axes, True)), peak)
    if not keepdim:
        result = at.reshape(result, [d for i, d in enumerate(result.shape) if i not in axes])
    return at.cast(result, x.dtype)


def _reduced(
    reduce: Reduce, at: Importer, x: Value, axes: Value | None = None, /, *, keepdims: int = 1, noop_with_empty_axes: int = 0,
    **attributes: Sequence[int],
) -> Value:  # fmt: skip
    """Axes are an attribute in the older form. None, or none at all, means all of them, or if told so none."""
    given = attributes.pop("axes", None) if axes is None else at.ints(axes, "the axes")
    if attributes:
        raise Unsupported(f"its attribute {next(iter(attributes))!r} is not supported")
    if given:
        places = axes_in(given, x.type.rank)
    else:
        places = [] if noop_with_empty_axes else list(range(x.type.rank))
    return reduce(at, x, sorted(places), bool(keepdims))


_REDUCTIONS: dict[str, Reduce] = {
    "ReduceSum": total, "ReduceMean": _mean, "ReduceMax": partial(_extreme, "max"), "ReduceMin": partial(_extreme, "min"),
    "ReduceProd": _product, "ReduceL1": _l1, "ReduceL2": _l2, "ReduceLogSum": _log_sum, "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": _sum_of_squares,
}  # fmt: skip
for _name, _reduce in _REDUCTIONS.items():
    op(_name)(partial(_reduced, _reduce))


@op("ArgMax", "ArgMin")
def arg_reduce(at: Importer, x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Value:
    name, place = at.node.op_type.lower(), axis_in(axis, x.type.rank)
    if not select_last_index:
        return at.emit(name, x, axis=place, keepdim=bool(keepdims))
    from_end = at.emit(name, flip(at, x, place), axis=place, keepdim=bool(keepdims))
    return at.emit("sub", at.scalar(x.shape[place] - 1, DType.i64), from_end)


# -- softmax ----------------------------------------------------------------------------------------------------------------
def _along_rest(at: Importer, x: Value, axis: int, along: Callable[[Value, int], Value]) -> Value:
    """Before opset 13 all axes from ``axis`` on counted as one."""
    cut = axis_in(axis, x.type.rank) if axis != x.type.rank else axis
    flat = at.reshape(x, (product(x.shape[:cut]), product(x.shape[cut:])))
    return at.reshape(along(flat, 1), x.shape)


def _softmax(at: Importer, x: Value, axis: int) -> Value:
    return at.emit("softmax", x, axis=axis)


def _log_softmax(at: Importer, x: Value, axis: int) -> Value:
    return at.emit("log_softmax", x, axis=axis)


def _hardmax(at: Importer, x: Value, axis: int) -> Value:
    """One at the first of the largest, else zero."""
    first = at.emit("argmax", x, axis=axis, keepdim=True)
    return at.cast(at.emit("eq", counting(at, x.shape[axis], axis, x.type.rank), first), x.dtype)


def _register(name: str, along: Callable[[Importer, Value, int], Value]) -> None:
    @op(name, since=13)
    def one_axis(at: Importer, x: Value, *, axis: int = -1) -> Value:
        return along(at, x, axis_in(axis, x.type.rank))

    @op(name)
    def rest(at: Importer, x: Value, *, axis: int = 1) -> Value:
        return _along_rest(at, x, axis, partial(along, at))


_register("Softmax", _softmax)
_register("LogSoftmax", _log_softmax)
_register("Hardmax", _hardmax)


# -- order ------------------------------------------------------------------------------------------------------------------
@op("CumSum", since=11)
def cumsum(at: Importer, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0) -> Value:
    (given,) = at.ints(axis, "the axis")
    place = axis_in(given, x.type.rank)
    if reverse:
        x = flip(at, x, place)
    if exclusive:  # each sum without its own element: what stands before it, shifted
        low = tuple(int(i == place) for i in range(x.type.rank))
        x = at.emit("pad", at.slice(x, place, 0, x.shape[place] - 1), low=low, high=(0,) * len(low), value=0)
    result = at.emit("cumsum", x, axis=place)
    return flip(at, result, place) if reverse else result


@op("TopK", since=10)
def top_k(at: Importer, x: Value, k: Value, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> Sequence[Value]:
    """Sorted in any case."""
    (count,) = at.dims(k, "how many are wanted")
    attrs = {"k": count, "axis": axis_in(axis, x.type.rank), "largest": bool(largest)}
    return at.insert("topk", [x], attrs).outputs


@op("TopK", since=1)
def top_k_of_attribute(at: Importer, x: Value, *, k: int, axis: int = -1) -> Sequence[Value]:
    return at.insert("topk", [x], {"k": k, "axis": axis_in(axis, x.type.rank), "largest": True}).outputs
