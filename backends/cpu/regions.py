"""One launch's worth of nodes: a ``fused`` node's region, or a single node, seen the same way."""

from __future__ import annotations

from dataclasses import dataclass

from ...compiler.dims import Dim
from ...compiler.graph import Graph, Node, Value
from ...compiler.ops import is_elementwise
from ...compiler.ops_anchor import scale_group
from .steps import REDUCING

LINEARS = frozenset({"linear", "qlinear"})
CONVS = frozenset({"conv", "qconv"})
WINDOWS = frozenset({*CONVS, "max_pool", "avg_pool", "fold"})
ANCHORS = frozenset({"linear", "qlinear", "matmul", "attention", *WINDOWS})
LOOKUPS = frozenset({"embedding", "gather", "take_along"})


def by_element(node: Node) -> bool:
    """Whether ``node`` is computed element by element; ``dequantize`` is where no scale serves a group of neighbours."""
    if node.op != "dequantize":
        return is_elementwise(node)
    q, *scales = node.operands
    return all(scale_group(q.type, s.type) is None for s in scales)


@dataclass(frozen=True)
class Region:
    """Nodes that become one kernel.

    Attributes:
        owner: the node in the graph.
        nodes: what is computed, in order.
        outer: the value of the graph behind each value that the nodes read from outside.
        results: (value inside, value of the graph) for every result.
    """

    owner: Node
    nodes: tuple[Node, ...]
    outer: dict[Value, Value]
    results: tuple[tuple[Value, Value], ...]

    @staticmethod
    def of(node: Node) -> Region:
        if node.op != "fused":
            return Region(node, (node,), {v: v for v in node.operands}, tuple((v, v) for v in node.outputs))
        body: Graph = node.regions[0]
        outer = {inner: v for inner, v in zip(body.inputs, node.inputs, strict=True) if v is not None}
        return Region(node, tuple(body.nodes), outer, tuple(zip(body.outputs, node.outputs, strict=True)))

    @property
    def anchor(self) -> Node | None:
        """The linear, matmul, attention, convolution or pool that the region is built around; None for a program over rows."""
        return next((n for n in self.nodes if n.op in ANCHORS), None)

    @property
    def anchor_sources(self) -> tuple[str, ...]:
        """Modules of the anchor, or of the look-ups in tables; none for any other program over rows."""
        nodes = [n for n in self.nodes if n.op in ("embedding", "gather")] if self.anchor is None else [self.anchor]
        return tuple(dict.fromkeys(source for node in nodes for source in node.sources))

    @property
    def sources(self) -> tuple[str, ...]:
        names = [s for n in self.nodes for s in n.sources] or list(self.owner.sources)
        return tuple(dict.fromkeys(names))

    @property
    def label(self) -> str:
        """What the report calls it: the ops, in order, without repeats that say nothing."""
        ops = [n.op for n in self.nodes if n.op not in ("cast", "constant")] or [n.op for n in self.nodes]
        return "+".join(op for i, op in enumerate(ops) if i == 0 or ops[i - 1] != op)


def anchor_name(anchor: Node) -> str:
    """What reports call a kernel around ``anchor``."""
    return {"qlinear": "linear", "qconv": "conv"}.get(anchor.op, anchor.op)


def row_space(nodes: tuple[Node, ...]) -> tuple[Dim, ...]:
    """The shape over which a program of ``nodes`` runs: what all their results, and what they reduce, broadcast to."""
    shapes: list[tuple[Dim, ...]] = []
    for node in nodes:
        shapes.extend(v.shape for v in node.outputs)
        if node.op in REDUCING and node.inputs[0] is not None:
            shapes.append(node.inputs[0].shape)
    rank = max(len(s) for s in shapes)
    space: list[Dim] = [1] * rank
    for shape in shapes:
        for at, d in enumerate(shape, start=rank - len(shape)):
            if d != 1:
                space[at] = d
    return tuple(space)
