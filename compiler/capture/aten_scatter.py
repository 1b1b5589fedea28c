"""ATen ops that write by index: scatter, index_put, index_add and their like, and writes under a condition."""

from __future__ import annotations

from collections.abc import Sequence

from ..dims import Dim, dim_max, product
from ..graph import Value
from ..types import DType
from .aten_elementwise import arithmetic, as_bool
from .aten_index import linear_ids
from .aten_shape import axis_in, broadcast_to, start_of
from .building import broadcast_shapes
from .lowering import Lowering, Scalar, aten
from .ranges import as_arange
from .symbols import Unsupported

_REDUCE = {"add": "sum", "multiply": "prod", "sum": "sum", "prod": "prod", "amax": "max", "amin": "min", "mean": "mean"}
_INTEGER_LIMITS = {DType.i64: 63, DType.i32: 31, DType.i16: 15, DType.i8: 7}


def write(b: Lowering, x: Value, axis: int, ids: Value, source: Value, reduce: str = "none") -> Value:
    """``x`` with ``source`` written at ``ids`` along an axis.

    Ids of rank 1 (or of another rank than x has) pick whole slices; ids of the rank of x pick single elements. Ids that are the
    same along all other axes pick slices as well, which is the quicker kernel.
    """
    if ids.type.rank != x.type.rank or ids.type.rank == 1:
        return b.emit("scatter", x, ids, source, axis=axis, reduce=reduce)
    lone = _same_for_all(ids, axis)
    if lone is not None and all(i == axis or d == source.shape[i] for i, d in enumerate(x.shape)):
        return b.emit("scatter", x, b.reshape(lone, (ids.shape[axis],)), source, axis=axis, reduce=reduce)
    return b.emit("put_along", x, ids, source, axis=axis, reduce=reduce)


def _same_for_all(ids: Value, axis: int) -> Value | None:
    """What was expanded to ``ids`` along every axis but one; None if they are not made so."""
    node = ids.node
    while node is not None and node.op == "expand" and node.operands[0].type.rank == ids.type.rank:
        (inner,) = node.operands
        if inner.shape[axis] == ids.shape[axis] and all(i == axis or d == 1 for i, d in enumerate(inner.shape)):
            return inner
        node = inner.node
    return None


def neutral(reduce: str, dtype: DType) -> float | int | bool:
    """What a reduction starts with."""
    if reduce in ("sum", "mean"):
        return 0
    if reduce == "prod":
        return 1
    if dtype.is_float:
        return -float("inf") if reduce == "max" else float("inf")
    if dtype is DType.bool:
        return reduce == "min"
    if dtype is DType.u8:
        return 0 if reduce == "max" else 255
    bits = _INTEGER_LIMITS[dtype]
    return -(2**bits) if reduce == "max" else 2**bits - 1


def combined(
    b: Lowering, x: Value, axis: int, ids: Value, source: Value, reduce: str, include_self: bool = True
) -> Value:
    """A write that reduces, or takes the mean; without ``include_self`` what is written to starts anew."""

    def every(number: float | int | bool, shape: Sequence[Dim]) -> Value:
        return b.emit("full", value=number, shape=tuple(shape), dtype=x.dtype)

    base = x if include_self else write(b, x, axis, ids, every(neutral(reduce, x.dtype), source.shape))
    if reduce != "mean":
        return write(b, base, axis, ids, source, reduce)
    total = write(b, base, axis, ids, source, "sum")
    count = write(b, every(int(include_self), x.shape), axis, ids, every(1, source.shape), "sum")
    count = b.emit("maximum", count, b.scalar(1, x.dtype))
    return b.emit("div" if x.dtype.is_float else "floordiv", total, count)


# -- one id for each element ------------------------------------------------------------------------------------------------
def _scattered(
    b: Lowering, x: Value, dim: int, ids: Value, source: Value, reduce: str, include_self: bool = True
) -> Value:
    if not x.type.rank:
        flat = [b.reshape(v, (1,)) for v in (x, ids, source)]
        return b.reshape(_scattered(b, flat[0], 0, flat[1], flat[2], reduce, include_self), ())
    source = b.cast(source, x.dtype)
    for i, (have, want) in enumerate(zip(source.shape, ids.shape, strict=True)):
        if have != want:
            source = b.slice(source, i, 0, want)  # torch reads only the leading part
    axis = axis_in(dim, x.type.rank)
    if reduce == "none":
        return write(b, x, axis, ids, source)
    return combined(b, x, axis, ids, source, reduce, include_self)


@aten("scatter.src", "scatter.reduce", "scatter_add")
def _scatter(b: Lowering, self: Value, dim: int, index: Value, src: Value, reduce: str | None = None) -> Value:
    named = "add" if "add" in b.op else reduce
    return _scattered(b, self, dim, index, src, "none" if named is None else _REDUCE[named])


@aten("scatter.value", "scatter.value_reduce")
def _scatter_value(b: Lowering, self: Value, dim: int, index: Value, value: Scalar, reduce: str | None = None) -> Value:
    source = b.expand(b.scalar(value, self.dtype), index.shape)
    return _scattered(b, self, dim, index, source, "none" if reduce is None else _REDUCE[reduce])


