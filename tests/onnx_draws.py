"""Random operands for models of single ONNX operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx_single_ops import MICROSOFT, Single

_RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    """Normal numbers."""
    return _RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    """Magnitudes of normal numbers, from 0.1 on."""
    return np.abs(f32(*shape)) + np.float32(0.1)


def i8(*shape: int, low: int = -127) -> np.ndarray:
    return _RNG.integers(low, 128, shape).astype(np.int8)


def u8(*shape: int, high: int = 256) -> np.ndarray:
    return _RNG.integers(0, high, shape).astype(np.uint8)


def ids(count: int, *shape: int, dtype: Any = np.int32) -> np.ndarray:
    """Integers below ``count``."""
    return _RNG.integers(0, count, shape).astype(dtype)


def coins(*shape: int, rate: float = 0.5) -> np.ndarray:
    return _RNG.random(shape) < rate


def shuffled(array: np.ndarray) -> np.ndarray:
    return _RNG.permutation(array)


def step(value: float) -> np.ndarray:
    """A scale without axes."""
    return np.float32(value)  # type: ignore[return-value]


def tables(places: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of a rotary embedding, f32 ``[places, width]`` each."""
    angles = np.arange(places)[:, None] / 10000 ** (np.arange(width) / width)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def microsoft(
    op: str,
    inputs: Mapping[str, np.ndarray | None],
    attributes: Mapping[str, Any] | None = None,
    constants: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    outputs: Sequence[str] = ("y",),
) -> Single:
    """A model of one operator of com.microsoft."""
    return Single(op, inputs, attributes or {}, constants, shapes or {}, outputs, MICROSOFT)
