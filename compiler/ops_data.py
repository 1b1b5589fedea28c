"""The vocabulary, where elements lie and come from: lookups, shapes, joining, cutting, constants."""

from __future__ import annotations

import math

from .dims import Dim, Expr, floordiv, product
from .graph import Node
from .ops_schema import REQUIRED, axis_of, broadcast, define, fail, same_dtype, type_of
from .types import DType, TensorType


def _embedding(node: Node) -> list[TensorType]:
    table, ids = type_of(node.inputs[0]), type_of(node.inputs[1])
    if not ids.dtype.is_integer:
        raise fail(node, f"the ids must be integers, not {ids.dtype}")
    return [TensorType(table.dtype, (*ids.shape, *table.shape[1:]))]


def _gather(node: Node) -> list[TensorType]:
    x, ids = type_of(node.inputs[0]), type_of(node.inputs[1])
    axis = axis_of(node.attrs["axis"], x.rank)
    return [TensorType(x.dtype, (*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :]))]


def _take_along(node: Node) -> list[TensorType]:
    x, ids = type_of(node.inputs[0]), type_of(node.inputs[1])
    if x.rank != ids.rank:
        raise fail(node, f"{x} and the indices {ids} differ in rank")
    return [TensorType(x.dtype, ids.shape)]


def _reshape(node: Node) -> list[TensorType]:
    x, shape = type_of(node.inputs[0]), node.attrs["shape"]
    if product(shape) != x.elements:
        raise fail(node, f"{x} cannot be seen as [{', '.join(map(str, shape))}]")
    return [TensorType(x.dtype, tuple(shape))]


def _transpose(node: Node) -> list[TensorType]:
    x, perm = type_of(node.inputs[0]), node.attrs["perm"]
    if sorted(perm) != list(range(x.rank)):
        raise fail(node, f"{perm} is no permutation of the axes of {x}")
    return [TensorType(x.dtype, tuple(x.shape[p] for p in perm))]


def _expand(node: Node) -> list[TensorType]:
    x, shape = type_of(node.inputs[0]), tuple(node.attrs["shape"])
    if broadcast(node, [x.shape, shape]) != shape:
        raise fail(node, f"{x} does not expand to {shape}")
    return [TensorType(x.dtype, shape)]


def _concat(node: Node) -> list[TensorType]:
    types = [v.type for v in node.operands]
    dtype, first = same_dtype(node, node.inputs), types[0]
    axis = axis_of(node.attrs["axis"], first.rank)
    for t in types[1:]:
        if t.rank != first.rank or any(
            a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != axis
        ):
            raise fail(node, f"{first} and {t} do not join along axis {axis}")
    total: Dim = sum((t.shape[axis] for t in types), start=0)
    return [TensorType(dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))]


def _slice(node: Node) -> list[TensorType]:
    x, step = type_of(node.inputs[0]), node.attrs["step"]
    axis = axis_of(node.attrs["axis"], x.rank)
    length = node.attrs["end"] - node.attrs["start"]
    if step != 1:
        length = floordiv(length + step - 1, step)
    return [TensorType(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 :]))]


def _pad(node: Node) -> list[TensorType]:
    x, low, high = type_of(node.inputs[0]), node.attrs["low"], node.attrs["high"]
    return [TensorType(x.dtype, tuple(d + a + b for d, a, b in zip(x.shape, low, high, strict=True)))]


def _constant(node: Node) -> list[TensorType]:
    return [TensorType(node.attrs["dtype"], tuple(node.attrs["shape"]))]


def _full(node: Node) -> list[TensorType]:
    return [TensorType(node.attrs["dtype"], tuple(node.attrs["shape"]))]


def _arange(node: Node) -> list[TensorType]:
    start, end, step = (node.attrs[k] for k in ("start", "end", "step"))
    length: Dim
    if all(isinstance(v, (int, Expr)) for v in (start, end, step)):
        if isinstance(step, int) and step < 0:
            length = floordiv(start - end - step - 1, -step)
        else:
            length = floordiv(end - start + step - 1, step)
        length = max(length, 0) if isinstance(length, int) else length
    else:
        length = max(0, math.ceil((end - start) / step))
    return [TensorType(node.attrs["dtype"], (length,))]


def _fused(node: Node) -> list[TensorType]:
    (body,) = node.regions
    for outer, inner in zip(node.inputs, body.inputs, strict=True):
        if outer is None or outer.type != inner.type:
            raise fail(node, f"the operand {outer} does not fit the region's {inner}")
    return [v.type for v in body.outputs]


define("embedding", "table ids", _embedding, "rows of the table")
define("gather", "x ids", _gather, "slices of x along an axis at the ids", attrs={"axis": REQUIRED})
define("take_along", "x ids", _take_along, "elements of x along an axis, one id each", attrs={"axis": REQUIRED})
define("reshape", "x", _reshape, "the same elements in another shape", attrs={"shape": REQUIRED}, view=True)
define("transpose", "x", _transpose, "axes in another order", attrs={"perm": REQUIRED})
define("expand", "x", _expand, "broadcast to a shape", attrs={"shape": REQUIRED})
define("concat", "x*", _concat, "join along an axis", attrs={"axis": REQUIRED})
define(
    "slice",
    "x",
    _slice,
    "start:end:step along an axis (0 <= start <= end <= size, step >= 1)",
    attrs={"axis": REQUIRED, "start": 0, "end": REQUIRED, "step": 1},
)
define(
    "pad", "x", _pad, "pad with a value; negative amounts crop", attrs={"low": REQUIRED, "high": REQUIRED, "value": 0.0}
)
define("constant", "", _constant, "data of the graph", attrs={"ref": REQUIRED, "dtype": REQUIRED, "shape": REQUIRED})
define(
    "full",
    "",
    _full,
    "one value everywhere; the value may be a dimension",
    attrs={"value": REQUIRED, "shape": REQUIRED, "dtype": REQUIRED},
)
define(
    "arange",
    "",
    _arange,
    "start, start + step, ... below end",
    attrs={"start": 0, "end": REQUIRED, "step": 1, "dtype": DType.i64},
)


define("fused", "x*", _fused, "one kernel: runs its region")
