"""ATen ops that read elements by index: embedding, gather, advanced indexing (the masks of transformers), flip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dims import Dim, product
from ..graph import Value
from ..types import DType
from . import scalars
from .aten_shape import axis_in, broadcast_to
from .lowering import Lowering, Scalar, aten
from .ranges import as_arange, as_view
from .symbols import Unsupported


@aten("embedding")
def _embedding(b: Lowering, weight: Value, indices: Value) -> Value:
    return b.emit("embedding", weight, indices)


@aten("index_select")
def _index_select(b: Lowering, self: Value, dim: int, index: Value) -> Value:
    axis = axis_in(dim, self.type.rank)
    if not self.type.rank:
        return self
    return b.emit("gather", self, b.reshape(index, b.out_shape[axis : axis + 1]), axis=axis)


@aten("select.Tensor")
def _select_tensor(b: Lowering, self: Value, dim: int, index: Value) -> Value:
    return b.emit("gather", self, b.reshape(index, ()), axis=axis_in(dim, self.type.rank))


@aten("gather")
def _gather(b: Lowering, self: Value, dim: int, index: Value) -> Value:
    if not self.type.rank:
        return b.expand(self, index.shape)
    axis = axis_in(dim, self.type.rank)
    x = self
    for i, (have, want) in enumerate(zip(self.shape, index.shape, strict=True)):
        if i != axis and have != want and have != 1:
            if isinstance(have, int) and isinstance(want, int) and want > have:
                raise Unsupported(f"the indices are larger than the tensor along axis {i}")
            x = b.slice(x, i, 0, want)  # torch reads only the leading part
    if all(d == 1 or i == axis for i, d in enumerate(self.shape)):
        flat = b.reshape(x, (self.shape[axis],))  # every index reads the same row: a gather of single elements
        return b.emit("gather", flat, index, axis=0)
    return b.emit("take_along", x, index, axis=axis)


@aten("take_along_dim")
def _take_along_dim(b: Lowering, self: Value, indices: Value, dim: int | None) -> Value:
    if dim is None:
        return b.emit("gather", b.reshape(self, (product(self.shape),)), b.reshape(indices, b.out_shape), axis=0)
    axis = axis_in(dim, self.type.rank)
    want = list(b.out_shape)
    x = broadcast_to(b, self, [self.shape[axis] if i == axis else d for i, d in enumerate(want)])
    return b.emit("take_along", x, broadcast_to(b, indices, want), axis=axis)


@aten("flip")
def _flip(b: Lowering, self: Value, dims: Sequence[int]) -> Value:
    x = self
    for dim in dims:
        axis = axis_in(dim, x.type.rank)
        ids = b.emit("arange", start=x.shape[axis] - 1, end=-1, step=-1, dtype=DType.i64)
        x = b.emit("gather", x, ids, axis=axis)
    return x


# -- advanced indexing ----------------------------------------------------------------------------------------------------
@aten("index.Tensor", "_unsafe_index.Tensor")
def _index(b: Lowering, self: Value, indices: Sequence[Value | None]) -> Value:
    used = [(axis, ids) for axis, ids in enumerate(indices) if ids is not None]
    if any(ids.dtype in (DType.bool, DType.u8) for _, ids in used):
        raise Unsupported("picking elements by a condition gives a result whose size depends on the data")
    if not used:
        return self
    if len(used) == 1:
        axis, ids = used[0]
        return _take(b, self, axis, ids)
    axes = [axis for axis, _ in used]
    given = [value for _, value in used]
    return as_view(b, self, axes, given) or _linear_gather(b, self, axes, given)


def _take(b: Lowering, x: Value, axis: int, ids: Value) -> Value:
    counted = as_arange(b, ids) if ids.type.rank == 1 else None
    if counted is not None and counted[0] == 0 and isinstance(counted[1], int) and counted[1] >= 0:
        return b.slice(x, axis, counted[1], counted[1] + counted[2])
    return b.emit("gather", x, ids, axis=axis)


def wrapped(b: Lowering, ids: Value, size: Dim) -> Value:
    """Indices with negative ones counted from the end."""
    ids = b.cast(ids, DType.i64)
    counted = as_arange(b, ids)
    data = b.array(ids)
    if (counted and isinstance(counted[1], int) and counted[1] >= 0) or (data is not None and (data >= 0).all()):
        return ids
    negative = b.emit("lt", ids, b.scalar(0, DType.i64))
    return b.emit("where", negative, b.emit("add", ids, b.scalar(size, DType.i64)), ids)


def linear_ids(b: Lowering, ids: Sequence[Value], sizes: Sequence[Dim]) -> Value:
    """Indices into several axes of these ``sizes`` as one into the axis they make together."""
    linear: Value | None = None
    for i, value in enumerate(ids):
        term = wrapped(b, value, sizes[i])
        stride = product(sizes[i + 1 :])
        if stride != 1:
            term = b.emit("mul", term, b.scalar(stride, DType.i64))
        linear = term if linear is None else b.emit("add", linear, term)
    assert linear is not None
    return linear


def _linear_gather(b: Lowering, x: Value, axes: Sequence[int], ids: Sequence[Value]) -> Value:
    """Several index tensors as one: the indexed axes are merged and gathered at ``sum(ids * stride)``."""
    rank, adjacent = x.type.rank, list(axes) == list(range(axes[0], axes[0] + len(axes)))
    first = axes[0] if adjacent else 0
    if not adjacent:  # numpy puts the result of separated indices in front
        x = b.transpose(x, [*axes, *(a for a in range(rank) if a not in axes)])
    sizes = x.shape[first : first + len(axes)]
    linear = linear_ids(b, ids, sizes)
    merged = b.reshape(x, (*x.shape[:first], product(sizes), *x.shape[first + len(axes) :]))
    return b.emit("gather", merged, linear, axis=first)


@aten("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "nonzero_numpy", "argwhere",
      "where", "repeat_interleave.Tensor")  # fmt: skip
def _depends_on_data(b: Lowering, **_: Any) -> Value:
    raise Unsupported("the size of its result depends on the data")


@aten("item", "_local_scalar_dense")
def _item(b: Lowering, self: Value) -> Dim:
    """A size that went into a tensor and comes out again is that size; everything else depends on the data."""
    dim = scalars.known_integer(b, self)
    if dim is None:
        raise Unsupported("it reads a number out of the data")
    b.symbols.learn(b.fake, dim)
    return dim


@aten("fill.Scalar", "fill.Tensor")
def _fill(b: Lowering, self: Value, value: Value | Scalar) -> Value:
    return b.expand(b.operand(value, self.dtype), self.shape)


@aten("copy")
def _copy(b: Lowering, self: Value, src: Value) -> Value:
    return broadcast_to(b, b.cast(src, self.dtype), self.shape)


@aten("one_hot")
def _one_hot(b: Lowering, self: Value, num_classes: Dim) -> Value:
    if num_classes == -1:
        raise Unsupported("the number of classes must be given")
    classes = b.emit("arange", end=num_classes, dtype=DType.i64)
    return b.cast(b.emit("eq", b.reshape(self, (*self.shape, 1)), classes), DType.i64)


@aten("isin.Tensor_Scalar")
def _isin(b: Lowering, elements: Value, test_element: Scalar, invert: bool) -> Value:
    return b.emit("ne" if invert else "eq", elements, b.scalar(test_element, elements.dtype))


# -- elements anywhere in memory ------------------------------------------------------------------------------------------
@aten("as_strided")
def _as_strided(
    b: Lowering, self: Value, size: Sequence[Dim], stride: Sequence[Dim], storage_offset: Dim | None = None
) -> Value:
    """Elements by their distance in memory: known only where the operand lies there without gaps, from its beginning."""
    fake = b.node.args[0].meta["val"]  # type: ignore[union-attr]
    counts, steps = ([n for n in given if isinstance(n, int)] for given in (size, stride))
    start = storage_offset or 0
    known = len(counts) == len(size) and len(steps) == len(stride) and isinstance(start, int)
    if not known or not isinstance(start, int) or not fake.is_contiguous() or fake.storage_offset() != 0:
        raise Unsupported("strides over a tensor of varying size, or over a view of another, are not supported")
    places = np.full(tuple(counts), start, np.int64)
    for axis, (count, step) in enumerate(zip(counts, steps, strict=True)):
        places += (np.arange(count) * step).reshape([-1 if i == axis else 1 for i in range(len(size))])
    flat = b.reshape(self, (product(self.shape),))
    first = int(places.flat[0]) if places.size else 0
    if np.array_equal(places.reshape(-1), np.arange(first, first + places.size)):
        return b.reshape(b.slice(flat, 0, first, first + places.size), tuple(size))
    return b.emit("gather", flat, b.graph.add_constant(places, "strided", DType.i64), axis=0)


@aten("repeat_interleave.self_Tensor")
def _repeat_each(
    b: Lowering, self: Value, repeats: Value, dim: int | None = None, output_size: Dim | None = None
) -> Value:
    x = b.reshape(self, (product(self.shape),)) if dim is None else self
    axis, known = axis_in(dim or 0, x.type.rank), b.array(repeats)
    if known is not None and isinstance(x.shape[axis], int):
        times = np.broadcast_to(known.reshape(-1), (x.shape[axis],))
        ids = b.graph.add_constant(np.repeat(np.arange(times.size), times), "repeats", DType.i64)
    elif output_size is not None:
        ends = b.emit("cumsum", b.cast(broadcast_to(b, repeats, (x.shape[axis],)), DType.i64), axis=0)
        steps = b.emit("arange", end=output_size, dtype=DType.i64)
        ids = b.emit("searchsorted", ends, steps, right=True, dtype=DType.i64)
    else:
        raise Unsupported("the size of its result depends on the data (give output_size)")
    return b.emit("gather", x, ids, axis=axis)
