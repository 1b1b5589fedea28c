"""Emitters of running reductions, sorting, searching and writing by index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...compiler.dims import Dim, bounds
from ...compiler.graph import Node
from ...compiler.ops import axis_of
from ...compiler.types import DType
from .calculation import Calculation
from .emit_elementwise import only_input
from .emit_shape import ids_of
from .emit_special import log1p
from .emitter import Emitter, emits

#: What a running maximum begins with, and what is above everything, by type.
_LOWEST = {DType.i64: -(2**63), DType.i32: -(2**31), DType.i16: -(2**15), DType.i8: -128, DType.u8: 0}
_HIGHEST = {DType.i64: 2**63 - 1, DType.i32: 2**31 - 1, DType.i16: 2**15 - 1, DType.i8: 127, DType.u8: 255}
#: Sorted numbers up to this many are compared one by one, more by halving.
_COMPARED = 64


@emits("cumsum")
def _cumsum(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    rank = node.output.type.rank
    if not rank:
        return x
    axis = axis_of(node.attrs["axis"], rank)
    return at.compute("CumSum", [x], dtype, rest=[at.constant(np.asarray(axis, np.int64), "axis")])


def scan(
    at: Emitter, axis: int, shape: Sequence[Dim], scanned: tuple[str, DType], states: Sequence[tuple[float, DType]],
    build: Callable[..., Sequence[str]], results: Sequence[DType], places: bool = False,
) -> tuple[str, ...]:  # fmt: skip
    """A Scan along an axis.

    Args:
        axis: of the scanned tensor and of every result.
        shape: of the scanned tensor and of every result.
        scanned: the tensor that is walked along, with its type.
        states: the number that each state is filled with at first, and its type.
        build: called with the states, the slice and, where ``places`` are wanted, its place; gives the next states and the
            slices of the results.
        results: their element types.
        places: hand the place along the axis to ``build``, as an i64 scalar.

    Returns:
        The results.
    """
    name, dtype = scanned
    rest, length = (*shape[:axis], *shape[axis + 1 :]), shape[axis]
    # Scan can walk along any axis, but ONNX Runtime's does not survive that where another one is empty
    first = [axis, *(i for i in range(len(shape)) if i != axis)]
    name = at.op("Transpose", [name], perm=first, dtype=dtype) if axis else name
    may_be_empty = bounds(length, at.graph.bounds)[0] < 1
    if may_be_empty:  # nor an empty axis: one more slice, which is cut off behind
        one = at.op("ConstantOfShape", [at.dims((1, *rest))], value=at.fill(0, dtype), dtype=dtype)
        name, length = at.op("Concat", [name, one], axis=0, dtype=dtype), length + 1
    begin = [at.op("ConstantOfShape", [at.dims(rest)], value=at.fill(n, d), dtype=d) for n, d in states]
    inputs: list[tuple[DType, Sequence[Dim] | None]] = [*((d, rest) for _, d in states), (dtype, rest)]
    inputs += [(DType.i64, ())] if places else []
    outputs = [(d, rest) for d in (*(d for _, d in states), *results)]
    body = at.body(inputs, build, outputs)
    walked = [name]
    if places:
        walked.append(at.op("Range", [at.dim(0), at.dim(length), at.dim(1)], dtype=DType.i64))
    done = at.op("Scan", [*begin, *walked], outputs=len(outputs), body=body, num_scan_inputs=len(walked))
    found = []
    for result, kind in zip(done[len(states) :], results, strict=True):
        if may_be_empty:
            result = at.op("Slice", [result, at.ints(0), at.dims([shape[axis]]), at.ints(0)])
        if axis:
            result = at.op("Transpose", [result], perm=[first.index(i) for i in range(len(shape))])
        at.note_dtype(result, kind)
        found.append(result)
    return tuple(found)


@emits("cumprod", "logcumsumexp")
def _running(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    shape = node.output.shape
    if not shape:
        return x
    axis = axis_of(node.attrs["axis"], len(shape))
    work = at.wide(dtype) if dtype.is_float else DType.i64
    c = Calculation(at, work)
    product = node.op == "cumprod"

    def step(total: str, part: str) -> Sequence[str]:
        total = c("Mul", total, part) if product else _log_add(c, total, part)
        return total, total

    begin = [(1 if product else -math.inf, work)]
    (result,) = scan(at, axis, shape, (at.cast(x, work), work), begin, step, [work])
    return at.cast(result, dtype)


def _log_add(c: Calculation, a: str, b: str) -> str:
    """log(exp(a) + exp(b)); two infinities that are equal are the result, NaN is handed on."""
    high, low = c("Max", a, b), c("Min", a, b)
    curve = c("Add", high, log1p(c, c("Exp", c("Sub", low, high))))
    return c.where(c.both(c("IsInf", high), c("Equal", a, b)), high, c.where(c("IsNaN", high), high, curve))


@emits("cummax", "cummin")
def _running_extreme(at: Emitter, node: Node) -> tuple[str, str]:
    """Of equal elements the last one counts; once NaN is met, only NaN follows."""
    x, dtype = only_input(at, node)
    shape = node.outputs[0].shape
    if not shape:
        return x, at.scalar(0, DType.i64)
    axis = axis_of(node.attrs["axis"], len(shape))
    most = node.op == "cummax"
    work = at.wide(dtype) if dtype.is_float else (DType.i32 if dtype is not DType.i64 else dtype)
    c = Calculation(at, work)
    first = (-math.inf if most else math.inf) if work.is_float else (_LOWEST if most else _HIGHEST)[work]

    def step(best: str, place: str, part: str, position: str) -> Sequence[str]:
        newer = c("GreaterOrEqual" if most else "LessOrEqual", part, best)
        if work.is_float:
            newer = c.either(newer, c("IsNaN", part))
        best = c.where(newer, part, best)
        place = at.op("Where", [newer, position, place], dtype=DType.i64)
        return best, place, best, place

    begin = [(first, work), (0, DType.i64)]
    values, places = scan(at, axis, shape, (at.cast(x, work), work), begin, step, [work, DType.i64], places=True)
    return at.cast(values, dtype), places


@emits("sort", "topk")
def _sort(at: Emitter, node: Node) -> tuple[str, str]:
    """TopK, which takes the earlier of equal elements. NaN, which it does not order, becomes the greatest key."""
    x, dtype = only_input(at, node)
    value = node.operands[0]
    if not value.type.rank:
        return x, at.scalar(0, DType.i64)
    axis = axis_of(node.attrs["axis"], value.type.rank)
    count = value.shape[axis] if node.op == "sort" else node.attrs["k"]
    largest = int(node.attrs["descending"] if node.op == "sort" else node.attrs["largest"])
    key, kind = _sort_key(at, x, dtype)
    if kind is None:
        places = _sorted_places(at, key, axis, value.shape[axis], count, largest)
    else:
        _, places = at.op(
            "TopK", [at.cast(key, kind), at.dims([count])], outputs=2, axis=axis, largest=largest, sorted=1
        )
    at.note_dtype(places, DType.i64)
    return at.op("GatherElements", [x, places], axis=axis, dtype=dtype), places


def _sort_key(at: Emitter, x: str, dtype: DType) -> tuple[str, DType | None]:
    """Numbers in the order of ``x`` and their type, wide enough that infinity and NaN find a place among finite ones; None
    as the type where no type is."""
    if not dtype.is_float or not at.mends:
        return x, at.work(dtype, "TopK")
    if dtype is DType.f64:
        return x, None
    c = Calculation(at, DType.f64 if dtype is DType.f32 else DType.f32)
    infinity, nan = (1e299, 1e300) if dtype is DType.f32 else (3.396e38, 3.4e38)  # above the largest bf16, 3.3895e38
    wide = at.cast(x, c.dtype)
    return c.where(c("IsNaN", wide), nan, c("Min", wide, infinity)), c.dtype


def _sorted_places(at: Emitter, x: str, axis: int, size: Dim, count: Dim, largest: int) -> str:
    """The places of f64 numbers in order: sorted by value with NaN as infinity, then, which keeps that order, by being NaN."""
    c = Calculation(at, DType.f64)
    lost = at.cast(c("IsNaN", x), DType.i32)
    finite = c.where(c("IsNaN", x), math.inf, x)
    _, first = at.op("TopK", [finite, at.dims([size])], outputs=2, axis=axis, largest=largest, sorted=1)
    flags = at.op("GatherElements", [lost, first], axis=axis, dtype=DType.i32)
    _, second = at.op("TopK", [flags, at.dims([count])], outputs=2, axis=axis, largest=largest, sorted=1)
    return at.op("GatherElements", [first, second], axis=axis, dtype=DType.i64)


@emits("searchsorted")
def _searchsorted(at: Emitter, node: Node) -> str:
    edges, x = node.operands
    dtype, right = edges.dtype, bool(node.attrs["right"])
    work = at.wide(dtype) if dtype.is_float else at.work(dtype, "Less", "LessOrEqual")
    c = Calculation(at, work)
    rows, wanted = (at.cast(at.name(v), work) for v in (edges, x))

    def below(edge: str, number: str) -> str:
        less = c("LessOrEqual" if right else "Less", edge, number)
        if not work.is_float:
            return less
        above = c("IsNaN", number) if right else c.both(c("IsNaN", number), c.no(c("IsNaN", edge)))
        return c.either(less, above)

    count = edges.shape[-1]
    if isinstance(count, int) and 0 < count <= _COMPARED:
        numbers = at.reshape(wanted, (*x.shape, 1), x.shape)
        if edges.type.rank > 1:
            rows = at.reshape(rows, (*edges.shape[:-1], 1, count))
        hits = at.cast(below(rows, numbers), DType.i32)
        total = at.op("ReduceSum", [hits, at.ints(-1)], keepdims=0, dtype=DType.i32)
        return at.cast(total, node.attrs["dtype"])
    return at.cast(_halved(at, rows, edges.shape, wanted, x.shape, below), node.attrs["dtype"])


def _halved(
    at: Emitter, rows: str, shape: Sequence[Dim], wanted: str, of: Sequence[Dim], below: Callable[[str, str], str]
) -> str:
    """By halving: as many steps as the largest possible row takes."""
    count, most = shape[-1], max(bounds(shape[-1], at.graph.bounds)[1], 1)
    c = Calculation(at, DType.i64)
    low = at.op("ConstantOfShape", [at.dims(of)], value=at.fill(0, DType.i64), dtype=DType.i64)
    high = c("Add", low, at.dim(count))
    if bounds(count, at.graph.bounds)[0] < 1:  # there is something to look at, even in an empty row
        amounts = [0] * (2 * len(shape) - 1) + [1]
        rows = at.op("Pad", [rows, at.ints(*amounts)], dtype=at.dtype(rows))
    for _ in range(most.bit_length()):
        middle = c("Div", c("Add", low, high), 2)
        place = c("Max", c("Min", middle, c("Sub", at.dim(count), 1)), 0)
        edge = (
            at.op("Gather", [rows, place], axis=0)
            if len(shape) == 1
            else at.op("GatherElements", [rows, place], axis=len(shape) - 1)
        )
        at.note_dtype(edge, at.dtype(rows))
        open_ = c("Less", low, high)
        up = c.both(open_, below(edge, wanted))
        low, high = (
            c.where(up, c("Add", middle, 1), low),
            c.where(c.both(open_, c.no(below(edge, wanted))), middle, high),
        )
    return low


@emits("scatter", "put_along")
def _write(at: Emitter, node: Node) -> str:
    x, ids, source = node.operands
    name, written, places = at.name(x), at.name(source), ids_of(at, node)
    rank = x.type.rank
    axis = axis_of(node.attrs["axis"], rank)
    if node.op == "scatter":
        count: Dim = ids.type.elements
        lined = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        written = at.reshape(written, lined)
        places = at.reshape(places, tuple(count if i == axis else 1 for i in range(rank)), ids.shape)
        places = at.op("Expand", [places, at.dims(lined)], dtype=at.dtype(places))
    return scatter_elements(at, name, places, written, axis, node.attrs["reduce"], x.dtype)


_REDUCTION = {"none": "none", "sum": "add", "prod": "mul", "max": "max", "min": "min"}


def scatter_elements(at: Emitter, x: str, ids: str, source: str, axis: int, reduction: str, dtype: DType) -> str:
    """ScatterElements, in order, which ONNX Runtime's kernel keeps to; in a maximum or minimum NaN wins."""
    if reduction == "none":
        return at.op("ScatterElements", [x, ids, source], axis=axis, dtype=dtype)
    if dtype is DType.bool:
        kind = "max" if reduction in ("sum", "max") else "min"
        wide = [at.cast(n, DType.u8) for n in (x, source)]
        done = at.op("ScatterElements", [wide[0], ids, wide[1]], axis=axis, reduction=kind, dtype=DType.u8)
        return at.cast(done, DType.bool)
    work = at.wide(dtype)
    x, source = at.cast(x, work), at.cast(source, work)
    done = at.op("ScatterElements", [x, ids, source], axis=axis, reduction=_REDUCTION[reduction], dtype=work)
    if work.is_float and reduction in ("max", "min") and at.mends:
        c = Calculation(at, work)
        flags = [at.cast(c("IsNaN", n), DType.i32) for n in (x, source)]
        lost = at.op("ScatterElements", [flags[0], ids, flags[1]], axis=axis, reduction="max", dtype=DType.i32)
        done = c.where(at.op("Equal", [lost, at.scalar(1, DType.i32)], dtype=DType.bool), math.nan, done)
    return at.cast(done, dtype)
