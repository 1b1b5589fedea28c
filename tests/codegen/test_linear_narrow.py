"""Linears whose weights are narrower than x - int8 and int4 - against numpy, at every ISA level, size and thread count.

bf16 x: tolerance per output as in ``test_linear``, ``4 * sqrt(K) * eps * |x row| * |w row|``. int8 x with int4 weights: equal to
the last bit to the arithmetic that the numbers contract fixes (int32 sums of a group, then f32 in the order of the groups).
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

from planish.backends.cpu.packing import pack_scales, packed
from planish.codegen.linear import scratch_bytes
from planish.codegen.specs import LinearSpec, Operand, RowProgram
from planish.codegen.specs import Step as S
from planish.compiler.types import bf16_to_float, float_to_bf16

#: Set by the test that runs this file again under the sanitizers.
SANITIZE = os.environ.get("PLANISH_TEST_SANITIZE") == "1"
EPS = float(np.finfo(np.float32).eps)
GUARD = 77.0
F32, SCALAR = Operand("f32"), Operand("f32", "broadcast")

#: y = acc + bias, with rows of y wider than N.
BIAS = RowProgram((F32, F32), (S("load", "b", (0,)), S("add", "y", ("acc", "b")), S("store", "", (1, "y"))))


def spec_of(compute: str, scales: str = "f32", **more: object) -> LinearSpec:
    return LinearSpec(compute, **{"tile": BIAS, "scales": scales, **more})  # type: ignore[arg-type]


def constants(compute: str, isa: str, w: np.ndarray, s: np.ndarray, scales: str) -> list[np.ndarray]:
    """The packed weight ``[N, K]`` and its scales ``[N, groups]``."""
    weight = np.asarray(packed(w, compute, isa))
    if compute == "w8a16":
        return [weight, np.ascontiguousarray(s[:, 0])]
    return [weight, pack_scales(float_to_bf16(s) if scales == "bf16" else s, isa)]


def exact(x: np.ndarray, w: np.ndarray, s: np.ndarray, row_scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What ``w4a8`` gives, operation by operation in f32."""
    groups, total = s.shape[1], np.zeros((len(x), len(w)), np.float32)
    for part, of_weight, scale in zip(np.split(x, groups, 1), np.split(w, groups, 1), s.T, strict=True):
        sums = part.astype(np.int64) @ of_weight.astype(np.int64).T
        total = total + sums.astype(np.float32) * scale
    return total * row_scale[:, None] + bias


