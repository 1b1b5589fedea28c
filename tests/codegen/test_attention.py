"""The generated attention kernels against a float64 reference: shapes, masks, strides, dtypes, ISA levels and threads.

Tolerance, normwise per output element and written once in :func:`tolerance`: an output is a convex combination of values,
so its error is at most ``max |v|`` times the error of the probabilities plus that of the values themselves. With unit
roundoff ``u`` of the compute type a score is off by about ``u * sqrt(D) * scale * |q| |k|``, a probability by twice that
relatively, and bf16 rounds probabilities and values once more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from kernel_harness import RUNNABLE, Kernel, build_kernels, sanitizer_environment

from planish.codegen.attention import render, scratch_bytes
from planish.codegen.specs import AttentionSpec, KernelSpec
from planish.compiler.dims import evaluate, symbol
from planish.compiler.errors import LoweringError
from planish.compiler.types import bf16_to_float, float_to_bf16

#: Set by the test that runs this file again under the sanitizers.
SANITIZE = os.environ.get("PLANISH_TEST_SANITIZE") == "1"
#: Sanitized kernels take long to build: the widest and the narrowest vectors do there, and fewer specs.
LEVELS = sorted({RUNNABLE[0], RUNNABLE[-1]}) if SANITIZE else RUNNABLE
Compute = Literal["f32", "bf16"]
Kind = Literal["none", "bias", "bool"]
Empty = Literal["zero", "nan", "mean"]
FINFO_MIN = float(np.finfo(np.float32).min)


def spec_of(
    compute: Compute = "f32", d: int = 16, dv: int | None = None, qkv: Compute | None = None, mask: Kind = "none",
    causal: bool = False, empty: Empty = "zero",
) -> AttentionSpec:  # fmt: skip
    """Attention that stores q, k, v and its result as it computes, unless ``qkv`` says otherwise."""
    storage = qkv or compute
    return AttentionSpec(compute, d, dv or d, storage, storage, mask, causal, d**-0.5, empty)


#: All kernels of this file: one build per ISA level, which is quicker than many.
STORAGES: list[tuple[Compute, Compute]] = [("f32", "f32"), ("f32", "bf16"), ("bf16", "f32"), ("bf16", "bf16")]
HEAD_SIZES: list[tuple[Compute, int, int]] = [("f32", 1, 1), ("f32", 33, 17), ("bf16", 3, 5), ("bf16", 80, 24)]
MASKS: list[tuple[Compute, Kind]] = [("f32", "bias"), ("bf16", "bias"), ("f32", "bool")]
SPECS: tuple[KernelSpec, ...] = (
    *(spec_of(compute, qkv=qkv) for compute, qkv in STORAGES),
    *(spec_of(compute, d, dv) for compute, d, dv in HEAD_SIZES),
    *(spec_of(compute, mask=mask) for compute, mask in MASKS),
    *(spec_of(compute, causal=True) for compute in ("f32", "bf16")),
    spec_of(mask="bool", causal=True),
    spec_of(mask="bool", empty="nan"),
    spec_of(mask="bool", empty="mean"),
    spec_of("bf16", d=3, dv=5, mask="bool", causal=True, empty="mean"),
)
if SANITIZE:
    SPECS = (
        spec_of(),
        spec_of("f32", 33, 17),
        spec_of("bf16", 3, 5),
        spec_of("bf16", mask="bias"),
        spec_of(mask="bool", causal=True),
    )


@pytest.fixture(scope="module", autouse=True)
def _build_levels_side_by_side() -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda isa: build_kernels(SPECS, isa, SANITIZE), LEVELS))


def kernel_of(spec: AttentionSpec, isa: str) -> Kernel:
    if SANITIZE and spec not in SPECS:
        pytest.skip("not among the specs that are built for the sanitizers")
    return build_kernels(SPECS, isa, SANITIZE)[SPECS.index(spec)]


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention, and the causal offset."""

    b: int = 1
    h: int = 2
    hkv: int = 2
    sq: int = 5
    sk: int = 7
    offset: int = 0


