"""What every reader of models builds its graph with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dims import Dim, Expr
from ..graph import Attrs, Graph, Node, Value
from ..types import DType, float_to_bf16
from .unsupported import Unsupported

Scalar = bool | int | float | Expr


class Building:
    """Appends nodes at the place of the source's node at hand; what changes nothing is left out.

    Attributes:
        graph: the graph being built.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._scalars: dict[tuple[Any, ...], Value] = {}
        self._path = ""
        self._location: str | None = None

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """Append a node with one result."""
        return self.insert(op, inputs, attrs).output

    def insert(self, op: str, inputs: Sequence[Value | None], attrs: Attrs) -> Node:
        """Append a node with any number of results."""
        return self.graph.insert(op, inputs, attrs, name=self._path, location=self._location)

    def array(self, value: Value | None) -> np.ndarray | None:
        """The data of a constant, None for anything computed."""
        return self.graph.array(value)

    def cast(self, value: Value, dtype: DType) -> Value:
        """``value`` with another element type; itself if it has that one."""
        return value if value.dtype is dtype else self.emit("cast", value, dtype=dtype)

    def scalar(self, value: Scalar, dtype: DType) -> Value:
        """A rank-0 constant; a size that varies becomes a ``full``."""
        if isinstance(value, Expr):
            direct = dtype if dtype in (DType.i64, DType.i32) else DType.i64
            return self.cast(self.emit("full", value=value, shape=(), dtype=direct), dtype)
        key = (type(value), repr(value), dtype)
        found = self._scalars.get(key)
        if found is None:
            found = self._scalars[key] = self.graph.add_constant(array_of(value, dtype), "scalar", dtype)
        return found

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """``value`` in another shape; itself if it has that one."""
        shape = tuple(shape)
        return value if value.shape == shape else self.emit("reshape", value, shape=shape)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        """``value`` with its axes in another order; itself if they stay."""
        perm = tuple(perm)
        return value if perm == tuple(range(len(perm))) else self.emit("transpose", value, perm=perm)

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        """``value`` broadcast to a shape; itself if it has that one."""
        shape = tuple(shape)
        return value if value.shape == shape else self.emit("expand", value, shape=shape)

    def slice(self, value: Value, axis: int, start: Dim, end: Dim, step: int = 1) -> Value:
        """``start:end:step`` along an axis; itself if that is all of it."""
        axis %= value.type.rank
        if start == 0 and end == value.shape[axis] and step == 1:
            return value
        return self.emit("slice", value, axis=axis, start=start, end=end, step=step)


def array_of(value: bool | int | float, dtype: DType) -> np.ndarray:
    """A rank-0 array of ``dtype``, converted as torch converts a Python scalar (integers wrap)."""
    if dtype is DType.bf16:
        return float_to_bf16(np.array(value, np.float32))
    if dtype.is_integer and not isinstance(value, float):
        wide = int(value) & ((1 << 64) - 1)
        return np.array(wide, np.uint64).view(np.int64).astype(dtype.numpy)
    with np.errstate(over="ignore"):
        return np.array(value).astype(dtype.numpy)


def broadcast_shapes(shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """The shape that ``shapes`` broadcast to, as numpy does it.

    Raises:
        Unsupported: two sizes are neither provably equal nor 1.
    """
    rank = max(len(s) for s in shapes)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, rank - len(shape)):
            if size != 1 and result[i] not in (1, size):
                raise Unsupported(f"the sizes {result[i]} and {size} do not broadcast")
            result[i] = size if result[i] == 1 else result[i]
    return tuple(result)
