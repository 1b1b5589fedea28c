"""Numbers: Python scalars as rank-0 constants, and real-valued expressions of sizes as rank-0 computations."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dims import Dim, Expr, dim_max, dim_min
from ..graph import Value
from ..types import DType, float_to_bf16
from .symbols import Unsupported

if TYPE_CHECKING:
    from .lowering import Lowering


def low_precision(dtype: DType) -> bool:
    """Whether torch computes elementwise ops of this type in float32."""
    return dtype in (DType.bf16, DType.f16)


def exactly(value: float, dtype: DType) -> bool:
    """Whether a low-precision type holds a number exactly."""
    if dtype is DType.bf16:
        bits = float_to_bf16(np.array([value], np.float32)).astype(np.uint32) << 16
        return float(bits.view(np.float32)[0]) == value
    return float(np.float16(value)) == value


_FUNCTIONS = {
    "OpaqueUnaryFn_sqrt": "sqrt", "OpaqueUnaryFn_cos": "cos", "OpaqueUnaryFn_sin": "sin", "OpaqueUnaryFn_tanh": "tanh",
    "OpaqueUnaryFn_log2": "log2", "OpaqueUnaryFn_log": "log", "OpaqueUnaryFn_exp": "exp", "exp": "exp", "log": "log",
}  # fmt: skip


_ARITHMETIC: dict[str, Callable[..., Dim]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg, "minimum": dim_min,
    "maximum": dim_max,
}  # fmt: skip


def symbolic_float(b: Lowering, expr: Any) -> Value:
    """A real expression of sizes (``1 / sqrt(seq)``) as a rank-0 float64 value.

    Raises:
        Unsupported: a function without a counterpart.
    """
    kind = type(expr).__name__
    if expr.is_Integer or expr.is_Float or expr.is_Rational:
        return b.scalar(float(expr), DType.f64)
    if kind == "ToFloat":
        return b.operand(b.symbols.dim(expr.args[0]), DType.f64)
    if kind in ("IntTrueDiv", "FloatTrueDiv"):
        return b.emit("div", *(symbolic_float(b, a) for a in expr.args))
    if kind in ("Add", "Mul"):
        total = symbolic_float(b, expr.args[0])
        for other in expr.args[1:]:
            total = b.emit(kind.lower(), total, symbolic_float(b, other))
        return total
    if kind in ("Pow", "FloatPow", "PowByNatural"):
        return b.emit("pow", *(symbolic_float(b, a) for a in expr.args))
    if kind in _FUNCTIONS:
        return b.emit(_FUNCTIONS[kind], symbolic_float(b, expr.args[0]))
    if expr.is_Symbol or expr.is_integer:
        return b.operand(b.symbols.dim(expr), DType.f64)
    raise Unsupported(f"the number {expr} depends on sizes in a way that cannot be computed")


def known_integer(b: Lowering, value: Value) -> Dim | None:
    """The integer that a tensor of one element holds, where it is computed from sizes and constants alone; else None."""
    if value.dtype not in (DType.i64, DType.i32) or any(size != 1 for size in value.shape):
        return None
    array = b.graph.array(value)
    if array is not None:
        return int(array.reshape(()))
    node = value.node
    if node is None:
        return None
    if node.op == "full":
        held = node.attrs["value"]
        return held if isinstance(held, (int, Expr)) else None
    if node.op not in ("reshape", "expand", "cast", *_ARITHMETIC):
        return None
    numbers = [known_integer(b, v) for v in node.operands]
    if any(n is None for n in numbers):
        return None
    return _ARITHMETIC[node.op](*numbers) if node.op in _ARITHMETIC else numbers[0]
