"""Pooling of regions of interest, and what finds them, which cannot be read."""

from __future__ import annotations

from typing import Any

from ...dims import Dim
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op, refuse
from .sampling import Field, whole_place


@op("RoiAlign", since=10)
def roi_align_10(at: Importer, x: Value, rois: Value, batch_indices: Value, **attributes: Any) -> Value:
    return roi_align(at, x, rois, batch_indices, coordinate_transformation_mode="output_half_pixel", **attributes)


@op("RoiAlign", since=16)
def roi_align(
    at: Importer, x: Value, rois: Value, batch_indices: Value, *, coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg", output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Value:  # fmt: skip
    """Bilinear samples in a grid over every bin of a region, averaged (He et al. 2017).

    ``max`` takes the largest weighted neighbour of all samples, as the standard's reference and ONNX Runtime do.
    """
    if sampling_ratio <= 0:
        raise Unsupported("the number of samples depends on the data (sampling_ratio is 0)")
    given, count = x.dtype, rois.shape[0]
    wide = DType.f64 if given is DType.f64 else DType.f32
    half = coordinate_transformation_mode == "half_pixel"
    bins = (output_height, output_width)
    axes = [
        _samples(at, at.cast(rois, wide), axis, bins[axis], sampling_ratio, spatial_scale, x.shape[2 + axis], half)
        for axis in range(2)
    ]
    field = Field(at, at.cast(x, wide))
    start = field.start(at.cast(batch_indices, DType.i64))
    (rows, row_shares), (columns, column_shares) = axes
    high, width = rows[0].shape[1], columns[0].shape[1]
    points = (count, high * width)
    parts = []
    for row, row_share in zip(rows, row_shares, strict=True):
        for column, column_share in zip(columns, column_shares, strict=True):
            spread = [at.reshape(row, (count, high, 1)), at.reshape(column, (count, 1, width))]
            places = [at.reshape(at.expand(p, (count, high, width)), points) for p in spread]
            share = at.emit("mul", at.reshape(row_share, (count, high, 1)), at.reshape(column_share, (count, 1, width)))
            values = field.rows(start, places)
            parts.append(at.emit("mul", values, at.reshape(share, (*points, 1))))
    total = parts[0]
    for part in parts[1:]:
        total = at.emit("add" if mode == "avg" else "maximum", total, part)
    grid = (count, output_height, sampling_ratio, output_width, sampling_ratio, x.shape[1])
    reduction = "reduce_mean" if mode == "avg" else "reduce_max"
    result = at.emit(reduction, at.reshape(total, grid), axes=(2, 4), keepdim=False)
    return at.cast(at.transpose(result, (0, 3, 1, 2)), given)


def _samples(
    at: Importer, rois: Value, axis: int, bins: int, ratio: int, scale: float, size: Dim, half: bool
) -> tuple[list[Value], list[Value]]:
    """The two neighbours of every sample along an axis (0: rows), and their shares, [regions, bins * ratio]."""
    dtype, count = rois.dtype, rois.shape[0]

    def number(value: float | Dim) -> Value:
        return at.scalar(value, dtype)

    ends = []
    for column in (1 - axis, 3 - axis):  # a region is x1, y1, x2, y2
        end = at.emit("mul", at.slice(rois, 1, column, column + 1), number(scale))
        ends.append(at.emit("sub", end, number(0.5)) if half else end)
    length = at.emit("sub", ends[1], ends[0])
    if not half:
        length = at.emit("maximum", length, number(1.0))
    step = at.emit("div", length, number(float(bins)))
    place = at.cast(at.emit("arange", end=bins * ratio, dtype=DType.i64), dtype)
    place = at.emit("div", at.emit("add", place, number(0.5)), number(float(ratio)))
    place = at.emit("add", ends[0], at.emit("mul", step, at.reshape(place, (1, bins * ratio))))
    low = at.emit("lt", place, number(-1.0))
    outside = at.emit("logical_or", low, at.emit("gt", place, number(size)))
    held = at.emit("minimum", at.emit("maximum", place, number(0.0)), number(size - 1))
    first = at.emit("floor", held)
    t = at.emit("sub", held, first)
    nothing = number(0.0)
    shares = [at.emit("where", outside, nothing, s) for s in (at.emit("sub", number(1.0), t), t)]
    assert shares[0].shape == (count, bins * ratio)
    following = at.emit("add", first, number(1.0))
    return [whole_place(at, first, size), whole_place(at, following, size)], shares


@op("MaxRoiPool")
def max_roi_pool(at: Importer, x: Value, rois: Value, *, pooled_shape: list[int], spatial_scale: float = 1.0) -> Value:
    """The largest element of every bin of a region (Girshick 2015), one axis after the other; an empty bin gives 0."""
    wide = DType.f64 if x.dtype is DType.f64 else DType.f32
    count = rois.shape[0]
    number = at.cast(rois, wide)
    batch = at.reshape(at.cast(at.slice(number, 1, 0, 1), DType.i64), (count,))
    found = at.emit("gather", at.cast(x, wide), batch, axis=0)  # [regions, channels, rows, columns]
    lowest = at.scalar(-float("inf"), wide)
    for axis in range(2):
        bins, size = pooled_shape[axis], x.shape[2 + axis]
        inside = _bins(at, number, axis, bins, spatial_scale, size)  # [regions, bins, size]
        lead, behind = found.shape[: 2 + axis], found.shape[3 + axis :]
        apart = at.reshape(found, (*lead, 1, size, *behind))
        between = [1] * (axis + 1)  # channels, and bins of rows
        shown = at.reshape(inside, (count, *between, bins, size, *(1 for _ in behind)))
        cells = at.emit("where", shown, apart, lowest)
        found = at.emit("reduce_max", cells, axes=(3 + axis,), keepdim=False)
    empty = at.emit("eq", found, lowest)
    return at.cast(at.emit("where", empty, at.scalar(0.0, wide), found), x.dtype)


def _bins(at: Importer, rois: Value, axis: int, bins: int, scale: float, size: Dim) -> Value:
    """Which elements along an axis (0: rows) lie in which bin, bool [regions, bins, size]."""
    dtype = rois.dtype

    def number(value: float | Dim) -> Value:
        return at.scalar(value, dtype)

    def rounded(column: int) -> Value:  # halves away from zero, as C rounds
        scaled = at.emit("mul", at.slice(rois, 1, column, column + 1), number(scale))
        size_of = at.emit("floor", at.emit("add", at.emit("abs", scaled), number(0.5)))
        return at.emit("mul", at.emit("sign", scaled), size_of)

    first, last = rounded(2 - axis), rounded(4 - axis)  # a region is batch, x1, y1, x2, y2
    length = at.emit("maximum", at.emit("add", at.emit("sub", last, first), number(1.0)), number(1.0))
    step = at.emit("div", length, number(float(bins)))

    def edge(offset: int, kind: str) -> Value:
        place = at.cast(at.emit("arange", start=offset, end=bins + offset, dtype=DType.i64), dtype)
        place = at.emit(kind, at.emit("mul", step, at.reshape(place, (1, bins))))
        moved = at.emit("add", place, first)
        held = at.emit("minimum", at.emit("maximum", moved, number(0.0)), number(size))
        return at.reshape(held, (rois.shape[0], bins, 1))

    cell = at.cast(at.emit("arange", end=size, dtype=DType.i64), dtype)
    return at.emit("logical_and", at.emit("ge", cell, edge(0, "floor")), at.emit("lt", cell, edge(1, "ceil")))


refuse(
    "NonMaxSuppression",
    why="the size of its result depends on the data (cut the model in front of it, and select boxes outside)",
)
refuse("ImageDecoder", why="it decodes image files (decode them outside of the model)")
