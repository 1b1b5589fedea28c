"""Emitters of arithmetic with two operands.

Integers wrap around. A divisor of zero, which the reference refuses, is replaced by one: ONNX Runtime's kernels divide
without looking, which ends the process.
"""

from __future__ import annotations

import math

import numpy as np

from ...compiler.graph import Node
from ...compiler.types import DType
from .calculation import Calculation
from .element_types import ONNX_TYPE
from .emitter import Emitter, emits

_PLAIN = {"add": "Add", "sub": "Sub", "mul": "Mul"}
_OF_BOOLS = {"add": "Or", "mul": "And", "maximum": "Or", "minimum": "And"}


def _pair(at: Emitter, node: Node) -> tuple[str, str]:
    a, b = at.inputs(node)
    assert a is not None and b is not None
    return a, b


@emits("add", "sub", "mul", "maximum", "minimum")
def _plain(at: Emitter, node: Node) -> str:
    a, b = _pair(at, node)
    dtype = node.output.dtype
    if dtype is DType.bool:
        return at.op(_OF_BOOLS[node.op], [a, b])
    return at.compute(_PLAIN.get(node.op) or ("Max" if node.op == "maximum" else "Min"), [a, b], dtype)


def _divisor(at: Emitter, node: Node, c: Calculation) -> str:
    """The second operand of an integer division without its zeros."""
    b = node.operands[1] if node.operands[1:] else node.operands[0]
    name = at.cast(at.name(b), c.dtype)
    array = None if node._graph is None else node._graph.array(b)
    if array is not None and np.all(np.asarray(array) != 0):
        return name
    return c.where(c("Equal", name, 0), 1, name)


@emits("div")
def _div(at: Emitter, node: Node) -> str:
    a, b = _pair(at, node)
    dtype = node.output.dtype
    if dtype.is_float:
        return at.compute("Div", [a, b], dtype)
    c = Calculation(at, dtype)
    return c("Div", a, _divisor(at, node, c))


@emits("floordiv")
def _floordiv(at: Emitter, node: Node) -> str:
    a, b = _pair(at, node)
    dtype = node.output.dtype
    if dtype.is_float:
        return _floordiv_float(at, a, b, dtype)
    c = Calculation(at, dtype)
    b = _divisor(at, node, c)
    quotient = c("Div", a, b)
    if dtype is DType.u8:
        return quotient
    rest = c("Sub", a, c("Mul", quotient, b))
    below = c.both(c.no(c("Equal", rest, 0)), c.differ(c("Less", rest, 0), c("Less", b, 0)))
    return c("Sub", quotient, at.cast(below, dtype))


def _floordiv_float(at: Emitter, a: str, b: str, dtype: DType) -> str:
    """As Python's ``//`` of floats: from the exact remainder, not from a rounded quotient."""
    c = Calculation(at, at.wide(dtype))
    a, b = at.cast(a, c.dtype), at.cast(b, c.dtype)
    rest = c("Mod", a, b, fmod=1)
    quotient = c("Div", c("Sub", a, rest), b)
    other = c.both(c.no(c("Equal", rest, 0.0)), c.differ(c("Less", b, 0.0), c("Less", rest, 0.0)))
    quotient = c.where(other, c("Sub", quotient, 1.0), quotient)
    floor = c("Floor", quotient)
    floor = c.where(c("Greater", c("Sub", quotient, floor), 0.5), c("Add", floor, 1.0), floor)
    plain = c("Div", a, b)
    result = c.where(c("Equal", quotient, 0.0), c("Mul", plain, 0.0), floor)
    return at.cast(c.where(c("Equal", b, 0.0), plain, result), dtype)


@emits("mod")
def _mod(at: Emitter, node: Node) -> str:
    a, b = _pair(at, node)
    dtype = node.output.dtype
    if not dtype.is_float:
        c = Calculation(at, dtype)
        return c("Mod", a, _divisor(at, node, c))
    c = Calculation(at, at.wide(dtype))
    a, b = at.cast(a, c.dtype), at.cast(b, c.dtype)
    rest = c("Mod", a, b, fmod=1)
    other = c.both(c.no(c("Equal", rest, 0.0)), c.differ(c("Less", b, 0.0), c("Less", rest, 0.0)))
    return at.cast(c.where(other, c("Add", rest, b), rest), dtype)


@emits("fmod")
def _fmod(at: Emitter, node: Node) -> str:
    a, b = _pair(at, node)
    dtype = node.output.dtype
    if dtype.is_float:
        c = Calculation(at, at.wide(dtype))
        return at.cast(c("Mod", at.cast(a, c.dtype), at.cast(b, c.dtype), fmod=1), dtype)
    c = Calculation(at, dtype)
    b = _divisor(at, node, c)  # the operator's remainder of this sign goes through f64
    return c("Sub", a, c("Mul", c("Div", a, b), b))


