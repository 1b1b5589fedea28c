"""What is fused around a product: prologues, tile programs with several operands, row programs; against numpy."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from kernel_harness import RUNNABLE, build_kernel

from planish.backends.cpu.packing import pack_bf16, pack_f32, pack_w8
from planish.codegen.specs import LinearSpec, Operand, RowProgram, Step
from planish.compiler.types import bf16_to_float, float_to_bf16

SANITIZE = os.environ.get("PLANISH_TEST_SANITIZE") == "1"
#: Under the sanitizers, where a build takes long: plain C++ and the highest level.
LEVELS = [RUNNABLE[0], RUNNABLE[-1]] if SANITIZE else RUNNABLE
S = Step


def quantise(source: str, values: int, scales: int) -> tuple[Step, ...]:
    """Dynamic int8 of a row: biased bytes to operand ``values``, the row's scale to ``scales``."""
    return (
        S("absmax", "amax", (source,)),
        S("div", "scale", ("amax", 127.0)),
        S("eq", "empty", ("amax", 0.0), "bool"),
        S("div", "inverse", (127.0, "amax")),
        S("where", "inv", ("empty", 0.0, "inverse")),
        S("quantize_i8", "q", (source, "inv"), "i32"),
        S("store", "", (values, "q")),
        S("store", "", (scales, "scale")),
    )


def normalise(source: str, gamma: int, beta: int) -> tuple[Step, ...]:
    """Layer norm of a row; the result is called ``o``."""
    return (
        S("sum", "s", (source,)), S("length", "n", (), "i64"), S("cast", "nf", ("n",)), S("div", "mu", ("s", "nf")),
        S("sub", "c", (source, "mu")), S("mul", "cc", ("c", "c")), S("sum", "v", ("cc",)), S("div", "var", ("v", "nf")),
        S("add", "ve", ("var", 1e-5)), S("rsqrt", "rs", ("ve",)), S("mul", "nn", ("c", "rs")), S("load", "g", (gamma,)),
        S("load", "be", (beta,)), S("mul", "ng", ("nn", "g")), S("add", "o", ("ng", "be")),
    )  # fmt: skip


F32, SCALAR = Operand("f32"), Operand("f32", "broadcast")
BIAS = (S("load", "b", (0,)), S("add", "y", ("acc", "b")))


def np_quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    amax = np.abs(x).max(axis=1).astype(np.float32)
    inv = np.where(amax == 0, np.float32(0), np.float32(127) / np.where(amax == 0, 1, amax)).astype(np.float32)
    return np.clip(np.rint(x * inv[:, None]), -127, 127), amax / np.float32(127)


