"""Row kernels alone: norms, softmax, gathers, copies and reductions over random shapes, strides and tails."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import row_programs as programs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import RUNNABLE, aligned, build_kernel, build_kernels

from planish.codegen.row import scratch_bytes
from planish.codegen.row_plan import RowPlan
from planish.codegen.specs import Operand, RowProgram
from planish.compiler.dims import evaluate, symbol
from planish.compiler.types import bf16_to_float, float_to_bf16

LENGTHS = [1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 64, 127, 384]


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * gamma + beta


def _check_quantised(y: np.ndarray, q: np.ndarray, scale: np.ndarray) -> None:
    """The int8 contract, bit by bit, on the floats ``y`` that were quantised."""
    largest = np.abs(y).max(-1, keepdims=True)
    with np.errstate(all="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, 0).astype(np.float32)
    np.testing.assert_array_equal(scale.reshape(largest.shape), largest / np.float32(127))
    np.testing.assert_array_equal(q, np.clip(np.rint(y * inverse), -127, 127))


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("size", [None, 384, 100])
def test_add_layer_norm_quantise(size: int | None, isa: str) -> None:
    kernel = build_kernel(programs.add_norm_quantize(size), isa)
    for n in [size] if size else LENGTHS:
        for rows in (1, 6):
            x, r, gamma, beta = _normal(rows, n), _normal(rows, n, seed=1), _normal(n, seed=2), _normal(n, seed=3)
            y, q = np.full((rows, n + 5), 7, np.float32), np.full((rows, n + 3), 99, np.uint8)
            scale = np.zeros(rows, np.float32)
            kernel([x, r, gamma, beta, y, q, scale], [rows, n, n, n, 0, 0, n + 5, n + 3, 1])
            if n > 1:
                np.testing.assert_allclose(y[:, :n], _layer_norm(x + r, gamma, beta), rtol=2e-5, atol=2e-5)
            _check_quantised(y[:, :n], q[:, :n].astype(np.int32) - 128, scale)
            assert (y[:, n:] == 7).all()
            assert (q[:, n:] == 99).all()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("size", [None, 48])
def test_softmax(size: int | None, isa: str) -> None:
    kernel = build_kernel(programs.softmax(size), isa)
    for n in [size] if size else [*LENGTHS, 9000]:
        x = _normal(5, n) * 20
        x[1, 0] = -np.inf
        x[2] = -np.inf
        x[3, n // 2] = np.nan
        y = np.empty_like(x)
        kernel([x, y], [5, n, n, n])
        want = torch.softmax(torch.from_numpy(x).double(), -1).numpy()
        np.testing.assert_allclose(y, want, rtol=4e-6, atol=1e-37)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_softmax_down_columns(isa: str) -> None:
    kernel = build_kernel(programs.softmax(inner="strided"), isa)
    x = _normal(37, 19)  # softmax over the 37, for each of the 19
    y = np.empty_like(x)
    kernel([x, y], [19, 37, 1, 19, 1, 19])
    np.testing.assert_allclose(y, torch.softmax(torch.from_numpy(x), 0).numpy(), rtol=4e-6)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("storage", ["f32", "bf16"])
def test_rms_norm(storage: str, isa: str) -> None:
    kernel = build_kernel(programs.rms_norm(storage), isa)  # type: ignore[arg-type]
    for n in LENGTHS:
        x, w = _normal(4, n), _normal(n, seed=1)
        stored = float_to_bf16(x) if storage == "bf16" else x
        y = np.zeros_like(stored)
        kernel([stored, w, y], [4, n, n, 0, n])
        wide = (bf16_to_float(stored) if storage == "bf16" else x).astype(np.float64)
        want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * w
        got = bf16_to_float(y) if storage == "bf16" else y
        np.testing.assert_allclose(got, want, rtol=2**-8 if storage == "bf16" else 1e-5, atol=1e-6)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("size", [None, 96])
def test_embedding_sum_norm_quantise(size: int | None, isa: str) -> None:
    batch, seq, n = 3, 5, size or 50
    kernel = build_kernel(programs.embed_norm_quantize(size), isa)
    words, positions, gamma, beta = _normal(11, n), _normal(8, n, seed=1), _normal(n, seed=2), _normal(n, seed=3)
    ids = np.random.default_rng(4).integers(0, 11, (batch, seq))
    ids[0, 0], ids[1, 1] = -1, -11  # count from the end
    y, q = np.zeros((batch, seq, n), np.float32), np.zeros((batch, seq, n), np.uint8)
    scale = np.zeros((batch, seq), np.float32)
    strides = [0, 0, n, 11, seq, 1, 0, n, 0, 0, 0, 0, seq * n, n, seq * n, n, seq, 1]
    arrays = [words, ids, positions, gamma, beta, y, q, scale]
    for workers in (1, 3):
        kernel(arrays, [batch, seq, n, *strides], workers=workers)
        assert kernel.error == 0
        np.testing.assert_allclose(y, _layer_norm(words[ids] + positions[:seq], gamma, beta), rtol=2e-5, atol=2e-5)
        _check_quantised(y, q.astype(np.int32) - 128, scale)
    ids[2, 3] = 11
    kernel(arrays, [batch, seq, n, *strides])
    assert kernel.error == 1
    np.testing.assert_allclose(y[2, 3], _layer_norm(words[0] + positions[3], gamma, beta), rtol=2e-5, atol=2e-5)
    ids[2, 3] = -12
    kernel(arrays, [batch, seq, n, *strides])
    assert kernel.error == 1


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("size", [None, 33])
def test_quantise_contract(size: int | None, isa: str) -> None:
    n = size or 40
    x = _normal(7, n)
    x[1] = 0
    x[2, 5], x[3, 6], x[4, 7] = np.nan, np.inf, -np.inf
    x[5] = np.linspace(-127, 127, n)
    x[5, :4] = [0.5, 1.5, 2.5, -0.5]  # ties go to even: amax is 127, so the inverse scale is 1
    q, scale = np.full((7, n), 55, np.int8), np.zeros(7, np.float32)
    build_kernel(programs.quantize(size=size), isa)([x, q, scale], [7, n, n, n, 1])
    finite = [0, 1, 5, 6]
    _check_quantised(x[finite], q[finite].astype(np.int32), scale[finite])
    assert scale[1] == 0
    assert (q[1] == 0).all()
    assert list(q[5, :4]) == [0, 2, 2, 0]
    assert np.isnan(scale[2:5]).all()
    assert (q[2:5] == 0).all()


def test_quantised_values_are_equal_on_all_levels() -> None:
    x = _normal(64, 100) * np.exp(_normal(64, 1, seed=1) * 5)
    got = []
    for isa in RUNNABLE:
        q, scale = np.zeros((64, 100), np.int8), np.zeros(64, np.float32)
        build_kernel(programs.quantize(), isa)([x, q, scale], [64, 100, 100, 100, 1])
        got.append((q, scale))
    assert len(np.unique(got[0][0])) > 200
    for q, scale in got[1:]:
        np.testing.assert_array_equal(q, got[0][0])
        np.testing.assert_array_equal(scale, got[0][1])


# -- shapes, strides, dtypes -----------------------------------------------------------------------------------------
_DTYPES = {"f64": np.float64, "f32": np.float32, "i64": np.int64, "i32": np.int32, "i16": np.int16, "i8": np.int8,
           "u8": np.uint8, "bool": np.bool_}  # fmt: skip
#: One storage type per outer rank: every element size is copied at some rank.
_BY_RANK = {0: "i64", 1: "f32", 2: "i16", 3: "u8"}
_COPIES = [(rank, out) for rank in _BY_RANK for out in ("unit", "strided")]


@st.composite
def _views(draw: st.DrawFn) -> np.ndarray:
    """A view of rank 1-4 with permuted, stepped, reversed or broadcast axes."""
    rank = draw(st.integers(1, 4))
    shape = [draw(st.sampled_from([0, 1, 2, 3, 7, 17, 40] if axis else [1, 2, 5, 33])) for axis in range(rank)]
    dtype = _DTYPES[_BY_RANK[rank - 1]]
    data: np.ndarray = (
        np.random.default_rng(draw(st.integers(0, 99))).integers(2, 100, [2 * s for s in shape]).astype(dtype)
    )
    view = data[tuple(slice(None, None, draw(st.sampled_from([1, 2, -1, -2]))) for _ in shape)]
    view = view[tuple(slice(s) for s in shape)].transpose(draw(st.permutations(range(rank))))
    return np.broadcast_to(view[:1], view.shape) if draw(st.booleans()) else view


@pytest.mark.parametrize("isa", RUNNABLE)
@given(view=_views(), out=st.sampled_from(["unit", "strided"]), workers=st.sampled_from([1, 3]))
@settings(max_examples=150)
def test_copies_of_any_view(view: np.ndarray, out: str, workers: int, isa: str) -> None:
    specs = tuple(programs.copy(_BY_RANK[r], _BY_RANK[r], r, "strided", o) for r, o in _COPIES)  # type: ignore[arg-type]
    kernel = build_kernels(specs, isa)[_COPIES.index((view.ndim - 1, out))]
    step = 3 if out == "strided" else 1
    written = np.ones((*view.shape[:-1], view.shape[-1] * step), view.dtype)
    strides = [s // view.itemsize for s in view.strides]
    outs = [s // view.itemsize for s in written.strides[:-1]]
    kernel([view, written], [*view.shape, *strides, *outs, *([step] if step > 1 else [])], workers=workers)
    np.testing.assert_array_equal(written[..., ::step], view)
    assert (np.delete(written, np.s_[::step], -1) == 1).all()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (17, 300), (300, 17), (129, 257), (64, 1000)])
def test_transposes(shape: tuple[int, int], isa: str) -> None:
    storages = {"f32": np.float32, "bf16": np.uint16, "i8": np.int8, "i64": np.int64}
    kernels = build_kernels(tuple(programs.copy(s, s, 1, "strided") for s in storages), isa)  # type: ignore[arg-type]
    for kernel, dtype in zip(kernels, storages.values(), strict=True):
        x = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
        for workers in (1, 2):
            y = np.zeros(shape[::-1], dtype)
            kernel([x, y], [shape[1], shape[0], 1, shape[1], shape[0]], workers=workers)
            np.testing.assert_array_equal(y, x.T)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_many_elements_are_split_among_workers(isa: str) -> None:
    x = _normal(100_003)
    for workers in (1, 2, 5):
        y = aligned(x.size, np.float32)
        build_kernel(programs.copy("f32", "f32", 0), isa)([x, y], [x.size], workers=workers)
        np.testing.assert_array_equal(y, x)
    rows = _normal(300, 211)
    y = np.empty_like(rows)
    build_kernel(programs.softmax(), isa)([rows, y], [300, 211, 211, 211], workers=4)
    np.testing.assert_allclose(y, torch.softmax(torch.from_numpy(rows), -1).numpy(), rtol=4e-6, atol=1e-30)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_16_bit_floats_exhaustively(isa: str) -> None:
    specs = [programs.copy(*types, 0) for types in (("bf16", "f32"), ("f32", "bf16"), ("f16", "f32"), ("f32", "f16"))]  # type: ignore[arg-type]
    built = build_kernels(tuple(specs), isa)
    kernels = {"bf16": built[:2], "f16": built[2:]}
    every = np.arange(65536, dtype=np.uint16)
    for storage, wide in (("bf16", bf16_to_float(every)), ("f16", every.view(np.float16).astype(np.float32))):
        out = np.empty(65536, np.float32)
        kernels[storage][0]([every, out], [65536])
        np.testing.assert_array_equal(out, wide)
    floats = np.arange(0, 2**32, 1021, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ties = (np.arange(0, 2**32, 2**16 // 8, dtype=np.uint64)).astype(np.uint32).view(np.float32)
    for values in (floats, ties):
        for storage, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
            narrow = np.empty(values.size, np.uint16)
            kernels[storage][1]([values, narrow], [values.size])
            got = torch.from_numpy(narrow.view(np.int16)).view(dtype).float().numpy()
            want = torch.from_numpy(values).to(dtype).float().numpy()
            if storage == "bf16" and isa == "avx512-bf16":  # its instruction takes denormals as zero
                got, want = (np.where(np.abs(values) < 2.0**-126, 0, a) for a in (got, want))
            np.testing.assert_array_equal(got, want)


_SOURCES = ("f32", "i64", "i32", "i8", "u8", "bool", "f64")


def _conversions() -> RowProgram:
    """Every source to every target: operands are the sources, then per source all targets."""
    s = programs.Steps()
    loads = [s("load", number, domain=programs.domain_of(source)) for number, source in enumerate(_SOURCES)]  # type: ignore[arg-type]
    for number, (value, to) in enumerate(itertools.product(loads, _DTYPES), len(_SOURCES)):
        s.store(number, s("cast", value, domain=programs.domain_of(to)))  # type: ignore[arg-type]
    operands = [Operand(d) for d in (*_SOURCES, *(to for _ in _SOURCES for to in _DTYPES))]  # type: ignore[arg-type]
    return RowProgram(tuple(operands), tuple(s.steps), 0)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_conversions(isa: str) -> None:
    x: dict[str, np.ndarray] = {
        s: np.random.default_rng(0).integers(-120, 120, 53).astype(_DTYPES[s]) for s in _SOURCES
    }
    x["f32"], x["f64"] = x["f32"] / np.float32(3), x["f64"] / 3
    targets: dict[tuple[str, str], np.ndarray] = {
        key: np.full(60, 1, _DTYPES[key[1]]) for key in itertools.product(_SOURCES, _DTYPES)
    }
    build_kernel(_conversions(), isa)([*x.values(), *targets.values()], [53])
    for (source, to), got in targets.items():
        inside = x[source] >= 0 if to == "u8" else np.full(53, True)
        np.testing.assert_array_equal(
            got[:53][inside], x[source].astype(_DTYPES[to])[inside], err_msg=f"{source} to {to}"
        )
        assert (got[53:] == 1).all()


# -- reductions ------------------------------------------------------------------------------------------------------
def _reductions(storage: str, kind: str) -> RowProgram:
    s = programs.Steps()
    x = s("load", 0, domain=kind)  # type: ignore[arg-type]
    ops = ("sum", "prod", "max", "min", "any", "all")
    for number, op in enumerate(ops, 1):
        domain = "bool" if op in ("any", "all") else kind
        s.store(number, s(op, x, domain=domain))  # type: ignore[arg-type]
    scalar = Operand(storage, "broadcast")  # type: ignore[arg-type]
    flag = Operand("bool", "broadcast")
    return RowProgram((Operand(storage), scalar, scalar, scalar, scalar, flag, flag), tuple(s.steps), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("storage", ["f32", "f64", "i32", "i64"])
def test_reductions(storage: str, isa: str) -> None:
    storages = ("f32", "f64", "i32", "i64")
    kernel = build_kernels(tuple(_reductions(s, s) for s in storages), isa)[storages.index(storage)]
    for n in [*LENGTHS, 0]:
        x: np.ndarray = np.random.default_rng(n).integers(-3, 4, (4, n)).astype(_DTYPES[storage])
        x[1] = 0
        if n:
            x[2, -1] = -9
        if storage[0] == "f" and n > 2:
            x[3, n // 2] = np.nan
        outs = [np.zeros(4, x.dtype) for _ in range(4)] + [np.zeros(4, bool) for _ in range(2)]
        kernel([x, *outs], [4, n, n, *([1] * 6)])
        wants = [x.sum(1), x.prod(1)] + ([x.max(1), x.min(1)] if n else [outs[2], outs[3]]) + [x.any(1), x.all(1)]
        for got, want in zip(outs, wants, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_reductions_down_columns(isa: str) -> None:
    """Mean and largest deviation over the middle axis of [batch, length, width]; bf16 and f32 operands."""
    s = programs.Steps()
    x = s("load", 0)
    mean = s.mean(x)
    s.store(1, mean)
    s.store(2, s("max", s("abs", s("sub", s("exp", x), s("exp", mean)))))
    scalar = Operand("f32", "broadcast")
    kernel = build_kernel(RowProgram((Operand("f32", "strided"), scalar, scalar), tuple(s.steps), 2), isa)
    for batch, length, width in [(1, 1, 1), (2, 5, 37), (3, 64, 16), (2, 130, 50), (1, 4097, 3), (2, 0, 4)]:
        x_ = _normal(batch, length, width)
        means, largest = np.zeros((batch, width), np.float32), np.zeros((batch, width), np.float32)
        dims = [batch, width, length, length * width, 1, width, width, 1, width, 1]
        for workers in (1, 3):
            kernel([x_, means, largest], dims, workers=workers)
            if length:
                want = x_.astype(np.float64).mean(1)
                np.testing.assert_allclose(means, want, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(
                    largest, np.abs(np.exp(x_) - np.exp(want)[:, None]).max(1), rtol=1e-5, atol=1e-6
                )


def test_rows_of_long_programs_are_kept_in_scratch() -> None:
    program = programs.add_norm_quantize()
    size = scratch_bytes(program, [symbol("m"), symbol("n")], "avx2")
    assert evaluate(size, {"m": 1, "n": 4096}) >= 4096 * 4
    assert scratch_bytes(dataclasses.replace(program, inner_size=384), [5, 384], "avx2") == 0
    assert RowPlan(dataclasses.replace(program, inner_size=384), "avx512-vnni").in_registers
    assert not RowPlan(dataclasses.replace(program, inner_size=4096), "avx512-vnni").in_registers
