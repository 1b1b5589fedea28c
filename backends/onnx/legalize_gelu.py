"""GELU by tanh instead of by the error function, where the result is rounded to eight bits and the provider is faster in it."""

from __future__ import annotations

from collections.abc import Iterator

from ...compiler.graph import Graph, Node, Value
from ...compiler.pass_protocol import PassContext
from .table import Table

#: The two differ by at most 4.8e-4; a step of what is rounded to eight bits behind a GELU is some fifty times that.
_FASTER = 1.1
#: What may lie between a GELU and its rounding: smoothing.
_BETWEEN = ("mul", "sub", "add")


def faster_gelu(graph: Graph, table: Table, context: PassContext) -> bool:
    """Rewrite GELUs that nothing but int8 products read; whether any was."""
    plain, curve = table.row("gelu-20"), table.row("gelu-tanh-20")
    if plain is None or curve is None or not curve.taken or not plain.seconds or not curve.seconds:
        return False
    if plain.seconds < _FASTER * curve.seconds:
        return False
    changed = 0
    for node in list(graph.nodes):
        if node.op != "gelu" or node.attrs["approximate"] != "none" or node.output in graph.outputs:
            continue
        if not all(_rounded(reader) for reader in _readers(node.output)):
            continue
        new = graph.derive(node, "gelu", node.inputs, {"approximate": "tanh"}, hint=node.output.name)
        graph.replace(node.output, new)
        graph.erase(node)
        changed += 1
    if changed:
        context.note(
            f"{changed} GELUs whose results are rounded to eight bits are computed by tanh: off by at most 5e-4",
            kind="change",
        )
    return bool(changed)


def _readers(value: Value) -> Iterator[Node]:
    for user in value.users:
        if user.op in _BETWEEN and any(
            v is not value and v.node is not None and v.node.op == "constant" for v in user.operands
        ):
            yield from _readers(user.output)
        else:
            yield user


def _rounded(node: Node) -> bool:
    return node.op in ("quantize", "quantize_tensor", "quantize_dynamic")
