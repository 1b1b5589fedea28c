"""The one table of tolerances, and the distance it bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from planish.compiler.tolerance import MODEL, product_bound, relative_distance
from planish.compiler.types import DType, bf16_to_float, float_to_bf16


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        (array(3, 4), array(3, 4), 0.0),
        (array(3, 4), array(3, 4.5), 0.1),
        (array(0, 0), array(0, 0), 0.0),
        (array(0, 0), array(0, 1e-30), math.inf),
        (array(1, np.nan), array(1, np.nan), 0.0),
        (array(1, np.nan), array(1, 2), math.inf),
        (array(1, np.inf), array(1, np.inf), 0.0),
        (array(1, np.inf), array(1, -np.inf), math.inf),
        (array(1), array(1, 1), math.inf),
        (np.array([1, 2]), np.array([1, 2]), 0.0),
        (np.array([1, 2]), np.array([1, 3]), math.inf),
        (array(1), np.array([1.0]), math.inf),
    ],
)
def test_relative_distance(a: np.ndarray, b: np.ndarray, distance: float) -> None:
    assert relative_distance(a, b) == pytest.approx(distance)


@pytest.mark.parametrize("k", [1, 7, 384, 4096])
def test_real_products_stay_within_the_bound_and_wrong_ones_do_not(k: int) -> None:
    rng = np.random.default_rng(k)
    a, b = rng.standard_normal(k).astype(np.float32), rng.standard_normal(k).astype(np.float32)
    exact = float(np.dot(a.astype(np.float64), b.astype(np.float64)))
    norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    assert abs(float(np.dot(a, b)) - exact) <= product_bound(DType.f32, k, norm_a, norm_b)
    rounded = float(np.dot(bf16_to_float(float_to_bf16(a)).astype(np.float64), b.astype(np.float64)))
    assert abs(rounded - exact) <= product_bound(DType.bf16, k, norm_a, norm_b)
    lost_product = float(np.abs(a * b).max())
    assert lost_product > product_bound(DType.f32, k, norm_a, norm_b)


def test_the_table_is_ordered_by_precision() -> None:
    assert MODEL[DType.f64] < MODEL[DType.f32] < MODEL[DType.f16] < MODEL[DType.bf16] < MODEL[DType.i8] < 0.1