@emits("pow")
def _pow(at: Emitter, node: Node) -> str:
    a, b = _pair(at, node)
    dtype = node.output.dtype
    if dtype.is_float:
        c = Calculation(at, at.wide(dtype))
        return at.cast(c("Pow", at.cast(a, c.dtype), at.cast(b, c.dtype)), dtype)
    return _integer_power(at, a, b, dtype)


def _integer_power(at: Emitter, a: str, b: str, dtype: DType) -> str:
    """By squaring, so that it wraps around (the operator goes through f64); exponents above 63 as far as their low bits."""
    c = Calculation(at, DType.i64)
    power, exponent = at.cast(a, DType.i64), at.cast(b, DType.i64)
    base, result = power, c("Sub", power, power)
    result = c("Add", result, 1)
    for bit in range(6):
        set_ = c("Equal", c("Mod", c("Div", exponent, 1 << bit), 2), 1)
        result = c.where(set_, c("Mul", result, power), result)
        if bit < 5:
            power = c("Mul", power, power)
    if dtype is not DType.u8:  # 1 / a^-b in integers
        odd = c("Equal", c("Mod", exponent, 2), 1)
        ones = c.where(c("Equal", base, -1), c.where(odd, -1, 1), c.where(c("Equal", base, 1), 1, 0))
        result = c.where(c("Less", exponent, 0), ones, result)
    return at.cast(result, dtype)


@emits("atan2")
def _atan2(at: Emitter, node: Node) -> str:
    from .emit_special import arctangent

    y, x = _pair(at, node)
    dtype = node.output.dtype
    c = Calculation(at, at.wide(dtype) if dtype.is_float else DType.f32)
    y, x = at.cast(y, c.dtype), at.cast(x, c.dtype)
    up, right = c("Abs", y), c("Abs", x)
    small, large = c("Min", up, right), c("Max", up, right)
    # the quotient of two infinities counts as one, that of two zeros as zero
    ratio = c.where(c("Equal", small, large), at.cast(c("Greater", large, 0.0), c.dtype), c("Div", small, large))
    ratio = c.where(c("IsNaN", large), large, ratio)
    angle = arctangent(c, ratio)
    angle = c.where(c("Greater", up, right), c("Sub", math.pi / 2, angle), angle)
    angle = c.where(_negative(c, x), c("Sub", math.pi, angle), angle)
    return at.cast(c.where(_negative(c, y), c("Neg", angle), angle), dtype)


def _negative(c: Calculation, x: str) -> str:
    """Whether the sign bit is set, that of -0 too."""
    zero = c("Equal", x, 0.0)
    return c.either(c("Less", x, 0.0), c.both(zero, c("Less", c("Reciprocal", x), 0.0)))


@emits("bitwise_left_shift", "bitwise_right_shift")
def _shift(at: Emitter, node: Node) -> str:
    """On unsigned integers, which is what the operator knows; amounts that it leaves open are taken care of outside."""
    a, b = _pair(at, node)
    dtype = node.output.dtype
    bits = 8 * dtype.size
    c = Calculation(at, DType.i64 if dtype is DType.i64 else DType.i32)
    a, b = at.cast(a, c.dtype), at.cast(b, c.dtype)
    amount = c("Max", c("Min", b, bits - 1), 0)
    away = c.either(c("Less", b, 0), c("GreaterOrEqual", b, bits))
    negative = c("Less", a, 0)
    if node.op == "bitwise_left_shift":
        return at.cast(c.where(away, 0, _unsigned_shift(at, a, amount, c.dtype, "LEFT")), dtype)
    magnitude = c.where(negative, at.op("BitwiseNot", [a], dtype=c.dtype), a)
    shifted = c.where(away, 0, _unsigned_shift(at, magnitude, amount, c.dtype, "RIGHT"))
    return at.cast(c.where(negative, at.op("BitwiseNot", [shifted], dtype=c.dtype), shifted), dtype)


def _unsigned_shift(at: Emitter, a: str, amount: str, dtype: DType, direction: str) -> str:
    from onnx import TensorProto

    unsigned = TensorProto.UINT64 if dtype is DType.i64 else TensorProto.UINT32
    operands = [at.op("Cast", [v], to=unsigned) for v in (a, amount)]
    shifted = at.op("BitShift", operands, direction=direction)
    return at.op("Cast", [shifted], to=ONNX_TYPE[dtype], dtype=dtype)
