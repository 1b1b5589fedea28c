"""Arithmetic on tensors of one element type, as emitters write it when an op takes several ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...compiler.types import DType

if TYPE_CHECKING:
    from .emitter import Emitter

#: The name of a tensor, or a number.
Operand = str | float | int
_TRUTHS = frozenset({"Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal", "IsNaN", "IsInf"})


class Calculation:
    """Appends operators on tensors of ``dtype``; numbers among the operands become constants.

    Args:
        at: what is appended to.
        dtype: element type of every tensor but truths and conditions; a type without a kernel goes through a wider one.
    """

    def __init__(self, at: Emitter, dtype: DType) -> None:
        self.at = at
        self.dtype = dtype

    def operand(self, value: Operand) -> str:
        """A tensor; a number as a scalar constant."""
        return value if isinstance(value, str) else self.at.scalar(value, self.dtype)

    def __call__(self, op_type: str, *operands: Operand, **attrs: Any) -> str:
        """The result of an operator; of comparisons it is bool."""
        names = [self.operand(v) for v in operands]
        return self.at.compute(op_type, names, self.dtype, result=DType.bool if op_type in _TRUTHS else None, **attrs)

    def where(self, condition: str, a: Operand, b: Operand) -> str:
        """``a`` where the condition holds, else ``b``."""
        work = self.at.work(self.dtype, "Where")
        chosen = [self.at.cast(self.operand(v), work) for v in (a, b)]
        return self.at.cast(self.at.op("Where", [condition, *chosen], dtype=work), self.dtype)

    def polynomial(self, x: str, coefficients: Sequence[float]) -> str:
        """By Horner's rule; the coefficient of the highest power first."""
        total: Operand = coefficients[0]
        for c in coefficients[1:]:
            total = self("Add", self("Mul", total, x), c)
        return self.operand(total)

    def both(self, a: str, b: str) -> str:
        """Whether both truths hold."""
        return self.at.op("And", [a, b], dtype=DType.bool)

    def either(self, a: str, b: str) -> str:
        """Whether one of the truths holds."""
        return self.at.op("Or", [a, b], dtype=DType.bool)

    def differ(self, a: str, b: str) -> str:
        """Whether exactly one of the truths holds."""
        return self.at.op("Xor", [a, b], dtype=DType.bool)

    def no(self, a: str) -> str:
        """Whether the truth does not hold."""
        return self.at.op("Not", [a], dtype=DType.bool)