def product(
    compute: str, isa: str, x: np.ndarray, w: np.ndarray, s: np.ndarray, bias: np.ndarray, *, scales: str = "f32",
    row_scale: np.ndarray | None = None, workers: int = 1, ldx: int | None = None,
) -> np.ndarray:  # fmt: skip
    """The kernel on x as stored, in rows ``ldx`` apart; nothing lies behind the last element of x."""
    (m, k), n = x.shape, len(w)
    pitch = ldx or k
    memory = np.zeros((m - 1) * pitch + k, x.dtype)
    np.lib.stride_tricks.as_strided(memory, x.shape, (pitch * x.itemsize, x.itemsize))[...] = x
    y = np.full((m, n + 3), GUARD, np.float32)
    rows = [] if row_scale is None else [row_scale]
    sizes = [] if compute == "w8a16" else [k // s.shape[1]]
    kernel = build_kernel(spec_of(compute, scales), isa, SANITIZE)
    kernel([memory, *rows, *constants(compute, isa, w, s, scales), bias, y], [m, n, k, pitch, 0, n + 3, *sizes],
           workers=workers)  # fmt: skip
    assert (y[:, n:] == GUARD).all()
    return y[:, :n]


def data(compute: str, m: int, n: int, k: int, groups: int, scales: str = "f32") -> tuple[np.ndarray, ...]:
    """x as stored, w, the scales of w, bias."""
    rng = np.random.default_rng(m * 10007 + n * 101 + k + groups)
    low, high = (-127, 128) if compute == "w8a16" else (-8, 8)
    w = rng.integers(low, high, (n, k)).astype(np.int8)
    s = rng.uniform(0.5, 2, (n, groups)).astype(np.float32) * rng.choice([-1, 1], (n, groups)).astype(np.float32)
    s = bf16_to_float(float_to_bf16(s)) if scales == "bf16" else s
    x = rng.standard_normal((m, k)).astype(np.float32)
    stored = rng.integers(-127, 128, (m, k)).astype(np.int8) if compute == "w4a8" else float_to_bf16(x)
    return stored, w, s, rng.standard_normal(n).astype(np.float32)


def check(
    compute: str, isa: str, m: int, n: int, k: int, groups: int = 1, workers: int = 1, scales: str = "f32",
    ldx: int | None = None,
) -> None:  # fmt: skip
    x, w, s, bias = data(compute, m, n, k, groups, scales)
    if compute == "w4a8":
        row_scale = np.random.default_rng(m).uniform(0.01, 0.1, m).astype(np.float32)
        got = product(compute, isa, x, w, s, bias, scales=scales, row_scale=row_scale, workers=workers, ldx=ldx)
        np.testing.assert_array_equal(got, exact(x, w, s, row_scale, bias))
    else:
        got = product(compute, isa, x, w, s, bias, scales=scales, workers=workers, ldx=ldx)
        wide, real = bf16_to_float(x).astype(np.float64), w * np.repeat(s, k // groups, 1).astype(np.float64)
        bound = 4 * np.sqrt(k) * EPS * np.linalg.norm(wide, axis=1)[:, None] * np.linalg.norm(real, axis=1)
        assert (np.abs(got - (wide @ real.T + bias)) <= bound + EPS * np.abs(bias)).all()
    assert got.std() > 0 or got.size == 1


#: M, N, K, groups: tails of N, odd numbers of groups, groups of 32 to 160.
GROUPED = [(1, 1, 32, 1), (1, 100, 96, 3), (2, 16, 64, 1), (3, 33, 320, 5), (5, 47, 128, 2), (8, 48, 160, 1), (9, 49, 96, 3),
           (12, 97, 64, 2), (17, 31, 384, 3), (40, 130, 128, 4), (129, 50, 32, 1)]  # fmt: skip
PLAIN = [(1, 1, 1), (1, 100, 77), (2, 3, 5), (2, 50, 6), (3, 16, 33), (8, 48, 4), (9, 49, 8), (12, 47, 129), (40, 200, 130),
         (129, 50, 30)]  # fmt: skip


@pytest.mark.parametrize("isa", RUNNABLE)
def test_int8_weights_of_ragged_sizes(isa: str) -> None:
    for shape in PLAIN:
        for workers in (1, 2):
            check("w8a16", isa, *shape, workers=workers)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("scales", ["f32", "bf16"])
@pytest.mark.parametrize("compute", ["w4a16", "w4a8"])
def test_int4_weights_of_ragged_sizes(compute: str, scales: str, isa: str) -> None:
    for shape in GROUPED:
        for workers in (1, 2, 3):
            check(compute, isa, *shape, workers=workers, scales=scales)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 40), n=st.integers(1, 120), groups=st.integers(1, 5), size=st.sampled_from((32, 64, 96, 128)),
    isa=st.sampled_from(RUNNABLE), workers=st.integers(1, 3),
)  # fmt: skip
def test_any_size(m: int, n: int, groups: int, size: int, isa: str, workers: int) -> None:
    check("w8a16", isa, m, n, groups * size - 1, workers=workers)
    for compute in ("w4a16", "w4a8"):
        check(compute, isa, m, n, groups * size, groups, workers, "bf16")


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("compute", ["w8a16", "w4a16", "w4a8"])
def test_rows_of_x_may_lie_apart(compute: str, isa: str) -> None:
    check(
        compute, isa, 11, 20, 64, 1 if compute == "w8a16" else 2, scales="bf16" if compute != "w8a16" else "f32", ldx=91
    )