def stored(x: np.ndarray, storage: str) -> np.ndarray:
    return float_to_bf16(x) if storage == "bf16" else x.astype(np.float32)


def value(x: np.ndarray, storage: str) -> np.ndarray:
    return bf16_to_float(x) if storage == "bf16" else x


def reference(
    spec: AttentionSpec, s: Shape, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    """float64 on operands as stored; a bias is added in float32, as PyTorch's math attention does."""
    group = s.h // s.hkv
    k, v = np.repeat(k, group, axis=1).astype(np.float64), np.repeat(v, group, axis=1).astype(np.float64)
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) * spec.scale
    if mask is not None and spec.mask == "bias":
        with np.errstate(over="ignore"):
            scores = (
                (scores.astype(np.float32) + mask).astype(np.float64) if np.abs(mask).max() > 1e6 else scores + mask
            )
    hidden = np.zeros(scores.shape, bool)
    if mask is not None and spec.mask == "bool":
        hidden |= ~np.broadcast_to(mask, scores.shape)
    if spec.causal:
        hidden |= np.arange(s.sk)[None, :] > np.arange(s.sq)[:, None] + s.offset
    scores[hidden] = -np.inf
    with np.errstate(invalid="ignore"):
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
    empty = np.isneginf(scores).all(-1)
    p[empty] = {"zero": 0.0, "nan": np.nan, "mean": 1.0 / max(s.sk, 1)}[spec.empty_row]
    with np.errstate(invalid="ignore"):
        return np.einsum("bhqk,bhkd->bhqd", p, v)


