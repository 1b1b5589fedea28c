"""The vocabulary, element by element: unary and binary functions, comparisons, selection, conversion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .graph import Node
from .ops_schema import REQUIRED, broadcast, define, fail, same_dtype, type_of
from .types import DType, TensorType


def _elementwise(node: Node) -> list[TensorType]:
    dtype = same_dtype(node, node.inputs)
    return [TensorType(dtype, broadcast(node, [v.shape for v in node.operands]))]


def _compare(node: Node) -> list[TensorType]:
    return [_elementwise(node)[0].with_dtype(DType.bool)]


def _where(node: Node) -> list[TensorType]:
    if type_of(node.inputs[0]).dtype is not DType.bool:
        raise fail(node, "the condition must be bool")
    dtype = same_dtype(node, node.inputs[1:])
    return [TensorType(dtype, broadcast(node, [v.shape for v in node.operands]))]


UNARY: dict[str, dict[str, Any]] = {
    "neg": {}, "abs": {}, "sign": {}, "relu": {}, "floor": {}, "ceil": {}, "round": {}, "trunc": {}, "square": {},
    "exp": {}, "exp2": {}, "expm1": {}, "log": {}, "log2": {}, "log10": {}, "log1p": {}, "sqrt": {}, "rsqrt": {},
    "reciprocal": {}, "sin": {}, "cos": {}, "tan": {}, "asin": {}, "acos": {}, "atan": {}, "sinh": {}, "cosh": {}, "tanh": {},
    "asinh": {}, "acosh": {}, "atanh": {}, "sigmoid": {}, "erf": {}, "erfc": {}, "erfinv": {}, "lgamma": {}, "silu": {},
    "gelu": {"approximate": "none"}, "softplus": {"beta": 1.0, "threshold": 20.0}, "elu": {"alpha": 1.0},
    "leaky_relu": {"slope": 0.01}, "hardswish": {}, "hardsigmoid": {}, "mish": {}, "logical_not": {}, "bitwise_not": {},
    "clamp": {"min": None, "max": None},
}  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "floordiv", "mod", "fmod", "pow", "atan2", "maximum", "minimum",
          "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
          "bitwise_left_shift", "bitwise_right_shift")  # fmt: skip
COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "logical_and", "logical_or", "logical_xor",
                         "bitwise_and", "bitwise_or", "bitwise_xor"})  # fmt: skip


_MEANING = {
    "neg": "-x", "abs": "magnitude", "sign": "-1, 0 or 1; 0 for NaN", "relu": "max(x, 0)", "floor": "largest integer up to x",
    "ceil": "smallest integer not below x", "round": "nearest integer, halves to even", "trunc": "towards zero", "square": "x x",
    "exp": "e to the x", "exp2": "2 to the x", "expm1": "e to the x, less 1", "log": "natural logarithm",
    "log2": "logarithm, base 2",
    "log10": "logarithm, base 10", "log1p": "logarithm of 1 + x", "sqrt": "square root", "rsqrt": "1 / sqrt(x)",
    "reciprocal": "1 / x", "sin": "sine", "cos": "cosine", "tan": "tangent", "asin": "inverse sine", "acos": "inverse cosine",
    "atan": "inverse tangent", "sinh": "hyperbolic sine", "cosh": "hyperbolic cosine", "tanh": "hyperbolic tangent",
    "asinh": "inverse hyperbolic sine", "acosh": "inverse hyperbolic cosine", "atanh": "inverse hyperbolic tangent",
    "sigmoid": "1 / (1 + exp(-x))", "erf": "error function", "erfc": "1 - erf(x), without cancellation",
    "erfinv": "inverse error function", "lgamma": "logarithm of the gamma function's magnitude", "silu": "x sigmoid(x)",
    "gelu": "x times the normal distribution of x (Hendrycks & Gimpel 2016); `approximate`: none, tanh, or quick (a sigmoid)",
    "softplus": "log(1 + exp(beta x)) / beta; x above `threshold`", "elu": "x above 0, alpha (exp(x) - 1) below",
    "leaky_relu": "x above 0, slope x below", "hardswish": "x relu6(x + 3) / 6", "hardsigmoid": "relu6(x + 3) / 6",
    "mish": "x tanh(softplus(x))", "logical_not": "whether x is zero", "bitwise_not": "all bits flipped",
    "clamp": "x between two numbers, each of which may be absent", "isnan": "whether x is NaN",
    "isinf": "whether x is an infinity", "add": "a + b", "sub": "a - b", "mul": "a b",
    "div": "a / b; integers truncate", "floordiv": "floor(a / b)", "mod": "remainder with the sign of b",
    "fmod": "remainder with the sign of a", "pow": "a to the b", "atan2": "angle of the point (b, a)",
    "maximum": "the larger; NaN wins", "minimum": "the smaller; NaN wins", "logical_and": "both are non-zero",
    "logical_or": "one is non-zero", "logical_xor": "exactly one is non-zero", "bitwise_and": "bits of both",
    "bitwise_or": "bits of either", "bitwise_xor": "bits of exactly one",
    "bitwise_left_shift": "a 2^b; 0 where b is negative or no bit is left",
    "bitwise_right_shift": "floor(a / 2^b); the sign alone where b is negative or no bit is left",
    "eq": "a = b", "ne": "a != b", "lt": "a < b", "le": "a <= b", "gt": "a > b", "ge": "a >= b",
}  # fmt: skip
_TRUTHS = frozenset({"isnan", "isinf", "logical_not", "logical_and", "logical_or", "logical_xor", *COMPARE})


def _define(name: str, inputs: str, attrs: Mapping[str, Any]) -> None:
    define(
        name,
        inputs,
        _compare if name in _TRUTHS else _elementwise,
        _MEANING[name],
        attrs=attrs,
        elementwise=True,
        flops=1,
        commutative=name in COMMUTATIVE,
    )


for _name, _attrs in (*UNARY.items(), ("isnan", {}), ("isinf", {})):
    _define(_name, "x", _attrs)
for _name in (*BINARY, *COMPARE):
    _define(_name, "a b", {})
define("where", "condition a b", _where, "a where the condition holds, else b", elementwise=True, flops=1)
define(
    "cast",
    "x",
    lambda n: [type_of(n.inputs[0]).with_dtype(n.attrs["dtype"])],
    "convert the element type",
    attrs={"dtype": REQUIRED},
    elementwise=True,
)
