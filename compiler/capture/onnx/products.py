"""Matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

import numpy as np

from ...graph import Value
from .importing import Importer
from .registry import op


@op("MatMul")
def matmul(at: Importer, a: Value, b: Value) -> Value:
    weight = at.array(b)
    if weight is not None and weight.ndim == 2 and a.type.rank > 1:
        name = b.node.attrs["ref"] if b.node is not None else "weight"
        return at.emit("linear", a, at.constant(np.ascontiguousarray(weight.T), b.dtype, name))
    return at.emit("matmul", a, b)
