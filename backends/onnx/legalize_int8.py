"""int8 activations as a provider multiplies them: unsigned, with one scale for the whole tensor."""

from __future__ import annotations

import numpy as np

from ...compiler.graph import Graph, Node, Value
from ...compiler.matcher import scalar
from ...compiler.pass_protocol import PassContext
from ...compiler.types import DType
from .legalize_attention import reaches_scores
from .precisions import int8_scores
from .table import Table

_LINEARS = ("linear", "matmul")


def int8_activations(graph: Graph, table: Table, context: PassContext, *, exact: bool) -> bool:
    """Rewrite what quantises the inputs of linears and convolutions; whether anything was.

    Args:
        exact: keep a scale for each row.
    """
    changed = 0 if exact else _dynamic(graph, table, context)
    return bool(changed + _static(graph, table, context))


# -- ranges found at run time ---------------------------------------------------------------------------------------------------
def _dynamic(graph: Graph, table: Table, context: PassContext) -> int:
    nodes = [n for n in graph.nodes if n.op == "quantize_dynamic" and _only_dequantised(graph, n)]
    if not nodes:
        return 0
    whole = any(table.pays(f"dynamic-{kind}-linear") for kind in ("u8s8", "u8u8"))
    for node in nodes:
        context.at(node)
        x = _uncentred(graph, node)
        if whole:
            made = graph.insert(
                "quantize_tensor", [x], before=node, name=node.name, location=node.location, sources=node.sources
            )
        for back in list(node.outputs[0].users):
            instead = graph.derive(back, "dequantize", made.outputs, hint=back.output.name) if whole else x
            graph.replace(back.output, instead)
            graph.erase(back)
        graph.erase(node)
    text = (
        f"{len(nodes)} inputs of linears are rounded to uint8 with one scale found at run time for the tensor, not one for each "
        f"row: {table.provider} has no fast product with a scale for each row"
        if whole
        else f"{len(nodes)} inputs of linears stay float, only the weights are int8: {table.provider} has no fast product whose "
        "scale is found at run time"
    )
    context.note(text, kind="change")
    return len(nodes)


def _only_dequantised(graph: Graph, node: Node) -> bool:
    """Whether all that reads the integers is the way back, for linears."""
    q, scale = node.outputs
    if q in graph.outputs or scale in graph.outputs or set(q.users) != set(scale.users):
        return False
    return all(u.op == "dequantize" and list(u.inputs) == [q, scale] and u.output not in graph.outputs for u in q.users)


def _uncentred(graph: Graph, node: Node) -> Value:
    """What ``node`` quantises, before rows were centred for a symmetric scale (``quantize_forms``): a zero point does that."""
    x = node.operands[0]
    sub = x.node
    if sub is None or sub.op != "sub" or len(x.users) != 1:
        return x
    before, centre = sub.operands
    if not _is_centre(graph, centre, before):
        return x
    ends: list[tuple[Node, Value]] = []  # the addition that brings the centre back, and what it is added to
    for back in node.outputs[0].users:
        for linear in back.output.users:
            found = _given_back(linear, centre)
            if found is None:
                return x
            ends.append((found, linear.output))
    for add, product in ends:
        graph.replace(add.output, product)
        graph.erase(add)
    return before


def _is_centre(graph: Graph, centre: Value, of: Value) -> bool:
    node = centre.node
    if node is None or node.op != "mul":
        return False
    for half, both in (node.operands, node.operands[::-1]):
        inner = both.node
        if scalar(graph, half) == 0.5 and inner is not None and inner.op == "add":
            ops = {v.node.op for v in inner.operands if v.node is not None and of in v.node.operands}
            return ops == {"reduce_max", "reduce_min"}
    return False


def _given_back(linear: Node, centre: Value) -> Node | None:
    """The node that adds ``centre`` times the sums of the weights to the result of ``linear``, its only reader."""
    if linear.op != "linear" or len(linear.output.users) != 1:
        return None
    add = linear.output.users[0]
    if add.op != "add":
        return None
    other = next((v for v in add.operands if v is not linear.output), None)
    return (
        add
        if other is not None and other.node is not None and other.node.op == "mul" and centre in other.node.operands
        else None
    )


# -- ranges known at compile time -----------------------------------------------------------------------------------------------
def _static(graph: Graph, table: Table, context: PassContext) -> int:
    """int8 becomes uint8 where that is what the provider multiplies; where it takes int8 without a zero point alone, a range with
    one becomes a symmetric one."""
    done = moved = evened = 0
    for node in list(graph.nodes):
        if node.op != "quantize" or node.attrs["dtype"] is not DType.i8:
            continue
        numbers = _numbers(graph, node)
        readers = [u for u in node.output.users if u.op == "dequantize"]
        if numbers is None or len(readers) != node.output.use_count or node.output in graph.outputs:
            continue
        context.at(node)
        scale, zero = numbers
        scores = int8_scores(table) and any(reaches_scores(r.output) for r in readers)
        kind = "conv" if any(u.op == "conv" for r in readers for u in r.output.users) else "linear"
        forms = (f"static-u8s8-{kind}", f"qdq-u8s8-{kind}", f"dynamic-u8u8-{kind}")
        unsigned = any(table.pays(form) for form in forms)
        if scores and not zero:  # a product of two that are rounded: neither may have a zero point
            dtype = DType.i8
        elif unsigned:
            dtype, zero = DType.u8, zero + 128
            moved += 1
        elif zero:
            dtype, scale, zero = DType.i8, np.float32(scale * max(128 + zero, 127 - zero) / 127), 0
            evened += 1
        else:
            continue
        steps = graph.add_constant(np.array(scale, np.float32), f"{node.name}.step", before=node)
        shift = graph.add_constant(np.array(zero, dtype.numpy), f"{node.name}.zero", before=node)
        attrs = {**node.attrs, "dtype": dtype, "division": True}
        q = graph.derive(node, "quantize", [node.operands[0], steps, shift], attrs)
        for back in readers:
            graph.replace(back.output, graph.derive(back, "dequantize", [q, steps, shift], hint=back.output.name))
            graph.erase(back)
        graph.erase(node)
        done += 1
    if moved:
        context.note(f"{moved} inputs are uint8 in place of int8, with the zero point moved by 128")
    if evened:
        context.note(
            f"{evened} ranges lose their zero point, and with it up to half of their steps: {table.provider} multiplies "
            "symmetric int8 alone",
            kind="change",
        )
    return done


def _numbers(graph: Graph, node: Node) -> tuple[np.float32, int] | None:
    """Scale and zero point of a quantisation with one constant scale for all; None if it has none."""
    arrays = [graph.array(v) for v in node.operands[1:]]
    if any(a is None or a.size != 1 for a in arrays):
        return None
    zero = int(arrays[1].reshape(())) if len(arrays) > 1 else 0  # type: ignore[union-attr]
    return np.float32(arrays[0].reshape(())), zero  # type: ignore[union-attr]
