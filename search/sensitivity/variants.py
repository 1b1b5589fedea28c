"""Units in their quantised forms: small graphs, made here or sent along with a task."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.graph import Graph, Node
from ...compiler.precision import find_precision
from ...compiler.text import parse_graph, print_graph
from .replay import Small

if TYPE_CHECKING:
    from ...passes.weights.store import WeightStore


@dataclass(frozen=True)
class Sent:
    """A graph as it travels: its nodes are a linked list, which pickle would follow node by node into the depth."""

    text: str
    constants: Mapping[str, np.ndarray]

    @staticmethod
    def of(graph: Graph) -> Sent:
        """What :meth:`graph` reads."""
        return Sent(print_graph(graph, inline=0), dict(graph.constants))

    def graph(self) -> Graph:
        """The graph."""
        return parse_graph(self.text, self.constants)


def quantise(graph: Graph, nodes: Sequence[Node], precision: str, store: WeightStore | None) -> Graph:
    """``nodes`` of one unit at ``precision`` as a graph of their own (``passes.quantize.quantized``)."""
    from ...passes.quantize import quantized
    from ...passes.weights.store import WeightStore

    return quantized(graph, nodes, find_precision(precision), store=WeightStore() if store is None else store)


def name_of(nodes: Sequence[Node], precision: str) -> str:
    """What a variant is called in every process."""
    return "|".join((precision, *(n.outputs[0].name for n in nodes)))


@dataclass
class Variants:
    """The quantised forms of the units of one graph.

    Attributes:
        graph: what the units are parts of.
        store: weights that were made before; None: nothing is kept.
        given: variants that came with a task, by name; the others are made.
    """

    graph: Graph
    store: WeightStore | None = None
    given: Mapping[str, Sent] = field(default_factory=dict)
    _ready: dict[str, Small] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def __call__(self, unit: int, nodes: Sequence[Node], precision: str) -> Small:
        """The variant of a piece, kept until :meth:`forget`."""
        name = name_of(nodes, precision)
        if name not in self._ready:
            sent = self.given.get(name)
            small = quantise(self.graph, nodes, precision, self.store) if sent is None else sent.graph()
            self._ready[name] = Small(small)
        return self._ready[name]

    def forget(self) -> None:
        """Drop what was kept."""
        self._ready.clear()
