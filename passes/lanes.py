"""What some elements along the last axis are computed from: a slice, pushed through elementwise ops, views and concats.

``cos(concat(f, f))[..., :n]`` is ``cos(f)``, and so is the other half: only written out like this the two are seen to be equal.
Trees are plain tuples, so that equal computations are equal keys.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from ..compiler.graph import Graph, Node, Value
from ..compiler.ops import is_elementwise

Tree = tuple[Any, ...]
_MOST_BYTES = 1 << 24


class Lane(NamedTuple):
    """Elements ``offset + i * step`` for i < length of the last axis."""

    offset: int
    step: int
    length: int


class Lanes:
    """Trees of lanes of one graph, and the values they are built back into."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._built: dict[Tree, Value] = {}

    def tree(self, value: Value, lane: Lane, stops: Collection[Value] = (), depth: int = 24) -> Tree:
        """What the elements ``lane`` of ``value`` are computed from, down to ``stops``.

        Returns:
            ("value", v): all of v (its last axis broadcasts); ("slice", v, lane): these elements of v; ("data", dtype, shape,
            bytes): a constant; ("op", op, attributes, trees); ("view", op, attributes, tree).
        """
        if not value.shape:
            return ("value", value)
        if value.shape[-1] == 1:  # one element, however often it is repeated
            lane = Lane(0, 1, 1)
        leaf: Tree = ("value", value) if _is_all(value, lane) else ("slice", value, lane)
        node = value.node
        if node is None or value in stops or depth == 0:
            return leaf
        if node.op == "constant":
            return self._data(value, lane) or leaf
        if is_elementwise(node):
            children = tuple(self.tree(v, lane, stops, depth - 1) for v in node.operands)
            return ("op", node.op, _frozen(node.attrs), children)
        if node.op in ("gather", "embedding") and (node.op == "embedding" or node.attrs["axis"] == 0):
            table, ids = node.operands
            if table.type.rank > 1:
                return ("op", node.op, _frozen(node.attrs), (self.tree(table, lane, stops, depth - 1), ("value", ids)))
        return self._through_data(node, value, lane, stops, depth) or leaf

    def _through_data(self, node: Node, value: Value, lane: Lane, stops: Collection[Value], depth: int) -> Tree | None:
        """The same through an op that only moves elements; None if that leads nowhere."""
        rank = value.type.rank
        if node.op == "concat" and node.attrs["axis"] % rank == rank - 1:
            start = 0
            for piece in node.operands:
                size = piece.shape[-1]
                if not isinstance(size, int):
                    return None
                last = lane.offset + lane.step * (lane.length - 1)
                if start <= lane.offset and last < start + size:
                    return self.tree(piece, Lane(lane.offset - start, lane.step, lane.length), stops, depth - 1)
                start += size
            return None
        source = node.inputs[0] if node.op in ("slice", "transpose", "expand", "reshape") else None
        if source is None or not source.shape:
            return None
        if node.op == "slice" and node.attrs["axis"] % rank == rank - 1:
            start, step = node.attrs["start"], node.attrs["step"]
            if not isinstance(start, int):
                return None
            return self.tree(source, Lane(start + lane.offset * step, lane.step * step, lane.length), stops, depth - 1)
        if node.op == "reshape" and source.shape[-1] != value.shape[-1]:
            return self._through_stack(source, value, lane, stops, depth)
        if node.op == "transpose" and node.attrs["perm"][-1] != rank - 1:
            return None
        inner = self.tree(source, lane, stops, depth - 1)
        if inner[0] == "slice" and inner[1] is source:
            return None
        attrs = dict(node.attrs)
        if "shape" in attrs:
            attrs["shape"] = (*attrs["shape"][:-1], lane.length)
        return ("view", node.op, _frozen(attrs), inner)

    def _through_stack(
        self, source: Value, value: Value, lane: Lane, stops: Collection[Value], depth: int
    ) -> Tree | None:
        """[..., n, 2] seen as [..., 2 n], as ``stack(..., -1).flatten(-2)`` and ``repeat_interleave`` make it."""
        width = source.shape[-1]
        if source.shape[:-2] != value.shape[:-1] or not isinstance(width, int) or lane.step != width:
            return None
        if lane.offset >= width or source.shape[-2] != lane.length or source.node is None:
            return None
        piece: Value | None = None
        if source.node.op == "concat" and source.node.attrs["axis"] % source.type.rank == source.type.rank - 1:
            pieces = source.node.operands
            piece = pieces[lane.offset] if all(p.shape[-1] == 1 for p in pieces) else None
        elif source.node.op == "expand":
            piece = source.node.inputs[0]
        if piece is None or piece.shape[-1] != 1 or piece.node is None or piece.node.op != "reshape":
            return None
        flat = piece.node.inputs[0]
        if flat is None or not flat.shape or flat.shape[-1] != lane.length:
            return None
        inner = self.tree(flat, Lane(0, 1, lane.length), stops, depth - 1)
        shape = piece.shape[:-1]
        return inner if flat.shape == shape else ("view", "reshape", (("shape", shape),), inner)

    def _data(self, value: Value, lane: Lane) -> Tree | None:
        array = self.graph.array(value)
        if array is None or array.nbytes > _MOST_BYTES:
            return None
        part = array[..., lane.offset : lane.offset + lane.step * (lane.length - 1) + 1 : lane.step]
        tree = ("data", value.dtype, part.shape, part.tobytes())
        if tree not in self._built and _is_all(value, lane):
            self._built[tree] = value
        return tree

    def build(self, tree: Tree, before: Node) -> Value:
        """The value that ``tree`` describes; built once, in front of the first node that asks (in execution order)."""
        if tree[0] == "value":
            value: Value = tree[1]
            return value
        if tree in self._built:
            return self._built[tree]
        graph = self.graph
        if tree[0] == "slice":
            _, source, lane = tree
            end = lane.offset + lane.step * (lane.length - 1) + 1
            attrs = {"axis": source.type.rank - 1, "start": lane.offset, "end": end, "step": lane.step}
            built = graph.derive(before, "slice", [source], attrs)
        elif tree[0] == "data":
            import numpy as np

            _, dtype, shape, held = tree
            built = graph.add_constant(np.frombuffer(held, dtype.numpy).reshape(shape), "table", dtype, before=before)
        else:
            _, op, attrs, inner = tree
            children = [self.build(t, before) for t in (inner if tree[0] == "op" else (inner,))]
            built = graph.derive(before, op, children, dict(attrs))
        self._built[tree] = built
        return built


def _is_all(value: Value, lane: Lane) -> bool:
    return bool(value.shape) and lane == (0, 1, value.shape[-1])


def _frozen(attrs: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(attrs.items())
