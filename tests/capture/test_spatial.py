"""Convolutions and pools over axes of space whose size varies, from capture to the compiled model; recurrent nets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import planish
from planish.compiler.capture.torch_export import capture
from planish.compiler.interpret import interpret


class FullyConvolutional(nn.Module):
    """Any height and width: strides, dilation, groups, norms, pools, skips, transposed convolution, and a head over all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.wide = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=3)
        self.depthwise = nn.Conv2d(12, 12, 3, padding="same", groups=12)
        self.up = nn.ConvTranspose2d(12, 6, 3, stride=2, padding=1, output_padding=1)
        self.stats = nn.GroupNorm(2, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu(self.norm(self.enter(x)))
        y = y + F.silu(self.stats(self.wide(y)))
        y = F.hardswish(self.depthwise(y)) + F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
        deep = F.max_pool2d(y, 3, 2, 1)
        return self.up(y), self.head(F.adaptive_avg_pool2d(deep, 1).flatten(1))


class Audio(nn.Module):
    """The front of a speech encoder: two convolutions along time, the second of which halves it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 16, 3, padding=1), nn.Conv1d(16, 16, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.second(F.gelu(self.first(x)))).permute(0, 2, 1)


def test_height_and_width_vary() -> None:
    torch.manual_seed(0)
    net = FullyConvolutional().eval()
    net.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
    net.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    shapes = ({0: Dim("batch", min=1, max=4), 2: Dim("height", min=5, max=64), 3: Dim("width", min=5, max=64)},)
    artifact = planish.compile(net, (torch.randn(2, 3, 9, 12),), dynamic_shapes=shapes)
    model = artifact.load(threads=2)
    assert not any(node.op == "batch_norm" for node in artifact.graph.nodes)
    for size in ((2, 3, 9, 12), (1, 3, 5, 6), (3, 3, 31, 64)):
        x = torch.randn(size)
        for want, got in zip(net(x), model(x.numpy()), strict=True):
            np.testing.assert_allclose(np.asarray(got), want.detach().numpy(), atol=3e-6, rtol=3e-5)


def test_time_varies() -> None:
    net = Audio().eval()
    shapes = ({0: Dim("batch", min=1, max=4), 2: Dim("time", min=3, max=300)},)
    captured = capture(net, (torch.randn(2, 8, 20),), dynamic_shapes=shapes)
    for size in ((2, 8, 20), (1, 8, 3), (3, 8, 33)):
        x = torch.randn(size)
        (got,) = interpret(captured.graph, {"x": x.numpy()})
        np.testing.assert_allclose(got, net(x).detach().numpy(), atol=1e-6, rtol=1e-5)


class Adaptive(nn.Module):
    """Adaptive pooling to ``size`` of an image of any size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.adaptive_avg_pool2d(x, self.size), F.adaptive_max_pool2d(x, self.size)


def test_adaptive_pooling_to_a_divisor_of_a_size_that_varies() -> None:
    half = Dim("half", min=1, max=20)
    captured = capture(Adaptive(2).eval(), (torch.randn(2, 3, 8, 4),), dynamic_shapes=({2: 2 * half},))
    x = torch.randn(2, 3, 14, 4)
    for want, got in zip(Adaptive(2)(x), interpret(captured.graph, {"x": x.numpy()}), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


def test_adaptive_pooling_of_a_size_that_varies_and_does_not_divide() -> None:
    captured = capture(
        Adaptive(3).eval(), (torch.randn(2, 3, 9, 7),), dynamic_shapes=({2: Dim("height", min=3, max=20)},)
    )
    for height in (3, 9, 10, 13, 20):
        x = torch.randn(2, 3, height, 7)
        for want, got in zip(Adaptive(3)(x), interpret(captured.graph, {"x": x.numpy()}), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)
