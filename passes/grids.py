"""Ids that count through several axes at once, row by row: ``i * columns + j``, as exporters write ``x[rows, columns]``."""

from __future__ import annotations

from dataclasses import dataclass

from ..compiler.dims import Dim, Expr, product
from ..compiler.graph import Graph, Value
from .facts import sequence, uniform

_DEPTH = 8


@dataclass(frozen=True)
class Grid:
    """Element ``(i, j, ...)`` is ``start`` plus the sum of index times step over ``axes``; every other axis only repeats it.

    Attributes:
        start: the first element.
        axes: axis -> (step, length).
    """

    start: Dim
    axes: dict[int, tuple[Dim, Dim]]

    @property
    def count(self) -> Dim | None:
        """How many elements there are where they are consecutive in row-major order; None where they are not."""
        expected: Dim = 1
        for axis in sorted(self.axes, reverse=True):
            step, length = self.axes[axis]
            if step != expected:
                return None
            expected = product((step, length))
        return expected


def grid(graph: Graph, value: Value | None, depth: int = _DEPTH) -> Grid | None:
    """The grid that a tensor of integers holds; None if it is none."""
    if value is None or value.node is None or depth == 0 or not value.dtype.is_integer:
        return None
    run = sequence(graph, value)
    if run is not None:
        return Grid(run.start, {run.axis: (run.step, run.length)})
    node, rank = value.node, value.type.rank
    if node.op == "reshape":
        return _reshaped(value, node.inputs[0], grid(graph, node.inputs[0], depth - 1))
    if node.op == "mul":
        for at in (0, 1):
            inner, factor = grid(graph, node.inputs[at], depth - 1), uniform(graph, node.inputs[1 - at])
            if inner is not None and isinstance(factor, (int, Expr)) and not isinstance(factor, bool):
                offset = rank - _rank(node.inputs[at])
                axes = {a + offset: (product((s, factor)), n) for a, (s, n) in inner.axes.items()}
                return Grid(product((inner.start, factor)), axes)
    if node.op == "add":
        left, right = (grid(graph, v, depth - 1) for v in node.inputs)
        if left is None or right is None:
            return None
        moved = [
            {a + rank - _rank(v): sides for a, sides in g.axes.items()}
            for v, g in zip(node.inputs, (left, right), strict=True)
        ]
        if moved[0].keys() & moved[1].keys():
            return None
        return Grid(left.start + right.start, {**moved[0], **moved[1]})
    return None


def _reshaped(value: Value, source: Value | None, found: Grid | None) -> Grid | None:
    """``found`` of ``source`` in another shape, where it is along one axis and stays so."""
    if source is None or found is None or len(found.axes) != 1:
        return None
    ((axis, (step, length)),) = found.axes.items()
    to = [i for i, d in enumerate(value.shape) if d != 1]
    if any(d != 1 for i, d in enumerate(source.shape) if i != axis) or len(to) != 1 or value.shape[to[0]] != length:
        return None
    return Grid(found.start, {to[0]: (step, length)})


def _rank(value: Value | None) -> int:
    assert value is not None
    return value.type.rank
