"""Activations and norms that are spelled out, and their near misses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from planish.passes.recognize import (
    GeluErf,
    GeluQuick,
    GeluTanh,
    LayerNorm,
    LayerNormAffine,
    Recognize,
    RmsNorm,
    RmsNormWeight,
    Silu,
    Softmax,
)
from planish.testing import check_pass, check_rule

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
ROOT = math.sqrt(2.0 / math.pi)

FOUND: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "gelu, half first": (GeluErf, lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu, half inside": (GeluErf, lambda x: x * (0.5 * (1 + torch.erf(x * math.sqrt(0.5))))),
    "gelu, half last": (GeluErf, lambda x: x * (torch.erf(x / math.sqrt(2)) + 1) * 0.5),
    "gelu, halved": (GeluErf, lambda x: x * (torch.erf(x / math.sqrt(2)) + 1) / 2),
    "gelu tanh, power": (GeluTanh, lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0))))),
    "gelu tanh, products": (GeluTanh, lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * (x * x * x))))),
    "gelu tanh, factored": (GeluTanh, lambda x: 0.5 * x * (1 + torch.tanh(x * ROOT * (1 + 0.044715 * x * x)))),
    "gelu quick": (GeluQuick, lambda x: x * torch.sigmoid(1.702 * x)),
    "silu": (Silu, lambda x: torch.sigmoid(x) * x),
    "silu, divided": (Silu, lambda x: x / (1 + torch.exp(-x))),
    "rms norm": (RmsNorm, lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "rms norm, square root": (RmsNorm, lambda x: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)),
    "softmax": (
        Softmax,
        lambda x: (lambda e: e / e.sum(-1, keepdim=True))(torch.exp(x - x.amax(-1, keepdim=True))),
    ),
    "layer norm": (
        LayerNorm,
        lambda x: (lambda c: c / torch.sqrt((c * c).mean(-1, keepdim=True) + 1e-5))(x - x.mean(-1, keepdim=True)),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name: str) -> None:
    rule, fn = FOUND[name]
    check_rule(rule, fn, (X,))


MISSED: dict[str, tuple[Any, Callable[[Tensor], Any]]] = {
    "gelu with another constant": (GeluErf, lambda x: 0.5 * x * (1 + torch.erf(x / 1.5))),
    "gelu of two values": (GeluErf, lambda x: 0.5 * x * (1 + torch.erf(x.abs() / math.sqrt(2)))),
    "interior value is an output": (Silu, lambda x: (lambda s: (s * x, s))(torch.sigmoid(x))),
    "another slope": (GeluQuick, lambda x: x * torch.sigmoid(1.5 * x)),
    "mean over two axes": (RmsNorm, lambda x: x * torch.rsqrt(x.pow(2).mean((-1, -2), keepdim=True) + 1e-6)),
    "mean over the first axis": (RmsNorm, lambda x: x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + 1e-6)),
    "sum over another axis": (
        Softmax,
        lambda x: (lambda e: e / e.sum(-2, keepdim=True))(torch.exp(x - x.amax(-1, keepdim=True))),
    ),
}


@pytest.mark.parametrize("name", MISSED)
def test_near_miss(name: str) -> None:
    rule, fn = MISSED[name]
    check_rule(rule, fn, (X,), fires=0)


def test_integers_are_left_alone() -> None:
    check_rule(Softmax, lambda x: torch.sigmoid(x.float()) * x.float(), (torch.arange(12).view(3, 4),), fires=0)


class Affine(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        c = x - x.mean(-1, keepdim=True)
        return c * torch.rsqrt(c.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


@pytest.mark.parametrize(
    ("kind", "rules"), [("rms", [RmsNorm, RmsNormWeight]), ("layer", [LayerNorm, LayerNormAffine])]
)
def test_weights_are_taken_in(kind: str, rules: list[Any]) -> None:
    graph = check_pass([r() for r in rules], Affine(kind), (X,))
    found = next(n for n in graph.nodes if n.op in ("rms_norm", "layer_norm"))
    assert [n.op for n in graph.nodes if n.op != "constant"] == [found.op]
    assert all(v is not None for v in found.inputs)


@pytest.mark.parametrize(("size", "patch"), [((32, 32), 8), ((30, 21), 7)])
def test_patch_convolution_is_a_linear(size: tuple[int, int], patch: int) -> None:
    conv = nn.Conv2d(3, 10, patch, stride=patch)
    graph = check_pass(Recognize(), conv, (torch.randn(2, 3, *size),))
    ops = [n.op for n in graph.nodes]
    assert "conv" not in ops and "linear" in ops


@pytest.mark.parametrize("options", [{"padding": 1}, {"dilation": 2}, {"groups": 3, "out_channels": 9}])
def test_other_convolutions_stay(options: dict[str, int]) -> None:
    conv = nn.Conv2d(3, kernel_size=4, stride=4, **{"out_channels": 10, **options})
    check_pass(Recognize(), conv, (torch.randn(2, 3, 32, 32),), changes=False)
