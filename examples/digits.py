"""Handwritten digits: a convolutional network and a small vision transformer on scikit-learn's 1797 images, trained in seconds.

``cnn`` and ``vit`` return what ``planish compile FILE.py:callable`` takes; the data is for ``--calibration`` and friends::

    planish compile examples/digits.py:cnn --calibration examples/digits.py:slices --budget "top1 >= 0.98 mean"
    planish compile examples/digits.py:vit --calibration examples/digits.py:labelled --budget "accuracy >= 0.9 mean"

Needs scikit-learn. 700 images are trained on, with random shifts and noise, 798 are for planish (``slices``, ``labelled``): a
third of them as they are, a third shifted by one pixel, a third with noise. 299 are for nobody (``unseen``).
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import planish

sys.path.insert(0, str(Path(__file__).resolve().parent))
from trained import seeded, trained  # noqa: E402

Example = tuple[nn.Module, tuple[Tensor], None, tuple[dict[int, Any]]]
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

TRAINED_ON, FOR_PLANISH = 700, 798
MAX_BATCH = 256
SLICES = ("clean", "shifted", "noisy")


@cache
def _digits() -> tuple[Images, Labels]:
    """All images ``[1797, 1, 8, 8]`` in 0..1 and their digits, in a fixed random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.images[order, None] / 16.0).astype(np.float32)
    return images, data.target[order].astype(np.int64)


def _varied(images: Images, name: str, seed: int) -> Images:
    """The images as they are, shifted by one pixel, or with noise."""
    random = np.random.default_rng(seed)
    if name == "shifted":
        moves = random.integers(0, 4, len(images))
        steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
        return np.stack([padded[i, :, 1 + steps[m][0] : 9 + steps[m][0], 1 + steps[m][1] : 9 + steps[m][1]]
                         for i, m in enumerate(moves)])  # fmt: skip
    if name == "noisy":
        return np.clip(images + 0.1 * random.standard_normal(images.shape), 0, 1).astype(np.float32)
    return images


def _held_out(first: int, last: int) -> dict[str, list[tuple[Images, np.int64]]]:
    """Pairs of an image and its digit; an image is in one slice alone, so that samples stay independent."""
    images, labels = _digits()[0][first:last], _digits()[1][first:last]
    return {
        name: list(zip(_varied(images[i :: len(SLICES)], name, seed=i), labels[i :: len(SLICES)], strict=True))
        for i, name in enumerate(SLICES)
    }


def slices() -> dict[str, list[Images]]:
    """Images that the models were not trained on, ``[1, 8, 8]`` each, by how they were treated."""
    data = _held_out(TRAINED_ON, TRAINED_ON + FOR_PLANISH)
    return {name: [image for image, _ in pairs] for name, pairs in data.items()}


def labelled() -> planish.Dataset:
    """The same images with the digit they show."""
    return planish.Dataset(_held_out(TRAINED_ON, TRAINED_ON + FOR_PLANISH), label=1)


def unseen() -> planish.Dataset:
    """More of the same that neither training nor planish meets, to check a promise on."""
    return planish.Dataset(_held_out(TRAINED_ON + FOR_PLANISH, len(_digits()[0])), label=1)


class Cnn(nn.Module):
    """Three convolutions and two linears: logits ``[batch, 10]`` of images ``[batch, 1, 8, 8]``."""

    def __init__(self) -> None:
        """Random weights."""
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 64, 3, padding=1)
        self.last = nn.Conv2d(64, 128, 3, stride=2, padding=1)
        self.hidden = nn.Linear(128 * 4 * 4, 256)
        self.head = nn.Linear(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        features = F.relu(self.last(F.relu(self.middle(F.relu(self.stem(images))))))
        logits: Tensor = self.head(F.relu(self.hidden(features.flatten(1))))
        return logits


class Block(nn.Module):
    """A layer of a transformer that normalises first."""

    def __init__(self, width: int, heads: int) -> None:
        """Random weights."""
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """``[batch, tokens, width]`` to the same."""
        batch, tokens, width = x.shape
        parts = self.qkv(self.before(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        result: Tensor = x + self.down(F.gelu(self.up(self.between(x))))
        return result


class Vit(nn.Module):
    """A vision transformer on 16 overlapping patches of 4 x 4 pixels: logits ``[batch, 10]`` of images ``[batch, 1, 8, 8]``."""

    def __init__(self, width: int = 96, depth: int = 4, heads: int = 4) -> None:
        """Random weights."""
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=2, padding=1)
        self.positions = nn.Parameter(0.5 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


def _train(epochs: int, rate: float) -> Any:
    def train(module: nn.Module) -> None:
        arrays = _digits()
        images, labels = torch.from_numpy(arrays[0][:TRAINED_ON]), torch.from_numpy(arrays[1][:TRAINED_ON])
        steps = epochs * -(-len(images) // 64)
        optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        for _ in range(epochs):
            for chosen in torch.randperm(len(images)).split(64):
                down, right = torch.randint(0, 3, (2,)).tolist()
                batch = F.pad(images[chosen], (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]
                batch = batch + 0.1 * torch.rand(()) * torch.randn_like(batch)
                optimizer.zero_grad()
                F.cross_entropy(module(batch), labels[chosen], label_smoothing=0.05).backward()
                optimizer.step()
                schedule.step()

    return train


def _example(module: nn.Module) -> Example:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    return module, (torch.from_numpy(_digits()[0][:1].copy()),), None, ({0: batch},)


def cnn() -> Example:
    """The convolutional network (0.6 million weights, 95 % right on images it has not seen)."""
    return _example(trained("digits-cnn", seeded(Cnn), _train(20, 2e-3), Path(__file__)))


def vit() -> Example:
    """The vision transformer (0.45 million weights, 96 % right)."""
    return _example(trained("digits-vit", seeded(Vit), _train(50, 2e-3), Path(__file__)))
