"""canonicalize: dead code, common subexpressions, and the local simplifications of ``simplify``, to a fixed point."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from .simplify import SIMPLIFY

_MOST_ROUNDS = 20


def hoist_constants(graph: Graph) -> None:
    """Move all ``constant`` nodes to the front, so that any node may read any of them."""
    front: Node | None = None
    for node in list(graph.nodes):
        if node.op != "constant":
            front = front or node
        elif front is not None:
            graph.move(node, front)


def merge_equal(graph: Graph) -> int:
    """Common subexpression elimination; constants with equal data count as equal. Returns how many nodes went."""
    seen: dict[Hashable, Node] = {}
    merged = 0
    for node in list(graph.nodes):
        if node.regions:
            continue
        twin = seen.setdefault(_key(graph, node), node)
        if twin is not node:
            for mine, theirs in zip(node.outputs, twin.outputs, strict=True):
                graph.replace(mine, theirs)
            if node.op != "constant":
                twin.sources = tuple(dict.fromkeys((*twin.sources, *node.sources)))
            graph.erase(node)
            merged += 1
    return merged


def _key(graph: Graph, node: Node) -> Hashable:
    if node.op == "constant":
        array = graph.constants[node.attrs["ref"]]
        if array.size > 4096:  # two big constants are equal only if they are the same data
            return "constant", node.attrs["dtype"], array.ctypes.data, array.shape
        return "constant", node.attrs["dtype"], array.shape, array.tobytes()
    return node.op, tuple(id(v) for v in node.inputs), tuple((k, _freeze(v)) for k, v in node.attrs.items())


def _freeze(value: Any) -> Hashable:
    # 1, 1.0 and True compare equal but mean different element types, so the type is part of the key
    return (type(value).__name__, repr(value)) if isinstance(value, (float, int, bool)) else value


def simplify_once(graph: Graph) -> int:
    """Apply the simplification of every node's op once, in order; returns how many fired."""
    fired = 0
    for node in list(graph.nodes):
        if node._graph is None or len(node.outputs) != 1:
            continue
        value: Value = node.outputs[0]
        if not value.use_count and value not in graph.outputs:
            continue
        rule = SIMPLIFY.get(node.op)
        new = rule(graph, node) if rule else None
        if new is not None and new is not value:
            if new.type != value.type:
                raise AssertionError(f"simplifying {node!r} changed {value.type} to {new.type}")
            graph.replace(value, new)
            fired += 1
    return fired


@dataclass(frozen=True)
class Canonicalize:
    """Bring the graph to one spelling per idea: no dead code, no computation twice, no identity, no needless broadcast."""

    name: ClassVar[str] = "canonicalize"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        before = len(graph)
        changed = bool(graph.sweep())
        for _ in range(_MOST_ROUNDS):
            hoist_constants(graph)
            work = simplify_once(graph) + merge_equal(graph) + graph.sweep()
            changed |= bool(work)
            if not work:
                break
        if len(graph) != before:
            context.note(f"{before} nodes became {len(graph)}")
        return PassResult(changed)


def scalar(graph: Graph, value: Value | None) -> float | None:
    """The number in a one-element constant; None for anything else."""
    array = graph.array(value)
    return None if array is None or array.size != 1 or array.dtype == np.uint16 else array.reshape(-1)[0].item()
