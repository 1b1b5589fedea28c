"""The generated attention kernels against a float64 reference: shapes, masks, strides, dtypes, ISA levels and threads.

Tolerance, normwise per output element and written once in :func:`tolerance`: an output is a convex combination of values,
so its error is at most ``max |v|`` times the error of the probabilities plus that of the values themselves. With unit
roundoff ``u`` of the compute type a score is off by about ``u * sqrt(D) * scale * |q| |k|``, a probability by twice that
relatively, and bf16 rounds probabilities and values once more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
from kernel_harness import RUNNABLE, build_kernel

from planish.codegen.attention import scratch_bytes
from planish.codegen.specs import AttentionSpec
from planish.compiler.dims import evaluate, symbol
from planish.compiler.errors import LoweringError
from planish.compiler.types import bf16_to_float, float_to_bf16


Kind = Literal["none", "bias", "bool"]
FINFO_MIN = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention; ``mask_shape`` broadcasts to (B, H, Sq, Sk)."""

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


def reference(spec: AttentionSpec, s: Shape, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """float64 on operands as stored; a bias is added in float32, as PyTorch's math attention does."""
    group = s.h // s.hkv
    k, v = np.repeat(k, group, axis=1).astype(np.float64), np.repeat(v, group, axis=1).astype(np.float64)
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) * spec.scale
    if mask is not None and spec.mask == "bias":
        with np.errstate(over="ignore"):
            scores = (scores.astype(np.float32) + mask).astype(np.float64) if np.abs(mask).max() > 1e6 else scores + mask
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
    p[empty] = 0.0 if spec.empty_row == "zero" else np.nan
    with np.errstate(invalid="ignore"):
        return np.einsum("bhqk,bhkd->bhqd", p, v)


def tolerance(spec: AttentionSpec, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> float:
    u = 2.0**-8 if spec.compute == "bf16" else 2.0**-23
    norms = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max() * abs(spec.scale)
    score = u * norms / np.sqrt(spec.head_dim) if spec.compute == "bf16" else u * norms
    out = 2.0**-8 if spec.out == "bf16" else 0.0
    return float(np.abs(v).max() * (2 * score + 4 * u + out))


def draw(spec: AttentionSpec, s: Shape, rng: np.random.Generator, spread: float = 1.0) -> list[np.ndarray]:
    """q, k and v as views into one buffer [B, S, (H + 2 Hkv) * D]-like, so that the sequence stride is not D."""
    length = max(s.sq, s.sk)
    widths = [s.h * spec.head_dim, s.hkv * spec.head_dim, s.hkv * spec.value_dim]
    buffer = stored(rng.standard_normal((s.b, length, sum(widths) + 3)) * spread, spec.qkv)
    parts, start = [], 0
    for heads, n, width in ((s.h, s.sq, spec.head_dim), (s.hkv, s.sk, spec.head_dim), (s.hkv, s.sk, spec.value_dim)):
        part = buffer[:, :n, start : start + heads * width].reshape(s.b, n, heads, width)
        parts.append(part.transpose(0, 2, 1, 3))
        start += heads * width
    return parts


def strides(x: np.ndarray, count: int) -> list[int]:
    return [0 if x.shape[i] == 1 else x.strides[i] // x.itemsize for i in range(count)]


def run(spec: AttentionSpec, s: Shape, parts: list[np.ndarray], mask: np.ndarray | None, isa: str, workers: int = 1,
        sanitize: bool = False) -> np.ndarray:  # fmt: skip
    q, k, v = parts
    guard = 77
    out = np.full((s.b, s.sq, s.h, spec.value_dim + 1), guard, np.uint16 if spec.out == "bf16" else np.float32)
    view = out[..., : spec.value_dim].transpose(0, 2, 1, 3)
    dims = [s.b, s.h, s.hkv, s.sq, s.sk]
    for x in (q, k, v):
        dims += [t // x.itemsize for t in x.strides[:3]]
    dims += [t // out.itemsize for t in view.strides[:3]]
    dims += [0] * 4 if mask is None else strides(mask, 4)
    kernel = build_kernel(spec, isa, sanitize)
    kernel([q, k, v, mask, view], [*dims, s.offset], workers=workers)
    assert kernel.error == 0
    assert (out[..., spec.value_dim] == guard).all()
    return value(np.ascontiguousarray(view), spec.out)


def check(spec: AttentionSpec, s: Shape, isa: str, mask: np.ndarray | None = None, workers: int = 1, spread: float = 1.0,
          seed: int = 0) -> np.ndarray:  # fmt: skip
    parts = draw(spec, s, np.random.default_rng(seed), spread)
    q, k, v = (value(np.ascontiguousarray(x), spec.qkv) for x in parts)
    want = reference(spec, s, q, k, v, mask)
    got = run(spec, s, parts, mask, isa, workers)
    assert (np.isnan(want) == np.isnan(got)).all()
    error = np.nanmax(np.abs(want - got), initial=0.0)
    assert error <= tolerance(spec, q, k, v), f"{error} > {tolerance(spec, q, k, v)}"
    return got


def spec_of(compute: Literal["f32", "bf16"] = "f32", d: int = 32, dv: int | None = None, qkv: Literal["f32", "bf16"] = "f32",
            out: Literal["f32", "bf16"] = "f32", mask: Kind = "none", causal: bool = False,
            empty: Literal["zero", "nan"] = "nan") -> AttentionSpec:  # fmt: skip
    return AttentionSpec(compute, d, dv or d, qkv, out, mask, causal, d**-0.5, empty)


LENGTHS = [(1, 1), (1, 9), (3, 2), (16, 16), (17, 31), (37, 61), (50, 64), (64, 130), (97, 257)]


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("compute", "qkv"), [("f32", "f32"), ("f32", "bf16"), ("bf16", "f32"), ("bf16", "bf16")])
def test_lengths(isa: str, compute: Literal["f32", "bf16"], qkv: Literal["f32", "bf16"]) -> None:
    for sq, sk in LENGTHS:
        check(spec_of(compute, 32, qkv=qkv, out=qkv), Shape(2, 3, 3, sq, sk), isa)
