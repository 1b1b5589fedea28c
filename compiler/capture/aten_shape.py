"""ATen ops that move or view elements: reshape, transpose, expand, slice, join, pad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import dims
from ..dims import Dim, bounds, dim_min, product
from ..graph import Value
from ..types import DType
from .lowering import Lowering, Scalar, aten
from .symbols import Unsupported, is_unbacked

_END = 1 << 62


def axis_in(dim: int, rank: int) -> int:
    """A non-negative axis (0 for a rank-0 tensor)."""
    return dim % rank if rank else 0


# -- another shape --------------------------------------------------------------------------------------------------------
def reshape_to(b: Lowering, x: Value, shape: Sequence[Dim]) -> Value:
    """``x`` as ``shape``; where torch's expression of one size is not provably right it is computed from the others."""
    shape = list(shape)
    if product(shape) != x.type.elements:
        for i, size in enumerate(shape):
            if not isinstance(size, int):
                rest = product(s for j, s in enumerate(shape) if j != i)
                quotient = dims.floordiv(x.type.elements, rest) if rest != 0 else size
                if quotient * rest == x.type.elements:
                    shape[i] = quotient
                    break
    return b.reshape(x, shape)


@aten("view", "reshape", "_unsafe_view", "_reshape_alias", "flatten.using_ints", "unflatten.int", "ravel", "reshape_as",
      "view_as", "squeeze", "squeeze.dim", "squeeze.dims", "squeeze_copy.dim", "unsqueeze", "unsqueeze_copy",
      "view_copy")  # fmt: skip
def _reshape(b: Lowering, self: Value, **_: Any) -> Value:
    return reshape_to(b, self, b.out_shape)


@aten("atleast_1d", "atleast_2d")
def _atleast(b: Lowering, self: Value) -> Value:
    return reshape_to(b, self, b.out_shape)


@aten("transpose.int", "swapaxes", "swapdims", "transpose_copy.int")
def _transpose(b: Lowering, self: Value, dim0: int | None = None, dim1: int | None = None, **named: int) -> Value:
    rank = self.type.rank
    first, second = (dim0, dim1) if dim0 is not None else (named["axis0"], named["axis1"])
    perm = list(range(rank))
    if rank:
        i, j = first % rank, second % rank  # type: ignore[operator]
        perm[i], perm[j] = perm[j], perm[i]
    return b.transpose(self, perm)


@aten("t", "numpy_T", "mT", "t_copy", "adjoint", "matrix_H")
def _t(b: Lowering, self: Value) -> Value:
    rank, name = self.type.rank, b.op
    perm = list(range(rank))
    if "numpy_T" in name:
        perm.reverse()
    elif rank >= 2:
        perm[-1], perm[-2] = perm[-2], perm[-1]
    return b.transpose(self, perm)


@aten("permute", "permute_copy")
def _permute(b: Lowering, self: Value, dims: Sequence[int]) -> Value:
    return b.transpose(self, [d % self.type.rank for d in dims])


def move_axes(rank: int, source: Sequence[int], destination: Sequence[int]) -> list[int]:
    """The permutation that moves axes to new places and keeps the others in order."""
    order = [a for a in range(rank) if a not in source]
    for place, axis in sorted(zip(destination, source, strict=True)):
        order.insert(place, axis)
    return order


@aten("movedim.int", "movedim.intlist", "moveaxis.int", "moveaxis.intlist")
def _movedim(b: Lowering, self: Value, source: Any, destination: Any) -> Value:
    rank = self.type.rank
    pairs = [[p] if isinstance(p, int) else p for p in (source, destination)]
    return b.transpose(self, move_axes(rank, [s % rank for s in pairs[0]], [d % rank for d in pairs[1]]))


# -- broadcast and repeat -------------------------------------------------------------------------------------------------
def broadcast_to(b: Lowering, x: Value, shape: Sequence[Dim]) -> Value:
    """``x`` expanded to ``shape``; a size that ``x`` has is kept as ``x`` spells it."""
    target = list(shape)
    shift = len(target) - x.type.rank
    for i, size in enumerate(x.shape):
        if size != 1:
            target[shift + i] = size
    return b.expand(x, target)


@aten("expand", "expand_as", "broadcast_to", "expand_copy")
def _expand(b: Lowering, self: Value, **_: Any) -> Value:
    return broadcast_to(b, self, b.out_shape)


