"""Mixtures of experts: rows sorted by expert, every group of rows multiplied by the weight of its own."""

from __future__ import annotations

from ..graph import Value
from ..types import DType
from .lowering import HANDLERS, Lowering, aten
from .symbols import Unsupported


@aten("_grouped_mm")
def _grouped(b: Lowering, self: Value, mat2: Value, offs: Value | None, bias: Value | None = None) -> Value:
    """``self`` [rows, in], ``mat2`` [experts, in, out]; ``offs`` [experts] says where the rows of each expert end.

    The weight of its expert is gathered for every row: sizes stay independent of the data, and few rows, as decoding has
    them, read no expert that none of them wants.
    """
    if offs is None or self.type.rank != 2 or mat2.type.rank != 3 or bias is not None:
        raise Unsupported("only rows [rows, in] with weights [experts, in, out] and offsets are supported")
    rows, experts = self.shape[0], _count(mat2)
    numbers = b.emit("arange", end=rows, dtype=offs.dtype)
    expert = b.emit("searchsorted", offs, numbers, right=True, dtype=DType.i64)
    # rows behind the last group are zeros in torch, whatever they hold
    beyond = b.emit("ge", expert, b.scalar(experts, DType.i64))
    weights = b.emit("gather", mat2, b.emit("minimum", expert, b.scalar(experts - 1, DType.i64)), axis=0)
    product = b.reshape(b.emit("matmul", b.reshape(self, (rows, 1, self.shape[1])), weights), (rows, mat2.shape[2]))
    return b.emit("where", b.reshape(beyond, (rows, 1)), b.scalar(0.0, product.dtype), product)


def _count(weights: Value) -> int:
    experts = weights.shape[0]
    if not isinstance(experts, int):
        raise Unsupported("a number of experts that varies is not supported")
    return experts


def _fallback(b: Lowering, input: Value, weight: Value, offs: Value) -> Value:
    return _grouped(b, input, weight, offs)


#: What transformers calls where torch has no kernel for the element type.
HANDLERS["transformers.grouped_mm_fallback.default"] = _fallback
