"""Emitters of reductions, arg max and softmax.

The maximum over an axis of ONNX Runtime's CPU provider loses NaN for some shapes and keeps it for others; it is put back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...compiler.dims import bounds, product
from ...compiler.graph import Node
from ...compiler.ops import axis_of
from ...compiler.types import DType
from .calculation import Calculation
from .emit_elementwise import only_input, truth
from .emitter import Emitter, emits


def axes_of(node: Node) -> tuple[list[int], bool]:
    """The axes that a reduction goes over, in order, and whether they stay as ones."""
    rank = node.operands[0].type.rank
    return sorted({axis_of(a, rank) for a in node.attrs["axes"]}), bool(node.attrs["keepdim"])


def reduce(at: Emitter, op: str, x: str, dtype: DType, axes: Sequence[int], keep: bool) -> str:
    """``op`` (ReduceSum, ...) of data of ``dtype`` over axes, through a wider type where there is no kernel for it."""
    return at.compute(op, [x], dtype, rest=[at.ints(*axes)], keepdims=int(keep))


def any_of(at: Emitter, condition: str, axes: Sequence[int], keep: bool) -> str:
    """Whether one of the truths along axes holds."""
    count = reduce(at, "ReduceSum", at.cast(condition, DType.i32), DType.i32, axes, keep)
    return at.op("Greater", [count, at.scalar(0, DType.i32)], dtype=DType.bool)


@emits("reduce_sum", "reduce_prod")
def _sum(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    axes, keep = axes_of(node)
    if not axes:
        return x
    if dtype is DType.bool:
        return _truths(at, x, axes, keep, whole=node.op == "reduce_prod")
    return reduce(at, "ReduceSum" if node.op == "reduce_sum" else "ReduceProd", x, dtype, axes, keep)


@emits("reduce_mean")
def _mean(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    axes, keep = axes_of(node)
    if not axes:
        return x
    count = product(node.operands[0].shape[a] for a in axes)
    if bounds(count, at.graph.bounds)[0] > 0:
        if axes == [2, 3] and node.operands[0].type.rank == 4 and at.work(dtype, "GlobalAveragePool") is dtype:
            # what stands behind convolutions, and is fused and quantised with them
            pooled = at.op("GlobalAveragePool", [x], dtype=dtype)
            return pooled if keep else at.op("Flatten", [pooled], axis=1, dtype=dtype)
        return reduce(at, "ReduceMean", x, dtype, axes, keep)
    c = Calculation(at, at.wide(dtype))  # the mean of nothing is NaN
    total = reduce(at, "ReduceSum", at.cast(x, c.dtype), c.dtype, axes, keep)
    return at.cast(c("Div", total, at.dim(count, c.dtype)), dtype)


@emits("reduce_max", "reduce_min")
def _extreme(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    axes, keep = axes_of(node)
    if not axes:
        return x
    if dtype is DType.bool:
        return _truths(at, x, axes, keep, whole=node.op == "reduce_min")
    return extreme(at, "ReduceMax" if node.op == "reduce_max" else "ReduceMin", x, dtype, axes, keep)


def extreme(at: Emitter, op: str, x: str, dtype: DType, axes: Sequence[int], keep: bool) -> str:
    """ReduceMax or ReduceMin, in which NaN wins."""
    if not dtype.is_float or not at.mends:
        return reduce(at, op, x, dtype, axes, keep)
    c = Calculation(at, at.wide(dtype))
    x = at.cast(x, c.dtype)
    lost = any_of(at, c("IsNaN", x), axes, keep)
    return at.cast(c.where(lost, math.nan, reduce(at, op, x, c.dtype, axes, keep)), dtype)


@emits("reduce_any", "reduce_all")
def _truth(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    axes, keep = axes_of(node)
    true = truth(at, x, dtype)
    return at.cast(_truths(at, true, axes, keep, whole=node.op == "reduce_all") if axes else true, dtype)


def _truths(at: Emitter, x: str, axes: Sequence[int], keep: bool, whole: bool) -> str:
    """Whether any, or with ``whole`` all, truths hold; of none, all do."""
    if not whole:
        return any_of(at, x, axes, keep)
    return at.op("Not", [any_of(at, at.op("Not", [x], dtype=DType.bool), axes, keep)], dtype=DType.bool)


@emits("argmax", "argmin")
def _arg(at: Emitter, node: Node) -> str:
    """The first of equal elements; the first NaN where there is one."""
    x, dtype = only_input(at, node)
    op = "ArgMax" if node.op == "argmax" else "ArgMin"
    rank = node.operands[0].type.rank
    if not rank:
        return at.scalar(0, DType.i64)
    axis, keep = axis_of(node.attrs["axis"], rank), int(node.attrs["keepdim"])
    if not dtype.is_float or not at.mends:
        return at.compute(op, [x], dtype, result=DType.i64, axis=axis, keepdims=keep)
    c = Calculation(at, at.wide(dtype))
    x = at.cast(x, c.dtype)
    lost = c("IsNaN", x)
    place = at.op(op, [x], dtype=DType.i64, axis=axis, keepdims=keep)
    of_nan = at.op("ArgMax", [at.cast(lost, DType.i32)], dtype=DType.i64, axis=axis, keepdims=keep)
    return at.op("Where", [any_of(at, lost, [axis], bool(keep)), of_nan, place], dtype=DType.i64)


@emits("softmax", "log_softmax")
def _softmax(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    rank = node.output.type.rank
    if not rank:
        c = Calculation(at, at.wide(dtype))  # of one element alone: 1, or its logarithm, unless it is not finite
        less = c("Sub", at.cast(x, c.dtype), at.cast(x, c.dtype))
        return at.cast(c("Exp", less) if node.op == "softmax" else less, dtype)
    return at.compute(
        "Softmax" if node.op == "softmax" else "LogSoftmax", [x], dtype, axis=axis_of(node.attrs["axis"], rank)
    )
