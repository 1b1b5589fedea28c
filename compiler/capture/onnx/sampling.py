"""What reads between elements at places that are computed: GridSample, DeformConv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian

import numpy as np

from ...dims import Dim, divide_exactly, product
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op
from .resampling_varying import cubic_weights
from .windows import windows_over

_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}
_PADDING = ("zeros", "border", "reflection")


class Field:
    """A tensor [batch, channels, *space] whose elements are looked up by place, all channels at once.

    Args:
        at: the walk.
        x: the tensor.
    """

    def __init__(self, at: Importer, x: Value) -> None:
        self._at = at
        self.space: tuple[Dim, ...] = x.shape[2:]
        last = at.transpose(x, (0, *range(2, x.type.rank), 1))
        self._rows = at.reshape(last, (x.shape[0] * product(self.space), x.shape[1]))

    def first(self, batch: Dim) -> Value:
        """Where each element of a batch begins, i64 [batch, 1]; for :meth:`rows`."""
        return self.start(self._at.emit("arange", end=batch, dtype=DType.i64))

    def start(self, ids: Value) -> Value:
        """Where the elements of the batch with these ids (i64 [n]) begin, i64 [n, 1]."""
        whole = self._at.scalar(product(self.space), DType.i64)
        return self._at.reshape(self._at.emit("mul", ids, whole), (*ids.shape, 1))

    def rows(self, start: Value, places: Sequence[Value]) -> Value:
        """The channels, [n, points, channels], at ``places``: i64 per axis of space, which broadcast to [n, points]."""
        at, linear = self._at, None
        for place, size in zip(places, self.space, strict=True):
            if linear is not None:
                linear = at.emit("mul", linear, at.scalar(size, DType.i64))
            linear = place if linear is None else at.emit("add", linear, place)
        assert linear is not None
        return at.emit("gather", self._rows, at.emit("add", linear, start), axis=0)


def whole_place(at: Importer, value: Value, size: Dim) -> Value:
    """Places as i64, those outside of an axis of ``size`` (and NaN) moved to its ends."""
    ids = at.emit("maximum", at.cast(value, DType.i64), at.scalar(0, DType.i64))
    return at.emit("minimum", ids, at.scalar(size - 1, DType.i64))


@dataclass(frozen=True)
class Tap:
    """A neighbour along one axis of all points.

    Attributes:
        place: i64 [n, points], inside of the axis.
        share: how much it counts; None: fully.
        seen: where it lies in the axis, bool; elsewhere it is 0. None: everywhere.
    """

    place: Value
    share: Value | None
    seen: Value | None


def _inside(at: Importer, place: Value, size: Dim) -> Value:
    low = at.emit("ge", place, at.scalar(0.0, place.dtype))
    return at.emit("logical_and", low, at.emit("le", place, at.scalar(size - 1, place.dtype)))


def _reflected(at: Importer, place: Value, low: float, span: Dim) -> Value:
    """Places mirrored at ``low`` and ``low + span`` until they lie between."""
    dtype = place.dtype
    apart = place if not low else at.emit("sub", place, at.scalar(low, dtype))
    period = 2 * span if not isinstance(span, int) else max(2 * span, 1)
    turn = at.emit("mod", apart, at.scalar(period, dtype))
    back = at.emit("sub", at.scalar(2 * span, dtype), turn)
    found = at.emit("minimum", turn, back)
    return found if not low else at.emit("add", found, at.scalar(low, dtype))


def taps_along(at: Importer, place: Value, size: Dim, mode: str, padding: str, align_corners: bool) -> list[Tap]:
    """The neighbours of places (floats, in elements) along an axis of ``size``.

    Args:
        mode: nearest, linear or cubic.
        padding: outside lie ``zeros``, the outermost element (``border``), or the axis mirrored (``reflection``).
        align_corners: the axis ends at the middle of its outermost elements.
    """
    dtype = place.dtype

    def number(value: float | Dim) -> Value:
        return at.scalar(value, dtype)

    low = 0.0 if align_corners else -0.5
    span: Dim = size - 1 if align_corners else size

    def moved(value: Value) -> Value:
        """Whole places outside, brought back; the ends are clamped later."""
        return _reflected(at, value, low, span) if padding == "reflection" else value

    if mode == "nearest":
        place = at.emit("round", place)
    if (
        mode != "cubic"
    ):  # of cubic, the neighbours are brought back and not the place, as PyTorch and ONNX Runtime have it
        if padding == "border":
            place = at.emit("minimum", at.emit("maximum", place, number(0.0)), number(size - 1))
        place = moved(place)

    def tap(value: Value, share: Value | None) -> Tap:
        seen = _inside(at, value, size) if padding == "zeros" else None
        return Tap(whole_place(at, moved(value) if mode == "cubic" else value, size), share, seen)

    if mode == "nearest":
        return [tap(place, None)]
    first = at.emit("floor", place)
    t = at.emit("sub", place, first)
    if mode == "linear":
        following = at.emit("add", first, number(1.0))
        return [tap(first, at.emit("sub", number(1.0), t)), tap(following, t)]
    shares = cubic_weights(at, t, -0.75)
    return [tap(at.emit("add", first, number(float(o))), share) for o, share in zip(range(-1, 3), shares, strict=True)]


def _combined(at: Importer, op: str, values: Sequence[Value | None]) -> Value | None:
    total: Value | None = None
    for value in values:
        if value is not None:
            total = value if total is None else at.emit(op, total, value)
    return total


def sampled(at: Importer, field: Field, start: Value, taps: Sequence[Sequence[Tap]]) -> Value:
    """The weighted sum, [n, points, channels], of all combinations of neighbours along the axes."""
    total: Value | None = None
    for combination in cartesian(*taps):
        part = field.rows(start, [tap.place for tap in combination])
        points = part.shape[:-1]
        seen = _combined(at, "logical_and", [tap.seen for tap in combination])
        if seen is not None:  # what stands at the end of the axis instead may be infinite: it is not multiplied with 0
            part = at.emit("where", at.reshape(seen, (*points, 1)), part, at.scalar(0, part.dtype))
        weight = _combined(at, "mul", [tap.share for tap in combination])
        if weight is not None:
            part = at.emit("mul", part, at.cast(at.reshape(weight, (*points, 1)), part.dtype))
        total = part if total is None else at.emit("add", total, part)
    assert total is not None
    return total


@op("GridSample", since=16)
def grid_sample(
    at: Importer, x: Value, grid: Value, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Value:
    kind = _MODES.get(mode)
    if kind is None or padding_mode not in _PADDING:
        raise Unsupported(f"the mode {mode!r} with the padding {padding_mode!r} is not known")
    space, given = x.shape[2:], x.dtype
    if not space or grid.type.rank != x.type.rank or grid.shape[-1] != len(space):
        raise Unsupported(f"the grid {grid.type} does not fit {x.type}")
    if kind != "nearest":
        x = at.cast(x, DType.f64 if given is DType.f64 else DType.f32)
    grid = at.cast(grid, DType.f64 if grid.dtype is DType.f64 else DType.f32)
    batch, out = x.shape[0], grid.shape[1:-1]
    points = at.reshape(grid, (batch, product(out), len(space)))
    taps = []
    for axis, size in enumerate(space):
        last = len(space) - 1 - axis  # the last number of a point is of the first axis
        one = at.reshape(at.slice(points, 2, last, last + 1), points.shape[:2])
        place = _in_elements(at, one, size, bool(align_corners))
        taps.append(taps_along(at, place, size, kind, padding_mode, bool(align_corners)))
    field = Field(at, x)
    result = sampled(at, field, field.first(batch), taps)
    return at.cast(at.reshape(at.transpose(result, (0, 2, 1)), (batch, x.shape[1], *out)), given)


def _in_elements(at: Importer, value: Value, size: Dim, align_corners: bool) -> Value:
    """Places from -1 to 1 as places from 0 to size - 1, or from the outer edges of the first and the last element."""
    dtype = value.dtype
    moved = at.emit("add", value, at.scalar(1.0, dtype))
    if align_corners:
        return at.emit("mul", at.emit("mul", moved, at.scalar(0.5, dtype)), at.scalar(size - 1, dtype))
    grown = at.emit("sub", at.emit("mul", moved, at.scalar(size, dtype)), at.scalar(1.0, dtype))
    return at.emit("mul", grown, at.scalar(0.5, dtype))


# -- deformable convolution -------------------------------------------------------------------------------------------
@op("DeformConv", since=19)
def deform_conv(
    at: Importer, x: Value, weight: Value, offset: Value, bias: Value | None = None, mask: Value | None = None, *,
    dilations: Sequence[int] | None = None, group: int = 1, kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1, pads: Sequence[int] | None = None, strides: Sequence[int] | None = None,
) -> Value:  # fmt: skip
    """Deformable convolution (Dai et al. 2017; with ``mask`` Zhu et al. 2019): the cells of every window, moved by ``offset``,
    side by side, and a product with the filters."""
    if x.type.rank != 4:
        raise Unsupported(f"it has 2 axes of space, and its operand is {x.type}")
    w = windows_over(x, weight.shape[2:], strides, pads, dilations)
    batch, channels = x.shape[:2]
    out, taps = offset.shape[2:], product(w.kernel)
    each = divide_exactly(channels, offset_group)
    if each is None or not isinstance(channels, int) or channels % group:
        raise Unsupported(f"{channels} channels do not fall into {group} groups, each moved by {offset_group} offsets")
    wide = DType.f64 if x.dtype is DType.f64 else DType.f32
    moved = at.reshape(at.cast(offset, wide), (batch * offset_group, taps, 2, *out))
    places = []
    for axis, size in enumerate(x.shape[2:]):
        shift = at.reshape(at.slice(moved, 2, axis, axis + 1), (batch * offset_group, taps, *out))
        cells = np.indices(w.kernel)[axis].reshape(-1) * w.dilation[axis] - w.low[axis]
        cell = at.constant(cells.reshape(1, -1, 1, 1).astype(wide.numpy), wide, "cells")
        step = at.cast(at.emit("arange", end=out[axis], dtype=DType.i64), wide)
        step = at.emit("mul", step, at.scalar(float(w.stride[axis]), wide))
        step = at.reshape(step, (1, 1, out[0], 1) if axis == 0 else (1, 1, 1, out[1]))
        place = at.emit("add", at.emit("add", shift, cell), step)
        place = at.reshape(place, (batch * offset_group, taps * product(out)))
        places.append(taps_along(at, place, size, "linear", "zeros", True))
    field = Field(at, at.reshape(at.cast(x, wide), (batch * offset_group, each, *x.shape[2:])))
    cells_of = sampled(at, field, field.first(batch * offset_group), places)
    if mask is not None:
        shaped = at.reshape(at.cast(mask, wide), (batch * offset_group, taps * product(out), 1))
        cells_of = at.emit("mul", cells_of, shaped)
    # [batch, offset groups, taps, *out, channels of one] as rows of taps per channel
    apart = at.reshape(cells_of, (batch, offset_group, taps, *out, each))
    rows = at.reshape(at.transpose(apart, (0, 3, 4, 1, 5, 2)), (batch, *out, channels, taps))
    parts, inputs = [], channels // group
    outputs = divide_exactly(weight.shape[0], group)
    if outputs is None:
        raise Unsupported(f"{weight.shape[0]} filters do not fall into {group} groups")
    for g in range(group):
        mine = at.reshape(at.slice(rows, 3, g * inputs, (g + 1) * inputs), (batch, *out, inputs * taps))
        filters = at.slice(at.cast(weight, wide), 0, g * outputs, (g + 1) * outputs)
        parts.append(at.emit("linear", mine, at.reshape(filters, (outputs, inputs * taps))))
    whole = parts[0] if group == 1 else at.emit("concat", *parts, axis=3)
    if bias is not None:
        whole = at.emit("add", whole, at.cast(bias, wide))
    return at.cast(at.transpose(whole, (0, 3, 1, 2)), x.dtype)


@op("AffineGrid", since=20)
def affine_grid(at: Importer, theta: Value, size: Value, *, align_corners: int = 0) -> Value:
    """The places, for GridSample, that an affine map of each element of a batch gives the cells of a tensor of this size."""
    space = at.dims(size, "the size")[2:]
    rank = len(space)
    if theta.type.rank != 3 or theta.shape[1:] != (rank, rank + 1):
        raise Unsupported(f"the maps {theta.type} do not fit {rank} axes of space")
    given = theta.dtype
    wide = DType.f64 if given is DType.f64 else DType.f32
    columns = []
    for axis, count in list(enumerate(space))[::-1]:  # the last axis comes first
        step = at.cast(at.emit("arange", end=count, dtype=DType.i64), wide)
        if align_corners:
            parts = at.emit("maximum", at.scalar(count - 1, wide), at.scalar(1.0, wide))
            line = at.emit("div", at.emit("add", step, step), parts)
        else:
            odd = at.emit("add", at.emit("add", step, step), at.scalar(1.0, wide))
            line = at.emit("div", odd, at.scalar(count, wide))
        line = at.emit("sub", line, at.scalar(1.0, wide))
        shaped = at.reshape(line, tuple(count if a == axis else 1 for a in range(rank)))
        columns.append(at.reshape(at.expand(shaped, space), (product(space), 1)))
    columns.append(at.expand(at.scalar(1.0, wide), (product(space), 1)))
    base = at.emit("concat", *columns, axis=1)
    places = at.emit("matmul", base, at.transpose(at.cast(theta, wide), (0, 2, 1)))
    return at.cast(at.reshape(places, (theta.shape[0], *space, rank)), given)