@aten("scatter_reduce.two")
def _scatter_reduce(
    b: Lowering, self: Value, dim: int, index: Value, src: Value, reduce: str, include_self: bool = True
) -> Value:
    return _scattered(b, self, dim, index, src, _REDUCE[reduce], include_self)


# -- one id for each slice --------------------------------------------------------------------------------------------------
def _row(b: Lowering, index: Value) -> Value:
    return b.reshape(index, (1,)) if not index.type.rank else index


def _slices(b: Lowering, x: Value, axis: int, ids: Value, source: Value) -> Value:
    """``source`` as what is written at ``ids`` along an axis."""
    return broadcast_to(b, b.cast(source, x.dtype), (*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :]))


def _indexed(
    b: Lowering, x: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool = True
) -> Value:
    if not x.type.rank:
        return b.reshape(_indexed(b, b.reshape(x, (1,)), 0, index, b.reshape(source, (1,)), reduce, include_self), ())
    axis, ids = axis_in(dim, x.type.rank), _row(b, index)
    source = _slices(b, x, axis, ids, source)
    if reduce == "none":
        return b.emit("scatter", x, ids, source, axis=axis, reduce="none")
    if x.type.rank > 1:
        return combined(b, x, axis, ids, source, reduce, include_self)
    return combined(b, x, 0, ids, source, reduce, include_self)


@aten("index_add")
def _index_add(b: Lowering, self: Value, dim: int, index: Value, source: Value, alpha: Scalar = 1) -> Value:
    term = source if alpha == 1 else arithmetic(b, "mul", source, alpha)
    return _indexed(b, self, dim, index, term, "sum")


@aten("index_copy")
def _index_copy(b: Lowering, self: Value, dim: int, index: Value, source: Value) -> Value:
    return _indexed(b, self, dim, index, source, "none")


@aten("index_fill.int_Scalar", "index_fill.int_Tensor")
def _index_fill(b: Lowering, self: Value, dim: int, index: Value, value: Value | Scalar) -> Value:
    return _indexed(b, self, dim, index, b.operand(value, self.dtype), "none")


@aten("index_reduce")
def _index_reduce(
    b: Lowering, self: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool = True
) -> Value:
    return _indexed(b, self, dim, index, source, _REDUCE[reduce], include_self)


@aten("put")
def _put(b: Lowering, self: Value, index: Value, source: Value, accumulate: bool = False) -> Value:
    count = product(index.shape)
    flat = [b.reshape(v, (n,)) for v, n in ((self, product(self.shape)), (index, count), (source, count))]
    reduce = "sum" if accumulate else "none"
    return b.reshape(write(b, flat[0], 0, flat[1], b.cast(flat[2], self.dtype), reduce), self.shape)


@aten("slice_scatter")
def _slice_scatter(
    b: Lowering, self: Value, src: Value, dim: int, start: Dim | None, end: Dim | None, step: Dim
) -> Value:
    return write_slice(b, self, src, dim, start, step)


def write_slice(b: Lowering, x: Value, source: Value, dim: int, start: Dim | None, step: Dim = 1) -> Value:
    """``x`` with ``source`` in place of every ``step``-th slice from ``start`` on."""
    axis = axis_in(dim, x.type.rank)
    source = _slices(b, x, axis, source, source) if source.type.rank == 0 else b.cast(source, x.dtype)
    first, count = start_of(b, start, x.shape[axis]), source.shape[axis]
    if step != 1:
        ids = b.emit("arange", start=first, end=first + count * step, step=step, dtype=DType.i64)
        return b.emit("scatter", x, ids, source, axis=axis, reduce="none")
    last = first + count
    parts = [b.slice(x, axis, 0, first)] if first != 0 else []
    parts.append(source)
    parts += [b.slice(x, axis, last, x.shape[axis])] if last != x.shape[axis] else []
    return source if len(parts) == 1 else b.emit("concat", *parts, axis=axis)


@aten("select_scatter")
def _select_scatter(b: Lowering, self: Value, src: Value, dim: int, index: Dim) -> Value:
    axis = axis_in(dim, self.type.rank)
    size = self.shape[axis]
    first = size + index if isinstance(index, int) and index < 0 else index
    lifted = b.reshape(src, (*self.shape[:axis], 1, *self.shape[axis + 1 :]))
    return write_slice(b, self, lifted, axis, first)


