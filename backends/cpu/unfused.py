"""Why kernels stand apart: for every row kernel and every copy of a lowered graph, what kept it out of its neighbours.

It reads the graph as ``fuse`` left it, and looks from each kernel without an anchor to what made its operands and to what reads
its results, through the views between.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...codegen.program import Program
from ...compiler.graph import Graph, Node, Value
from ...compiler.report import Launches, Unfused
from ...passes.fusion import SOURCES, VIEWS
from .fuse import FLOATING, Fuse, is_row_lookup, reduces_rows
from .regions import LINEARS, LOOKUPS, WINDOWS, Region, anchor_name, by_element

#: How many different reasons are told of one kernel, in front and behind; how many ops of a neighbour are named.
_MOST, _SHOWN = 2, 3
_VIEW = {"reshape": "a reshape", "transpose": "a transposition", "expand": "a broadcast", "slice": "a slice"}
_COPYING = frozenset({"concat", "pad"})


def explain(graph: Graph, program: Program) -> tuple[Launches, list[Unfused]]:
    """How many kernels run a graph as ``fuse`` left it; and every row kernel that could have been part of another, and every
    copy, each with the reason."""
    found: list[Unfused] = []
    sizes = []
    for node in _kernels(graph):
        region = Region.of(node)
        sizes.append(sum(_computes(n) for n in region.nodes))
        if region.anchor is None and _runs_over_rows(region) and not _begins(node, region):
            found.append(Unfused("kernel", region.label, _why(graph, node, region), _source(region), node.location))
    copies = [launch for launch in program.launches if launch.reason]
    counts = Launches(sum(sizes), len(program.launches), sum(size > 1 for size in sizes), len(found), len(copies))
    found += [Unfused("copy", "copy", launch.reason, next(iter(launch.sources), "")) for launch in copies]
    return counts, found


def _kernels(graph: Graph) -> Iterator[Node]:
    """The nodes that become launches."""
    outputs = set(graph.outputs)
    for node in graph.nodes:
        if node.op not in SOURCES and node.op not in VIEWS and any(v.use_count or v in outputs for v in node.outputs):
            yield node


def _computes(node: Node) -> bool:
    return node.op not in SOURCES and node.op not in VIEWS


def _runs_over_rows(region: Region) -> bool:
    nodes = [n for n in region.nodes if _computes(n)]
    return all(by_element(n) or reduces_rows(n) or is_row_lookup(n) for n in nodes)


def _source(region: Region) -> str:
    named = next((n for n in region.nodes if n.sources and n.op != "cast"), region.nodes[0])
    return next(iter(named.sources or region.owner.sources), "")


def _begins(node: Node, region: Region) -> bool:
    """Whether a kernel of several ops reads nothing but inputs and constants: the first of a model is no failure to fuse."""
    several = sum(_computes(n) for n in region.nodes) > 1 or any(n.op in LOOKUPS for n in region.nodes)
    return several and all(_behind_views(v)[0] is None for v in node.operands)


def _behind_views(value: Value) -> tuple[Node | None, list[str]]:
    """What computes ``value`` (None: it is an input or a constant), and the views in between, the nearest first."""
    views: list[str] = []
    while value.node is not None and value.node.op in VIEWS:
        views.append(value.node.op)
        source = value.node.inputs[0]
        assert source is not None
        value = source
    node = value.node
    return (None if node is None or node.op in SOURCES else node), views


def _readers(graph: Graph, value: Value) -> list[tuple[Node | None, list[str]]]:
    """Who reads ``value`` through views (None: it is an output), with those views."""
    found: list[tuple[Node | None, list[str]]] = []
    work: list[tuple[Value, list[str]]] = [(value, [])]
    while work:
        at, views = work.pop()
        if at in graph.outputs:
            found.append((None, views))
        for user in at.users:
            if user.op in VIEWS:
                work.append((user.output, [*views, user.op]))
            else:
                found.append((user, views))
    return found


def _why(graph: Graph, node: Node, region: Region) -> str:
    """Why ``node`` runs in no kernel in front of it and in none behind it, neighbour by neighbour."""
    front = list(dict.fromkeys(_front(node, region, v) for v in node.operands if not _is_data(v)))
    readers = list(dict.fromkeys((r, tuple(views)) for v in node.outputs for r, views in _readers(graph, v)))
    others = {r: None for r, _ in readers if r is not None}
    if len(others) > 1 and any(_anchor(r) in LINEARS for r in others):
        names = list(dict.fromkeys(map(_name, others)))
        behind = [f"{len(others)} kernels read it ({', '.join(names[:_MOST])}{', ...' if len(names) > _MOST else ''})"]
    else:
        behind = list(dict.fromkeys(_back(region, r, list(views)) for r, views in readers))
    told = [*[text for text in front if text][:_MOST], *[text for text in behind if text][:_MOST]]
    return "; ".join(told) or "nothing else runs over the same rows"


def _is_data(value: Value) -> bool:
    return value.node is not None and value.node.op in SOURCES


def _anchor(node: Node) -> str:
    anchor = Region.of(node).anchor
    return "" if anchor is None else anchor.op


def _name(node: Node) -> str:
    """What a neighbour is called: its anchor, else its ops."""
    region = Region.of(node)
    if region.anchor is not None:
        return anchor_name(region.anchor)
    ops = region.label.split("+")
    return "+".join(ops[:_SHOWN]) + ("+..." if len(ops) > _SHOWN else "")


def _front(node: Node, region: Region, value: Value) -> str:
    """Why ``node`` does not run in the kernel that makes its operand ``value``."""
    producer, views = _behind_views(value)
    if producer is None:
        return "reads an input of the model" if not _constant(value) else ""
    after, anchor = f"after {_name(producer)}: ", _anchor(producer)
    if anchor == "attention" or (not anchor and not _runs_over_rows(Region.of(producer))):
        return after + "it takes in no op that follows"
    if _moving(views):
        return f"{after}{_seen(_moving(views))} in between"
    if anchor:
        odd = _odd_type(region)
        if odd:
            return f"{after}it does not take in {odd} numbers"
        if any(reduces_rows(n) for n in region.nodes) and (anchor == "matmul" or anchor in WINDOWS):
            return after + "it does not make whole rows"
    if _full(producer) or _full(node):
        return f"{after}a kernel holds at most {Fuse().max_nodes} ops"
    if views:
        return f"{after}{_seen(views[0])} in between"
    if producer.outputs[0].shape != node.outputs[0].shape:
        return after + "rows of another shape"
    return after + "something else that it reads is made later"


def _back(region: Region, reader: Node | None, views: list[str]) -> str:
    """Why the kernel does not run in front of ``reader``, in its kernel."""
    if reader is None:
        return "makes an output of the model"
    before, anchor = f"before {_name(reader)}: ", _anchor(reader)
    if reader.op in _COPYING:
        return before + "it copies from memory"
    if anchor == "attention" or anchor == "matmul" or anchor in WINDOWS:
        return before + "it takes in no op in front"
    if not anchor and not _runs_over_rows(Region.of(reader)):
        return before + "it takes in no other op"
    if _moving(views):
        return f"{before}{_seen(_moving(views))} in between"
    if anchor:
        if any(n.op in LOOKUPS for n in region.nodes):
            return before + "it looks nothing up"
        odd = _odd_type(region)
        return before + (
            f"it does not take in {odd} numbers" if odd else "it reads other rows, or more than one kernel does"
        )
    if reader.outputs[0].shape != region.owner.outputs[0].shape:
        return before + ("a reshape in between" if views else "rows of another shape")
    return ""  # two kernels over the same rows: the reason stands with the second


def _constant(value: Value) -> bool:
    """Whether ``value`` is data, seen through views."""
    while value.node is not None and value.node.op in VIEWS and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    return _is_data(value)


def _odd_type(region: Region) -> str:
    """An element type in the region that linears do not take in; empty if there is none."""
    return next((v.dtype.value for n in region.nodes for v in (*n.operands, *n.outputs) if v.dtype not in FLOATING), "")


def _moving(views: list[str]) -> str:
    """The first view that changes which row an element is in; empty if none does."""
    return next((v for v in views if v != "reshape"), "")


def _seen(view: str) -> str:
    """A view in words."""
    return _VIEW.get(view, f"a {view}")


def _full(node: Node) -> bool:
    return sum(_computes(n) for n in Region.of(node).nodes) >= Fuse().max_nodes
