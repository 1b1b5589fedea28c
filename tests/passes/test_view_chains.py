"""Chains of views become as short as they can be, and slices and transposes move to where they cancel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.export import Dim

from planish.compiler.capture.torch_export import capture
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.verify import verify
from planish.passes.canonicalize import Canonicalize

B, S, E = 2, 5, 12
WEIGHT = torch.randn(E, E, generator=torch.Generator().manual_seed(1))


class Function(torch.nn.Module):
    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Any:
        return self.fn(x)


def linear(x: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, WEIGHT)


#: x [batch, sequence, E] -> the ops that are left.
CHAINS: dict[str, tuple[Callable[[Tensor], Any], dict[str, int]]] = {
    "there and back": (
        lambda x: x.transpose(0, 1).reshape(x.shape[1], x.shape[0] * E).view(x.shape[1], -1, E).transpose(0, 1).relu(),
        {"relu": 1},
    ),
    "heads sequence first": (
        lambda x: x.transpose(0, 1).reshape(x.shape[1], x.shape[0] * 3, 4).transpose(0, 1).view(x.shape[0], 3, -1, 4),
        {"reshape": 1, "transpose": 1},
    ),
    "packed heads": (
        lambda x: x.view(*x.shape[:2], 3, 4).permute(2, 0, 1, 3)[1], {"slice": 1},
    ),
    "a linear between transposes": (lambda x: linear(x.transpose(0, 1)).transpose(0, 1), {"linear": 1}),
    "a linear behind heads": (
        lambda x: linear(x.view(*x.shape[:2], 3, 4).transpose(1, 2).permute(2, 0, 1, 3).reshape(-1, E))
        .view(x.shape[1], x.shape[0], E).transpose(0, 1), {"linear": 1},
    ),
    "a residual stream in rows": (
        lambda x: (lambda r: torch.nn.functional.layer_norm(r + linear(r), (E,)).view(x.shape))(x.view(-1, E)),
        {"linear": 1, "add": 1, "layer_norm": 1},
    ),
    "a number between": (lambda x: (x.reshape(-1, E) * 2.0).view(x.shape), {"mul": 1}),
    "a mixing reshape stays": (lambda x: x.transpose(1, 2).reshape(-1, 4, x.shape[1] * 3), {"transpose": 1, "reshape": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name: str) -> None:
    fn, left = CHAINS[name]
    x = torch.randn(B, S, E)
    shapes = {"x": {0: Dim("batch", min=1, max=8), 1: Dim("seq", min=1, max=40)}}
    captured = capture(Function(fn), (), {"x": x}, dynamic_shapes=shapes)
    graph = captured.graph.copy()
    Canonicalize().run(graph, PassContext())
    verify(graph)
    assert Counter(n.op for n in graph.nodes if n.op not in ("constant", "full")) == left
    for size in ((B, S), (1, 7), (3, 1)):
        example = {captured.inputs[0].name: torch.randn(*size, E).numpy()}
        for got, want in zip(interpret(graph, example), interpret(captured.graph, example), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