def repeat(b: Lowering, x: Value, times: Sequence[Dim]) -> Value:
    """``x`` laid out ``times`` along each axis, as ``numpy.tile`` does it."""
    x = b.reshape(x, (1,) * (len(times) - x.type.rank) + x.shape)
    if all(t == 1 for t in times):
        return x
    if all(t == 1 or d == 1 for t, d in zip(times, x.shape, strict=True)):
        return b.expand(x, [d if t == 1 else t for t, d in zip(times, x.shape, strict=True)])
    split, wide = [], []
    for t, d in zip(times, x.shape, strict=True):
        split += [d] if t == 1 else [1, d]
        wide += [d] if t == 1 else [t, d]
    final = [t * d for t, d in zip(times, x.shape, strict=True)]
    return b.reshape(b.expand(b.reshape(x, split), wide), final)


@aten("repeat")
def _repeat(b: Lowering, self: Value, repeats: Sequence[Dim]) -> Value:
    return repeat(b, self, repeats)


@aten("tile")
def _tile(b: Lowering, self: Value, dims: Sequence[Dim]) -> Value:
    return repeat(b, self, [1] * (self.type.rank - len(dims)) + list(dims))


@aten("repeat_interleave.self_int")
def _repeat_interleave(
    b: Lowering, self: Value, repeats: Dim, dim: int | None = None, output_size: int | None = None
) -> Value:
    x = b.reshape(self, (product(self.shape),)) if dim is None else self
    axis = axis_in(dim or 0, x.type.rank)
    shape = x.shape
    spread = b.expand(
        b.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :])), (*shape[: axis + 1], repeats, *shape[axis + 1 :])
    )
    return b.reshape(spread, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


# -- parts ----------------------------------------------------------------------------------------------------------------
def counted(b: Lowering, index: Dim, size: Dim) -> Dim:
    """An index from the front: one that is negative at every size counts from the end of ``size`` elements."""
    return size + index if bounds(index, b.symbols.bounds)[1] < 0 else index


def start_of(b: Lowering, start: Dim | None, size: Dim) -> Dim:
    """The first index of a Python slice over ``size`` elements, within it where that is known."""
    if start is None:
        return 0
    start = counted(b, start, size)
    if isinstance(start, int) and isinstance(size, int):
        return min(max(start, 0), size)
    return start


def _within(b: Lowering, index: Dim, size: Dim) -> Dim:
    """An end of a slice over ``size`` elements, clamped where it may lie behind them."""
    known = b.symbols.bounds
    index = counted(b, index, size)
    if bounds(index, known)[0] < 0:
        raise Unsupported(f"whether the slice counts from the end depends on the sizes ({index})")
    return index if bounds(size - index, known)[0] >= 0 else dim_min(index, size)


@aten("slice.Tensor", "slice_copy.Tensor")
def _slice(b: Lowering, self: Value, dim: int, start: Dim | None, end: Dim | None, step: Dim) -> Value:
    axis = axis_in(dim, self.type.rank)
    if not isinstance(step, int):
        raise Unsupported("a step that varies is not supported")
    first = start_of(b, start, self.shape[axis])
    size = b.fake.shape[axis]
    if isinstance(size, torch.SymInt) and is_unbacked(size) and isinstance(step, int) and step == 1:
        first, last = _within(b, first, self.shape[axis]), _within(b, _END if end is None else end, self.shape[axis])
        return b.slice(self, axis, first, last)
    length = b.symbols.dim(size)  # torch has resolved negative and too large ends
    if length == 0:
        return b.emit("slice", self, axis=axis, start=first, end=first, step=1)
    last = first + length if step == 1 else first + (length - 1) * step + 1
    if step == 1 and (end is None or (isinstance(end, int) and end >= _END)):
        last = self.shape[axis]
    return b.slice(self, axis, first, last, step)


@aten("narrow")
def _narrow(b: Lowering, self: Value, dim: int, start: Dim, length: Dim) -> Value:
    axis = axis_in(dim, self.type.rank)
    first = start_of(b, start, self.shape[axis])
    return b.slice(self, axis, first, first + length)


def select(b: Lowering, x: Value, axis: int, index: Dim) -> Value:
    """The slice of ``x`` at one index, without the axis."""
    at = counted(b, index, x.shape[axis])
    part = b.slice(x, axis, at, at + 1)
    return b.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))


@aten("select.int", "select_copy.int")
def _select(b: Lowering, self: Value, dim: int, index: Dim) -> Value:
    return select(b, self, axis_in(dim, self.type.rank), index)


@aten("unbind.int")
def _unbind(b: Lowering, self: Value, dim: int) -> list[Value]:
    axis = axis_in(dim, self.type.rank)
    return [select(b, self, axis, i) for i in range(len(b.fake))]


@aten("split.Tensor", "split_with_sizes", "chunk", "split.sizes", "unsafe_split.Tensor", "unsafe_chunk",
      "split_with_sizes_copy", "tensor_split.sections", "tensor_split.indices", "unsafe_split_with_sizes")  # fmt: skip
