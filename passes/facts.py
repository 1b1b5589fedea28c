"""What can be known about a value without running the model: one repeated value, an integer range, an arithmetic sequence."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..compiler import dims
from ..compiler.dims import Dim, Expr
from ..compiler.graph import Graph, Node, Value
from ..compiler.types import DType, bf16_to_float, float_to_bf16

_DEPTH = 16
_VIEWS = ("reshape", "expand", "transpose", "slice")


def uniform(graph: Graph, value: Value | None, depth: int = _DEPTH) -> float | int | bool | Dim | None:
    """The number (or dimension) that every element of ``value`` equals; None if that is not known."""
    if value is None or value.node is None or depth == 0:
        return None
    node = value.node
    if node.op == "full":
        return as_stored(node.attrs["value"], value.dtype)
    if node.op == "constant":
        array = graph.constants[node.attrs["ref"]]
        if array.size == 0 or value.dtype is DType.bf16 or (array.size > 1 and array.size > 1 << 16):
            return None
        first = array.reshape(-1)[0]
        return first.item() if array.size == 1 or bool((array == first).all()) else None
    if node.op in (*_VIEWS, "gather", "take_along"):
        return uniform(graph, node.inputs[0], depth - 1)
    if node.op == "cast":
        inner = uniform(graph, node.inputs[0], depth - 1)
        if isinstance(inner, Expr):
            return inner if value.dtype in (DType.i64, DType.i32) else None
        return None if inner is None else as_stored(inner, value.dtype)
    return None


def as_stored(number: float | int | bool | Dim, dtype: DType) -> float | int | bool | Dim:
    """``number`` as an element of ``dtype`` holds it: 0.1 is another number in every float type."""
    if isinstance(number, Expr):
        return number
    if dtype is DType.bf16:
        return bf16_to_float(float_to_bf16(np.array(number, np.float32))).item()
    with np.errstate(all="ignore"):  # what does not fit wraps or becomes infinite, as everywhere
        return np.array(number).astype(dtype.numpy).item()


def integer_range(graph: Graph, value: Value | None, depth: int = _DEPTH) -> tuple[int, int] | None:
    """Inclusive bounds of every element of an integer value; None if they are not known."""
    if value is None or value.node is None or depth == 0 or not value.dtype.is_integer:
        return None
    node = value.node
    if node.op == "constant":
        array = graph.constants[node.attrs["ref"]]
        return (int(array.min()), int(array.max())) if array.size else None
    if node.op == "full":
        return _dim_range(graph, node.attrs["value"])
    if node.op == "arange":
        start, end, step = (node.attrs[k] for k in ("start", "end", "step"))
        if not all(isinstance(v, (int, Expr)) for v in (start, end)) or not isinstance(step, int) or step <= 0:
            return None
        low, high = dims.bounds(start, graph.bounds), dims.bounds(end, graph.bounds)
        return low[0], max(low[0], high[1] - 1)
    if node.op in (*_VIEWS, "gather", "cast"):
        return integer_range(graph, node.inputs[0], depth - 1)
    if node.op == "clamp":
        return _clamped(node, integer_range(graph, node.inputs[0], depth - 1))
    if node.op in ("add", "sub", "mul", "minimum", "maximum"):
        a = integer_range(graph, node.inputs[0], depth - 1)
        b = integer_range(graph, node.inputs[1], depth - 1)
        if a is None or b is None:
            return None
        if node.op == "sub":
            return a[0] - b[1], a[1] - b[0]
        combine: dict[str, Callable[[int, int], int]] = {
            "add": operator.add, "mul": operator.mul, "minimum": min, "maximum": max,
        }  # fmt: skip
        corners = [combine[node.op](x, y) for x in a for y in b]
        return min(corners), max(corners)
    return None


def _clamped(node: Node, inner: tuple[int, int] | None) -> tuple[int, int] | None:
    """The range of a clamp of numbers of a range; None: of any range."""
    least, most = node.attrs["min"], node.attrs["max"]
    if not isinstance(least, (int, type(None))) or not isinstance(most, (int, type(None))):
        return None
    whole = np.iinfo(node.output.dtype.numpy)
    low, high = inner or (int(whole.min), int(whole.max))
    if least is not None:
        low, high = max(low, least), max(high, least)
    return (low, high) if most is None else (min(low, most), min(high, most))


def _dim_range(graph: Graph, value: object) -> tuple[int, int] | None:
    if isinstance(value, bool) or not isinstance(value, (int, Expr)):
        return None
    return dims.bounds(value, graph.bounds)


@dataclass(frozen=True)
class Sequence:
    """Element ``i`` along ``axis`` is ``start + i * step``, and every other axis only repeats it."""

    start: Dim
    step: int
    axis: int
    length: Dim


def sequence(graph: Graph, value: Value | None, depth: int = _DEPTH) -> Sequence | None:
    """The arithmetic sequence that ``value`` holds along one axis; None if it is none."""
    if value is None or value.node is None or depth == 0 or not value.dtype.is_integer:
        return None
    node, rank = value.node, value.type.rank
    if node.op == "arange":
        if isinstance(node.attrs["step"], int) and isinstance(node.attrs["start"], (int, Expr)):
            return Sequence(node.attrs["start"], node.attrs["step"], 0, value.shape[0])
        return None
    if node.op == "constant":
        return _constant_sequence(graph.constants[node.attrs["ref"]])
    if node.op == "cast":
        return sequence(graph, node.inputs[0], depth - 1)
    if node.op in ("add", "sub"):
        for at in (0, 1) if node.op == "add" else (0,):
            inner, shift = sequence(graph, node.inputs[at], depth - 1), uniform(graph, node.inputs[1 - at])
            if inner is not None and isinstance(shift, (int, Expr)) and not isinstance(shift, bool):
                offset = rank - node.inputs[at].type.rank  # type: ignore[union-attr]
                start = inner.start + shift if node.op == "add" else inner.start - shift
                return Sequence(start, inner.step, inner.axis + offset, inner.length)
        return None
    if node.op not in _VIEWS:
        return None
    source = node.inputs[0]
    inner = sequence(graph, source, depth - 1)
    if inner is None or source is None:
        return None
    if node.op == "expand":
        axis = inner.axis + rank - source.type.rank
        repeated = value.shape[axis] != inner.length  # a sequence of one element, many times
        return None if repeated else Sequence(inner.start, inner.step, axis, inner.length)
    if node.op == "transpose":
        return Sequence(inner.start, inner.step, node.attrs["perm"].index(inner.axis), inner.length)
    if node.op == "slice":
        if node.attrs["axis"] % rank != inner.axis:
            return inner
        return Sequence(inner.start + inner.step * node.attrs["start"], inner.step * node.attrs["step"], inner.axis,
                        value.shape[inner.axis])  # fmt: skip
    if any(d != 1 for i, d in enumerate(source.shape) if i != inner.axis):
        return None
    axes = [i for i, d in enumerate(value.shape) if d == inner.length and d != 1] or [0]
    if len(axes) != 1 or any(d != 1 for i, d in enumerate(value.shape) if i != axes[0]):
        return None
    return Sequence(inner.start, inner.step, axes[0], inner.length)


def _constant_sequence(array: np.ndarray) -> Sequence | None:
    axes = [i for i, d in enumerate(array.shape) if d != 1]
    if len(axes) != 1 or array.size < 2:
        return None
    flat = array.reshape(-1)
    step = int(flat[1]) - int(flat[0])
    if not np.array_equal(flat, int(flat[0]) + step * np.arange(flat.size)):
        return None
    return Sequence(int(flat[0]), step, axes[0], int(flat.size))