def np_normalise(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    c = x - x.mean(axis=1, keepdims=True)
    return c / np.sqrt((c * c).mean(axis=1, keepdims=True) + 1e-5) * gamma + beta


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("sized", [True, False])
def test_int8_block_quantise_product_residual_norm_quantise(isa: str, sized: bool) -> None:
    """x -> int8 -> product + bias + residual -> layer norm -> f32, and int8 with its scale for the next product.

    The numbers of rows cover one block, several, rows shared out and columns shared out.
    """
    n, k = (96, 64) if sized else (83, 61)
    spec = LinearSpec(
        "w8a8",
        RowProgram((F32, F32), (*BIAS, S("load", "r", (1,)), S("add", "h", ("y", "r")), S("store", "", (-1, "h")))),
        RowProgram((F32,), (S("load", "x", (0,)), *quantise("x", -1, -2)), inner_size=k if sized else None),
        RowProgram(
            (F32, F32, F32, Operand("i8b"), SCALAR),
            (*normalise("row", 0, 1), S("store", "", (2, "o")), *quantise("o", 3, 4)),
            inner_size=n if sized else None,
        ),
    )
    kernel = build_kernel(spec, isa, SANITIZE)
    rng = np.random.default_rng(2)
    w = rng.integers(-127, 128, (n, k)).astype(np.int8)
    column = rng.uniform(0.001, 0.002, n).astype(np.float32)
    bias, gamma, beta = (rng.standard_normal(n).astype(np.float32) for _ in range(3))
    packed, compensation = pack_w8(w, isa)
    for m in (1, 5, 40, 70, 600):
        x, residual = (rng.standard_normal((m, size)).astype(np.float32) for size in (k, n))
        x[m // 2] = 0
        q, scale = np_quantise(x)
        h = q @ w.T.astype(np.float64) * scale[:, None] * column + bias + residual
        want = np_normalise(h, gamma, beta)
        for workers in (1, 2, 3):
            y, bytes_, scales = np.zeros((m, n), np.float32), np.zeros((m, n + 1), np.uint8), np.zeros(m, np.float32)
            kernel(
                [None, None, packed, column, compensation, x, bias, residual, gamma, beta, y, bytes_, scales],
                [m, n, k, k, k, 0, n, 0, 0, n, n + 1, 1],
                workers=workers,
            )
            np.testing.assert_allclose(y, want, rtol=2e-4, atol=2e-4)
            again, again_scale = np_quantise(y)
            np.testing.assert_allclose(scales, again_scale, rtol=1e-6)
            np.testing.assert_array_equal(bytes_[:, :n], again + 128)
            assert not bytes_[:, n].any()


@pytest.mark.parametrize("isa", LEVELS)
def test_a_row_that_is_not_finite_gives_nan_and_a_zero_row_gives_the_bias(isa: str) -> None:
    spec = LinearSpec(
        "w8a8",
        RowProgram((F32, F32), (*BIAS, S("store", "", (1, "y")))),
        RowProgram((F32,), (S("load", "x", (0,)), *quantise("x", -1, -2))),
    )
    kernel = build_kernel(spec, isa, SANITIZE)
    m, n, k = 5, 20, 9
    x, bias = np.ones((m, k), np.float32), np.arange(n, dtype=np.float32)
    x[0, 3], x[1, 8], x[2] = np.nan, -np.inf, 0
    packed, compensation = pack_w8(np.ones((n, k), np.int8), isa)
    y = np.zeros((m, n), np.float32)
    kernel([None, None, packed, np.ones(n, np.float32), compensation, x, bias, y], [m, n, k, k, k, 0, n])
    assert np.isnan(y[:2]).all()
    np.testing.assert_array_equal(y[2], bias)
    np.testing.assert_allclose(y[3:], np.tile(k + bias, (2, 1)), rtol=1e-6)


@pytest.mark.parametrize("isa", LEVELS)
def test_a_norm_before_and_many_stores_after(isa: str) -> None:
    """Layer norm as prologue, GELU on the tile, stores in f32, bf16, u8 and to a strided matrix; a scalar per row, a row
    picked by an index, the column number and an extra integer as operands."""
    tile = RowProgram(
        (F32, F32, Operand("bf16"), Operand("u8"), Operand("f32", "strided"), SCALAR, Operand("i64", "broadcast"),
         Operand("f32", index=6)),
        (
            *BIAS, S("gelu", "g", ("y",), mode="erf"), S("store", "", (1, "g")), S("store", "", (2, "g")),
            S("relu", "p", ("y",)), S("mul", "p10", ("p", 10.0)), S("store", "", (3, "p10")),
            S("load", "s", (5,)), S("load", "t", (7,)), S("mul", "st", ("t", "s")), S("inner", "j", (), "i64"),
            S("dim", "e", (0,), "i64"), S("add", "je", ("j", "e"), "i64"), S("cast", "jf", ("je",)),
            S("add", "last", ("st", "jf")), S("store", "", (4, "last")),
        ),
        extra_dims=1,
    )  # fmt: skip
    before = RowProgram((F32, F32, F32), (S("load", "x", (0,)), *normalise("x", 1, 2), S("store", "", (-1, "o"))))
    kernel = build_kernel(LinearSpec("f32", tile, before), isa, SANITIZE)
    rng = np.random.default_rng(3)
    for m, n, k in [(1, 1, 2), (11, 37, 20), (60, 50, 33)]:
        x, gamma, beta = (rng.standard_normal(size).astype(np.float32) for size in ((m, k), k, k))
        w = (rng.standard_normal((n, k)) / np.sqrt(k)).astype(np.float32)  # no subnormal GELU, nothing beyond 255
        bias, per_row, table = (rng.standard_normal(size).astype(np.float32) for size in (n, m, (4, n)))
        index = rng.integers(-4, 4, m)
        y = np_normalise(x.astype(np.float64), gamma, beta) @ w.T.astype(np.float64) + bias
        gelu = y * 0.5 * (1 + erf(y / np.sqrt(2)))
        for workers in (1, 2):
            first, second = np.zeros((m, n), np.float32), np.zeros((m, n), np.uint16)
            third, fourth = np.zeros((m, n), np.uint8), np.zeros((n, m), np.float32)
            kernel(
                [None, pack_f32(w, isa), x, gamma, beta, bias, first, second, third, fourth, per_row, index, table],
                [m, n, k, k, k, 0, 0, 0, n, n, n, 1, m, 1, 1, 0, n, 4, 1000],
                workers=workers,
            )
            assert kernel.error == 0
            np.testing.assert_allclose(first, gelu, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(second, float_to_bf16(first))
            assert (np.abs(third - np.floor(np.maximum(y, 0) * 10)) <= 1.01).all()
            want = table[index] * per_row[:, None] + np.arange(n) + 1000
            np.testing.assert_allclose(fourth.T, want, rtol=1e-6)


def test_an_index_out_of_range_sets_the_error() -> None:
    tile = RowProgram(
        (F32, Operand("i64", "broadcast"), Operand("f32", index=1)),
        (S("load", "t", (2,)), S("add", "y", ("acc", "t")), S("store", "", (0, "y"))),
    )
    kernel = build_kernel(LinearSpec("f32", tile), RUNNABLE[-1], SANITIZE)
    y = np.zeros((1, 3), np.float32)
    weight, table = pack_f32(np.ones((3, 1), np.float32), RUNNABLE[-1]), np.full((2, 3), 5, np.float32)
    kernel([np.ones((1, 1), np.float32), weight, y, np.array([2]), table], [1, 3, 1, 1, 3, 1, 0, 3, 2])
    assert kernel.error == 1
    np.testing.assert_array_equal(y, np.full((1, 3), 6, np.float32))


@pytest.mark.parametrize("isa", LEVELS)
def test_bf16_casts_before_and_quantises_whole_rows_after(isa: str) -> None:
    """f32 rows rounded to bf16, GELU of the fast class, int8 rows for the next product."""
    spec = LinearSpec(
        "bf16",
        RowProgram((F32,), (*BIAS, S("gelu", "g", ("y",), mode="erf,fast"), S("store", "", (-1, "g")))),
        RowProgram((F32,), (S("load", "x", (0,)), S("store", "", (-1, "x")))),
        RowProgram((Operand("i8b"), SCALAR), quantise("row", 0, 1)),
    )
    kernel = build_kernel(spec, isa, SANITIZE)
    rng = np.random.default_rng(4)
    for m, n, k in [(3, 200, 7), (65, 33, 32)]:
        x, w = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((n, k)).astype(np.float32)
        bias = rng.standard_normal(n).astype(np.float32)
        rounded = [bf16_to_float(float_to_bf16(a)).astype(np.float64) for a in (x, w)]
        y = rounded[0] @ rounded[1].T + bias
        gelu = y * 0.5 * (1 + erf(y / np.sqrt(2)))
        for workers in (1, 2):
            bytes_, scales = np.zeros((m, n), np.uint8), np.zeros(m, np.float32)
            kernel(
                [None, pack_bf16(float_to_bf16(w), isa), x, bias, bytes_, scales],
                [m, n, k, k, k, 0, n, 1],
                workers=workers,
            )
            got = (bytes_.astype(np.float64) - 128) * scales[:, None]
            assert (np.abs(got - gelu) <= scales[:, None] * 0.51 + 2e-3).all()
            assert (bytes_.max(axis=1) == 255).all() or (bytes_.min(axis=1) == 1).any()
