"""Emitters of quantised values: QuantizeLinear and DequantizeLinear where their scales fit, else what they are made of."""

from __future__ import annotations

import numpy as np

from ...compiler.graph import Node, Value
from ...compiler.types import DType
from .calculation import Calculation
from .emit_linear import quantised_weight
from .emit_spatial import convolved
from .emitter import Emitter, emits

_RANGES = {DType.i8: (-128, 127), DType.u8: (0, 255), DType.i16: (-32768, 32767)}


def _axis(at: Emitter, of: Value, scale: Value, zero: Value | None) -> int | None:
    """The axis along which a constant scale has an element for each place; -1 if it is one number for all; None if it is
    neither, or not known at compile time to be so."""
    if scale.type.elements == 1 and (zero is None or zero.type.elements == 1):
        return -1
    if zero is not None and zero.shape != scale.shape:
        return None
    if any(at.graph.array(v) is None for v in (scale, zero) if v is not None):
        return None
    places = [i for i, d in enumerate(scale.shape) if d != 1]
    axis = places[0] + of.type.rank - scale.type.rank if len(places) == 1 else None
    return axis if axis is not None and of.shape[axis] == scale.shape[places[0]] else None


def _flat(at: Emitter, value: Value, axis: int) -> str:
    """A scale or zero point as ONNX takes it: a number, or a vector."""
    array = at.graph.array(value)
    if array is None:
        return at.name(value) if not value.type.rank else at.reshape(at.name(value), ())
    return at.constant(np.asarray(array).reshape(() if axis < 0 else -1), value.name, value.dtype)


@emits("quantize")
def _quantize(at: Emitter, node: Node) -> str:
    """QuantizeLinear divides by the scale where the IR may multiply: now and then it rounds to the neighbour."""
    x, scale, *rest = node.operands
    zero = rest[0] if rest else None
    dtype: DType = node.attrs["dtype"]
    name = at.cast(at.name(x), DType.f32)
    axis = _axis(at, x, scale, zero)
    if axis is not None:
        shift = at.scalar(0, dtype) if zero is None and axis < 0 else None if zero is None else _flat(at, zero, axis)
        if zero is None and axis >= 0:
            shift = at.constant(np.zeros(int(x.shape[axis]), dtype.numpy), "zero", dtype)  # type: ignore[call-overload]
        return str(at.op("QuantizeLinear", [name, _flat(at, scale, axis), shift], dtype=dtype, axis=max(axis, 0)))
    c = Calculation(at, DType.f32)
    steps = c("Round", c("Div", name, at.name(scale)))
    if zero is not None:
        steps = c("Add", steps, at.cast(at.name(zero), DType.f32))
    low, high = _RANGES[dtype]
    low = -127 if zero is None and dtype is DType.i8 else low
    return at.cast(c("Min", c("Max", steps, float(low)), float(high)), dtype)


@emits("dequantize")
def _dequantize(at: Emitter, node: Node) -> str | None:
    q, scale, *rest = node.operands
    zero = rest[0] if rest else None
    if _only_weight(at, node):
        return None  # linears write their weights themselves
    axis = _axis(at, q, scale, zero)
    narrow = (DType.i16, DType.i4) if at.opset >= 21 else ()
    if axis is not None and q.dtype in (DType.i8, DType.u8, DType.i32, *narrow):
        inputs = [at.name(q), _flat(at, scale, axis), None if zero is None else _flat(at, zero, axis)]
        return str(at.op("DequantizeLinear", inputs, dtype=DType.f32, axis=max(axis, 0)))
    c = Calculation(at, DType.f32)
    wide = at.cast(_integers(at, q), DType.f32)
    if zero is not None:
        wide = c("Sub", wide, _over_groups(at, at.cast(at.name(zero), DType.f32), zero, q))
    return c("Mul", wide, _over_groups(at, at.name(scale), scale, q))


def _integers(at: Emitter, q: Value) -> str:
    """The tensor that holds integers; int4, which opset 21 brought, as int8 before that."""
    array = at.graph.array(q)
    if q.dtype is not DType.i4 or at.opset >= 21 or array is None:
        return at.name(q)
    return at.constant(np.asarray(array), q.name, DType.i8)


def _only_weight(at: Emitter, node: Node) -> bool:
    value = node.output
    if value in at.graph.outputs or quantised_weight(at.graph, value) is None:
        return False
    return all(u.op == "linear" and u.inputs[1] is value and u.inputs[0] is not value for u in value.users)