@pytest.mark.parametrize("isa", RUNNABLE)
def test_every_weight_there_is(isa: str) -> None:
    """x picks one input at a time, so the kernel gives back the weights themselves."""
    for compute, low, high in (("w8a16", -128, 128), ("w4a16", -8, 8), ("w4a8", -8, 8)):
        k = 256
        w = np.resize(np.arange(low, high), (4, k)).astype(np.int8)
        w[1:] = np.random.default_rng(0).permuted(w[1:], axis=1)
        one = np.eye(k, dtype=np.int8) if compute == "w4a8" else float_to_bf16(np.eye(k, dtype=np.float32))
        groups = 1 if compute == "w8a16" else 2
        row_scale = np.ones(k, np.float32) if compute == "w4a8" else None
        scales = "f32" if compute == "w8a16" else "bf16"
        for rows in (1, 2, 3, k):
            got = product(compute, isa, one[:rows], w, np.ones((4, groups), np.float32), np.zeros(4, np.float32),
                          scales=scales, row_scale=None if row_scale is None else row_scale[:rows])  # fmt: skip
            np.testing.assert_array_equal(got, w.T[:rows])


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("x", "w"), [(127, 7), (127, -8), (-128, 7), (-128, -8)])
def test_int4_sums_do_not_saturate(isa: str, x: int, w: int) -> None:
    """The largest products, all of one sign."""
    k = 4096
    bias, ones = np.zeros(50, np.float32), np.ones(9, np.float32)
    xs, ws, s = np.full((9, k), x, np.int8), np.full((50, k), w, np.int8), np.ones((50, 1), np.float32)
    got = product("w4a8", isa, xs, ws, s, bias, scales="bf16", row_scale=ones)
    np.testing.assert_array_equal(got, np.full((9, 50), x * w * k, np.float32))


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("compute", ["w8a16", "w4a16", "w4a8"])
def test_rows_are_made_before_and_finished_behind(compute: str, isa: str) -> None:
    """x computed by the prologue, and a row program that needs whole rows: one block, several, rows and columns shared out."""
    n, k, groups = 83, 96, 1 if compute == "w8a16" else 3
    quantised = compute == "w4a8"
    load = S("load", "x", (0,))
    if quantised:
        steps = (load, S("absmax", "a", ("x",)), S("div", "i", (127.0, "a")), S("quantize_i8", "q", ("x", "i"), "i32", "row"),
                 S("div", "s", ("a", 127.0)), S("store", "", (-1, "q")), S("store", "", (-2, "s")))  # fmt: skip
    else:
        steps = (load, S("store", "", (-1, "x")))
    tile = RowProgram((F32,), (S("load", "b", (0,)), S("add", "y", ("acc", "b")), S("store", "", (-1, "y"))))
    row = RowProgram((F32,), (S("max", "m", ("row",)), S("sub", "o", ("row", "m")), S("store", "", (0, "o"))))
    spec = spec_of(
        compute, "bf16" if compute != "w8a16" else "f32", prologue=RowProgram((F32,), steps), tile=tile, row=row
    )
    kernel = build_kernel(spec, isa, SANITIZE)
    for m in (1, 5, 40, 300):
        _, w, s, bias = data(compute, m, n, k, groups, spec.scales)
        x = np.random.default_rng(m).standard_normal((m, k)).astype(np.float32)
        if quantised:
            amax = np.abs(x).max(axis=1)
            q = np.rint(x * (np.float32(127) / amax)[:, None]).astype(np.int8)
            y = exact(q, w, s, amax / np.float32(127), bias)
        else:
            wide = bf16_to_float(float_to_bf16(x)).astype(np.float64)
            y = wide @ (w * np.repeat(s, k // groups, 1).astype(np.float64)).T + bias
        want = y - y.max(axis=1, keepdims=True)
        for workers in (1, 2, 3):
            got = np.zeros((m, n), np.float32)
            pointers = [None, *([None] if quantised else []), *constants(compute, isa, w, s, spec.scales), x, bias, got]
            kernel(pointers, [m, n, k, k, k, 0, n, *([] if compute == "w8a16" else [k // groups])], workers=workers)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-3 if compute == "w8a16" else 1e-4)


def test_sums_of_x_need_scratch() -> None:
    """``w4a8`` keeps the sum of x over each group, of every row of a block."""
    level = RUNNABLE[-1]
    assert scratch_bytes(spec_of("w4a16"), [5, 48, 256, 256, 0, 48, 64], level) == 0
    small, large = (scratch_bytes(spec_of("w4a8"), [5, 48, 256, 256, 0, 48, g], level) for g in (128, 32))
    assert isinstance(small, int) and isinstance(large, int) and 0 < small < large


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="is what runs these tests")
def test_under_sanitizers() -> None:
    """These tests again, with the kernels built for the address and undefined-behaviour sanitizers."""
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here), "-m", "not slow"],
        env=sanitizer_environment(), cwd=here.parent.parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
