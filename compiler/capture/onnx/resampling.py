"""Resize and Upsample.

Resampling works along one axis after the other. At a whole scale nearest neighbours repeat each element, and a linear one mixes
the tensor with itself moved by one. Else, where the sizes are known, what it does is known too: nearest neighbours are a
``gather`` at constant places, all else a product with a constant matrix. Along an axis whose size varies the places are computed
at run time, and the few neighbours of each are gathered and summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ...dims import Dim, Expr, floordiv, product
from ...graph import Value
from ...types import DType, float_to_bf16
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op
from .resampling_varying import along_varying, in_phases
from .resampling_weights import Axis, Resampling, beyond, nearest, weights

#: Coordinates in which a whole scale puts the new elements at the same places between the old ones.
_IN_PHASES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "asymmetric")
#: At larger scales a product with a matrix, or looking neighbours up, needs fewer nodes.
MAX_PHASES = 16
_MODES = ("nearest", "linear", "cubic")


@op("Upsample", since=7)
def upsample_7(at: Importer, x: Value, *, scales: Sequence[float], mode: str = "nearest") -> Value:
    return _upsample(at, x, scales, mode)


@op("Resize", since=10)
@op("Upsample", since=9)
def upsample(at: Importer, x: Value, scales: Value, *, mode: str = "nearest") -> Value:
    return _upsample(at, x, at.data(scales, "the scale").tolist(), mode)


def _upsample(at: Importer, x: Value, scales: Sequence[float], mode: str) -> Value:
    how = Resampling("linear" if mode == "bilinear" else mode, "asymmetric", "floor")
    return _resize(at, x, how, range(x.type.rank), _from_scales(x, range(x.type.rank), scales), None)


@op("Resize", since=11)
def resize(
    at: Importer, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None, *,
    antialias: int = 0, axes: Sequence[int] | None = None, coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
) -> Value:  # fmt: skip
    if mode not in _MODES or (antialias and mode == "nearest"):
        raise Unsupported(f"the mode {mode!r}{' with antialias' if antialias else ''} is not known")
    how = Resampling(
        mode, coordinate_transformation_mode, nearest_mode, cubic_coeff_a, not exclude_outside, bool(antialias),
        extrapolation_value,
    )  # fmt: skip
    places = [a % x.type.rank for a in axes] if axes is not None else list(range(x.type.rank))
    if sizes is not None and sizes.shape != (0,):
        found = _from_sizes(x, places, at.dims(sizes, "the size"), keep_aspect_ratio_policy)
    elif scales is not None and scales.shape != (0,):
        found = _from_scales(x, places, at.data(scales, "the scale").tolist())
    else:
        raise Unsupported("neither sizes nor scales are given")
    part = None
    if how.coordinates == "tf_crop_and_resize":
        if roi is None:
            raise Unsupported("the region (roi) is missing")
        bounds = at.data(roi, "the region").tolist()
        part = list(zip(bounds[: len(places)], bounds[len(places) :], strict=True))
    return _resize(at, x, how, places, found, part)


def _from_scales(x: Value, axes: Sequence[int], scales: Sequence[float]) -> list[tuple[Dim, float | None]]:
    """(size, scale) per axis."""
    if len(scales) != len(axes):
        raise Unsupported(f"{len(scales)} scales do not fit {len(axes)} axes")
    found: list[tuple[Dim, float | None]] = []
    for axis, scale in zip(axes, scales, strict=True):
        size = x.shape[axis]
        if isinstance(size, int):  # in f32, as shape inference has it
            found.append((int(np.floor(np.float32(size) * np.float32(scale))), scale))
            continue
        ratio = Fraction(scale).limit_denominator(4096)
        if np.float32(ratio.numerator / ratio.denominator) != np.float32(scale):
            raise Unsupported(f"the scale {scale} along an axis whose size varies is not supported")
        found.append((floordiv(size * ratio.numerator, ratio.denominator), scale))
    return found


def _from_sizes(x: Value, axes: Sequence[int], sizes: Sequence[Dim], policy: str) -> list[tuple[Dim, float | None]]:
    if len(sizes) != len(axes):
        raise Unsupported(f"{len(sizes)} sizes do not fit {len(axes)} axes")
    before = [x.shape[a] for a in axes]
    known = [(b, s) for b, s in zip(before, sizes, strict=True) if isinstance(b, int) and isinstance(s, int) and b > 0]
    if policy == "stretch":
        ratios = [
            s / b if isinstance(b, int) and isinstance(s, int) and b else 1.0 if b == s else None
            for b, s in zip(before, sizes, strict=True)
        ]
        return list(zip(sizes, ratios, strict=True))
    if policy not in ("not_larger", "not_smaller"):
        raise Unsupported(f"the policy {policy!r} is not known")
    if len(known) < len(axes):
        raise Unsupported(f"the policy {policy!r} along axes whose size varies is not supported")
    scale = (min if policy == "not_larger" else max)(s / b for b, s in known)
    return [(math.floor(scale * b + 0.5), scale) for b, _ in known]


def _resize(
    at: Importer, x: Value, how: Resampling, axes: Sequence[int], sizes: Sequence[tuple[Dim, float | None]],
    part: Sequence[tuple[float, float]] | None,
) -> Value:  # fmt: skip
    given = x.dtype
    if how.mode != "nearest":
        x = at.cast(x, DType.f64 if given is DType.f64 else DType.f32)
    for i, (axis, (count, scale)) in enumerate(zip(axes, sizes, strict=True)):
        taken = (0.0, 1.0) if part is None else part[i]
        size = x.shape[axis]
        if size == count and (scale is None or math.isclose(scale, 1.0)) and np.allclose(taken, (0.0, 1.0)):
            continue
        if isinstance(size, int) and isinstance(count, int) and scale is not None:
            x = _along(at, x, axis, how, Axis(size, count, scale, taken))
        else:
            x = _along_any(at, x, axis, how, count, scale)
    if given.is_integer and how.mode != "nearest":
        limits = np.iinfo(given.numpy)
        x = at.emit("clamp", at.emit("round", x), min=float(limits.min), max=float(limits.max))
    return at.cast(x, given)


def _along(at: Importer, x: Value, axis: int, how: Resampling, sizes: Axis) -> Value:
    """Along an axis whose sizes are known."""
    if not sizes.size or not sizes.count:
        if not sizes.size and sizes.count:
            raise Unsupported("an axis of no elements cannot grow")
        return at.emit("full", value=0, shape=(*x.shape[:axis], 0, *x.shape[axis + 1 :]), dtype=x.dtype)
    times = sizes.count // sizes.size
    if _in_phases(how, times) and sizes.scale == times and sizes.count == sizes.size * times:
        return in_phases(at, x, axis, how, times)
    if how.mode == "nearest":
        ids = at.constant(nearest(how, sizes), DType.i64, "resize")
        x = at.emit("gather", x, ids, axis=axis)
    else:
        x = applied(at, x, axis, weights(how, sizes))
    outside = beyond(how, sizes)
    if outside is None:
        return x
    shape = [-1 if a == axis else 1 for a in range(x.type.rank)]
    mask = at.constant(outside.reshape(shape), DType.bool, "outside")
    value = int(how.extrapolation) if x.dtype.is_integer else float(how.extrapolation)
    return at.emit("where", mask, at.scalar(value, x.dtype), x)


def applied(at: Importer, x: Value, axis: int, matrix: np.ndarray) -> Value:
    """``x`` with ``matrix`` ([new size, old size]) applied along ``axis``."""
    if x.dtype is DType.bf16:
        weight = at.constant(float_to_bf16(matrix.astype(np.float32)), DType.bf16, "resize")
    else:
        weight = at.constant(matrix.astype(x.dtype.numpy), x.dtype, "resize")
    if axis == x.type.rank - 1:
        return at.emit("linear", x, weight)
    flat = at.reshape(x, (*x.shape[: axis + 1], product(x.shape[axis + 1 :])))
    result = at.emit("matmul", weight, flat)
    return at.reshape(result, (*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :]))


def _along_any(at: Importer, x: Value, axis: int, how: Resampling, count: Dim, scale: float | None) -> Value:
    """Along an axis one of whose sizes varies."""
    size = x.shape[axis]
    times = round(scale) if scale is not None and scale == round(scale) else None
    if times is None and isinstance(count, Expr) and isinstance(size, Expr):
        whole = floordiv(count, size)
        times = whole if isinstance(whole, int) and count == size * whole else None
    if times is not None and how.mode == "nearest" and _repeats(how):
        apart = at.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
        wide = at.expand(apart, (*x.shape[: axis + 1], times, *x.shape[axis + 1 :]))
        return at.reshape(wide, (*x.shape[:axis], size * times, *x.shape[axis + 1 :]))
    if times is not None and _in_phases(how, times):
        return in_phases(at, x, axis, how, times)
    if how.antialias:
        raise Unsupported("resampling with antialias along an axis whose size varies is not supported")
    if how.coordinates == "half_pixel_symmetric" and scale is None:
        how = replace(how, coordinates="half_pixel")  # they differ where the size was rounded
    return along_varying(at, x, axis, how, count, scale)


def _in_phases(how: Resampling, times: int) -> bool:
    """Whether a linear resampling at a whole scale is done phase by phase."""
    return how.mode == "linear" and how.coordinates in _IN_PHASES and 1 < times <= MAX_PHASES


def _repeats(how: Resampling) -> bool:
    """Whether nearest neighbours at a whole scale are each element so many times."""
    if how.coordinates == "asymmetric":
        return how.rounding == "floor"
    return how.coordinates.startswith(("half_pixel", "pytorch")) and how.rounding.startswith("round")