def tolerance(spec: AttentionSpec, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> float:
    u = 2.0**-8 if spec.compute == "bf16" else 2.0**-23
    norms = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max() * abs(spec.scale)
    score = u * norms / np.sqrt(spec.head_dim) if spec.compute == "bf16" else u * norms
    out = 2.0**-8 if spec.out == "bf16" else 0.0
    return float(np.abs(v).max() * (2 * score + 4 * u + out))


def draw(spec: AttentionSpec, s: Shape, rng: np.random.Generator, spread: float = 1.0) -> list[np.ndarray]:
    """q, k and v as views into one buffer of fused rows, 3 elements apart, which ends with the last element of v."""
    length = max(s.sq, s.sk)
    widths = [s.h * spec.head_dim, s.hkv * spec.head_dim, s.hkv * spec.value_dim]
    pitch = sum(widths) + 3
    memory = stored(rng.standard_normal(s.b * length * pitch - 3) * spread, spec.qkv)
    steps = (length * pitch * memory.itemsize, pitch * memory.itemsize, memory.itemsize)
    buffer = np.lib.stride_tricks.as_strided(memory, (s.b, length, sum(widths)), steps)
    parts, start = [], 0
    for heads, n, width in ((s.h, s.sq, spec.head_dim), (s.hkv, s.sk, spec.head_dim), (s.hkv, s.sk, spec.value_dim)):
        part = buffer[:, :n, start : start + heads * width].reshape(s.b, n, heads, width)
        parts.append(part.transpose(0, 2, 1, 3))
        start += heads * width
    return parts


def strides(x: np.ndarray, count: int) -> list[int]:
    return [0 if x.shape[i] == 1 else x.strides[i] // x.itemsize for i in range(count)]


def run(
    spec: AttentionSpec, s: Shape, parts: list[np.ndarray], mask: np.ndarray | None, isa: str, workers: int = 1
) -> np.ndarray:
    q, k, v = parts
    guard = 77
    out = np.full((s.b, s.sq, s.h, spec.value_dim + 1), guard, np.uint16 if spec.out == "bf16" else np.float32)
    view = out[..., : spec.value_dim].transpose(0, 2, 1, 3)
    dims = [s.b, s.h, s.hkv, s.sq, s.sk]
    for x in (q, k, v):
        dims += [t // x.itemsize for t in x.strides[:3]]
    dims += [t // out.itemsize for t in view.strides[:3]]
    dims += [0] * 4 if mask is None else strides(mask, 4)
    kernel = kernel_of(spec, isa)
    kernel([q, k, v, mask, view], [*dims, s.offset], workers=workers)
    assert kernel.error == 0
    assert (out[..., spec.value_dim] == guard).all()
    return value(np.ascontiguousarray(view), spec.out)


def check(spec: AttentionSpec, s: Shape, isa: str, mask: np.ndarray | None = None, spread: float = 1.0) -> np.ndarray:
    parts = draw(spec, s, np.random.default_rng(0), spread)
    q, k, v = (value(np.ascontiguousarray(x), spec.qkv) for x in parts)
    want = reference(spec, s, q, k, v, mask)
    got = run(spec, s, parts, mask, isa)
    assert (np.isnan(want) == np.isnan(got)).all()
    error = np.nanmax(np.abs(want - got), initial=0.0)
    assert error <= tolerance(spec, q, k, v), f"{error} > {tolerance(spec, q, k, v)}"
    return got


LENGTHS = [(1, 1), (1, 9), (3, 2), (16, 16), (17, 31), (37, 61), (50, 64), (64, 130), (97, 257)]


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(("compute", "qkv"), STORAGES)
def test_lengths(isa: str, compute: Compute, qkv: Compute) -> None:
    for sq, sk in LENGTHS:
        check(spec_of(compute, qkv=qkv), Shape(2, 3, 3, sq, sk), isa)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(("compute", "d", "dv"), HEAD_SIZES)
def test_head_sizes(isa: str, compute: Compute, d: int, dv: int) -> None:
    check(spec_of(compute, d, dv), Shape(1, 2, 2, 19, 23), isa)
    check(spec_of(compute, d, dv), Shape(2, 3, 1, 60, 300), isa)


def key_mask(kind: Kind, s: Shape, rng: np.random.Generator, low: float = FINFO_MIN) -> np.ndarray:
    """[B, 1, 1, Sk]: the last keys of each batch entry are hidden, at least one is visible."""
    lengths = rng.integers(1, s.sk + 1, s.b)
    visible = (np.arange(s.sk) < lengths[:, None])[:, None, None, :]
    return visible if kind == "bool" else np.where(visible, 0.0, low).astype(np.float32)


MASKED = [Shape(2, 4, 2, 33, 45), Shape(3, 2, 2, 70, 300), Shape(2, 2, 1, 5, 1100)]


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize(("compute", "kind"), MASKS)
def test_masks(isa: str, compute: Compute, kind: Kind) -> None:
    rng = np.random.default_rng(1)
    spec = spec_of(compute, mask=kind)
    for s in MASKED:
        check(spec, s, isa, key_mask(kind, s, rng))
        for shape in ((s.b, s.h, s.sq, s.sk), (1, s.h, s.sq, s.sk), (s.b, 1, s.sq, 1), (1, 1, s.sq, s.sk)):
            mask = rng.random(shape) < 0.6 if kind == "bool" else rng.standard_normal(shape).astype(np.float32) * 3
            check(spec, s, isa, mask)


@pytest.mark.parametrize("isa", LEVELS)
def test_mask_strides(isa: str) -> None:
    """Masks that are views: every second key, and keys that are not the innermost dimension."""
    rng, s, spec = np.random.default_rng(2), Shape(1, 2, 2, 21, 37), spec_of(mask="bias")
    check(spec, s, isa, rng.standard_normal((1, 1, 1, 2 * s.sk)).astype(np.float32)[..., ::2])
    check(spec, s, isa, rng.standard_normal((1, 2, s.sk, s.sq)).astype(np.float32).swapaxes(2, 3))


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_causal(isa: str, compute: Compute) -> None:
    spec = spec_of(compute, causal=True)
    for sq, sk, offset in (
        (1, 1, 0),
        (40, 40, 0),
        (17, 60, 43),
        (30, 20, -5),
        (150, 600, 450),
        (600, 600, 0),
        (9, 9, -9),
    ):
        check(spec, Shape(1, 2, 1, sq, sk, offset), isa)


@pytest.mark.parametrize("isa", LEVELS)
def test_causal_with_mask(isa: str) -> None:
    rng, spec = np.random.default_rng(3), spec_of(mask="bool", causal=True)
    for s in (Shape(2, 2, 2, 50, 50), Shape(2, 2, 2, 20, 530, 510)):
        check(spec, s, isa, key_mask("bool", s, rng))
        check(spec, s, isa, rng.random((2, 1, s.sq, s.sk)) < 0.5)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("empty", ["zero", "nan", "mean"])
def test_rows_without_a_visible_key(isa: str, empty: Empty) -> None:
    s = Shape(2, 2, 2, 20, 12)
    mask = np.ones((2, 1, 20, 12), bool)
    mask[1, 0, 3] = mask[0, 0, 17] = False
    got = check(spec_of(mask="bool", empty=empty), s, isa, mask)
    if empty != "mean":  # that is what `check` compares with
        assert np.isnan(got[1, :, 3]).all() if empty == "nan" else (got[1, :, 3] == 0).all()
    nothing = np.zeros((2, 1, 1, 12), bool)
    nothing[0] = True
    got = check(spec_of(mask="bool", empty=empty), s, isa, nothing)
    if empty != "mean":
        assert np.isnan(got[1]).all() if empty == "nan" else (got[1] == 0).all()
    if empty == "zero":
        got = check(spec_of(causal=True), Shape(1, 2, 2, 20, 12, -3), isa)
        assert (got[:, :, :3] == 0).all()
    if empty == "mean":
        long = Shape(1, 2, 1, 20, 530, -3)  # more keys than are packed at once
        check(spec_of("bf16", 3, 5, mask="bool", causal=True, empty="mean"), long, isa, np.ones((1, 1, 1, 530), bool))


@pytest.mark.parametrize("isa", LEVELS)
def test_a_row_of_the_lowest_number_attends_evenly(isa: str) -> None:
    """finfo.min swallows every score, so that all keys weigh the same, as in PyTorch's eager attention."""
    s, spec = Shape(1, 2, 2, 9, 21), spec_of(mask="bias")
    for shape in ((1, 1, 1, 21), (1, 1, 9, 21)):
        parts = draw(spec, s, np.random.default_rng(4))
        got = run(spec, s, parts, np.full(shape, FINFO_MIN, np.float32), isa)
        np.testing.assert_allclose(got, np.broadcast_to(parts[2].mean(2, keepdims=True), got.shape), atol=2e-6)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_scores_far_apart(isa: str, compute: Compute) -> None:
    """Scores of hundreds: the shift by the first keys does not do, in the first block of keys, a later one, or a later span."""
    rng, spec = np.random.default_rng(5), spec_of(compute)
    check(spec, Shape(1, 2, 2, 40, 50), isa, spread=16.0)
    for late in (100, 300, 700):
        s = Shape(1, 1, 1, 60, 900)
        parts = draw(spec, s, rng)
        for x in parts[:2]:
            x[:, :, late:] = stored(value(x[:, :, late:], spec.qkv) * 12, spec.qkv)
        q, k, v = (value(np.ascontiguousarray(x), spec.qkv) for x in parts)
        error = np.abs(reference(spec, s, q, k, v, None) - run(spec, s, parts, None, isa)).max()
        assert error <= tolerance(spec, q, k, v)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("low", [-20.0, -1e4, FINFO_MIN, -np.inf])
def test_hidden_keys_first(isa: str, low: float) -> None:
    """Left padding: the first keys, and whole blocks of keys, carry a low bias."""
    s, spec = Shape(1, 2, 2, 20, 700), spec_of(mask="bias")
    for hidden in (3, 40, 300, 600, 699):
        mask = np.zeros((1, 1, 1, 700), np.float32)
        mask[..., :hidden] = low
        check(spec, s, isa, mask)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("causal", [False, True])
def test_nan_and_infinity_come_through(isa: str, causal: bool) -> None:
    """As PyTorch's math attention: a hidden key's infinite or NaN value still makes NaN, 0 times it."""
    s, spec = Shape(1, 2, 2, 70, 70), spec_of(causal=causal)
    for which in range(3):
        for bad in (np.nan, np.inf, -np.inf):
            parts = [np.array(x) for x in draw(spec, s, np.random.default_rng(6))]
            parts[which][0, 1, 37, 5] = bad
            want = reference(spec, s, *parts, mask=None)
            got = run(spec, s, parts, None, isa)
            assert (np.isnan(want) == np.isnan(got)).all()
            assert (np.isinf(want) == np.isinf(got)).all()
            close = np.isfinite(want)
            assert np.abs(want[close] - got[close]).max() <= tolerance(
                spec, *(np.nan_to_num(x, posinf=1, neginf=1) for x in parts)
            )


@pytest.mark.parametrize("isa", LEVELS)
def test_workers_agree(isa: str) -> None:
    """The split into tasks (by groups, heads or queries) changes no bit."""
    for s in (Shape(1, 1, 1, 200, 300), Shape(3, 4, 2, 40, 30), Shape(1, 2, 1, 300, 1100), Shape(1, 1, 1, 1, 40)):
        spec = spec_of("bf16", mask="bias")
        parts = draw(spec, s, np.random.default_rng(7))
        mask = key_mask("bias", s, np.random.default_rng(8))
        one = run(spec, s, parts, mask, isa)
        for workers in (2, 3, 8):
            np.testing.assert_array_equal(run(spec, s, parts, mask, isa, workers), one)


def test_levels_round_alike() -> None:
    """bf16 means the same everywhere: levels without the instruction round the same operands and the probabilities.

    A probability is rounded relative to a reference that depends on the tile, so two levels differ by two roundings of it.
    """
    s, spec = Shape(1, 2, 2, 40, 60), spec_of("bf16", qkv="f32")
    parts = draw(spec, s, np.random.default_rng(9))
    results = [run(spec, s, parts, None, isa) for isa in LEVELS]
    for result in results:
        assert np.abs(result - results[0]).max() <= 2.0**-8 * np.abs(parts[2]).max()


def test_scratch_is_a_bounded_expression() -> None:
    names = [symbol(f"n{i}") for i in range(22)]
    for isa in RUNNABLE:
        spec = spec_of(d=64, mask="bias")
        size = scratch_bytes(spec, names, isa)
        at = {(sq, sk): evaluate(size, {f"n{i}": {3: sq, 4: sk}.get(i, 1) for i in range(22)})  # type: ignore[arg-type]
              for sq, sk in ((1, 1), (128, 128), (4096, 4096), (65536, 65536))}  # fmt: skip
        assert at[1, 1] < at[128, 128] < at[4096, 4096] == at[65536, 65536] < 2**20
        assert at[128, 128] == scratch_bytes(spec, [1, 1, 1, 128, 128] + [1] * 17, isa)


def test_unsupported_storage_is_named() -> None:
    with pytest.raises(LoweringError, match="f16"):
        render(replace(spec_of(), qkv="f16"), "portable", "k")


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="is what runs these tests")
def test_under_sanitizers() -> None:
    """The tests of this file again, with the kernels built for the address and undefined-behaviour sanitizers."""
    environment = sanitizer_environment()
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here), "-k", "not under_sanitizers"],
        env=environment, cwd=here.parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
