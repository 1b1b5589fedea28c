"""The IR as text: ``parse_graph(print_graph(g))`` is ``g`` again. ::

    graph "main" {
      symbol s0 in [1, 64]
      input %x: f32[s0, 384]
      %w = constant "dense.weight" sha256:9f86d081884c7d65 : f32[384, 384]
      %half = constant "half" [0.5] : f32[]
      %y = linear(%x, %w, _) : f32[s0, 384] name "encoder.dense" loc "model.py:12" from ["encoder.dense", "encoder.act"]
      %q, %scale = quantize_dynamic(%y) : i8[s0, 384], f32[s0, 1]
      return %q, %scale
    }

``_`` is an absent operand. Attributes stand in braces, those at their default are left out. Constants of up to 16 elements
are written out; of larger ones the text holds the digest, and their data are handed to ``parse_graph``. Graph and node
``meta`` are scratch and not printed. ``//`` starts a comment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from .graph import Graph, Node, Value
from .ops import REQUIRED, schema
from .text_literals import NAME, print_attr, print_data, stored
from .text_reader import Reader
from .types import TensorType

#: Constants with more elements than this are printed as a digest.
INLINE = 16


def print_graph(graph: Graph, *, provenance: bool = True, inline: int = INLINE) -> str:
    """``graph`` as text.

    Args:
        graph: the graph.
        provenance: print names, source lines and sources of the nodes.
        inline: constants with more elements are printed as a digest.
    """
    return "\n".join(_lines(graph, provenance, inline)) + "\n"


def _lines(graph: Graph, provenance: bool, inline: int) -> list[str]:
    lines = [f"graph {json.dumps(graph.name)} {{"]
    lines += [f"  symbol {s.name} in [{s.lower}, {s.upper}]" for s in graph.symbols.values()]
    lines += [f"  input {_ref(v)}: {v.type}" for v in graph.inputs]
    lines += [f"  state {_ref(v)}: {v.type}" for v in graph.states]
    printed: set[str] = set()
    for node in graph.nodes:
        lines += ["  " + line for line in _node_lines(graph, node, printed, provenance, inline)]
    lines.append("  return" + (" " + ", ".join(_ref(v) for v in graph.outputs) if graph.outputs else ""))
    for ref, array in graph.constants.items():
        if ref not in printed:
            kept = TensorType(stored(array), tuple(array.shape))
            lines.append(f"  data {json.dumps(ref)} {print_data(array, inline)} : {kept}")
    return [*lines, "}"]


def _node_lines(graph: Graph, node: Node, printed: set[str], provenance: bool, inline: int) -> list[str]:
    results = ", ".join(_ref(v) for v in node.outputs)
    types = ", ".join(str(v.type) for v in node.outputs)
    if node.op == "constant":
        ref = node.attrs["ref"]
        array = graph.constants.get(ref)
        text = f"{results} = constant {json.dumps(ref)}"
        fits = array is not None and (array.dtype, array.shape) == (node.attrs["dtype"].numpy, node.attrs["shape"])
        if array is not None and fits and ref not in printed:
            printed.add(ref)
            text += f" {print_data(array, inline)}"
    else:
        operands = ", ".join("_" if v is None else _ref(v) for v in node.inputs)
        defaults = schema(node.op).attributes
        attrs = [
            f"{name} = {print_attr(value)}"
            for name, value in node.attrs.items()
            if defaults.get(name, REQUIRED) is REQUIRED or print_attr(defaults[name]) != print_attr(value)
        ]
        text = f"{results} = {node.op}({operands})" + (f" {{{', '.join(attrs)}}}" if attrs else "")
    text += f" : {types}"
    if provenance:
        text += f" name {json.dumps(node.name)}" if node.name else ""
        text += f" loc {json.dumps(node.location)}" if node.location is not None else ""
        if node.sources != ((node.name,) if node.name else ()):
            text += f" from [{', '.join(json.dumps(s) for s in node.sources)}]"
    lines = [text]
    for region in node.regions:
        inner = _lines(region, provenance, inline)
        lines[-1] += " " + inner[0]
        lines += inner[1:]
    return lines


def _ref(value: Value) -> str:
    name = value.name
    return f"%{name}" if NAME.fullmatch(name) and name != "_" else f"%{json.dumps(name)}"


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that ``print_graph`` printed.

    Args:
        text: the text form.
        constants: data of the constants printed as a digest, under any names; they are found by their digests.

    Raises:
        UsageError: the text is no graph (names the line), or the data of a constant are missing.
    """
    reader = Reader(text, constants or {})
    graph = reader.graph()
    if reader.peek():
        raise reader.error("the end of the text")
    return graph
