"""Activations in u8 as i8: 128 less, zero point and all, so that what they stand for stays exactly the same."""

from __future__ import annotations

import numpy as np

from ..compiler.graph import Graph, Node, Value
from ..compiler.types import DType

#: Ops that move elements of their first operand, or choose among them by size, and so commute with the shift.
_MOVES = frozenset({"reshape", "transpose", "expand", "slice", "gather", "embedding", "take_along", "max_pool"})


class Signed:
    """Finds or makes the i8 twin of u8 values.

    Args:
        graph: the graph that is changed.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._twins: dict[Value, Value] = {}

    def dequantize(self, node: Node) -> bool:
        """Let a ``dequantize`` of u8 read i8, where what it reads can be made in i8; returns whether it does now."""
        q, scale, *zeros = node.operands
        if q.dtype is not DType.u8 or (zeros and zeros[0].dtype is not DType.u8):
            return False
        anchors = any(u.op in ("linear", "conv") and u.inputs[0] is node.output for u in node.output.users)
        if not self._makes(q) and not anchors:
            return False
        graph = self.graph
        twin = self._twin(q) if self._makes(q) else self._shifted(q, node)
        new = graph.derive(node, "dequantize", [twin, scale, self._zero(zeros[0] if zeros else None, node)],
                           hint=node.output.name)  # fmt: skip
        graph.replace(node.output, new)
        return True

    def _makes(self, q: Value) -> bool:
        """Whether every element of ``q`` comes from a ``quantize`` or a constant."""
        node = q.node
        if node is None or q in self.graph.outputs:
            return False
        if node.op in ("quantize", "constant"):
            return True
        if node.op == "concat":
            return all(self._makes(v) for v in node.operands)
        return node.op in _MOVES and node.inputs[0] is not None and self._makes(node.inputs[0])

    def _twin(self, q: Value) -> Value:
        found = self._twins.get(q)
        if found is None:
            found = self._twins[q] = self._make(q)
        return found

    def _make(self, q: Value) -> Value:
        graph, node = self.graph, q.node
        assert node is not None
        array = graph.array(q)
        if array is not None:
            shifted = (array.astype(np.int16) - 128).astype(np.int8)
            return graph.add_constant(shifted, str(node.attrs["ref"]), before=node)
        if node.op == "quantize":
            x, scale, *zeros = node.operands
            zero = self._zero(zeros[0] if zeros else None, node)
            return graph.derive(node, "quantize", [x, scale, zero], {**node.attrs, "dtype": DType.i8}, hint=q.name)
        if node.op == "concat":
            return graph.derive(node, "concat", [self._twin(v) for v in node.operands], node.attrs, hint=q.name)
        first, *rest = node.inputs
        assert first is not None
        return graph.derive(node, node.op, [self._twin(first), *rest], node.attrs, hint=q.name)

    def _zero(self, zero: Value | None, before: Node) -> Value:
        """A zero point less 128."""
        array = np.zeros((), np.uint8) if zero is None else self.graph.array(zero)
        if array is not None:
            shifted = (array.astype(np.int16) - 128).astype(np.int8)
            return self.graph.add_constant(shifted, "zero" if zero is None else zero.name, before=before)
        assert zero is not None
        return self._shifted(zero, before)

    def _shifted(self, value: Value, before: Node) -> Value:
        graph = self.graph
        wide = graph.derive(before, "cast", [value], {"dtype": DType.i16})
        step = graph.derive(before, "full", [], {"value": 128, "shape": (), "dtype": DType.i16})
        return graph.derive(before, "cast", [graph.derive(before, "sub", [wide, step])], {"dtype": DType.i8})
