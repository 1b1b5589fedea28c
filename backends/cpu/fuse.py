"""Which nodes become one CPU kernel: epilogues behind linears, programs over rows, prologues in front of linears."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ...compiler.dims import Dim
from ...compiler.graph import Graph, Node, Value
from ...compiler.pass_protocol import PassContext, PassResult
from ...compiler.types import DType
from ...passes.fusion import SOURCES, enclose, external, results, settle
from .lower_conv import has_rows
from .regions import LINEARS, LOOKUPS, WINDOWS, by_element

FLOATING = frozenset({DType.f32, DType.bf16, DType.f16, DType.bool, DType.i8})


@dataclass(eq=False)
class Group:
    """Nodes that will be one kernel; ``space`` is the shape it runs over."""

    members: list[Node]
    space: tuple[Dim, ...]
    anchor: Node | None = None
    inside: set[Node] = field(default_factory=set)
    inside_outputs: dict[Value, None] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        self.members.append(node)
        self.inside.add(node)
        self.inside_outputs.update(dict.fromkeys(node.outputs))


def reduces_rows(node: Node) -> bool:
    """Whether ``node`` reduces along the last axis and keeps it, as row programs can."""
    if node.op in ("rms_norm", "quantize_dynamic"):
        return True
    if node.op == "layer_norm":
        return bool(node.attrs["axes"] == 1)
    rank = node.inputs[0].type.rank if node.operands else 0  # type: ignore[union-attr]
    if node.op in ("softmax", "log_softmax"):
        return bool(node.attrs["axis"] % rank == rank - 1)
    if node.op.startswith("reduce_"):
        return [a % rank for a in node.attrs["axes"]] == [rank - 1] and bool(node.attrs["keepdim"])
    return False


def is_row_lookup(node: Node) -> bool:
    """Whether ``node`` copies whole rows of a table."""
    if node.op == "embedding":
        return True
    return node.op == "gather" and node.attrs["axis"] % node.inputs[0].type.rank != node.inputs[0].type.rank - 1  # type: ignore[union-attr]


def _row_shape(shape: tuple[Dim, ...], space: tuple[Dim, ...]) -> bool:
    """Whether ``shape`` is the space, or one number per row of it."""
    return shape == space or (len(shape) == len(space) and shape[:-1] == space[:-1] and shape[-1] == 1)


def _flat(shape: tuple[Dim, ...], space: tuple[Dim, ...]) -> bool:
    """Whether an operand of ``shape`` has one stride over the flattened rows of ``space``: all outer axes, or none."""
    outer = shape[:-1]
    return all(d == 1 for d in outer) or (outer == space[:-1][len(space) - len(shape) :] and len(shape) == len(space))


def _producer(value: Value) -> Node | None:
    """What computes ``value``, seen through reshapes."""
    while value.node is not None and value.node.op == "reshape" and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    return value.node


@dataclass(frozen=True)
class Fuse:
    """Fuse elementwise and row-wise ops into the linear in front of them, into each other, and into the linear behind.

    Args:
        max_nodes: a kernel holds at most this many nodes; bounds the size of generated functions.
    """

    name: ClassVar[str] = "fuse"
    version: ClassVar[int] = 1
    max_nodes: int = 48

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        at = settle(graph)
        taken: set[Node] = set()
        groups: list[Group] = []
        anchors = [n for n in graph.nodes if n.op in (*LINEARS, *WINDOWS, "matmul")]
        groups.extend(self._grow(graph, n, Group([], n.output.shape, n), at, taken) for n in anchors)
        for node in list(graph.nodes):
            if node not in taken and self._seeds_rows(node):
                space = node.inputs[0].shape if reduces_rows(node) else node.outputs[0].shape  # type: ignore[union-attr]
                groups.append(self._grow(graph, node, Group([], space or (1,)), at, taken))
        self._siblings(graph, groups, at)
        self._prologues(graph, groups, at)
        fused = 0
        for group in sorted(groups, key=lambda g: at[self._place(g, at)]):
            members = sorted(group.members, key=at.__getitem__)
            if len(members) > 1:
                place = self._place(group, at)
                context.at(place)
                enclose(graph, members, place)
                fused += 1
        return PassResult(bool(fused))

    def _place(self, group: Group, at: dict[Node, int]) -> Node:
        """Where the kernel stands: at its linear, else at its first member.

        What the group reads from outside was defined before that node, and whoever reads its results comes behind it.
        """
        return group.anchor if group.anchor is not None else min(group.members, key=at.__getitem__)

    def _seeds_rows(self, node: Node) -> bool:
        if node.op in SOURCES or node.op == "fused":
            return False
        return by_element(node) or reduces_rows(node) or is_row_lookup(node)

    def _grow(self, graph: Graph, seed: Node, group: Group, at: dict[Node, int], taken: set[Node]) -> Group:
        group.add(seed)
        taken.add(seed)
        start = at[seed]
        work = [u for v in seed.outputs for u in v.users]
        while work and len(group.members) < self.max_nodes:
            work.sort(key=at.__getitem__)
            node = work.pop(0)
            if node in taken:
                continue
            chain = self._absorbable(node, group, start, at, taken)
            if chain is None:
                continue
            for member in chain:
                group.add(member)
                taken.add(member)
            work.extend(u for v in node.outputs for u in v.users if u not in taken)
        return group

    def _absorbable(
        self, node: Node, group: Group, start: int, at: dict[Node, int], taken: set[Node], depth: int = 4
    ) -> list[Node] | None:
        """The nodes to take in so that ``node`` can run in the group's pass, producers first; None if it cannot."""
        if node in taken or not self._fits(node, group):
            return None
        if node.op in LOOKUPS and any(v.node is not None and at[v.node] >= start for v in node.operands):
            return None  # rows are looked up in memory, so the table and the ids come from before this kernel
        chain: list[Node] = []
        for value in node.operands:
            producer = value.node
            if value in group.inside_outputs or producer is None or producer in chain or at[producer] < start:
                continue
            if depth == 0 or value.use_count > 1 or not self._seeds_rows(producer):
                return None
            more = self._absorbable(producer, group, start, at, taken, depth - 1)
            if more is None:
                return None
            chain.extend(m for m in more if m not in chain)
        return [*chain, node]

    def _fits(self, node: Node, group: Group) -> bool:
        """Whether ``node`` can be computed in the group's pass over its space."""
        rows = reduces_rows(node)
        if not (rows or by_element(node) or (group.anchor is None and is_row_lookup(node))):
            return False
        if not all(_row_shape(v.shape, group.space) for v in node.outputs):
            return False
        if rows and node.inputs[0].shape != group.space:  # type: ignore[union-attr]
            return False
        if group.anchor is None:
            return True
        if rows and not (group.anchor.op in LINEARS or has_rows(group.anchor)):
            return False
        values = [*node.operands, *node.outputs]
        if any(v.dtype not in FLOATING for v in values):
            return False
        return group.anchor.op == "matmul" or all(
            v in group.inside_outputs or _flat(v.shape, group.space) for v in node.operands
        )

    def _siblings(self, graph: Graph, groups: list[Group], at: dict[Node, int]) -> None:
        """Make one of the row groups that compute the parts of a concatenation from the same values."""
        owner = {member: group for group in groups for member in group.members}
        for node in graph.nodes:
            if node.op != "concat":
                continue
            found = [owner.get(p) for p in (_producer(v) for v in node.operands) if p is not None]
            parts = list(dict.fromkeys(g for g in found if g is not None and g.anchor is None))
            for second in parts[1:]:
                first = parts[0]
                begin = min(at[m] for m in first.members)
                if second.space != first.space or len(first.members) + len(second.members) > self.max_nodes:
                    continue
                shared = set(external(first.members)) & set(external(second.members))
                if not any(v.shape == first.space for v in shared):
                    continue
                if any(v.node is not None and at[v.node] >= begin for v in external(second.members)):
                    continue
                for member in second.members:
                    first.add(member)
                    owner[member] = first
                groups.remove(second)

    def _prologues(self, graph: Graph, groups: list[Group], at: dict[Node, int]) -> None:
        """Move a row group whose results only one linear reads, as its x (and scales), into that linear."""
        owner = {member: group for group in groups for member in group.members}
        for group in list(groups):
            if group.anchor is None or group.anchor.op not in LINEARS:
                continue
            anchor = group.anchor
            x = anchor.inputs[0]
            assert x is not None
            feeder = owner.get(x.node) if x.node is not None else None
            if feeder is None or feeder.anchor is not None or feeder.space != x.shape:
                continue
            wanted = {x, anchor.inputs[1]} if anchor.op == "qlinear" else {x}
            made = results(graph, feeder.members)
            if any(v not in wanted or v in graph.outputs or any(u is not anchor for u in v.users) for v in made):
                continue
            if any(n.op in LOOKUPS for n in feeder.members) or any(
                v.dtype not in FLOATING for n in feeder.members for v in (*n.operands, *n.outputs)
            ):
                continue
            if not all(_flat(v.shape, feeder.space) for v in external(feeder.members)):
                continue
            group.members = [*feeder.members, *group.members]
            groups.remove(feeder)
