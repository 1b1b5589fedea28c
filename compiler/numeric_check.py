"""Runs the graph before and after every pass and compares: the oracle for passes. Needs torch (through the interpreter)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .errors import PassError
from .graph import Graph
from .interpret import interpret
from .pass_protocol import Pass, PassResult
from .tolerance import MODEL, relative_distance
from .types import DType, bf16_to_float


@dataclass
class NumericCheck:
    """After each pass that changed something, the outputs on ``inputs`` must stay within the tolerance of the graph.

    A pass with ``lossy = True`` is not held to it: its distance is recorded, and its result is the new reference.

    Attributes:
        inputs: example data by the names of the graph's inputs.
        distances: (pass, worst relative distance over the outputs), for the report.
    """

    inputs: Mapping[str, np.ndarray]
    distances: list[tuple[str, float]] = field(default_factory=list)
    _reference: list[np.ndarray] | None = None

    def before(self, p: Pass, graph: Graph) -> None:
        if self._reference is None:
            self._reference = outputs(graph, self.inputs)

    def after(self, p: Pass, graph: Graph, result: PassResult) -> None:
        if not result.changed or self._reference is None:
            return
        now = outputs(graph, self.inputs)
        distance, worst = furthest(self._reference, now)
        self.distances.append((p.name, distance))
        if getattr(p, "lossy", False):
            self._reference = now
            return
        limit = tolerance(graph)
        if not distance <= limit:
            name = graph.outputs[worst].name if worst < len(graph.outputs) else str(worst)
            raise PassError(
                f"pass {p.name!r} changed the numbers: output {worst} (%{name}) is off by {distance:.2g} of its norm",
                f"{limit:.0e} is allowed",
            )


def outputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of ``graph``, bf16 widened to f32."""
    arrays = interpret(graph, dict(inputs))
    return [
        bf16_to_float(a) if v.dtype is DType.bf16 else np.asarray(a) for v, a in zip(graph.outputs, arrays, strict=True)
    ]


def furthest(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[float, int]:
    """The largest relative distance and the output it is at."""
    if len(a) != len(b):
        return float("inf"), min(len(a), len(b))
    distances = [relative_distance(x, y) for x, y in zip(a, b, strict=True)]
    worst = max(range(len(distances)), key=distances.__getitem__, default=0)
    return (distances[worst] if distances else 0.0), worst


def tolerance(graph: Graph) -> float:
    """The distance allowed for ``graph``: that of the least precise type in it, regions included."""
    found = {DType.f32}
    stack = [graph]
    while stack:
        g = stack.pop()
        for node in g.nodes:
            found |= {v.dtype for v in node.outputs}
            stack += node.regions
    return max(MODEL[d] for d in found & MODEL.keys())
