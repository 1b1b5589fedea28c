"""Linears that were merged because they share their input, taken apart again where cutting their result costs more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...compiler.graph import Graph, Node, Value
from ...compiler.pass_protocol import PassContext
from .precisions import WHOLE_ATTENTION
from .providers import Provider
from .table import Table


def part_merged(graph: Graph, provider: Provider, table: Table, context: PassContext) -> bool:
    """Cut linears whose result is only sliced into a linear for each slice; whether any was.

    Providers that take attention on whole matrices read the results where they are; cutting one result would copy it, and some
    providers copy for every reader. A product of the same rows with narrower matrices takes as long as one with the wide one.
    """
    if not provider.copies_slices and not any(table.pays(form) for form in WHOLE_ATTENTION):
        return False
    parted = 0
    for node in list(graph.nodes):
        if node.op != "linear":
            continue
        context.at(node)
        slices = _slices(graph, node)
        weights = None if slices is None else [_rows(graph, node.inputs[1], s) for s in slices]
        if slices is None or weights is None or any(w is None for w in weights):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and graph.array(bias) is None:
            continue
        for piece, weight in zip(slices, weights, strict=True):
            part = None if bias is None else _cut(graph, bias, piece, node)
            new = graph.insert(
                "linear", [node.inputs[0], weight, part], node.attrs, before=node, name=piece.name,
                location=piece.location, sources=piece.sources, hint=piece.output.name,
            )  # fmt: skip
            graph.replace(piece.output, new.output)
        for piece in slices:
            graph.erase(piece)
        graph.erase(node)
        parted += 1
    if parted:
        context.note(f"{parted} merged linears became one for each slice of their result")
    graph.sweep()
    return bool(parted)


def _slices(graph: Graph, node: Node) -> Sequence[Node] | None:
    """The slices that are all that reads the result of ``node``, side by side and in order."""
    y = node.output
    last = y.type.rank - 1
    users = sorted((u for u in y.users if u.op == "slice"), key=lambda u: str(u.attrs["start"]))
    if len(users) < 2 or len(users) != y.use_count or y in graph.outputs:
        return None
    bounds = [(u.attrs["start"], u.attrs["end"], u.attrs["step"], u.attrs["axis"] % y.type.rank) for u in users]
    if any(not isinstance(a, int) or not isinstance(b, int) or c != 1 or d != last for a, b, c, d in bounds):
        return None
    return sorted(users, key=lambda u: int(u.attrs["start"]))


def _rows(graph: Graph, weight: Value | None, piece: Node) -> Value | None:
    """The rows of a constant weight, or of a dequantised one, that ``piece`` is made with."""
    if weight is None or weight.node is None:
        return None
    if graph.array(weight) is not None:
        return _cut(graph, weight, piece, piece.operands[0].node)
    node = weight.node
    if node.op != "dequantize" or any(graph.array(v) is None for v in node.operands):
        return None
    at = piece.operands[0].node
    assert at is not None
    parts = [_cut(graph, v, piece, at) if v.type.rank and v.shape[0] != 1 else v for v in node.operands]
    return graph.insert("dequantize", parts, node.attrs, before=at, name=piece.name, sources=piece.sources).output


def _cut(graph: Graph, value: Value, piece: Node, before: Node | None) -> Value:
    array = graph.array(value)
    assert array is not None
    part = np.ascontiguousarray(array[int(piece.attrs["start"]) : int(piece.attrs["end"])])
    return graph.add_constant(part, f"{value.name}.{piece.attrs['start']}", value.dtype, before=before)
