"""Attention that is written as two products: its factor goes into what makes the queries."""

from __future__ import annotations

import numpy as np

from ...compiler.graph import Graph, Node, Value
from ...compiler.pass_protocol import PassContext
from ...compiler.types import DType
from ...passes.quantize_forms import MOVES
from .precisions import WHOLE_ATTENTION
from .table import Table


def scale_queries(graph: Graph, table: Table, context: PassContext) -> bool:
    """Multiply the weights and the bias of the linears that make queries by the factor of the scores, which is one then; whether
    any were. Providers that take attention whole have a place for it."""
    if any(table.pays(form) for form in WHOLE_ATTENTION):
        return False
    done = 0
    for node in list(graph.nodes):
        if node.op == "attention" and node.attrs["scale"] not in (0.0, 1.0):
            context.at(node)
            done += _scaled(graph, node)
    if done:
        graph.sweep()
        context.note(
            f"the factor of the scores of {done} attention{'s' if done > 1 else ''} went into the weights of their queries"
        )
    return bool(done)


def reaches_scores(value: Value) -> bool:
    """Whether ``value``, through views alone, is the queries or the keys of an attention."""
    for user in value.users:
        if user.op == "attention" and value in user.operands[:2]:
            return True
        if user.op in MOVES and reaches_scores(user.output):
            return True
    return False


def _scaled(graph: Graph, node: Node) -> bool:
    factor = float(node.attrs["scale"])
    path: list[Node] = []
    value = node.operands[0]
    while value.use_count == 1 and value not in graph.outputs and value.node is not None and _passes(graph, value.node):
        path.append(value.node)
        value = value.node.operands[0]
    linear = value.node
    if value.use_count != 1 or value in graph.outputs or linear is None or linear.op != "linear":
        return False
    if linear.inputs[0] is linear.inputs[1] or linear.output.dtype is not DType.f32:
        return False
    weight = _times(graph, linear.inputs[1], factor, linear)
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    if weight is None or (bias is not None and (graph.array(bias) is None or bias.dtype is not DType.f32)):
        return False
    new = graph.derive(
        linear, "linear", [linear.inputs[0], weight, None if bias is None else _constant(graph, bias, factor, linear)],
        linear.attrs, hint=linear.output.name,
    )  # fmt: skip
    graph.replace(linear.output, new)
    graph.erase(linear)
    for one in path:  # the step of what is rounded shrinks with it: the integers stay what they are
        if one.op in ("quantize", "dequantize"):
            operands = [*one.operands]
            operands[1] = _constant(graph, operands[1], factor, one)
            graph.replace(one.output, graph.derive(one, one.op, operands, one.attrs, hint=one.output.name))
            graph.erase(one)
    graph.replace(
        node.output,
        graph.derive(node, "attention", node.inputs, {**node.attrs, "scale": 1.0}, hint=node.output.name),
    )
    graph.erase(node)
    return True


def _passes(graph: Graph, node: Node) -> bool:
    """Whether a factor of its operand is one of its result, or can be made one."""
    if node.op in ("quantize", "dequantize"):
        return all(graph.array(v) is not None for v in node.operands[1:])
    return node.op in MOVES


def _times(graph: Graph, weight: Value | None, factor: float, before: Node) -> Value | None:
    """A constant weight, or a dequantised one, times ``factor``; None if it is neither."""
    if weight is None:
        return None
    if graph.array(weight) is not None:
        return _constant(graph, weight, factor, before) if weight.dtype is DType.f32 else None
    node = weight.node
    if node is None or node.op != "dequantize" or any(graph.array(v) is None for v in node.operands):
        return None
    if node.operands[1].dtype is not DType.f32:
        return None
    operands = [*node.operands]
    operands[1] = _constant(graph, operands[1], factor, before)
    return graph.derive(before, "dequantize", operands, node.attrs, hint=weight.name)


def _constant(graph: Graph, value: Value, factor: float, before: Node) -> Value:
    array = graph.array(value)
    assert array is not None
    return graph.add_constant(np.asarray(array * np.float32(factor), np.float32), f"{value.name}.scaled", before=before)
