"""The product itself: every dtype, ISA level, ragged size and thread count against numpy.

Tolerance, normwise per output: ``4 * sqrt(K) * eps * |x row| * |w row|`` with the f32 ``eps`` (bf16 products are exact in f32
and accumulate there; the operands are compared as stored). int8 sums are compared exactly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import RUNNABLE, build_kernel, sanitizer_environment

from planish.backends.cpu.packing import pack_bf16, pack_f32, pack_w8
from planish.codegen.linear import MAX_K_INT8, render, scratch_bytes, tile_shape
from planish.codegen.specs import LinearSpec, Operand, RowProgram, Step
from planish.compiler.dims import symbol
from planish.compiler.errors import LoweringError
from planish.compiler.types import bf16_to_float, float_to_bf16

#: Set by the test that runs this file again under the sanitizers.
SANITIZE = os.environ.get("PLANISH_TEST_SANITIZE") == "1"
EPS = float(np.finfo(np.float32).eps)
GUARD = 77.0
SHAPES = [
    (1, 1, 1), (1, 1000, 77), (2, 3, 5), (3, 16, 33), (5, 17, 4), (7, 31, 3), (8, 48, 4), (9, 49, 8), (12, 47, 129),
    (13, 97, 7), (31, 64, 1), (40, 200, 130), (67, 33, 31), (129, 50, 30),
]  # fmt: skip

#: y = acc + bias, with rows of y wider than N.
BIAS = RowProgram(
    (Operand("f32"), Operand("f32")),
    (Step("load", "b", (0,)), Step("add", "y", ("acc", "b")), Step("store", "", (1, "y"))),
)


def product(
    compute: str, isa: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray, workers: int = 1, ldx: int | None = None
) -> np.ndarray:
    """``x @ w.T + bias`` by the kernel; int8 with scales of one; x as stored, in rows ``ldx`` apart."""
    (m, k), n = x.shape, w.shape[0]
    pitch = ldx or k
    memory = np.zeros((m - 1) * pitch + k, x.dtype)  # ends with the last element of x: nothing may be read behind it
    np.lib.stride_tricks.as_strided(memory, x.shape, (pitch * x.itemsize, x.itemsize))[...] = x
    y = np.full((m, n + 3), GUARD, np.float32)
    pointers: list[np.ndarray | None]
    if compute == "w8a8":
        packed, compensation = pack_w8(w, isa)
        pointers = [memory, np.ones(m, np.float32), packed, np.ones(n, np.float32), compensation]
    else:
        pointers = [memory, pack_f32(w, isa) if compute == "f32" else pack_bf16(w, isa)]
    kernel = build_kernel(LinearSpec(compute, BIAS), isa, SANITIZE)  # type: ignore[arg-type]
    kernel([*pointers, bias, y], [m, n, k, pitch, 0, n + 3], workers=workers)
    assert (y[:, n:] == GUARD).all()
    return y[:, :n]


def check_float(compute: str, isa: str, m: int, n: int, k: int, workers: int, ldx: int | None = None) -> None:
    rng = np.random.default_rng(m * 10007 + n * 101 + k)
    x, w = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((n, k)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    if compute == "bf16":
        got = product(compute, isa, float_to_bf16(x), float_to_bf16(w), bias, workers, ldx)
        x, w = bf16_to_float(float_to_bf16(x)), bf16_to_float(float_to_bf16(w))
    else:
        got = product(compute, isa, x, w, bias, workers, ldx)
    want = x.astype(np.float64) @ w.astype(np.float64).T + bias
    bound = 4 * np.sqrt(k) * EPS * np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)
    assert (np.abs(got - want) <= bound + EPS * np.abs(bias)).all()
    assert k == 1 or got.std() > 0 or got.size == 1


def check_int8(isa: str, x: np.ndarray, w: np.ndarray, workers: int) -> None:
    """x holds value + 128; the sums, as float32, are those of exact arithmetic."""
    got = product("w8a8", isa, x, w, np.zeros(w.shape[0], np.float32), workers)
    sums = (x.astype(np.int64) - 128) @ w.astype(np.int64).T
    np.testing.assert_array_equal(got, sums.astype(np.float32))


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_float_products_of_ragged_sizes(compute: str, isa: str) -> None:
    for shape in SHAPES:
        for workers in (1, 2):
            check_float(compute, isa, *shape, workers)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_int8_sums_are_exact_for_ragged_sizes(isa: str) -> None:
    rng = np.random.default_rng(5)
    for m, n, k in SHAPES:
        x = rng.integers(1, 256, (m, k)).astype(np.uint8)
        w = rng.integers(-127, 128, (n, k)).astype(np.int8)
        for workers in (1, 2):
            check_int8(isa, x, w, workers)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("x", "w"), [(255, 127), (255, -127), (1, 127), (1, -127), (0, -127)])
def test_int8_sums_do_not_saturate(isa: str, x: int, w: int) -> None:
    """The largest products, all of one sign: sixteen bits would saturate, and f32 stays exact below 2^24."""
    k = 1032
    check_int8(isa, np.full((9, k), x, np.uint8), np.full((50, k), w, np.int8), 1)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_int8_sums_reach_the_limit_of_int32(isa: str) -> None:
    check_int8(isa, np.full((1, MAX_K_INT8), 255, np.uint8), np.full((1, MAX_K_INT8), 127, np.int8), 1)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_rows_of_x_may_lie_apart(compute: str, isa: str) -> None:
    check_float(compute, isa, 11, 20, 13, 1, ldx=29)


@pytest.mark.parametrize("compute", ["f32", "bf16"])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_many_workers(compute: str, workers: int) -> None:
    """Rows are shared out where there are many, columns where there are few; both halves of the decision."""
    for m in (2, 24 * workers - 1, 24 * workers, 24 * workers + 1):
        check_float(compute, RUNNABLE[-1], m, 131, 64, workers)


@settings(max_examples=25, deadline=None)
@given(m=st.integers(1, 40), n=st.integers(1, 120), k=st.integers(1, 70), isa=st.sampled_from(RUNNABLE))
def test_any_size(m: int, n: int, k: int, isa: str) -> None:
    check_float("f32", isa, m, n, k, 1)
    check_float("bf16", isa, m, n, k, 1)
    rng = np.random.default_rng(k)
    check_int8(isa, rng.integers(1, 256, (m, k)).astype(np.uint8), rng.integers(-127, 128, (n, k)).astype(np.int8), 1)


def test_no_rows_is_no_work() -> None:
    y = np.full((1, 4), GUARD, np.float32)
    kernel = build_kernel(LinearSpec("f32", BIAS), RUNNABLE[-1], SANITIZE)
    weight = pack_f32(np.ones((4, 3), np.float32), RUNNABLE[-1])
    kernel([np.ones(3, np.float32), weight, np.zeros(4, np.float32), y], [0, 4, 3, 3, 0, 4])
    assert (y == GUARD).all()


def test_a_tile_that_reduces_is_refused() -> None:
    tile = RowProgram((Operand("f32"),), (Step("sum", "s", ("acc",)), Step("store", "", (0, "s"))))
    with pytest.raises(LoweringError, match="sum"):
        render(LinearSpec("f32", tile), "avx2", "k")


def test_an_int8_row_that_could_overflow_is_refused() -> None:
    with pytest.raises(LoweringError, match="overflow"):
        render(LinearSpec("w8a8", BIAS, k=MAX_K_INT8 + 1), "avx2", "k")


def test_scratch_needs_a_weight_of_known_shape() -> None:
    assert scratch_bytes(LinearSpec("f32", BIAS), [symbol("m"), 5, 7, 7], "avx2") == 0
    with pytest.raises(LoweringError, match="unknown shape"):
        scratch_bytes(LinearSpec("f32", BIAS), [1, symbol("n"), 7, 7], "avx2")


def test_tiles_leave_registers_for_their_operands() -> None:
    for compute in ("f32", "bf16", "w8a8"):
        for isa, registers in (("portable", 16), ("avx2", 16), ("avx512-vnni", 32), ("avx512-bf16", 32)):
            shape = tile_shape(compute, isa)
            assert shape.rows * shape.vectors + shape.vectors + 1 <= registers


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="is what runs these tests")
@pytest.mark.parametrize("file", ["test_linear.py", "test_linear_fused.py", "test_matmul.py", "test_static_int8.py"])
def test_under_sanitizers(file: str) -> None:
    """The tests of generated products again, with the kernels built for the address and undefined-behaviour sanitizers."""
    environment = sanitizer_environment()
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here / file), "-m", "not slow"],
        env=environment, cwd=here.parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
