"""Products of two run-time tensors: dtypes, any strides, batches that broadcast, tile programs, threads."""

from __future__ import annotations

import os

import numpy as np
import pytest
from kernel_harness import RUNNABLE, build_kernel

from planish.codegen.matmul import render, scratch_bytes
from planish.codegen.specs import Domain, MatmulSpec, Operand, RowProgram, Step, Storage
from planish.compiler.dims import Expr, symbol
from planish.compiler.errors import LoweringError
from planish.compiler.types import bf16_to_float, float_to_bf16

SANITIZE = os.environ.get("PLANISH_TEST_SANITIZE") == "1"
#: Under the sanitizers, where a build takes long: plain C++ and the highest level.
LEVELS = [RUNNABLE[0], RUNNABLE[-1]] if SANITIZE else RUNNABLE
NUMPY = {"f32": np.float32, "bf16": np.uint16, "f64": np.float64, "i32": np.int32, "i64": np.int64}
EPS = {"f32": 2.0**-23, "bf16": 2.0**-23, "f64": 2.0**-52}
#: batch, M, N, K
SHAPES = [
    ((1, 1), 1, 1, 1),
    ((2, 3), 5, 7, 9),
    ((1, 2), 33, 50, 31),
    ((2, 1), 9, 100, 64),
    ((1, 1), 70, 130, 2),
    ((3, 1), 1, 17, 40),
]


def strides(a: np.ndarray) -> list[int]:
    """In elements; 0 along a dimension of size one, which broadcasts."""
    return [
        0 if size == 1 and axis < a.ndim - 2 else step // a.itemsize
        for axis, (size, step) in enumerate(zip(a.shape, a.strides, strict=True))
    ]


def draw(
    rng: np.random.Generator, dtype: str, batch: tuple[int, ...], rows: int, columns: int, transposed: bool
) -> np.ndarray:
    shape = (*batch, columns, rows) if transposed else (*batch, rows, columns)
    if dtype in EPS:
        a = rng.standard_normal(shape).astype(np.float64 if dtype == "f64" else np.float32)
        a = float_to_bf16(a) if dtype == "bf16" else a
    else:
        a = rng.integers(-(2**31), 2**31, shape).astype(NUMPY[dtype])  # products wrap around
    return a.swapaxes(-1, -2) if transposed else a


def real(a: np.ndarray, dtype: str) -> np.ndarray:
    return bf16_to_float(a).astype(np.float64) if dtype == "bf16" else a.astype(np.float64) if dtype in EPS else a


def plus_one(dtype: str) -> tuple[RowProgram, Storage]:
    out: Storage = "f32" if dtype == "bf16" else dtype  # type: ignore[assignment]
    domain: Domain = out  # type: ignore[assignment]
    return RowProgram((), (Step("add", "y", ("acc", 1), domain), Step("store", "", (-1, "y"))), outer_rank=3), out


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f64", "i32", "i64"])
def test_products_of_any_layout(dtype: str, isa: str) -> None:
    """Each of a, b and c plain and transposed, over ragged sizes, batches and numbers of workers."""
    tile, out = plus_one(dtype)
    kernel = build_kernel(MatmulSpec(dtype, 2, tile, out), isa, SANITIZE)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    for batch, m, n, k in SHAPES:
        for layout in range(8):
            a, b = draw(rng, dtype, batch, m, k, bool(layout & 1)), draw(rng, dtype, batch, k, n, bool(layout & 2))
            c = np.zeros((*batch, n, m) if layout & 4 else (*batch, m, n), NUMPY[out])
            c = c.swapaxes(-1, -2) if layout & 4 else c
            x, y = real(a, dtype), real(b, dtype)
            with np.errstate(over="ignore"):
                want = x @ y + np.ones((), y.dtype)
            for workers in (1, 2, 3):
                c[...] = 0
                kernel([a, b, c], [*batch, m, n, k, *strides(a), *strides(b), *strides(c)], workers=workers)
                if dtype in EPS:
                    norms = np.linalg.norm(x, axis=-1)[..., None] * np.linalg.norm(y, axis=-2)[..., None, :]
                    assert (np.abs(c - want) <= EPS[dtype] * (4 * np.sqrt(k) * norms + 2)).all()
                else:
                    np.testing.assert_array_equal(c, want)


@pytest.mark.parametrize("isa", LEVELS)
def test_a_tile_with_operands_of_every_kind(isa: str) -> None:
    """scale * acc + a bias per column + a scalar per row, GELU-free so that exactness shows; a second store in bf16; b is
    one matrix for the whole batch."""
    program = RowProgram(
        (Operand("f32"), Operand("f32", "broadcast"), Operand("f32", "strided"), Operand("bf16")),
        (
            Step("mul", "s", ("acc", 0.5)), Step("load", "b", (0,)), Step("add", "sb", ("s", "b")), Step("load", "r", (1,)),
            Step("add", "sbr", ("sb", "r")), Step("load", "t", (2,)), Step("add", "y", ("sbr", "t")),
            Step("store", "", (-1, "y")), Step("store", "", (3, "y")),
        ),
        outer_rank=2,
    )  # fmt: skip
    kernel = build_kernel(MatmulSpec("f32", 1, program), isa, SANITIZE)
    rng = np.random.default_rng(2)
    batch, m, n, k = 3, 10, 37, 4
    a, b = (rng.integers(-8, 8, shape).astype(np.float32) for shape in ((batch, m, k), (k, n)))
    bias, row, table = (rng.integers(-8, 8, shape).astype(np.float32) for shape in ((n,), (batch, m), (n, m)))
    c, low = np.zeros((batch, m, n), np.float32), np.zeros((batch, m, n), np.uint16)
    want = 0.5 * (a @ b) + bias + row[:, :, None] + table.T
    dims = [batch, m, n, k, m * k, k, 1, 0, n, 1, m * n, n, 1, 0, 0, 1, m, 1, 0, 0, 1, m, m * n, n, 1]
    for workers in (1, 2):
        c[...], low[...] = 0, 0
        kernel([a, b, c, bias, row, table, low], dims, workers=workers)
        np.testing.assert_array_equal(c, want)
        np.testing.assert_array_equal(low, float_to_bf16(want))


def test_no_batch() -> None:
    tile = RowProgram((), (Step("store", "", (-1, "acc")),))
    kernel = build_kernel(MatmulSpec("f32", 0, tile), RUNNABLE[-1], SANITIZE)
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(12, dtype=np.float32).reshape(3, 4)
    c = np.zeros((2, 4), np.float32)
    kernel([a, b, c], [2, 4, 3, 3, 1, 4, 1, 4, 1])
    np.testing.assert_array_equal(c, a @ b)


def test_scratch_follows_k_alone() -> None:
    tile, out = plus_one("bf16")
    size = scratch_bytes(MatmulSpec("bf16", 2, tile, out), [symbol("b"), 2, symbol("m"), 7, symbol("k")], "avx2")
    assert isinstance(size, Expr)
    assert str(size).count("k") > 0 and "m" not in str(size)
    assert scratch_bytes(MatmulSpec("i64", 2, *plus_one("i64")), [1] * 5, "avx2") == 0


def test_a_gather_is_refused() -> None:
    tile = RowProgram((Operand("i64", "broadcast"), Operand("f32", index=0)), (Step("store", "", (-1, "acc")),))
    with pytest.raises(LoweringError, match="gather"):
        render(MatmulSpec("f32", 0, tile), "avx2", "k")
