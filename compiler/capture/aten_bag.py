"""ATen's embedding bags: rows of a table summed, averaged or maximised over groups of ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import dims
from ..dims import Dim
from ..graph import Value
from ..types import DType
from .aten_order import search
from .lowering import Lowering, aten

_MODES = ("sum", "mean", "max")


@aten("embedding_bag", "embedding_bag.padding_idx", "_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(
    b: Lowering, weight: Value, indices: Value, offsets: Value, mode: int = 0, per_sample_weights: Value | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> list[Any]:  # fmt: skip
    name, padding = _MODES[mode], None if padding_idx is None else padding_idx
    if padding is not None and padding < 0:
        # -1 stands for no padding in the functional ops; elsewhere torch has counted from the end already
        padding = (
            None if "_embedding_bag" in b.op or not isinstance(weight.shape[0], int) else padding + weight.shape[0]
        )
    rows = b.emit("embedding", weight, indices)
    if per_sample_weights is not None:
        rows = b.emit("mul", rows, b.reshape(per_sample_weights, (*per_sample_weights.shape, 1)))
    kept = None if padding is None else b.emit("ne", indices, b.scalar(padding, indices.dtype))
    bags = b.symbols.dim(b.fake[0].shape[0])
    width = _even(offsets, indices.shape[0], bags, include_last_offset)
    if width is not None:
        result = _even_bags(b, rows, kept, bags, width, name)
    else:
        starts = b.slice(offsets, 0, 0, bags) if include_last_offset else offsets
        result = _uneven_bags(b, rows, kept, starts, bags, name)
    return [result, None, None, None]


def _even(offsets: Value, count: Dim, bags: Dim, last: bool) -> Dim | None:
    """How many ids each bag has, where the offsets are ``0, n, 2n, ...``: two-dimensional ids come so. None elsewhere."""
    node = offsets.node
    while node is not None and node.op == "cast":
        node = node.operands[0].node
    if node is None or node.op != "arange" or node.attrs["start"] != 0 or last:
        return None
    step = node.attrs["step"]
    return step if dims.provably_equal(bags * step, count) else None


def _even_bags(b: Lowering, rows: Value, kept: Value | None, bags: Dim, width: Dim, mode: str) -> Value:
    x = b.reshape(rows, (bags, width, rows.shape[-1]))
    if kept is None:
        op = {"sum": "reduce_sum", "mean": "reduce_mean", "max": "reduce_max"}[mode]
        return b.emit(op, x, axes=(1,), keepdim=False)
    mask = b.reshape(kept, (bags, width, 1))
    lowest = -float("inf") if mode == "max" else 0.0
    masked = b.emit("where", mask, x, b.scalar(lowest, x.dtype))
    count = b.emit("reduce_sum", b.cast(mask, x.dtype), axes=(1,), keepdim=False)
    total = b.emit("reduce_max" if mode == "max" else "reduce_sum", masked, axes=(1,), keepdim=False)
    return _settled(b, total, count, mode)


def _uneven_bags(b: Lowering, rows: Value, kept: Value | None, starts: Value, bags: Dim, mode: str) -> Value:
    """Every row is written to the bag in which it lies: the last one that starts at or before it."""
    dtype, count = rows.dtype, rows.shape[0]
    steps = b.emit("arange", end=count, dtype=DType.i64)
    bag = search(b, b.cast(starts, DType.i64), steps, right=True)
    bag = b.emit("sub", bag, b.scalar(1, DType.i64))
    lowest = -float("inf") if mode == "max" else 0.0
    if kept is not None:
        rows = b.emit("where", b.reshape(kept, (count, 1)), rows, b.scalar(lowest, dtype))

    def collected(source: Value, start: float, shape: Sequence[Dim], reduce: str) -> Value:
        base = b.emit("full", value=start, shape=tuple(shape), dtype=dtype)
        return b.emit("scatter", base, bag, source, axis=0, reduce=reduce)

    total = collected(rows, lowest, (bags, rows.shape[1]), "max" if mode == "max" else "sum")
    if mode == "sum":
        return total
    ones = b.emit("full", value=1.0, shape=(count,), dtype=dtype) if kept is None else b.cast(kept, dtype)
    sizes = collected(ones, 0.0, (bags,), "sum")
    return _settled(b, total, b.reshape(sizes, (bags, 1)), mode)


def _settled(b: Lowering, total: Value, count: Value, mode: str) -> Value:
    """A bag without rows gives zeros."""
    if mode == "sum":
        return total
    if mode == "mean":
        return b.emit("div", total, b.emit("maximum", count, b.scalar(1.0, count.dtype)))
    empty = b.emit("eq", count, b.scalar(0.0, count.dtype))
    return b.emit("where", empty, b.scalar(0.0, total.dtype), total)
