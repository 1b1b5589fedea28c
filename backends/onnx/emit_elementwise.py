"""Emitters of unary functions, comparisons, logic, selection and conversion, element by element.

Arithmetic with two operands is in ``emit_arithmetic``, functions that ONNX lacks in ``emit_special``.
"""

from __future__ import annotations

from ...compiler.graph import Node
from ...compiler.types import DType
from .calculation import Calculation
from .emitter import Emitter, emits

_UNARY = {
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "sin": "Sin",
    "cos": "Cos", "tanh": "Tanh",
}  # fmt: skip
_ROUNDING = {"floor": "Floor", "ceil": "Ceil", "round": "Round"}
_COMPARE = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}
_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}


def only_input(at: Emitter, node: Node) -> tuple[str, DType]:
    """The tensor that holds the first operand, and its element type."""
    value = node.inputs[0]
    assert value is not None
    return at.name(value), value.dtype


@emits(*_UNARY)
def _unary(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    return at.compute(_UNARY[node.op], [x], dtype)


@emits(*_ROUNDING)
def _round(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    return at.compute(_ROUNDING[node.op], [x], dtype) if dtype.is_float else x


@emits("trunc")
def _trunc(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    if not dtype.is_float:
        return x
    c = Calculation(at, at.wide(dtype))
    wide = at.cast(x, c.dtype)
    return at.cast(c.where(c("Less", wide, 0.0), c("Ceil", wide), c("Floor", wide)), dtype)


@emits("sign")
def _sign(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    if dtype is DType.bool:
        return x
    if not dtype.is_float or not at.mends:
        return at.compute("Sign", [x], dtype)
    c = Calculation(at, at.wide(dtype))  # the operator gives NaN for NaN
    wide = at.cast(x, c.dtype)
    more, less = (at.cast(c(op, wide, 0.0), c.dtype) for op in ("Greater", "Less"))
    return at.cast(c("Sub", more, less), dtype)


@emits("relu")
def _relu(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    if dtype is DType.u8:
        return x
    # ONNX Runtime merges Relu with a Clip behind it, and fails where they are f64.
    if dtype.is_float and dtype is not DType.f64:
        return at.compute("Relu", [x], dtype)
    return Calculation(at, dtype)("Max", x, 0)


@emits("square")
def _square(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    return x if dtype is DType.bool else at.compute("Mul", [x, x], dtype)


@emits("rsqrt")
def _rsqrt(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    c = Calculation(at, at.wide(dtype))
    return at.cast(c("Reciprocal", c("Sqrt", at.cast(x, c.dtype))), dtype)


@emits("clamp")
def _clamp(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    low, high = node.attrs["min"], node.attrs["max"]
    if dtype.is_float:
        wide = at.wide(dtype)
        limits = [None if v is None else at.scalar(v, wide) for v in (low, high)]
        return at.cast(at.op("Clip", [at.cast(x, wide), *limits], dtype=wide), dtype)
    work = DType.u8 if dtype is DType.bool else dtype
    c = Calculation(at, work)
    result = at.cast(x, work)
    for operator, limit in (("Max", low), ("Min", high)):
        if limit is not None:  # a bound that the type does not hold wraps around, as in the reference
            result = c(operator, result, int(limit))
    return at.cast(result, dtype)


@emits("isnan", "isinf")
def _special(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    if dtype.is_float:
        return at.compute("IsNaN" if node.op == "isnan" else "IsInf", [x], dtype, result=DType.bool)
    return at.op("Not", [at.compute("Equal", [x, x], dtype, result=DType.bool)], dtype=DType.bool)


@emits(*_COMPARE, "ne")
def _compare(at: Emitter, node: Node) -> str:
    a, b = at.inputs(node)
    dtype = node.operands[0].dtype
    if node.op != "ne":
        return at.compute(_COMPARE[node.op], [a, b], dtype, result=DType.bool)
    return at.op("Not", [at.compute("Equal", [a, b], dtype, result=DType.bool)], dtype=DType.bool)


def truth(at: Emitter, name: str, dtype: DType) -> str:
    """Whether the elements are not zero (NaN is not)."""
    if dtype is DType.bool:
        return name
    work = at.work(dtype, "Equal")
    zero = at.op("Equal", [at.cast(name, work), at.scalar(0, work)], dtype=DType.bool)
    return at.op("Not", [zero], dtype=DType.bool)


@emits("logical_not")
def _logical_not(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    if dtype is DType.bool:
        return at.op("Not", [x])
    work = at.work(dtype, "Equal")
    return at.op("Equal", [at.cast(x, work), at.scalar(0, work)])


@emits("logical_and", "logical_or", "logical_xor")
def _logic(at: Emitter, node: Node) -> str:
    a, b = (truth(at, at.name(v), v.dtype) for v in node.operands)
    return at.op(_LOGIC[node.op.removeprefix("logical_")], [a, b])


@emits("bitwise_not")
def _bitwise_not(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    return at.op("Not" if dtype is DType.bool else "BitwiseNot", [x])


@emits("bitwise_and", "bitwise_or", "bitwise_xor")
def _bitwise(at: Emitter, node: Node) -> str:
    name = _LOGIC[node.op.removeprefix("bitwise_")]
    return at.op(name if node.operands[0].dtype is DType.bool else f"Bitwise{name}", at.inputs(node))


@emits("where")
def _where(at: Emitter, node: Node) -> str:
    condition, a, b = at.inputs(node)
    assert condition is not None and a is not None and b is not None
    return Calculation(at, node.output.dtype).where(condition, a, b)


@emits("cast")
def _cast(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    to = node.attrs["dtype"]
    if to is dtype:
        return x
    if to is DType.bool:
        return truth(at, x, dtype)
    if dtype.is_float and to in (
        DType.i8,
        DType.i16,
        DType.u8,
    ):  # what is out of range wraps around, as in the reference
        x = at.cast(x, DType.i64 if to is DType.u8 else DType.i32)
    return at.cast(x, to)
