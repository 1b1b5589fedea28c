"""Operators that change shapes and order: reshape, transpose, expand, tile, blocks; and those that ask for sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dims import Dim, product
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from . import contents
from .importing import Importer
from .moving import axes_in, axis_in, broadcast_to, counting, non_negative
from .registry import op


@op("Shape")
def shape(at: Importer, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    return at.holding(contents.of_dims(x.shape[start:end]), DType.i64)


@op("Size")
def size(at: Importer, x: Value) -> Value:
    content = np.empty((), object)
    content[()] = x.type.elements
    return at.holding(content, DType.i64)


# -- another shape --------------------------------------------------------------------------------------------------------
@op("Reshape", since=5)
def reshape(at: Importer, x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    return at.reshape(x, at.resolved(x, at.dims(shape, "the shape"), keep=not allowzero))


@op("Flatten")
def flatten(at: Importer, x: Value, *, axis: int = 1) -> Value:
    if not -x.type.rank <= axis <= x.type.rank:
        raise Unsupported(f"there is no axis {axis} among {x.type.rank}")
    cut = axis + x.type.rank if axis < 0 else axis
    return at.reshape(x, (product(x.shape[:cut]), product(x.shape[cut:])))


def _axes(at: Importer, tensor: Value | None, attribute: Sequence[int] | None) -> list[int] | None:
    """Axes given as a tensor, or as the attribute that they were before opset 13; None: not given."""
    return list(attribute) if tensor is None and attribute is not None else (
        None if tensor is None else at.ints(tensor, "the axes")
    )  # fmt: skip


@op("Squeeze")
def squeeze(at: Importer, x: Value, axes: Value | None = None, /, **attributes: Sequence[int]) -> Value:
    given = _axes(at, axes, attributes.get("axes"))
    if given is None:
        gone = [i for i, d in enumerate(x.shape) if d == 1]
    else:
        gone = axes_in(given, x.type.rank)
        wrong = [i for i in gone if isinstance(x.shape[i], int) and x.shape[i] != 1]
        if wrong:
            raise Unsupported(f"axis {wrong[0]} has {x.shape[wrong[0]]} elements, not one")
        varying = [x.shape[i] for i in gone if x.shape[i] != 1]
        if varying:
            raise Unsupported(f"the size {varying[0]} must be 1, and it may vary")
    return at.reshape(x, [d for i, d in enumerate(x.shape) if i not in gone])


@op("Unsqueeze")
def unsqueeze(at: Importer, x: Value, axes: Value | None = None, /, **attributes: Sequence[int]) -> Value:
    given = _axes(at, axes, attributes.get("axes"))
    if given is None:
        raise Unsupported("it names no axes")
    rank = x.type.rank + len(given)
    new, sizes = axes_in(given, rank), iter(x.shape)
    return at.reshape(x, [1 if i in new else next(sizes) for i in range(rank)])


@op("Transpose")
def transpose(at: Importer, x: Value, *, perm: Sequence[int] | None = None) -> Value:
    return at.transpose(x, range(x.type.rank)[::-1] if perm is None else perm)


# -- broadcast and repeat -------------------------------------------------------------------------------------------------
@op("Expand", since=8)
def expand(at: Importer, x: Value, shape: Value) -> Value:
    return broadcast_to(at, x, at.dims(shape, "the shape"))


@op("Tile", since=6)
def tile(at: Importer, x: Value, repeats: Value) -> Value:
    return repeated(at, x, at.dims(repeats, "how often it is repeated"))


def repeated(at: Importer, x: Value, times: Sequence[Dim]) -> Value:
    """``x`` laid out ``times`` along each of its axes."""
    if all(t == 1 for t in times):
        return x
    if all(t == 1 or d == 1 for t, d in zip(times, x.shape, strict=True)):
        return at.expand(x, [d if t == 1 else t for t, d in zip(times, x.shape, strict=True)])
    split: list[Dim] = []
    wide: list[Dim] = []
    for t, d in zip(times, x.shape, strict=True):
        split += [d] if t == 1 else [1, d]
        wide += [d] if t == 1 else [t, d]
    final = [t * d for t, d in zip(times, x.shape, strict=True)]
    return at.reshape(at.expand(at.reshape(x, split), wide), final)


# -- blocks -----------------------------------------------------------------------------------------------------------------
def _image(x: Value) -> tuple[Dim, Dim, Dim, Dim]:
    if x.type.rank != 4:
        raise Unsupported(f"its operand has {x.type.rank} axes, not 4")
    n, c, h, w = x.shape
    return n, c, h, w


@op("DepthToSpace")
def depth_to_space(at: Importer, x: Value, *, blocksize: int, mode: str = "DCR") -> Value:
    n, c, h, w = _image(x)
    b = blocksize
    if mode == "DCR":
        blocks = at.transpose(at.reshape(x, (n, b, b, c // (b * b), h, w)), (0, 3, 4, 1, 5, 2))
    elif mode == "CRD":
        blocks = at.transpose(at.reshape(x, (n, c // (b * b), b, b, h, w)), (0, 1, 4, 2, 5, 3))
    else:
        raise Unsupported(f"there is no mode {mode!r}")
    return at.reshape(blocks, (n, c // (b * b), h * b, w * b))


@op("SpaceToDepth")
def space_to_depth(at: Importer, x: Value, *, blocksize: int) -> Value:
    n, c, h, w = _image(x)
    b = blocksize
    blocks = at.transpose(at.reshape(x, (n, c, h // b, b, w // b, b)), (0, 3, 5, 1, 2, 4))
    return at.reshape(blocks, (n, c * b * b, h // b, w // b))


@op("ReverseSequence", since=10)
def reverse_sequence(at: Importer, x: Value, lengths: Value, *, batch_axis: int = 1, time_axis: int = 0) -> Value:
    """The first ``lengths[i]`` steps of each sequence backwards."""
    rank = x.type.rank
    batch, time = axis_in(batch_axis, rank), axis_in(time_axis, rank)
    counts = at.reshape(at.cast(lengths, DType.i64), [d if i == batch else 1 for i, d in enumerate(x.shape)])
    steps = counting(at, x.shape[time], time, rank)
    last = at.emit("sub", counts, at.scalar(1, DType.i64))
    backwards = at.emit("where", at.emit("lt", steps, counts), at.emit("sub", last, steps), steps)
    return at.emit("take_along", x, at.expand(backwards, x.shape), axis=time)


# -- triangles --------------------------------------------------------------------------------------------------------------
@op("Trilu", since=14)
def trilu(at: Importer, x: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    """The upper or lower triangle from the ``k``-th diagonal on; ``k`` may be computed."""
    if x.type.rank < 2:
        raise Unsupported(f"its operand has {x.type.rank} axes, where it needs two")
    rows, columns = counting(at, x.shape[-2], 0, 2), counting(at, x.shape[-1], 1, 2)
    if k is not None:
        rows = at.emit("add", rows, at.reshape(k, ()))
    return at.emit("where", at.emit("ge" if upper else "le", columns, rows), x, at.scalar(0, x.dtype))


@op("OneHot", since=9)
def one_hot(at: Importer, ids: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    """An index outside of the classes has no place that is on."""
    if depth.dtype.is_integer:
        (classes,) = at.dims(depth, "the number of classes")
    else:
        classes = int(at.number(depth, "the number of classes"))
    rank = ids.type.rank + 1
    place = axis_in(axis, rank)
    wanted = non_negative(at, ids, classes)
    lifted = at.reshape(wanted, (*ids.shape[:place], 1, *ids.shape[place:]))
    there = at.emit("eq", lifted, counting(at, classes, place, rank))
    off, on = (at.reshape(at.slice(values, 0, i, i + 1), ()) for i in range(2))
    return at.emit("where", there, on, off)