@aten("diagonal_scatter")
def _diagonal_scatter(b: Lowering, self: Value, src: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """A diagonal is every (columns + 1)-th element of the matrix seen as one row."""
    rank = self.type.rank
    i, j = dim1 % rank, dim2 % rank
    order = [a for a in range(rank) if a not in (i, j)] + [i, j]
    x = b.transpose(self, order)
    rows, columns = x.shape[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise Unsupported("the diagonal of a matrix of varying size is not supported")
    flat = b.reshape(x, (*x.shape[:-2], rows * columns))
    first = offset if offset >= 0 else -offset * columns
    written = write_slice(b, flat, src, rank - 2, first, columns + 1)
    return b.transpose(b.reshape(written, x.shape), [order.index(a) for a in range(rank)])


@aten("fill_diagonal")
def _fill_diagonal(b: Lowering, self: Value, fill_value: Scalar, wrap: bool = False) -> Value:
    if self.type.rank != 2 or wrap:
        raise Unsupported("only the diagonal of a matrix can be filled")
    row, column = (b.emit("arange", end=d, dtype=DType.i64) for d in self.shape)
    there = b.emit("eq", b.reshape(row, (self.shape[0], 1)), column)
    return b.emit("where", there, b.scalar(fill_value, self.dtype), self)


# -- writes under a condition -------------------------------------------------------------------------------------------------
def _in_order(b: Lowering, mask: Value, source: Value) -> Value:
    """For every element of ``mask`` the next row of ``source`` [rows, ...], counted by the true ones before it."""
    flat = b.cast(b.reshape(mask, (product(mask.shape),)), DType.i64)
    at = b.emit("sub", b.emit("cumsum", flat, axis=0), b.scalar(1, DType.i64))
    last = source.shape[0] - 1
    at = b.emit("maximum", at, b.scalar(0, DType.i64))  # where the mask is false nothing is read of it
    at = b.emit("minimum", at, b.scalar(dim_max(last, 0), DType.i64))
    return b.reshape(b.emit("gather", source, at, axis=0), (*mask.shape, *source.shape[1:]))


@aten("masked_scatter")
def _masked_scatter(b: Lowering, self: Value, mask: Value, source: Value) -> Value:
    shape = broadcast_shapes([self.shape, mask.shape])
    wide = broadcast_to(b, as_bool(b, mask), shape)
    flat = b.reshape(b.cast(source, self.dtype), (product(source.shape),))
    return b.emit("where", wide, _in_order(b, wide, flat), self)


def _put_masked(b: Lowering, x: Value, axis: int, mask: Value, values: Value, accumulate: bool) -> Value:
    rest = x.shape[axis + mask.type.rank :]
    lifted = b.reshape(mask, (*mask.shape, *(1 for _ in rest)))
    values = b.cast(values, x.dtype)
    if values.type.rank > len(rest) and values.shape[-len(rest) - 1] != 1:
        if axis or values.type.rank != len(rest) + 1:
            raise Unsupported("writing a row for each element that meets a condition is supported along the first axes")
        values = _in_order(b, mask, broadcast_to(b, values, (values.shape[0], *rest)))
    elif values.type.rank > len(rest):
        lead = values.shape[: -len(rest) - 1] if rest else values.shape[:-1]
        values = b.reshape(values, (*lead, *(1 for _ in mask.shape), *(values.shape[-len(rest) :] if rest else ())))
    new = b.emit("add", x, values) if accumulate else values
    return b.emit("where", lifted, new, x)


# -- x[ids, ...] = values -----------------------------------------------------------------------------------------------------
@aten("index_put", "_unsafe_index_put")
def _index_put(b: Lowering, self: Value, indices: Sequence[Value | None], values: Value, accumulate: bool) -> Value:
    used = [(axis, ids) for axis, ids in enumerate(indices) if ids is not None]
    if not used:
        return b.emit("add", self, values) if accumulate else broadcast_to(b, b.cast(values, self.dtype), self.shape)
    masks = [ids for _, ids in used if ids.dtype in (DType.bool, DType.u8)]
    if masks:
        if len(used) > 1:
            raise Unsupported("a condition among other indices is not supported")
        return _put_masked(b, self, used[0][0], as_bool(b, masks[0]), values, accumulate)
    reduce = "sum" if accumulate else "none"
    if len(used) == 1:
        axis, ids = used[0]
        source = _slices(b, self, axis, ids, values)
        if not accumulate and ids.type.rank <= 1:
            found = as_arange(b, ids)
            if found is not None and isinstance(found[1], int) and found[1] >= 0:
                lined = b.reshape(source, (*self.shape[:axis], found[2], *self.shape[axis + 1 :]))
                return write_slice(b, self, lined, axis, found[1])
        return b.emit("scatter", self, ids, source, axis=axis, reduce=reduce)
    axes = [axis for axis, _ in used]
    rank, adjacent = self.type.rank, axes == list(range(axes[0], axes[0] + len(axes)))
    order = list(range(rank)) if adjacent else [*axes, *(a for a in range(rank) if a not in axes)]
    first = axes[0] if adjacent else 0
    x = b.transpose(self, order)
    sizes = x.shape[first : first + len(axes)]
    ids = linear_ids(b, [value for _, value in used], sizes)
    merged = b.reshape(x, (*x.shape[:first], product(sizes), *x.shape[first + len(axes) :]))
    written = b.emit("scatter", merged, ids, _slices(b, merged, first, ids, values), axis=first, reduce=reduce)
    return b.transpose(b.reshape(written, x.shape), [order.index(a) for a in range(rank)])
