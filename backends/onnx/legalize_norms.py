"""Norms that are written in parts: what they multiply and add goes to who reads them, who multiplies and adds already."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...compiler.graph import Graph, Node, Value
from ...compiler.pass_protocol import PassContext
from ...compiler.types import DType
from .table import Table

Array = np.ndarray
Rewrite = Callable[[Value], None]


def spread_affine(graph: Graph, table: Table, context: PassContext) -> bool:
    """Take weight and bias out of layer norms all of whose readers have a place for them; whether any were.

    ``norm * w + b`` is read by a residual addition, ``(norm * w + b) + linear``, where ``b`` joins the bias of the linear, and by
    the smoothing of what is quantised, ``(norm * w + b) * k - c``, whose constants take both in. The former is then one
    multiplication and addition, and the sum in between is never stored.
    """
    if table.pays("layer-normalization"):
        return False
    done = 0
    for node in list(graph.nodes):
        if node.op == "layer_norm":
            context.at(node)
            done += _spread(graph, node)
    if done:
        graph.sweep()
        context.note(f"weight and bias of {done} norm{'s' if done > 1 else ''} went to what reads them")
    return bool(done)


def _spread(graph: Graph, node: Node) -> bool:
    if node.attrs["axes"] != 1 or node.output.dtype is not DType.f32 or node.output in graph.outputs:
        return False
    weight, bias = (graph.array(v) if v is not None else None for v in node.inputs[1:3])
    if weight is None or (bias is None and node.inputs[2] is not None):
        return False
    offset = np.zeros_like(weight) if bias is None else bias
    rewrites = [_rewrite(graph, user, node.output, weight, offset) for user in node.output.users]
    if not rewrites or any(r is None for r in rewrites):
        return False
    bare = graph.derive(node, "layer_norm", [node.inputs[0], None, None], node.attrs, hint=node.output.name)
    for rewrite in rewrites:
        if rewrite is not None:
            rewrite(bare)
    return True


def _rewrite(graph: Graph, user: Node, norm: Value, weight: Array, bias: Array) -> Rewrite | None:
    """What makes ``user`` read the norm without weight and bias; None if it has no place for them."""
    if list(user.operands).count(norm) != 1:
        return None
    other = next(v for v in user.operands if v is not norm) if len(user.operands) == 2 else None
    if other is None:
        return None
    if user.op == "mul" and user.operands[0] is norm:
        return _into_smoothing(graph, user, other, weight, bias)
    if user.op == "add" and other.shape == norm.shape:
        return _into_linear(graph, user, other, weight, bias)
    return None


def _into_smoothing(graph: Graph, mul: Node, factor: Value, weight: Array, bias: Array) -> Rewrite | None:
    """``norm * factor - offset``."""
    k = graph.array(factor)
    sub = mul.output.users[0] if mul.output.use_count == 1 and mul.output not in graph.outputs else None
    if k is None or sub is None or sub.op != "sub" or sub.operands[0] is not mul.output:
        return None
    c = graph.array(sub.operands[1])
    if c is None or k.dtype != np.float32 or c.dtype != np.float32 or max(k.ndim, c.ndim) > 1:
        return None

    def rewrite(bare: Value) -> None:
        scaled = graph.add_constant(_f32(weight * k), f"{factor.name}.norm", before=mul)
        shift = graph.add_constant(_f32(c - bias * k), f"{sub.operands[1].name}.norm", before=mul)
        product = graph.derive(mul, "mul", [bare, scaled], hint=mul.output.name)
        graph.replace(sub.output, graph.derive(sub, "sub", [product, shift], hint=sub.output.name))
        graph.erase(sub)
        graph.erase(mul)

    return rewrite


def _into_linear(graph: Graph, add: Node, other: Value, weight: Array, bias: Array) -> Rewrite | None:
    """``norm + linear``."""
    linear = other.node
    if linear is None or linear.op != "linear" or other.use_count != 1 or other in graph.outputs:
        return None
    given = linear.inputs[2] if len(linear.inputs) > 2 else None
    held = np.float32(0) if given is None else graph.array(given)
    if held is None or held.dtype != np.float32:
        return None

    def rewrite(bare: Value) -> None:
        joined = graph.add_constant(_f32(held + bias), f"{linear.name}.bias.norm", before=linear)
        sums = graph.derive(linear, "linear", [*linear.inputs[:2], joined], linear.attrs, hint=other.name)
        factor = graph.add_constant(_f32(weight), f"{add.name}.norm", before=add)
        scaled = graph.derive(add, "mul", [bare, factor])
        graph.replace(add.output, graph.derive(add, "add", [scaled, sums], hint=add.output.name))
        graph.erase(add)
        graph.erase(linear)

    return rewrite


def _f32(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)
