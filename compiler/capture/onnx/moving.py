"""What handlers share that move elements: broadcasting, picking, reversing, writing indices of several axes as one."""

from __future__ import annotations

from collections.abc import Sequence

from ...dims import Dim, bounds, dim_max, dim_min, product
from ...graph import Value
from ...types import DType
from ..building import broadcast_shapes
from ..unsupported import Unsupported
from .importing import Importer


def axis_in(axis: int, rank: int) -> int:
    """A non-negative axis of ``rank`` axes.

    Raises:
        Unsupported: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise Unsupported(f"there is no axis {axis} among {rank}")
    return axis % rank


def axes_in(axes: Sequence[int], rank: int) -> list[int]:
    """Non-negative axes of ``rank`` axes.

    Raises:
        Unsupported: one is not among them, or comes twice.
    """
    found = [axis_in(a, rank) for a in axes]
    if len(set(found)) < len(found):
        raise Unsupported(f"an axis comes twice among {list(axes)}")
    return found


def broadcast_to(at: Importer, x: Value, shape: Sequence[Dim]) -> Value:
    """``x`` broadcast with ``shape``, both ways, as ONNX's Expand does it."""
    target = broadcast_shapes([x.shape, shape])
    return at.expand(x, target)


def lined_up(at: Importer, x: Value, axis: int, rank: int) -> Value:
    """A vector along one axis of ``rank``, the others with size 1."""
    return at.reshape(x, [x.shape[0] if i == axis else 1 for i in range(rank)])


def counting(at: Importer, size: Dim, axis: int = 0, rank: int = 1) -> Value:
    """0, 1, ... below ``size`` (i64) along an axis, the others with size 1."""
    return lined_up(at, at.emit("arange", end=size, dtype=DType.i64), axis, rank)


def select(at: Importer, x: Value, axis: int, index: Dim) -> Value:
    """The slice of ``x`` at an index that is not negative, without the axis."""
    part = at.slice(x, axis, index, index + 1)
    return at.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))


def flip(at: Importer, x: Value, axis: int) -> Value:
    """``x`` backwards along an axis."""
    ids = at.emit("arange", start=x.shape[axis] - 1, end=-1, step=-1, dtype=DType.i64)
    return at.emit("gather", x, ids, axis=axis)


def within(at: Importer, index: Dim, size: Dim, low: int = 0, most: int = 0) -> Dim:
    """An end of a slice over ``size`` elements: counted from the end where it is negative, then between ``low`` and ``size +
    most``.

    Raises:
        Unsupported: its sign depends on the sizes.
    """
    known = at.bounds
    least, greatest = bounds(index, known)
    if greatest < 0:
        index = size + index
    elif least < 0:
        raise Unsupported(f"whether the slice counts from the end depends on the sizes ({index})")
    if bounds(index, known)[0] < low:
        index = low if bounds(index, known)[1] <= low else dim_max(index, low)
    room = bounds(size + most - index, known)
    if room[0] < 0:
        index = size + most if room[1] <= 0 else dim_min(index, size + most)
    return index


def non_negative(at: Importer, ids: Value, size: Dim) -> Value:
    """Indices (i64) with negative ones counted from the end of ``size`` elements."""
    ids = at.cast(ids, DType.i64)
    data = at.array(ids)
    if data is not None and (data >= 0).all():
        return ids
    if ids.node is not None and ids.node.op == "arange" and _counts_up(ids):
        return ids
    negative = at.emit("lt", ids, at.scalar(0, DType.i64))
    return at.emit("where", negative, at.emit("add", ids, at.scalar(size, DType.i64)), ids)


def _counts_up(ids: Value) -> bool:
    assert ids.node is not None
    start, step = ids.node.attrs["start"], ids.node.attrs["step"]
    return isinstance(start, int) and isinstance(step, int) and start >= 0 and step > 0


def linear_ids(at: Importer, ids: Value, sizes: Sequence[Dim]) -> Value:
    """Indices [..., len(sizes)] into several axes as one [...] into the axis that they make together."""
    axis = ids.type.rank - 1
    linear: Value | None = None
    for i in range(len(sizes)):
        term = non_negative(at, select(at, ids, axis, i), sizes[i])
        stride = product(sizes[i + 1 :])
        if stride != 1:
            term = at.emit("mul", term, at.scalar(stride, DType.i64))
        linear = term if linear is None else at.emit("add", linear, term)
    if linear is None:
        return at.emit("full", value=0, shape=ids.shape[:axis], dtype=DType.i64)
    return linear
