"""Resampling along one axis of fixed size, as ONNX's Resize has it: which elements make an element of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..unsupported import Unsupported

#: Which neighbour is the nearest.
ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class Resampling:
    """What the attributes of a Resize say.

    Attributes:
        mode: nearest, linear or cubic.
        coordinates: how places of the result become places of the operand.
        rounding: of nearest.
        a: of cubic, the coefficient of Keys' kernel (R. Keys, 1981).
        outside: neighbours outside of the operand count (as the outermost element).
        antialias: the kernel is widened where the result is smaller.
        extrapolation: what tf_crop_and_resize gives outside of the operand.
    """

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    a: float = -0.75
    outside: bool = True
    antialias: bool = False
    extrapolation: float = 0.0


@dataclass(frozen=True)
class Axis:
    """One axis: its sizes before and after, the scale, and of tf_crop_and_resize which part is taken (0 to 1: all)."""

    size: int
    count: int
    scale: float
    part: tuple[float, float] = (0.0, 1.0)


def places(how: Resampling, axis: Axis) -> np.ndarray:
    """For every element of the result the place in the operand, f64 [count].

    Raises:
        Unsupported: the transformation is not known.
    """
    at = np.arange(axis.count, dtype=np.float64)
    wide = axis.scale * axis.size  # the size of the result before it was rounded
    last = axis.size - 1
    match how.coordinates:
        case "align_corners":
            return np.zeros(axis.count) if wide == 1 else at * last / (wide - 1)
        case "asymmetric":
            return at / axis.scale
        case "half_pixel":
            return (at + 0.5) / axis.scale - 0.5
        case "pytorch_half_pixel":
            return np.zeros(axis.count) if wide == 1 else (at + 0.5) / axis.scale - 0.5
        case "half_pixel_symmetric":
            offset = axis.size / 2 * (1 - axis.count / wide)
            return offset + (at + 0.5) / axis.scale - 0.5
        case "tf_crop_and_resize":
            start, end = axis.part
            if wide == 1:
                return np.full(axis.count, (start + end) * last / 2)
            return start * last + at * (end - start) * last / (wide - 1)
    raise Unsupported(f"the coordinates {how.coordinates!r} are not known")


def nearest(how: Resampling, axis: Axis) -> np.ndarray:
    """For every element of the result the one it is, i64 [count].

    Raises:
        Unsupported: the rounding is not known.
    """
    rounding = ROUNDING.get(how.rounding)
    if rounding is None:
        raise Unsupported(f"the rounding {how.rounding!r} is not known")
    return np.clip(rounding(places(how, axis)), 0, axis.size - 1).astype(np.int64)


def _linear(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, 1)


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return kernel


def weights(how: Resampling, axis: Axis) -> np.ndarray:
    """How much each element of the operand counts for each of the result, f64 [count, size]."""
    x = places(how, axis)
    before = np.ceil(x) - 1  # the element in front of the place; at an element itself, the one before that
    radius, kernel = (1, _linear) if how.mode == "linear" else (2, _cubic(how.a))
    squeeze = min(axis.scale, 1.0) if how.antialias else 1.0
    first = int(np.floor(-radius / squeeze) + 1)
    steps = np.arange(first, 2 - first)
    share = kernel(squeeze * (steps[None, :] - (x - before)[:, None]))
    ids = before[:, None] + steps
    if how.antialias:
        share = share / share.sum(1, keepdims=True)
    if not how.outside:
        share = np.where((ids < 0) | (ids >= axis.size), 0.0, share)
        total = share.sum(1, keepdims=True)
        share = share / np.where(total == 0, 1.0, total)
    matrix = np.zeros((axis.count, axis.size))
    rows = np.broadcast_to(np.arange(axis.count)[:, None], ids.shape)
    np.add.at(matrix, (rows, np.clip(ids, 0, axis.size - 1).astype(np.int64)), share)
    return matrix


def beyond(how: Resampling, axis: Axis) -> np.ndarray | None:
    """Where the result is ``extrapolation``, bool [count]; None: nowhere."""
    if how.coordinates != "tf_crop_and_resize":
        return None
    x = places(how, axis)
    outside = (x < 0) | (x > axis.size - 1)
    return outside if outside.any() else None
