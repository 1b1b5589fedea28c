"""Inserting nodes where another stands: what rewrites of the CPU backend are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...compiler.dims import Dim
from ...compiler.graph import Graph, Node, Value
from ...compiler.types import DType


class Builder:
    """Inserts nodes in front of one node, in its name."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.at = node

    def __call__(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        node = self.at
        new = self.graph.insert(
            op, inputs, attrs, before=node, name=node.name, location=node.location, sources=node.sources
        )
        return new.outputs[0]

    def constant(self, array: np.ndarray, name: str, dtype: DType | None = None) -> Value:
        return self.graph.add_constant(array, name, dtype, before=self.at)

    def full(self, number: float | int | bool | Dim, like: Value, shape: Sequence[Dim] = ()) -> Value:
        return self("full", value=number, shape=tuple(shape), dtype=like.dtype)

    def last(self, x: Value, axis: int) -> tuple[Value, tuple[int, ...]]:
        """``x`` with ``axis`` moved to the end, and the permutation that moves it back."""
        rank = x.type.rank
        axis %= rank
        if axis == rank - 1:
            return x, tuple(range(rank))
        perm = (*(a for a in range(rank) if a != axis), axis)
        return self("transpose", x, perm=perm), tuple(perm.index(a) for a in range(rank))

    def back(self, x: Value, perm: tuple[int, ...]) -> Value:
        return x if perm == tuple(range(len(perm))) else self("transpose", x, perm=perm)
