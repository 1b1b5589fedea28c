"""Every spelling of rotary position embedding gives one op; near misses stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.verify import verify
from planish.passes.canonicalize import Canonicalize
from planish.passes.fold import Fold
from planish.passes.merge_linear import MergeLinear
from planish.passes.rotary import JoinRotary, RecognizeRotary
from planish.testing import capture_function

B, H, S, D = 2, 3, 5, 8


def angles(dims: int = D) -> Tensor:
    """[S, dims / 2]"""
    return torch.arange(S)[:, None] * 10.0 ** -torch.arange(0, dims // 2)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def rotate_pairs(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def llama(x: Tensor, t: Tensor) -> Tensor:
    doubled = torch.cat((t, t), -1)
    return x * doubled.cos() + rotate_half(x) * doubled.sin()


def halves(x: Tensor, t: Tensor) -> Tensor:
    one, two = x.chunk(2, -1)
    return torch.cat((one * t.cos() - two * t.sin(), one * t.sin() + two * t.cos()), -1)


def gptj(x: Tensor, t: Tensor) -> Tensor:
    return x * t.cos().repeat_interleave(2, -1) + rotate_pairs(x) * t.sin().repeat_interleave(2, -1)


def pairs(x: Tensor, t: Tensor) -> Tensor:
    one, two = x[..., ::2], x[..., 1::2]
    return torch.stack((one * t.cos() - two * t.sin(), two * t.cos() + one * t.sin()), -1).flatten(-2)


def partial(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat((llama(x[..., :4], t[..., :2]), x[..., 4:]), -1)


def cached(x: Tensor, t: Tensor) -> Tensor:
    table = torch.cat((angles(), angles()), -1)
    rows = torch.arange(S)
    cos, sin = table.cos()[rows], table.sin()[rows]
    return x * cos + rotate_half(x) * sin


def recognised(fn: Callable[..., Any], args: tuple[Tensor, ...], join: bool = False) -> Graph:
    graph, examples = capture_function(fn, args)
    before = interpret(graph, examples)
    merge = (MergeLinear(), Canonicalize(), JoinRotary(), Canonicalize()) if join else ()
    for p in (Canonicalize(), Fold(), Canonicalize(), RecognizeRotary(), Canonicalize(), *merge):
        p.run(graph, PassContext())
        verify(graph)
    for got, want in zip(interpret(graph, examples), before, strict=True):
        assert np.unique(want).size > 1
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    return graph


SPELLINGS: dict[str, tuple[Callable[..., Any], bool]] = {
    "llama": (llama, False), "halves": (halves, False), "gptj": (gptj, True), "pairs": (pairs, True),
    "partial": (partial, False), "cached": (cached, False),
    "scaled before": (lambda x, t: llama(x * 0.3, t), False),
    "scaled tables": (
        lambda x, t: (lambda d: x * (d.cos() * 1.2) + rotate_half(x) * (d.sin() * 1.2))(torch.cat((t, t), -1)), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling(name: str) -> None:
    fn, interleaved = SPELLINGS[name]
    graph = recognised(fn, (torch.randn(B, H, S, D), angles()))
    (node,) = [n for n in graph.nodes if n.op == "rotary"]
    assert node.attrs["interleaved"] is interleaved and node.output is graph.outputs[0]
    assert node.inputs[1].shape[-1] == (2 if name == "partial" else 4)
    assert not [n for n in graph.nodes if n.op in ("neg", "concat")]


NEAR_MISSES: dict[str, Callable[..., Any]] = {
    "different tables": lambda x, t: x * torch.cat((t, 2 * t), -1).cos() + rotate_half(x) * torch.cat((t, t), -1).sin(),
    "the other way round": lambda x, t: (lambda d: x * d.cos() - rotate_half(x) * d.sin())(torch.cat((t, t), -1)),
    "no sign": lambda x, t: (lambda d: x * d.cos() + x.roll(4, -1) * d.sin())(torch.cat((t, t), -1)),
    "another value turned": lambda x, t: (lambda d: x * d.cos() + rotate_half(x.flip(0)) * d.sin())(torch.cat((t, t), -1)),
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss(name: str) -> None:
    graph = recognised(NEAR_MISSES[name], (torch.randn(B, H, S, D), angles()))
    assert not [n for n in graph.nodes if n.op == "rotary"]


@pytest.mark.parametrize("key_heads", [1, 2])
def test_queries_and_keys_of_a_merged_linear_turn_together(key_heads: int) -> None:
    generator = torch.Generator().manual_seed(1)
    wq, wk = (torch.randn(n * D, 16, generator=generator) for n in (4, key_heads))

    def fn(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        q, k = (torch.nn.functional.linear(x, w).view(B, S, -1, D).transpose(1, 2) for w in (wq, wk))
        return llama(q, t).relu(), llama(k, t).relu()

    graph = recognised(fn, (torch.randn(B, S, 16), angles()), join=True)
    (node,) = [n for n in graph.nodes if n.op == "rotary"]
    assert node.output.shape == (B, 4 + key_heads, S, D)
