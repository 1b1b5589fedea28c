"""Units in their quantised forms: small graphs, made here or sent along with a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...compiler.graph import Graph, Node
from ...compiler.precision import find_precision, kind_of_node
from ...compiler.text import parse_graph, print_graph
from ..units import Unit, nodes_of
from .replay import Small
from .table import FLOAT

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

    store = WeightStore() if store is None else store
    method = store.method(precision, kind_of_node(nodes[0]))
    return quantized(graph, nodes, find_precision(precision), store=store, weights=method)


def calibrate_units(
    graph: Graph,
    units: Sequence[Unit],
    batches: Sequence[Mapping[str, np.ndarray]],
    store: WeightStore,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Make the weights of every unit at every candidate and put them in ``store`` (``passes.calibrate.calibrate``).

    The builds of a search do the same, unit by unit and precision by precision; what is in the store already is not made again.

    Args:
        graph: the decision graph.
        units: of it.
        batches: calibration data; the store keeps what belongs to one data set only, so it has to be that of the builds.
        store: filled.
        progress: called with (what, done, total).
    """
    from ...compiler.pass_protocol import PassContext
    from ...passes.calibrate import calibrate
    from ...passes.quantize import requests_of

    requests = [
        request
        for unit in units
        if unit.kind != "embedding"  # rows of a table are rounded whatever looks them up
        for precision in unit.candidates
        if precision != FLOAT
        for request in requests_of(nodes_of(graph, unit), find_precision(precision), store.method(precision, unit.kind))
    ]
    calibrate(graph, requests, batches, store, PassContext(progress=progress))


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
