"""bf16, which few providers compute in: f16 where the provider is fast in it, else f32."""

from __future__ import annotations

from ...compiler.graph import Graph, Node, Value
from ...compiler.pass_protocol import PassContext
from ...compiler.types import DType, bf16_to_float
from .table import Table


def widen_bf16(graph: Graph, table: Table, context: PassContext) -> bool:
    """Compute in another float what is computed in bf16, inputs and outputs of the graph apart; whether anything was."""
    low = [
        n
        for n in graph.nodes
        if any(v.dtype is DType.bf16 for v in n.outputs) or n.attrs.get("out_dtype") is DType.bf16
    ]
    if not low or table.pays("matmul", "bf16"):
        return False
    instead = DType.f16 if table.pays("matmul", "f16") else DType.f32
    now: dict[Value, Value] = {}
    nodes = list(graph.nodes)
    for value in graph.inputs:
        if value.dtype is DType.bf16 and value.users:
            now[value] = graph.insert("cast", [value], {"dtype": instead}, before=nodes[0], hint=value.name).output
    for node in nodes:
        context.at(node)
        _rewrite(graph, node, instead, now)
    for i, value in enumerate(graph.outputs):
        new = value if value in graph.inputs else now.get(value, value)
        if new.dtype is not value.dtype:
            new = graph.insert("cast", [new], {"dtype": value.dtype}, hint=value.name).output
        graph.outputs[i] = new
    graph.sweep()
    context.note(f"bf16 is computed in {instead}: {table.provider} has no fast kernels for bf16", kind="change")
    return True


def _rewrite(graph: Graph, node: Node, instead: DType, now: dict[Value, Value]) -> None:
    """``node`` on operands that have changed their type, or with its own bf16 results in ``instead``."""
    if node.op == "constant":
        if node.output.dtype is DType.bf16:
            array = bf16_to_float(graph.constants[node.attrs["ref"]]).astype(instead.numpy)
            now[node.output] = graph.add_constant(array, node.attrs["ref"], instead, before=node)
        return
    inputs = [None if v is None else now.get(v, v) for v in node.inputs]
    attrs = {k: instead if v is DType.bf16 else v for k, v in node.attrs.items()}
    if inputs == node.inputs and attrs == node.attrs:
        return
    if node.op == "cast" and inputs[0] is not None and inputs[0].dtype is attrs["dtype"]:
        now[node.output] = inputs[0]
        return
    types = {v.dtype for v in inputs if v is not None and v.dtype in (DType.bf16, DType.f16, DType.f32)}
    if attrs.get("out_dtype") is not None and types == {attrs["out_dtype"]}:
        attrs["out_dtype"] = None
    new = graph.insert(
        node.op, inputs, attrs, before=node, name=node.name, location=node.location, sources=node.sources,
        hint=node.outputs[0].name,
    )  # fmt: skip
    now.update(zip(node.outputs, new.outputs, strict=True))
