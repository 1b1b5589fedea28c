"""What every front door hands on: a graph, and how the source was called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..graph import Graph

Structure = dict[str, Any]


@dataclass(frozen=True)
class CapturedInput:
    """A tensor the caller gives: its name, and the keys that lead to it (``("args", 0)``, ``("kwargs", "past", 0, "key")``)."""

    name: str
    path: tuple[Any, ...]


@dataclass
class Captured:
    """A model in the IR, with what is needed to call it as the source was called.

    Attributes:
        graph: the graph; ``graph.meta`` repeats ``structure``, ``output_names`` and ``source`` (the hash).
        inputs: per graph input its name and where it sits in the call.
        input_structure: of ``(args, kwargs)``, as ``structure`` describes; constants are baked in.
        structure: how the outputs nest (``compiler.capture.structure``); plain JSON data.
        output_names: per graph output its path in the structure.
        examples: example inputs by name (bf16 as ``uint16`` bits); empty when the program carries none.
        source: hex sha256 of the source's graph, the bounds and the weights.
        notes: what was assumed.
        class_name: the model's class, or the name that its file gives it.
        made_up: whether the examples are nobody's data: good for timing and comparing, not for calibrating.
    """

    graph: Graph
    inputs: list[CapturedInput]
    input_structure: Structure
    structure: Structure
    output_names: list[str]
    examples: dict[str, np.ndarray]
    source: str
    notes: list[str] = field(default_factory=list)
    class_name: str = ""
    made_up: bool = False
