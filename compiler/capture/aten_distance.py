"""ATen ops that measure distances between rows."""

from __future__ import annotations

import numpy as np

from ..graph import Value
from ..types import DType
from .lowering import Lowering, Scalar, aten
from .symbols import Unsupported


def norm(b: Lowering, x: Value, p: Scalar) -> Value:
    """The p-norm along the last axis, which goes.

    Raises:
        Unsupported: p varies.
    """
    if not isinstance(p, (int, float)):
        raise Unsupported("a norm of an order that varies is not supported")
    last = (x.type.rank - 1,)
    if p == 2:
        return b.emit("sqrt", b.emit("reduce_sum", b.emit("square", x), axes=last, keepdim=False))
    size = b.emit("abs", x)
    if p == 0:
        return b.emit("reduce_sum", b.cast(b.emit("ne", x, b.scalar(0.0, x.dtype)), x.dtype), axes=last, keepdim=False)
    if p in (1, float("inf")):
        return b.emit("reduce_sum" if p == 1 else "reduce_max", size, axes=last, keepdim=False)
    powers = b.emit("pow", size, b.scalar(float(p), x.dtype))
    return b.emit("pow", b.emit("reduce_sum", powers, axes=last, keepdim=False), b.scalar(1.0 / p, x.dtype))


@aten("cdist", "_cdist_forward")
def _cdist(b: Lowering, x1: Value, x2: Value, p: float = 2.0, compute_mode: int | None = None) -> Value:
    left = b.reshape(x1, (*x1.shape[:-1], 1, x1.shape[-1]))
    right = b.reshape(x2, (*x2.shape[:-2], 1, *x2.shape[-2:]))
    return norm(b, b.emit("sub", left, right), p)


@aten("pdist", "_pdist_forward")
def _pdist(b: Lowering, self: Value, p: float = 2.0) -> Value:
    rows = self.shape[0]
    if not isinstance(rows, int):
        raise Unsupported("distances between a number of rows that varies are not supported")
    pairs = [b.graph.add_constant(np.ascontiguousarray(i), "pairs", DType.i64) for i in np.triu_indices(rows, 1)]
    left, right = (b.emit("gather", self, i, axis=0) for i in pairs)
    return norm(b, b.emit("sub", left, right), p)


@aten("dist")
def _dist(b: Lowering, self: Value, other: Value, p: Scalar = 2) -> Value:
    gap = b.emit("sub", b.operand(self, b.out_dtype), b.operand(other, b.out_dtype))
    return norm(b, b.reshape(gap, (gap.type.elements,)), p)
