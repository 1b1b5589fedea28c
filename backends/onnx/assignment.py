"""Which execution provider took which node of an exported model, told in the names that the model was exported with.

ONNX Runtime rewrites a graph before and after it divides it among the providers, and names what it makes as it likes. Two
things survive: the names of tensors, and the beginning of a node's name. So a node of the running graph stands for the nodes
of the exported graph that lie between its inputs and its outputs, and where its tensors are new, for the one whose name its
own name begins with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import onnx

from ...compiler.errors import LoweringError
from ...runtime.onnx_session import Assigned
from .providers import Provider

#: Key of a node's metadata: JSON list of the modules of the source model that it stands for.
SOURCES = "planish.sources"
#: Ops whose result does not depend on what their operand holds.
_SHAPE_OPS = frozenset({"Shape", "Size"})
#: What may follow the name of an exported node in the name of one that was made of it.
_SEPARATORS = "/_.-:"


@dataclass(frozen=True)
class Placement:
    """A node of the exported graph and who runs it.

    Attributes:
        node: its name.
        op: its type.
        provider: who runs it; empty if nobody does, since it was folded or merged into another.
        sources: modules of the source model that it stands for.
        shape_only: it computes nothing but shapes, which ONNX Runtime leaves to the CPU on purpose.
    """

    node: str
    op: str
    provider: str
    sources: tuple[str, ...] = ()
    shape_only: bool = False

    def __str__(self) -> str:
        where = f" ({', '.join(self.sources)})" if self.sources else ""
        return f"{self.node}: {self.op}{where} on {self.provider or 'none'}"


def sources_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """The modules of the source model that an exported node stands for; may be empty."""
    for entry in node.metadata_props:
        if entry.key == SOURCES:
            try:
                return tuple(str(source) for source in json.loads(entry.value))
            except (ValueError, TypeError):
                break  # not written by planish
    return ()


class Origins:
    """Looks up what nodes of a running graph stand for in the exported graph.

    Args:
        exported: the graph as it was exported; its nodes have distinct names.
    """

    def __init__(self, exported: onnx.GraphProto) -> None:
        self.nodes = {node.name: node for node in exported.node}
        self._producer = {name: node for node in exported.node for name in node.output if name}

    def by_name(self, name: str) -> str | None:
        """The exported node that ``name`` is, or that it begins with; of several the longest."""
        end = len(name)
        while end > 0:
            if name[:end] in self.nodes and (end == len(name) or name[end] in _SEPARATORS):
                return name[:end]
            end = max(name.rfind(mark, 0, end) for mark in _SEPARATORS)
        return None

    def between(self, outputs: Iterable[str], stops: Set[str]) -> list[str]:
        """The exported nodes that compute ``outputs`` from the tensors ``stops``, constants and inputs; in no order.

        Empty where the exported graph has none of the outputs."""
        found: dict[str, None] = {}
        waiting = [name for name in outputs if name in self._producer]
        while waiting:
            node = self._producer[waiting.pop()]
            if node.name in found:
                continue
            found[node.name] = None
            waiting += [name for name in _reads(node) if name in self._producer and name not in stops]
        return list(found)


def _reads(node: onnx.NodeProto) -> list[str]:
    """Every tensor that a node reads, those that its subgraphs take from outside included."""
    found = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            made = {name for inner in graph.node for name in inner.output}
            found += [name for inner in graph.node for name in _reads(inner) if name not in made]
    return found


def shape_only(exported: onnx.GraphProto) -> set[str]:
    """Names of the nodes whose results hang on the shapes of the inputs alone, not on what they hold."""
    data = {value.name for value in exported.input} - {tensor.name for tensor in exported.initializer}
    found = set()
    for node in exported.node:  # in execution order
        if node.op_type in _SHAPE_OPS and not node.domain:
            found.add(node.name)
        elif any(name in data for name in _reads(node)):
            data.update(name for name in node.output if name)
        elif not node.op_type.startswith("Random"):
            found.add(node.name)
    return found


def placements(exported: onnx.GraphProto, assigned: Sequence[Assigned]) -> list[Placement]:
    """Who runs each exported node, in the graph's order; last the nodes of the running graph that come from none of them."""
    origins = Origins(exported)
    shapes = shape_only(exported)
    provider: dict[str, str] = {}
    strange = []
    for entry in assigned:
        name = origins.by_name(entry.name)
        if name is None:
            strange.append(Placement(entry.name or entry.op, entry.op, entry.provider))
        else:
            provider.setdefault(name, entry.provider)
    known = [
        Placement(name, node.op_type, provider.get(name, ""), sources_of(node), name in shapes)
        for name, node in origins.nodes.items()
    ]
    return [*known, *strange]


def misplaced(found: Iterable[Placement], provider: Provider) -> list[Placement]:
    """Those that another provider runs, shape arithmetic apart."""
    return [p for p in found if p.provider not in ("", provider.name) and not p.shape_only]


def check_strict(found: Sequence[Placement], provider: Provider) -> None:
    """Make sure that everything runs on ``provider``.

    Raises:
        LoweringError: another provider runs a node; names the nodes.
    """
    wrong = misplaced(found, provider)
    if not wrong:
        return
    shown = "; ".join(map(str, wrong[:5])) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    count = "a node" if len(wrong) == 1 else f"{len(wrong)} nodes"
    raise LoweringError(
        f"{provider.name} does not take {count} of the model: {shown}",
        f"planish targets --probe onnx:{provider.short} learns what the installed version takes; without --strict they run there",
    )
