"""ResNet-50 (He et al. 2015), ready to compile: ``planish compile examples/resnet.py:model -o resnet.planish``.

A plain ``nn.Module`` with the usual strides (the 3 x 3 convolution of a block strides, "v1.5") and **random weights**: it is here
for its shapes and its speed, and nothing is fetched. So that its numbers behave as a trained network's do, the running statistics
of its batch norms are set from a batch of the images below, which makes every layer's outputs of unit variance; without that the
signal would explode along the sixteen blocks and quantisation would be judged on noise.

The images are smooth random fields with edges: neighbouring pixels are alike, as in photographs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Example = tuple[nn.Module, tuple[()], dict[str, Tensor], dict[str, Any]]
Images = npt.NDArray[np.float32]

CLASSES, SIZE, MAX_BATCH = 1000, 224, 64


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up, each with its batch norm, and the way around them."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """``width`` channels within, four times as many behind."""
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.around = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to ``[batch, 4 * width, height / stride, width / stride]``."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.around(x)).relu()


class ResNet(nn.Module):
    """The network of bottlenecks; ResNet-50 has 3, 4, 6 and 3 in its stages."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), classes: int = CLASSES) -> None:
        """Random weights (He et al. 2015), drawn from torch's current generator."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, channels = [], 64
        for index, count in enumerate(blocks):
            width = 64 << index
            layers = []
            for number in range(count):
                layers.append(Bottleneck(channels, width, 2 if number == 0 and index else 1))
                channels = width * Bottleneck.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, 3, height, width]`` to ``[batch, classes]``."""
        x = self.pool(self.bn1(self.conv1(images)).relu())
        return self.fc(self.stages(x).mean((2, 3)))


def images(count: int, seed: int, size: int = SIZE) -> Images:
    """``[count, 3, size, size]``: noise of every coarseness, the coarse the stronger, cut in two by an edge; unit variance."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, 3, size, size), np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        noise = torch.from_numpy(rng.standard_normal((count, 3, cells, cells), dtype=np.float32))
        grown = nn.functional.interpolate(noise, (size, size), mode="bilinear", align_corners=False)
        found += grown.numpy() / np.sqrt(cells)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    for image in found:
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
        side = np.cos(angle) * x + np.sin(angle) * y > offset
        image += np.where(side, 1.0, -1.0) * rng.standard_normal((3, 1, 1), dtype=np.float32)
    spread = found.std(axis=(1, 2, 3), keepdims=True)
    return np.asarray((found - found.mean(axis=(1, 2, 3), keepdims=True)) / spread, np.float32)


def network(seed: int = 0) -> nn.Module:
    """ResNet-50 in eval mode, its batch norms set on eight images that nothing else meets."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = ResNet()
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the running statistics become the mean over what is seen
    built.train()
    with torch.no_grad():
        built(torch.from_numpy(images(8, seed=1)))
    return built.eval().requires_grad_(False)


def model() -> Example:
    """Network, one image, and any batch up to 64."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    return network(), (), {"images": torch.from_numpy(images(2, seed=2))}, {"images": {0: batch}}


def _samples(count: int, seed: int) -> Iterator[dict[str, Images]]:
    for index in range(count):
        yield {"images": images(1, seed=seed + index)}


def calibration() -> list[dict[str, Images]]:
    """Thirty-two images, one by one (``--calibration examples/resnet.py:calibration``)."""
    return list(_samples(32, seed=1000))


def unseen() -> list[dict[str, Images]]:
    """A hundred others to judge quality on."""
    return list(_samples(100, seed=5000))