def _over_groups(at: Emitter, name: str, scale: Value, q: Value) -> str:
    """``scale`` with an element for each of ``q`` along the last axis, where it has one for each group of neighbours."""
    if scale.type.rank != q.type.rank or not q.type.rank:
        return name
    groups, length = scale.shape[-1], q.shape[-1]
    if not isinstance(groups, int) or not isinstance(length, int) or groups in (0, 1, length):
        return name
    outer = scale.shape[:-1]
    apart = at.reshape(name, (*outer, groups, 1))
    wide = at.op("Expand", [apart, at.dims((*outer, groups, length // groups))], dtype=DType.f32)
    return at.reshape(wide, (*outer, length))


@emits("quantize_tensor")
def _quantize_tensor(at: Emitter, node: Node) -> list[str]:
    name = at.cast(at.name(node.operands[0]), DType.f32)
    return list(at.op("DynamicQuantizeLinear", [name], outputs=3, dtype=DType.u8))


@emits("quantize_dynamic")
def _quantize_dynamic(at: Emitter, node: Node) -> list[str]:
    """int8 by row, from what the standard has; a row that is not finite gets the scale NaN."""
    x = node.operands[0]
    c = Calculation(at, DType.f32)
    name = at.cast(at.name(x), DType.f32)
    largest = at.op("ReduceMax", [c("Abs", name), at.ints(x.type.rank - 1)], keepdims=1, dtype=DType.f32)
    nothing = c("Equal", largest, 0.0)
    finite = c("Less", largest, float("inf"))
    amax = c.where(at.op("Or", [finite, nothing], dtype=DType.bool), largest, float("nan"))
    inverse = c.where(c("Greater", amax, 0.0), c("Div", 127.0, amax), 0.0)
    steps = c("Round", c("Mul", name, inverse))
    number = c("Equal", steps, steps)
    inside = c("Min", c("Max", c.where(number, steps, 0.0), -127.0), 127.0)
    return [at.cast(inside, DType.i8), c("Div", amax, 127.0)]


@emits("qlinear")
def _qlinear(at: Emitter, node: Node) -> str:
    """A product of integers where both are int8, which is exact; else of floats, with the scales of the weight in it."""
    x, x_scale, weight, scale, bias, zero = (*node.inputs, None, None)[:6]
    assert x is not None and weight is not None and scale is not None
    c = Calculation(at, DType.f32)
    if weight.dtype is DType.i8 and x.dtype is DType.i8:
        turned = at.op("Transpose", [at.name(weight)], perm=[1, 0], dtype=DType.i8)
        shift = None if zero is None else at.reshape(at.name(zero), (), zero.shape)
        sums = at.cast(at.op("MatMulInteger", [at.name(x), turned, shift], dtype=DType.i32), DType.f32)
        assert x_scale is not None
        if x_scale.type.rank:  # ONNX Runtime would take one product of both scales for that of a whole x
            result = c("Mul", c("Mul", sums, at.name(scale)), at.name(x_scale))
        else:
            result = c("Mul", sums, c("Mul", at.name(x_scale), at.name(scale)))
    else:
        numbers = at.cast(_integers(at, weight), DType.f32)
        steps = at.cast(at.name(scale), DType.f32)
        if scale.type.rank == 1:
            steps = at.reshape(steps, (*scale.shape, 1), scale.shape)
        matrix = c("Mul", numbers, _over_groups(at, steps, scale, weight))
        turned = at.op("Transpose", [matrix], perm=[1, 0], dtype=DType.f32)
        result = c("MatMul", at.cast(at.name(x), DType.f32), turned)
        result = result if x_scale is None else c("Mul", result, at.name(x_scale))
    return result if bias is None else c("Add", result, at.name(bias))


@emits("qconv")
def _qconv(at: Emitter, node: Node) -> str:
    """In floats, which hold the sums of int8 products nearly exactly; the scales are in the filters."""
    x, x_scale, weight, scale, bias, zero = (*node.inputs, None, None)[:6]
    assert x is not None and x_scale is not None and weight is not None and scale is not None
    c = Calculation(at, DType.f32)
    wide = at.cast(at.name(x), DType.f32)
    if zero is not None:  # what lies outside counts as the zero point: as zero, once that is taken off
        wide = c("Sub", wide, at.reshape(at.cast(at.name(zero), DType.f32), (), zero.shape))
    column = (*scale.shape, *(1 for _ in range(weight.type.rank - 1)))
    filters = c("Mul", at.cast(at.name(weight), DType.f32), at.reshape(at.name(scale), column, scale.shape))
    filters = c("Mul", filters, at.name(x_scale))
    return convolved(at, node, wide, filters, None if bias is None else at.name(bias), weight.shape[2:], DType.f32)
