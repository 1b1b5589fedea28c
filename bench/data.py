"""Real text for the benchmarks: what is timed, what quantisation is calibrated with, what quality is judged on."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import numpy.typing as npt

from .machine import ROOT

Inputs = dict[str, npt.NDArray[np.int64]]
Shape = tuple[int, int]

#: batch x tokens, as the floors name them
SHAPES: tuple[Shape, ...] = ((1, 32), (1, 128), (8, 128))
EVALUATION_SENTENCES = 400
CALIBRATION_SENTENCES = 300


def examples(name: str) -> ModuleType:
    """A module of the folder ``examples``, which is no package: it is what a user would write."""
    folder = str(ROOT / "examples")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return __import__(name)


def timed(shape: Shape) -> Inputs:
    """One batch of exactly this shape, cut from running text: no padding, every token counts."""
    inputs: Inputs = examples("sentences").running_text(*shape)
    return inputs


def evaluation(count: int = EVALUATION_SENTENCES) -> list[Inputs]:
    """Held-out sentences, each at its own length, batch 1."""
    text = examples("sentences")
    return [text.tokenised([s]) for s in text.sentences(count, seed=0, name="evaluation")]


def calibration(count: int = CALIBRATION_SENTENCES) -> list[Inputs]:
    """Sentences that quantisation may look at; none of them is among the held-out ones."""
    text = examples("sentences")
    return [text.tokenised([s]) for s in text.sentences(count, seed=5, name="calibration")]


def label(shape: Shape) -> str:
    """``1 x 128``."""
    return f"{shape[0]} x {shape[1]}"