def _split(b: Lowering, self: Value, dim: int, **_: Any) -> list[Value]:
    axis = axis_in(dim, self.type.rank)
    parts: list[Value] = []
    start: Dim = 0
    for fake in b.fake:
        size = b.symbols.dim(fake.shape[axis])
        parts.append(b.slice(self, axis, start, start + size))
        start = start + size
    return parts


@aten("diagonal")
def _diagonal(b: Lowering, self: Value, offset: int, dim1: int, dim2: int) -> Value:
    rank = self.type.rank
    i, j = dim1 % rank, dim2 % rank
    length = b.out_shape[-1]
    order = [a for a in range(rank) if a not in (i, j)] + [i, j]
    x = b.transpose(self, order)
    rows, columns = x.shape[-2:]
    flat = b.reshape(x, (*x.shape[:-2], rows * columns))
    if not all(isinstance(v, int) for v in (rows, columns, length)):
        raise Unsupported("the diagonal of a matrix of varying size is not supported")
    first = offset if offset >= 0 else -offset * columns
    return b.slice(flat, rank - 2, first, first + (length - 1) * (columns + 1) + 1, columns + 1)


@aten("unfold")
def _unfold(b: Lowering, self: Value, dimension: int, size: int, step: int) -> Value:
    """Windows along an axis, each a row of a new last axis."""
    if not self.type.rank:
        return b.reshape(self, b.out_shape)
    axis = axis_in(dimension, self.type.rank)
    count, x = b.out_shape[axis], self
    if size <= step:
        used = b.slice(x, axis, 0, (count - 1) * step + size)
        if size == step:
            apart = b.reshape(used, (*x.shape[:axis], count, size, *x.shape[axis + 1 :]))
            return b.transpose(apart, move_axes(self.type.rank + 1, [axis + 1], [self.type.rank]))
    starts = b.reshape(b.emit("arange", start=0, end=count * step, step=step, dtype=DType.i64), (count, 1))
    ids = b.emit("add", starts, b.emit("arange", end=size, dtype=DType.i64))
    windows = b.emit("gather", x, ids, axis=axis)
    return b.transpose(windows, move_axes(self.type.rank + 1, [axis + 1], [self.type.rank]))


# -- joining --------------------------------------------------------------------------------------------------------------
@aten("cat", "concat", "concatenate")
def _cat(b: Lowering, tensors: Sequence[Value], dim: int) -> Value:
    real = [t for t in tensors if t.shape != (0,) or len(b.out_shape) == 1]
    parts = [b.cast(t, b.out_dtype) for t in real]
    return parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=dim % len(b.out_shape))


@aten("stack")
def _stack(b: Lowering, tensors: Sequence[Value], dim: int) -> Value:
    axis = dim % len(b.out_shape)
    parts = [b.cast(b.reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])), b.out_dtype) for t in tensors]
    return parts[0] if len(parts) == 1 else b.emit("concat", *parts, axis=axis)


@aten("roll")
def _roll(b: Lowering, self: Value, shifts: Sequence[Dim], dims: Sequence[int]) -> Value:
    if not dims:
        flat = b.reshape(self, (product(self.shape),))
        return b.reshape(_roll_axis(b, flat, 0, shifts[0]), self.shape)
    x = self
    for shift, axis in zip(shifts, dims, strict=True):
        x = _roll_axis(b, x, axis % x.type.rank, shift)
    return x


def _roll_axis(b: Lowering, x: Value, axis: int, shift: Dim) -> Value:
    size = x.shape[axis]
    if not isinstance(size, int) or not isinstance(shift, int):
        if not isinstance(shift, int) or abs(shift) > 1:
            raise Unsupported("rolling by or along a size that varies is not supported")
        cut: Dim = size - 1 if shift == 1 else (1 if shift == -1 else 0)
    else:
        cut = (-shift) % size if size else 0
    if cut == 0:
        return x
    return b.emit("concat", b.slice(x, axis, cut, size), b.slice(x, axis, 0, cut), axis=axis)


# -- padding --------------------------------------------------------------------------------------------------------------
@aten("constant_pad_nd", "pad")
def _pad(b: Lowering, self: Value, pad: Sequence[Dim], value: Scalar | None = 0, mode: str = "constant") -> Value:
    if mode != "constant":
        raise Unsupported(f"padding with mode {mode!r} is not supported")
    rank = self.type.rank
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for i in range(len(pad) // 2):
        low[rank - 1 - i], high[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    if not any(d != 0 for d in (*low, *high)):
        return self
    number = 0.0 if value is None else value
    if self.dtype is DType.bool:
        number = float(bool(number))
    return b.emit("pad", self, low=tuple(low), high=tuple(high), value=number)
