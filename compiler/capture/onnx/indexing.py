"""Operators that read or write elements by index. Indices that are negative count from the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dims import Dim, bounds, product
from ...graph import Value
from ...types import DType
from ..ranges import as_view
from ..unsupported import Unsupported
from .importing import Importer
from .moving import axis_in, linear_ids, non_negative, select
from .registry import op, refuse

#: How ONNX calls the ways to combine what is written with what is there -> ours.
_REDUCTIONS = {"none": "none", "add": "sum", "mul": "prod", "max": "max", "min": "min"}


def _reduction(name: str) -> str:
    if name not in _REDUCTIONS:
        raise Unsupported(f"there is no reduction {name!r}")
    return _REDUCTIONS[name]


@op("Gather")
def gather(at: Importer, x: Value, ids: Value, *, axis: int = 0) -> Value:
    place = axis_in(axis, x.type.rank)
    index = _one_index(at, ids, x.shape[place])
    if index is not None:
        return select(at, x, place, index)
    return at.emit("gather", x, ids, axis=place)


def _one_index(at: Importer, ids: Value, size: Dim) -> Dim | None:
    """A single index that is known and lies inside at every size; None for anything else."""
    content = None if ids.type.rank else at.known(ids)
    if content is None:
        return None
    index: Dim = content.reshape(-1)[0]
    if bounds(index, at.bounds)[1] < 0:
        index = size + index
    inside = bounds(index, at.bounds)[0] >= 0 and bounds(size - index, at.bounds)[0] > 0
    return index if inside else None


@op("GatherElements", since=11)
def gather_elements(at: Importer, x: Value, ids: Value, *, axis: int = 0) -> Value:
    place = axis_in(axis, x.type.rank)
    wanted = non_negative(at, ids, x.shape[place])
    for i, size in enumerate(ids.shape):
        if i != place:
            x = at.slice(x, i, 0, size)  # only the leading part is read
    return at.emit("take_along", x, wanted, axis=place)


@op("GatherND", since=11)
def gather_nd(at: Importer, x: Value, ids: Value, *, batch_dims: int = 0) -> Value:
    """Elements, or slices, by rows of indices into the leading axes behind ``batch_dims`` axes that both have."""
    count = _indexed_axes(ids, x.type.rank - batch_dims)
    batch = x.shape[:batch_dims]
    sizes, rest = x.shape[batch_dims : batch_dims + count], x.shape[batch_dims + count :]
    if not batch_dims and (view := _counted(at, x, ids)) is not None:
        return view
    linear = linear_ids(at, ids, sizes)
    shape = (*ids.shape[:-1], *rest)
    if batch_dims:
        each = at.emit("arange", end=product(batch), dtype=DType.i64)
        first = at.emit("mul", each, at.scalar(product(sizes), DType.i64))
        lifted = at.reshape(first, (*batch, *(1 for _ in ids.shape[batch_dims:-1])))
        linear = at.emit("add", linear, lifted)
    lined = at.reshape(x, (product(batch) * product(sizes), *rest))
    return at.reshape(at.emit("gather", lined, linear, axis=0), shape)


def _counted(at: Importer, x: Value, ids: Value) -> Value | None:
    """What is looked up where every index counts along an axis of its own, as exporters write ``mask[batch, keys]``."""
    node = ids.node
    if node is None or node.op != "concat" or node.attrs["axis"] % ids.type.rank != ids.type.rank - 1:
        return None
    if any(part.shape[-1] != 1 for part in node.operands):
        return None
    return as_view(at, x, range(len(node.operands)), [_without_last(at, part) for part in node.operands])


def _without_last(at: Importer, value: Value) -> Value:
    """``value`` without its last axis, of size 1; what that axis was added to, if it was."""
    source = value.node.inputs[0] if value.node is not None and value.node.op == "reshape" else None
    return at.reshape(value if source is None or source.shape != value.shape[:-1] else source, value.shape[:-1])


def _indexed_axes(ids: Value, most: int) -> int:
    count = ids.shape[-1] if ids.type.rank else None
    if not isinstance(count, int) or count > most:
        raise Unsupported(f"the indices {ids.type} do not fit")
    return count


@op("Scatter", since=9)
@op("ScatterElements", since=11)
def scatter_elements(
    at: Importer, x: Value, ids: Value, updates: Value, *, axis: int = 0, reduction: str = "none"
) -> Value:
    place = axis_in(axis, x.type.rank)
    return at.emit("put_along", x, at.cast(ids, DType.i64), updates, axis=place, reduce=_reduction(reduction))


@op("ScatterND", since=11)
def scatter_nd(at: Importer, x: Value, ids: Value, updates: Value, *, reduction: str = "none") -> Value:
    """Elements, or slices, written by rows of indices into the leading axes."""
    count = _indexed_axes(ids, x.type.rank)
    sizes, rest = x.shape[:count], x.shape[count:]
    written = product(ids.shape[:-1])
    linear = at.reshape(linear_ids(at, ids, sizes), (written,))
    lined = at.reshape(x, (product(sizes), *rest))
    source = at.reshape(updates, (written, *rest))
    result = at.emit("scatter", lined, linear, source, axis=0, reduce=_reduction(reduction))
    return at.reshape(result, x.shape)


# -- results whose size depends on the data --------------------------------------------------------------------------------
@op("Compress", since=9)
def compress(at: Importer, x: Value, condition: Value, *, axis: int | None = None) -> Value:
    """The slices where a condition that is known holds."""
    chosen = np.flatnonzero(at.data(condition, "how much is left"))
    if axis is None:
        x, axis = at.reshape(x, (product(x.shape),)), 0
    place = axis_in(axis, x.type.rank)
    return at.emit("gather", x, at.constant(chosen.astype(np.int64), DType.i64, "chosen"), axis=place)


refuse("NonZero", "Unique", why="the size of its result depends on the data")


# -- windows ------------------------------------------------------------------------------------------------------------------
@op("Col2Im", since=18)
def col2im(
    at: Importer, x: Value, image_shape: Value, block_shape: Value, *, dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None, strides: Sequence[int] | None = None,
) -> Value:  # fmt: skip
    """Columns [batch, channels * taps, windows] back to an image [batch, channels, *image]; what overlaps is summed."""
    image, block = at.ints(image_shape, "the shape of the image"), at.ints(block_shape, "the shape of a block")
    rank = len(image)
    step, gap = strides or [1] * rank, dilations or [1] * rank
    edge = pads or [0] * (2 * rank)
    padded = [image[i] + edge[i] + edge[rank + i] for i in range(rank)]
    taps, places = int(np.prod(block)), np.zeros((1, 1), np.int64)
    windows = [(padded[i] - gap[i] * (block[i] - 1) - 1) // step[i] + 1 for i in range(rank)]
    for i in range(rank):  # the row-major place in the padded image of every tap (rows) of every window (columns)
        along = np.arange(block[i])[:, None] * gap[i] + np.arange(windows[i])[None, :] * step[i]
        places = places[:, None, :, None] * padded[i] + along[None, :, None, :]
        places = places.reshape(places.shape[0] * places.shape[1], -1)
    batch, channels = x.shape[0], x.shape[1] // taps
    flat = at.reshape(x, (batch, channels, places.size))
    nothing = at.emit("full", value=0, shape=(batch, channels, int(np.prod(padded))), dtype=x.dtype)
    ids = at.constant(places.reshape(-1), DType.i64, "places")
    summed = at.reshape(at.emit("scatter", nothing, ids, flat, axis=2, reduce="sum"), (batch, channels, *padded))
    for i in range(rank):
        summed = at.slice(summed, 2 + i, edge[i], edge[i] + image[i])
    return summed
