"""The vocabulary, element by element: unary and binary functions, comparisons, selection, conversion."""

from __future__ import annotations

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


UNARY = {
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


for name, attrs in UNARY.items():
    define(
        name,
        "x",
        _compare if name == "logical_not" else _elementwise,
        f"elementwise {name}",
        attrs=attrs,
        elementwise=True,
        flops=1,
    )
for name in ("isnan", "isinf"):
    define(name, "x", _compare, f"elementwise {name}", elementwise=True, flops=1)
for name in (*BINARY, *COMPARE):
    infer_ = _compare if name in COMPARE or name.startswith("logical") else _elementwise
    define(
        name,
        "a b",
        infer_,
        f"elementwise {name} with broadcasting",
        elementwise=True,
        flops=1,
        commutative=name in COMMUTATIVE,
    )
define("where", "condition a b", _where, "a where the condition holds, else b", elementwise=True, flops=1)
define(
    "cast",
    "x",
    lambda n: [type_of(n.inputs[0]).with_dtype(n.attrs["dtype"])],
    "convert the element type",
    attrs={"dtype": REQUIRED},
    elementwise=True,
)
