"""Every spelling of attention gives one op; near misses stay apart and say why."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.attention import RecognizeAttention
from planish.passes.canonicalize import Canonicalize
from planish.testing import capture_function

B, H, S, T, D = 2, 4, 5, 7, 8


def qkv(heads: int = H, keys: int = T) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(B, H, S, D, generator=generator),
        torch.randn(B, heads, keys, D, generator=generator),
        torch.randn(B, heads, keys, D, generator=generator),
    )


def recognised(fn: Callable[..., Any], args: tuple[Tensor, ...]) -> tuple[Graph, PassContext]:
    """The graph of ``fn`` after recognition, checked against the graph before on the example."""
    graph, examples = capture_function(fn, args)
    before = interpret(graph, examples)
    context = PassContext()
    for p in (Canonicalize(), RecognizeAttention(), Canonicalize()):
        p.run(graph, context)
        verify(graph)
    for got, want in zip(interpret(graph, examples), before, strict=True):
        assert np.unique(want).size > 1
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    return graph, context


def the_attention(graph: Graph) -> Any:
    found = [n for n in graph.nodes if n.op == "attention"]
    assert len(found) == 1, [n.op for n in graph.nodes]
    assert not [n for n in graph.nodes if n.op in ("softmax", "matmul")]
    return found[0]


SPELLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "scale after": lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(D), -1) @ v,
    "scale after, as a product": lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v,
    "scale on q": lambda q, k, v: torch.softmax((q / math.sqrt(D)) @ k.transpose(-1, -2), -1) @ v,
    "scale on k": lambda q, k, v: torch.softmax(q @ (k * 0.3).transpose(-1, -2), -1) @ v,
    "scale on k transposed": lambda q, k, v: torch.softmax(q @ (k.transpose(-1, -2) * 0.3), -1) @ v,
    "scale on both": lambda q, k, v: torch.softmax((q * 0.5) @ (k * 0.6).transpose(-1, -2), -1) @ v,
    "no scale": lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v,
    "bmm": lambda q, k, v: torch.bmm(
        torch.softmax(torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)) * 0.3, -1), v.flatten(0, 1)
    ).view(B, H, S, D),
    "bmm, split before the softmax": lambda q, k, v: torch.bmm(
        torch.softmax(
            torch.baddbmm(torch.zeros(1), q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=0.3).view(B, H, S, T), -1
        ).view(B * H, S, T),
        v.flatten(0, 1),
    ).view(B, H, S, D),
    "einsum": lambda q, k, v: torch.einsum(
        "bhqk,bhkd->bhqd", torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.3, -1), v
    ),
    "einsum, heads inside": lambda q, k, v: torch.einsum(
        "bhqk,bkhd->bqhd",
        torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q.transpose(1, 2), k.transpose(1, 2)) * 0.3, -1),
        v.transpose(1, 2),
    ),
    "scale in front of the heads": lambda q, k, v: (
        torch.softmax((q.transpose(1, 2).reshape(B, S, H * D) * 0.3).view(B, S, H, D).transpose(1, 2) @ k.mT, -1) @ v
    ),
    "scale on both by its root": lambda q, k, v: torch.softmax((q * D**-0.25) @ (k.mT * D**-0.25), -1) @ v,
    "softmax in f64": lambda q, k, v: torch.softmax((q @ k.mT * 0.3).double(), -1).float() @ v,
    "dropout": lambda q, k, v: torch.nn.functional.dropout(torch.softmax(q @ k.mT * 0.3, -1), 0.1, False) @ v,
    "windows": lambda q, k, v: torch.softmax((q @ k.mT * 0.3).view(1, B, H, S, T), -1).view(B, H, S, T) @ v,
    "no batch": lambda q, k, v: torch.softmax(q[0, 0] @ k[0, 0].mT * 0.3, -1) @ v[0, 0],
    "sdpa": lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling(name: str) -> None:
    graph, _ = recognised(SPELLINGS[name], qkv())
    the_attention(graph)


def test_scales_multiply() -> None:
    graph, _ = recognised(lambda q, k, v: torch.softmax((q * 0.5) @ (k * 0.6).mT / 2.0, -1) @ v, qkv())
    assert the_attention(graph).attrs["scale"] == pytest.approx(0.15)


def test_added_mask() -> None:
    mask = torch.randn(B, 1, 1, T)
    graph, _ = recognised(lambda q, k, v, m: torch.softmax(q @ k.mT * 0.3 + m, -1) @ v, (*qkv(), mask))
    node = the_attention(graph)
    assert node.inputs[3].dtype is DType.f32 and node.inputs[3].shape == (B, 1, 1, T)


def test_masked_fill_with_infinity_becomes_a_bool_mask() -> None:
    hidden = torch.zeros(B, 1, 1, T, dtype=torch.bool)
    hidden[0, ..., -2:] = True
    graph, _ = recognised(
        lambda q, k, v, m: torch.softmax((q @ k.mT * 0.3).masked_fill(m, -math.inf), -1) @ v, (*qkv(), hidden)
    )
    assert the_attention(graph).inputs[3].dtype is DType.bool


def test_masked_fill_with_a_huge_number_keeps_equal_weights_where_nothing_is_visible() -> None:
    seen = torch.ones(B, 1, 1, T, dtype=torch.bool)
    seen[1] = False

    def fn(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        return torch.softmax((q @ k.mT * 0.3).masked_fill(~m, torch.finfo(torch.float32).min), -1) @ v

    graph, _ = recognised(fn, (*qkv(), seen))
    node = the_attention(graph)
    assert node.inputs[3].dtype is DType.bool and node.attrs["empty_row"] == "mean"


def test_causal_mask_from_ranges_becomes_an_attribute() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.arange(S).view(1, S) <= torch.arange(S).view(S, 1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)

    graph, _ = recognised(fn, qkv(keys=S))
    node = the_attention(graph)
    assert node.attrs["causal"] and node.attrs["causal_offset"] == 0
    assert all(v is None for v in node.inputs[3:])


def test_causal_and_padding_are_told_apart() -> None:
    padding = torch.ones(B, 1, 1, S, dtype=torch.bool)
    padding[1, ..., -1] = False

    def fn(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        mask = (torch.arange(S).view(1, S) <= torch.arange(S).view(S, 1)) & m
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)

    graph, _ = recognised(fn, (*qkv(keys=S), padding))
    node = the_attention(graph)
    assert node.attrs["causal"] and node.inputs[3].shape == (B, 1, 1, S)


def test_causal_offset() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.arange(T).view(1, T) <= torch.arange(S).view(S, 1) + 2
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)

    graph, _ = recognised(fn, qkv())
    assert the_attention(graph).attrs["causal_offset"] == 2


def test_all_ones_mask_vanishes() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, torch.ones(S, T, dtype=torch.bool))

    graph, _ = recognised(fn, qkv())
    assert all(v is None for v in the_attention(graph).inputs[3:])


def test_grouped_heads_are_read_once() -> None:
    def repeat(x: Tensor) -> Tensor:
        return x[:, :, None].expand(B, 2, 2, T, D).reshape(B, H, T, D)

    graph, _ = recognised(lambda q, k, v: torch.softmax(q @ repeat(k).mT * 0.3, -1) @ repeat(v), qkv(heads=2))
    node = the_attention(graph)
    assert node.inputs[1].shape == (B, 2, T, D) and node.inputs[2].shape == (B, 2, T, D)
    assert not [n for n in graph.nodes if n.op == "expand"]


NEAR_MISSES: dict[str, tuple[Callable[..., Any], str]] = {
    "the weights are an output": (lambda q, k, v: (lambda w: (w @ v, w))(torch.softmax(q @ k.mT, -1)), ""),
    "softmax over queries": (lambda q, k, v: torch.softmax(q @ k.mT, -2) @ v, "not over the keys"),
    "scores of something else": (lambda q, k, v: torch.softmax(torch.exp(q @ k.mT), -1) @ v, "come from exp"),
    "capped scores": (lambda q, k, v: torch.softmax(50 * torch.tanh(q @ k.mT / 50), -1) @ v, "capped by tanh"),
    "a small number hides": (
        lambda q, k, v: torch.softmax((q @ k.mT).masked_fill(k.sum(-1).unsqueeze(-2) > 0, -700.0), -1) @ v,
        "does not hide them",
    ),
    "two numbers hide": (
        lambda q, k, v: torch.softmax(
            (q @ k.mT).masked_fill(k.sum(-1).unsqueeze(-2) > 0, -1e5).masked_fill(q.sum(-1, keepdim=True) > 1, -math.inf), -1
        ) @ v,
        "does not absorb",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss(name: str) -> None:
    fn, reason = NEAR_MISSES[name]
    graph, context = recognised(fn, qkv())
    assert not [n for n in graph.nodes if n.op == "attention"]
    if reason:
        assert any(n.kind == "miss" and reason in n.text for n in context.notes), [str(n) for n in context.notes]


NAN_AS_ZERO = {
    "every key may be hidden": (-float("inf"), "zero"),
    "hidden with the least number": (torch.finfo(torch.float32).min, "mean"),
}


@pytest.mark.parametrize("what", NAN_AS_ZERO)
def test_nan_written_over(what: str) -> None:
    """How torch's ONNX exporter writes sdpa: NaN among the weights becomes zero. A row whose keys are all hidden shows which."""
    low, empty = NAN_AS_ZERO[what]
    seen = torch.ones(B, 1, S, T, dtype=torch.bool)
    seen[0, 0, 2], seen[1, 0, :, 3:] = False, False

    def fn(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        weights = torch.softmax((q * 0.5) @ (k * 0.6).mT + torch.where(seen, 0.0, low), -1)
        return torch.where(torch.isnan(weights), 0.0, weights) @ v

    graph, _ = recognised(fn, (*qkv(), seen))
    assert the_attention(graph).attrs["empty_row"] == empty


def test_something_else_written_over_nan_stays_apart() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.mT, -1)
        return torch.where(torch.isnan(weights), 1.0, weights) @ v

    graph, _ = recognised(fn, qkv())
    assert not [n for n in graph.nodes if n.op == "attention"]
