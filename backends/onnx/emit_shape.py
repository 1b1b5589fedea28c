"""Emitters of what moves elements: views, joining, cutting, padding, lookups, and tensors made from nothing."""

from __future__ import annotations

import numpy as np

from ...compiler.dims import Dim, Expr
from ...compiler.graph import Node
from ...compiler.ops import axis_of
from ...compiler.types import DType
from .calculation import Calculation
from .emit_elementwise import only_input
from .emitter import Emitter, emits


@emits("reshape")
def _reshape(at: Emitter, node: Node) -> str:
    return at.reshape(only_input(at, node)[0], node.attrs["shape"], node.operands[0].shape)


@emits("transpose")
def _transpose(at: Emitter, node: Node) -> str:
    perm = list(node.attrs["perm"])
    return at.op("Transpose", at.inputs(node), perm=perm) if len(perm) > 1 else at.name(node.operands[0])


@emits("expand")
def _expand(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    return at.compute("Expand", [x], dtype, rest=[at.dims(node.attrs["shape"])])


@emits("concat")
def _concat(at: Emitter, node: Node) -> str:
    if len(node.operands) == 1:
        return at.name(node.operands[0])
    return at.op("Concat", at.inputs(node), axis=axis_of(node.attrs["axis"], node.output.type.rank))


@emits("slice")
def _slice(at: Emitter, node: Node) -> str:
    x, _ = only_input(at, node)
    axis = axis_of(node.attrs["axis"], node.output.type.rank)
    start, end, step = (node.attrs[k] for k in ("start", "end", "step"))
    if start == 0 and step == 1 and end == node.operands[0].shape[axis]:
        return x
    return at.op("Slice", [x, at.dims([start]), at.dims([end]), at.ints(axis), at.ints(step)])


@emits("pad")
def _pad(at: Emitter, node: Node) -> str:
    """Crops what is negative first: not every provider takes negative amounts."""
    x, dtype = only_input(at, node)
    shape, low, high = list(node.operands[0].shape), list(node.attrs["low"]), list(node.attrs["high"])
    for axis, size in enumerate(shape):
        if _below_zero(low[axis]) or _below_zero(high[axis]):
            start: Dim = -low[axis] if _below_zero(low[axis]) else 0
            end = size + high[axis] if _below_zero(high[axis]) else size
            x = at.op("Slice", [x, at.dims([start]), at.dims([end]), at.ints(axis)])
            low[axis] = 0 if _below_zero(low[axis]) else low[axis]
            high[axis] = 0 if _below_zero(high[axis]) else high[axis]
    if not any(d != 0 for d in (*low, *high)):
        return x
    work = at.work(dtype, "Pad")
    value = bool(node.attrs["value"]) if dtype is DType.bool else node.attrs["value"]
    return at.compute("Pad", [x], dtype, rest=[at.dims([*low, *high]), at.scalar(value, work)])


def _below_zero(d: Dim) -> bool:
    return isinstance(d, int) and d < 0


def ids_of(at: Emitter, node: Node, number: int = 1) -> str:
    """Operand ``number`` as ids that ONNX takes: i64, or i32 as it is."""
    value = node.inputs[number]
    assert value is not None
    name = at.name(value)
    return name if value.dtype in (DType.i64, DType.i32) else at.cast(name, DType.i64)


@emits("embedding")
def _embedding(at: Emitter, node: Node) -> str:
    return at.op("Gather", [only_input(at, node)[0], ids_of(at, node)], axis=0)


@emits("gather")
def _gather(at: Emitter, node: Node) -> str:
    axis = axis_of(node.attrs["axis"], node.operands[0].type.rank)
    return at.op("Gather", [only_input(at, node)[0], ids_of(at, node)], axis=axis)


@emits("take_along")
def _take_along(at: Emitter, node: Node) -> str:
    """As ``torch.gather``, whose ids may cover only the leading part of the other axes, where ONNX wants all of them."""
    x, _ = only_input(at, node)
    ids, shape = node.operands[1], node.operands[0].shape
    axis = axis_of(node.attrs["axis"], len(shape))
    for other, (have, want) in enumerate(zip(shape, ids.shape, strict=True)):
        if other != axis and have != want:
            x = at.op("Slice", [x, at.ints(0), at.dims([want]), at.ints(other)])
    return at.op("GatherElements", [x, ids_of(at, node)], axis=axis)


@emits("full")
def _full(at: Emitter, node: Node) -> str:
    value, shape, dtype = (node.attrs[k] for k in ("value", "shape", "dtype"))
    if isinstance(value, Expr):
        one = at.dim(value, dtype)
        return at.compute("Expand", [one], dtype, rest=[at.dims(shape)]) if shape else one
    if not all(isinstance(d, int) for d in shape):
        fill = at.fill(value, dtype)
        return at.op("ConstantOfShape", [at.dims(shape)], value=fill, dtype=dtype)
    if int(np.prod(shape, dtype=np.int64)) <= 64:
        return at.filled(value, dtype, shape)
    return at.op("ConstantOfShape", [at.dims(shape)], value=at.fill(value, dtype), dtype=dtype)


@emits("arange")
def _arange(at: Emitter, node: Node) -> str:
    """Integers are counted in i64. Floats are start + i * step, as the reference has them: a running sum would drift."""
    start, end, step, dtype = (node.attrs[k] for k in ("start", "end", "step", "dtype"))
    if all(isinstance(v, (int, Expr)) for v in (start, end, step)):
        run = at.op("Range", [at.dim(v) for v in (start, end, step)], dtype=DType.i64)
        return at.cast(run, dtype)
    (length,) = node.output.shape
    c = Calculation(at, DType.f64)
    run = at.cast(at.op("Range", [at.dim(0), at.dim(length), at.dim(1)], dtype=DType.i64), DType.f64)
    return at.cast(c("Add", c("Mul", run, _number(at, step)), _number(at, start)), dtype)


def _number(at: Emitter, value: Dim | float) -> str | float:
    return at.dim(value, DType.f64) if isinstance(value, Expr) else float(value)
