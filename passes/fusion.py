"""The shared mechanism of fusion: a set of nodes becomes one ``fused`` node that owns them as its region.

Which nodes belong together is the business of each backend; the mechanism keeps the graph's order and meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..compiler.graph import Graph, Node, Value

SOURCES = frozenset({"constant", "full", "arange"})
VIEWS = frozenset({"reshape", "transpose", "expand", "slice"})
#: What a kernel is called after, when it is in it.
_NAMING = frozenset({"linear", "qlinear", "matmul", "attention", "conv", "qconv"})


def settle(graph: Graph) -> dict[Node, int]:
    """Move generated values to the front and every view right behind what it views; returns each node's position.

    After this, an operand lies behind a node only if it truly is computed later.
    """
    front: Node | None = None
    for node in list(graph.nodes):
        if node.op not in SOURCES:
            front = front or node
        elif front is not None:
            graph.move(node, front)
    for node in list(graph.nodes):
        if node.op in VIEWS:
            source = node.inputs[0]
            assert source is not None
            if source.node is not None:
                graph.move(node, source.node._next)
            else:
                graph.move(node, next((n for n in graph.nodes if n.op not in SOURCES), None))
    return {node: at for at, node in enumerate(graph.nodes)}


def external(members: Iterable[Node]) -> list[Value]:
    """What ``members`` read from outside, each value once, in order."""
    inside = {v for n in members for v in n.outputs}
    return list(dict.fromkeys(v for n in members for v in n.operands if v not in inside))


def results(graph: Graph, members: Sequence[Node]) -> list[Value]:
    """What others read of ``members``: values with a reader outside, and outputs of the graph."""
    inside, outputs = set(members), set(graph.outputs)
    return [v for n in members for v in n.outputs if v in outputs or any(u not in inside for u in v.users)]


def enclose(graph: Graph, members: Sequence[Node], at: Node) -> Node:
    """Replace ``members`` (in execution order) by one ``fused`` node in front of ``at``.

    Everything they read from outside must be defined before ``at``, and nothing that reads their results may stand there.
    """
    body = Graph("region")
    body.symbols = dict(graph.symbols)
    env: dict[Value, Value] = {}
    operands = external(members)
    for value in operands:
        env[value] = body.add_input(value.name, value.type)
    for node in members:
        regions = [r.copy() for r in node.regions]
        twin = body.insert(
            node.op, [None if v is None else env[v] for v in node.inputs], node.attrs, regions=regions, name=node.name,
            location=node.location, sources=node.sources,
        )  # fmt: skip
        for mine, theirs in zip(node.outputs, twin.outputs, strict=True):
            theirs.name, theirs.type = mine.name, mine.type
            env[mine] = theirs
    kept = results(graph, members)
    body.outputs = [env[v] for v in kept]
    sources = tuple(dict.fromkeys(s for n in members for s in n.sources))
    named = next((n for n in members if n.op in _NAMING), members[0])
    fused = graph.insert(
        "fused", operands, regions=[body], before=at, name=named.name, location=named.location, sources=sources
    )
    for old, new in zip(kept, fused.outputs, strict=True):
        graph.replace(old, new)
        new.name = old.name
    for node in reversed(members):
        graph.erase(node)
    return fused
