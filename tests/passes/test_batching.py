"""Which models may be run a part of the batch at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from planish.compiler.pass_protocol import PassContext
from planish.passes.batching import batch_symbol
from planish.passes.canonicalize import Canonicalize
from planish.testing import capture_function

BATCH = torch.export.Dim("batch", min=1, max=8)
SEQ = torch.export.Dim("seq", min=1, max=16)
X = torch.randn(3, 5, 8)


def symbol_of(fn: nn.Module | Callable[..., Tensor]) -> str | None:
    graph, _ = capture_function(fn, (X,), dynamic_shapes=({0: BATCH, 1: SEQ},))
    Canonicalize().run(graph, PassContext())
    return batch_symbol(graph)


class Attention(nn.Module):
    """Self-attention and a feed-forward layer on batches first."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.view(*x.shape[:2], 2, 4).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.norm(x + self.out(y.transpose(1, 2).reshape(x.shape)))
        return result


APART: dict[str, Callable[..., Tensor]] = {
    "elementwise": lambda x: torch.tanh(x) + x,
    "softmax over features": lambda x: torch.softmax(x, -1),
    "mean over the sequence": lambda x: x.mean(1),
    "product of two batched tensors": lambda x: x @ x.transpose(1, 2),
    "first token": lambda x: x[:, 0],
    "positions along the sequence": lambda x: x + torch.arange(x.shape[1]).view(1, -1, 1),
    "the length of the sequence as a number": lambda x: x / x.shape[1],
}
MIXED: dict[str, Callable[..., Tensor]] = {
    "softmax over the batch": lambda x: torch.softmax(x, 0),
    "mean over the batch": lambda x: x - x.mean(0, keepdim=True),
    "running sum over the batch": lambda x: x.cumsum(0),
    "positions along the batch": lambda x: x + torch.arange(x.shape[0]).view(-1, 1, 1),
    "the size of the batch as a number": lambda x: x / x.shape[0],
    "batch and sequence in one axis": lambda x: x.flatten(0, 1).cumsum(0).view(x.shape),
    "the batch is not the first axis of the output": lambda x: x.transpose(0, 1) * 2,
    "a pair of elements": lambda x: x + x[:1],
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_apart(name: str) -> None:
    assert symbol_of(APART[name]) == "batch"


def test_attention_is_apart() -> None:
    assert symbol_of(Attention()) == "batch"


def test_attention_that_works_sequence_first_inside_is_apart() -> None:
    assert symbol_of(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()) == "batch"


@pytest.mark.parametrize("name", MIXED)
def test_mixed(name: str) -> None:
    assert symbol_of(MIXED[name]) is None
