"""Indices that count: what looks up by them is a slice, a view, or both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dims import Dim
from ..graph import Value
from .building import Building, broadcast_shapes


def as_arange(b: Building, value: Value) -> tuple[int | None, Dim, Dim] | None:
    """Whether ``value`` counts up by one along one axis and is the same along the others.

    Returns:
        (the axis, or None for a single number; the first number; how many), or None if it is anything else.
    """
    node = value.node
    if node is None:
        return None
    if node.op == "arange" and node.attrs["step"] == 1 and isinstance(node.attrs["start"], int):
        return 0, node.attrs["start"], value.shape[0]
    if node.op == "full" and value.type.rank == 0 and not isinstance(node.attrs["value"], float):
        return None, node.attrs["value"], 1
    if node.op == "constant":
        data = b.array(value)
        if data is not None and data.size == 1 and data.dtype.kind in "iu":
            return None, int(data.reshape(())), 1
        if data is not None and data.ndim == 1 and data.dtype.kind in "iu" and np.all(np.diff(data) == 1):
            return 0, int(data[0]), data.size
        return None
    if node.op == "cast" and value.dtype.is_integer:
        return as_arange(b, node.operands[0])
    if node.op in ("reshape", "expand", "transpose"):
        inner = as_arange(b, node.operands[0])
        if inner is None or inner[0] is None:
            return inner if inner and all(d == 1 for d in value.shape) else None
        axis, start, length = inner
        assert axis is not None
        source = node.operands[0].shape
        if node.op == "transpose":
            return node.attrs["perm"].index(axis), start, length
        if node.op == "expand":
            return (axis + value.type.rank - len(source), start, length) if source[axis] != 1 else None
        if any(d != 1 for i, d in enumerate(source) if i != axis) or length == 1:
            return None
        wide = [i for i, d in enumerate(value.shape) if d != 1]
        return (wide[0], start, length) if len(wide) == 1 and value.shape[wide[0]] == length else None
    if node.op == "add":
        for one, other in (node.operands, node.operands[::-1]):
            left, right = as_arange(b, one), as_arange(b, other)
            if left and right and right[0] is None and left[0] is not None and one.shape == value.shape:
                return left[0], left[1] + right[1], left[2]
    return None


def as_view(b: Building, x: Value, axes: Sequence[int], ids: Sequence[Value]) -> Value | None:
    """``x[arange[:, None, None], arange[None, None, :]]`` and its like: slices and a reshape; None where it is not one."""
    if list(axes) != list(range(axes[0], axes[0] + len(axes))):
        return None
    counted = [as_arange(b, i) for i in ids]
    shape = broadcast_shapes([i.shape for i in ids])
    places = []
    for found, value in zip(counted, ids, strict=True):
        if found is None or not isinstance(found[1], int) or found[1] < 0:
            return None
        places.append(None if found[0] is None else found[0] + len(shape) - value.type.rank)
    moving = [p for p in places if p is not None]
    if moving != sorted(set(moving)):
        return None
    if any(size != 1 and i not in moving for i, size in enumerate(shape)):
        return None
    result = x
    for axis, found in zip(axes, counted, strict=True):
        assert found is not None
        result = b.slice(result, axis, found[1], found[1] + found[2])
    return b.reshape(result, (*x.shape[: axes[0]], *shape, *x.shape[axes[-1] + 1 :]))
