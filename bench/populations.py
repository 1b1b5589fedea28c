"""Populations that samples can be drawn from without end, each draw independent of the others.

A promise about "inputs like these" can only be checked where there are as many such inputs as it takes, from the very
distribution that the search was given. So the data of a search here is a draw, and so is the data that its promise is checked on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from . import data

Draw = list[Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Population:
    """A model and a distribution of its inputs.

    Attributes:
        name: as it stands in the table.
        module, model: of the folder ``examples``, and the function there that returns what is compiled.
        draw: (count, seed) to independent samples: arrays by input name, without the axis of rows.
        bar: asked of every compile; it has to bind: the fastest plan misses it.
        sizes: what is timed.
        words: what a sample is.
    """

    name: str
    module: str
    model: str
    draw: Callable[[int, int], Draw]
    bar: str
    sizes: Mapping[str, int]
    words: str

    def make(self) -> Any:
        """``(module, args, kwargs, dynamic_shapes)``."""
        return getattr(data.examples(self.module), self.model)()


@cache
def _images() -> np.ndarray:
    """Digits that the models were not trained on, ``[n, 8, 8]`` in 0..1."""
    digits = data.examples("digits")
    rows = [
        image for part in (digits.slices()["clean"], [i for i, _ in digits.unseen().source["clean"]]) for image in part
    ]
    return np.stack(rows)[:, 0]


def draw_digits(count: int, seed: int) -> Draw:
    """A random digit, moved by up to a pixel each way (bilinear, so by any part of one), darkened and with noise."""
    random = np.random.default_rng([seed, 1])
    images = _images()
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2)))
    found: Draw = []
    for _ in range(count):
        image = padded[random.integers(len(images))]
        down, right = random.uniform(0, 2, 2)
        i, j, a, b = int(down), int(right), down % 1, right % 1
        moved = (
            (1 - a) * (1 - b) * image[i : i + 8, j : j + 8] + (1 - a) * b * image[i : i + 8, j + 1 : j + 9]
            + a * (1 - b) * image[i + 1 : i + 9, j : j + 8] + a * b * image[i + 1 : i + 9, j + 1 : j + 9]
        )  # fmt: skip
        noisy = random.uniform(0.7, 1) * moved + random.uniform(0, 0.15) * random.standard_normal((8, 8))
        found.append({"images": np.clip(noisy, 0, 1).astype(np.float32)[None]})
    return found


@cache
def _tokens() -> np.ndarray:
    """Text that the language model was not trained on, as one line of tokens."""
    topics = data.examples("topics")
    parts = [
        window
        for source in (topics.slices().source, topics.unseen().source)
        for ws in source.values()
        for window, _ in ws
    ]
    return np.concatenate(parts)


def draw_windows(count: int, seed: int) -> Draw:
    """Windows of 32 tokens from random places of the text."""
    random = np.random.default_rng([seed, 2])
    tokens = _tokens()
    starts = random.integers(0, len(tokens) - 32, count)
    return [{"ids": tokens[start : start + 32]} for start in starts]


POPULATIONS = (
    Population(
        "digits CNN", "digits", "cnn", draw_digits, "kl <= 2e-4 each", {"batch": 8},
        "digits moved by up to a pixel, darkened, with noise",
    ),
    Population(
        "digits ViT", "digits", "vit", draw_digits, "kl <= 6e-4 each", {"batch": 8},
        "digits moved by up to a pixel, darkened, with noise",
    ),
    Population(
        "language model", "topics", "model", draw_windows, "kl <= 1.5e-4 each", {"batch": 1, "seq": 32},
        "windows of 32 tokens at random places",
    ),
)  # fmt: skip


def chosen(words: str) -> list[Population]:
    """Those whose name holds one of the comma-separated words (all of them where nothing is asked for)."""
    wanted = [w.strip().lower() for w in words.split(",") if w.strip()]
    return [p for p in POPULATIONS if not wanted or any(w in p.name.lower() for w in wanted)]
