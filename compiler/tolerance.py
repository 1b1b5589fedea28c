"""How far two results may lie apart: one table, normwise, by element type.

The error of an inner product of length K is bounded by ``c * sqrt(K) * eps * |a||b|`` in practice (Higham & Mary 2019, a
probabilistic form of the classic ``K * eps``); over a whole model the bound that holds is relative to the norm of the result.
"""

from __future__ import annotations

import math

import numpy as np

from .types import DType

#: Unit roundoff by element type.
EPS = {DType.f64: 2.0**-53, DType.f32: 2.0**-24, DType.f16: 2.0**-11, DType.bf16: 2.0**-8}
#: The constant c of the bound.
FACTOR = 8.0
#: Relative distance (norm of the difference over norm of the result) of two executions of one model whose least precise
#: values are of this type: rounding differs in every layer. i8: values may differ by one quantisation step.
MODEL = {DType.f64: 1e-12, DType.f32: 1e-5, DType.f16: 5e-3, DType.bf16: 3e-2, DType.i8: 5e-2}


def product_bound(dtype: DType, k: int, norm_a: float, norm_b: float) -> float:
    """How far an inner product of length ``k`` of vectors with these norms may be off when accumulated in ``dtype``."""
    return FACTOR * math.sqrt(max(k, 1)) * EPS[dtype] * norm_a * norm_b


def relative_distance(a: np.ndarray, b: np.ndarray) -> float:
    """``|a - b| / |a|`` in the Euclidean norm, in f64; infinite where shapes, NaNs or infinities do not agree.

    Integers and booleans must be equal: 0 or infinity.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else math.inf
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return math.inf
    x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
    difference, norm = float(np.linalg.norm(x - y)), float(np.linalg.norm(x))
    if difference == 0:
        return 0.0
    return difference / norm if norm else math.inf
