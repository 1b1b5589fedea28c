"""quantised-source: a model that came quantised, from ONNX, in the form that ``quantize`` itself writes.

Tools write one idea in many ways: weights as u8 with a zero point or in the other order of axes, products of integers that are
scaled afterwards, activations in u8. After this pass a low-precision product is ``linear(dequantize(x), dequantize(w))`` (or
``conv``, with float sums): weights i8 or i4 ``[out, in]`` without a zero point where their range allows it, one scale for each
output; x in i8. The numbers stay what they were, but for the order in which factors are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.dims import product
from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType
from .canonicalize import hoist_constants
from .integer_products import float_product
from .signed_source import Signed

_PRODUCTS = ("linear", "matmul", "conv")
#: Ops that only move the elements of their first operand.
_MOVES = ("reshape", "transpose", "expand", "slice", "embedding", "gather")


@dataclass(frozen=True)
class QuantisedSource:
    """Bring imported quantisation into the form that targets know as int8 and int4."""

    name: ClassVar[str] = "quantised-source"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if not any(n.op in ("dequantize", "quantize") or _is_integer_product(n) for n in graph.nodes):
            return PassResult(False)
        hoist_constants(graph)
        changed = 0
        for node in list(graph.nodes):
            if node.op == "cast" and node._graph is not None:
                context.at(node)
                changed += float_product(graph, node)
        for node in list(graph.nodes):
            if node.op in _PRODUCTS and node._graph is not None:
                context.at(node)
                changed += _product(graph, node)
        for node in list(graph.nodes):
            if node.op in ("embedding", "gather"):
                context.at(node)
                changed += _lookup(graph, node)
        signed = Signed(graph)
        for node in list(graph.nodes):
            if node.op == "dequantize":
                context.at(node)
                changed += signed.dequantize(node)
        for node in list(graph.nodes):
            if node.op == "quantize":
                changed += _back_again(graph, node)
        graph.sweep()
        hoist_constants(graph)
        if changed:
            count = sum(n.op in _PRODUCTS and _quantised(n.inputs[0]) and _quantised(n.inputs[1]) for n in graph.nodes)
            context.note(f"the model came quantised: {count} products of quantised operands")
        return PassResult(bool(changed))


def _is_integer_product(node: Node) -> bool:
    return node.op in _PRODUCTS and node.output.dtype in (DType.i32, DType.f64)


def _quantised(value: Value | None) -> bool:
    return value is not None and value.node is not None and value.node.op == "dequantize"


def _product(graph: Graph, node: Node) -> bool:
    """A product with a dequantised constant as a linear, or a conv, whose weight is in its usual form."""
    x, weight, *rest = node.inputs
    assert x is not None and weight is not None
    perm, held = _through_transposes(weight)
    if held.node is None or held.node.op != "dequantize" or graph.array(held.node.inputs[0]) is None:
        return False
    if node.op == "matmul":
        if held.type.rank != 2:
            return False
        perm = tuple(perm[i] for i in (1, 0))
    usual = usual_weight(graph, node, held.node, perm)
    if node.op != "matmul" and usual is weight:
        return _with_bias(graph, node)
    attrs = {"out_dtype": node.attrs["out_dtype"]} if node.op == "matmul" else node.attrs
    op = "linear" if node.op == "matmul" else node.op
    new = graph.insert(
        op, [x, usual, *rest], attrs, before=node, name=node.name, location=node.location, sources=node.sources,
        hint=node.output.name,
    )  # fmt: skip
    graph.replace(node.output, new.output)
    graph.erase(node)
    _with_bias(graph, new)
    return True


def _through_transposes(value: Value) -> tuple[tuple[int, ...], Value]:
    """(perm, v) such that ``value`` is ``v`` with its axes in the order ``perm``."""
    perm = tuple(range(value.type.rank))
    while value.node is not None and value.node.op == "transpose" and value.node.inputs[0] is not None:
        theirs = value.node.attrs["perm"]
        perm = tuple(theirs[p] for p in perm)
        value = value.node.inputs[0]
    return perm, value


def usual_weight(graph: Graph, node: Node, dequantize: Node, perm: tuple[int, ...]) -> Value:
    """The weight that ``dequantize`` gives, its axes in the order ``perm``, in its usual form; itself where it has that.

    Args:
        node: the product that reads it; new nodes come in front of it.
        dequantize: of a constant.
        perm: order of the axes in which ``node`` wants it, outputs first.
    """
    q, _, *zeros = dequantize.operands
    arrays = [graph.array(v) for v in dequantize.operands]
    if any(a is None for a in arrays[1:]):
        return _transposed(graph, node, dequantize, perm)
    values, steps, *zero = [a for a in arrays if a is not None]
    rank = values.ndim
    turned = perm != tuple(range(rank))
    wide: list[np.ndarray] = [s.reshape((1,) * (rank - s.ndim) + s.shape) for s in (steps, *zero)]
    if turned:
        if any(s.shape[-1] not in (1, values.shape[-1]) for s in wide):  # groups lie along the last axis
            return _transposed(graph, node, dequantize, perm)
        values, wide = values.transpose(perm), [s.transpose(perm) for s in wide]
    if wide[0].size == wide[0].shape[0]:
        wide[0] = np.broadcast_to(wide[0], (values.shape[0],) + (1,) * (rank - 1))
    dtype, changed = q.dtype, turned or wide[0].shape != steps.shape
    if zero:
        centred = _without_zero(values, wide[1], q.dtype)
        if centred is not None:
            values, dtype, changed = centred, DType.i4 if q.dtype is DType.i4 else DType.i8, True
            del wide[1]
    elif q.dtype is DType.u8 and values.size and values.max() < 128:
        values, dtype, changed = values.astype(np.int8), DType.i8, True
    if not changed:
        return dequantize.output
    stem = q.name if q.node is None else str(q.node.attrs["ref"])
    new = [graph.add_constant(np.ascontiguousarray(values), stem, dtype, before=node),
           graph.add_constant(np.ascontiguousarray(wide[0], np.float32), f"{stem}.scale", before=node)]  # fmt: skip
    if len(wide) > 1:
        new.append(graph.add_constant(np.ascontiguousarray(wide[1]), f"{stem}.zero", zeros[0].dtype, before=node))
    return graph.derive(node, "dequantize", new, hint=dequantize.output.name)


def _without_zero(values: np.ndarray, zero: np.ndarray, dtype: DType) -> np.ndarray | None:
    """``values - zero`` in int8, or the half of it that i4 has; None where that does not hold them."""
    groups = zero.shape[-1]
    if groups not in (1, values.shape[-1]):
        zero = np.repeat(zero, values.shape[-1] // groups, -1)
    centred = values.astype(np.int32) - zero.astype(np.int32)
    low, high = (-8, 7) if dtype is DType.i4 else (-127, 127)
    if centred.size and (centred.min() < low or centred.max() > high):
        return None
    return centred.astype(np.int8)


def _transposed(graph: Graph, node: Node, dequantize: Node, perm: tuple[int, ...]) -> Value:
    if perm == tuple(range(len(perm))):
        return dequantize.output
    return graph.derive(node, "transpose", [dequantize.output], {"perm": perm})


def _with_bias(graph: Graph, node: Node) -> bool:
    """Take in the constant that is added to a linear for each output, where nothing else reads the linear."""
    y = node.output
    if node.op != "linear" or (len(node.inputs) > 2 and node.inputs[2] is not None) or y.use_count != 1:
        return False
    (reader,) = y.users
    if reader.op != "add" or y in graph.outputs or y.dtype is not DType.f32:
        return False
    bias = next((v for v in reader.operands if v is not y), None)
    array = graph.array(bias)
    if bias is None or array is None or bias.dtype is not DType.f32 or product(bias.shape) != y.shape[-1]:
        return False
    if bias.shape[-1] != y.shape[-1] or reader.output.shape != y.shape:
        return False
    flat = graph.add_constant(array.reshape(-1), bias.name, before=reader)
    sources = tuple(dict.fromkeys((*node.sources, *reader.sources)))
    new = graph.insert(
        "linear", [*node.inputs[:2], flat], node.attrs, before=reader, name=node.name, location=node.location,
        sources=sources, hint=reader.output.name,
    )  # fmt: skip
    graph.replace(reader.output, new.output)
    graph.erase(reader)
    graph.erase(node)
    return True


def _lookup(graph: Graph, node: Node) -> bool:
    """Rows of a dequantised constant: the integers are looked up, and their scales where each row has its own."""
    table, ids = node.operands
    made = table.node
    if made is None or made.op != "dequantize" or graph.array(made.operands[0]) is None:
        return False
    if node.op == "gather" and node.attrs["axis"] % table.type.rank:
        return False
    looked_up = []
    for value in made.operands:
        own = value.type.rank == table.type.rank and value.shape[0] == table.shape[0]
        if not own and product(value.shape) != 1:
            return False
        looked_up.append(graph.derive(node, node.op, [value, ids], node.attrs) if own else value)
    graph.replace(node.output, graph.derive(node, "dequantize", looked_up, hint=node.output.name))
    graph.erase(node)
    return True


def _back_again(graph: Graph, node: Node) -> bool:
    """What was just taken out of its steps, perhaps moved, and goes back into the same, stays as it is."""
    moves: list[Node] = []
    x = node.inputs[0]
    while x is not None and x.node is not None and x.node.op in _MOVES:
        moves.append(x.node)
        x = x.node.inputs[0]
    made = x.node if x is not None else None
    if made is None or made.op != "dequantize" or len(node.operands) != len(made.operands):
        return False
    q = made.operands[0]
    same = all(_same(graph, a, b) for a, b in zip(node.operands[1:], made.operands[1:], strict=True))
    if not same or q.dtype is not node.attrs["dtype"] or product(made.operands[1].shape) != 1:
        return False
    for move in reversed(moves):
        q = graph.derive(node, move.op, [q, *move.inputs[1:]], move.attrs)
    graph.replace(node.output, q)
    return True


def _same(graph: Graph, a: Value, b: Value) -> bool:
    one, other = graph.array(a), graph.array(b)
    if one is None or other is None:
        return a is b
    return a.dtype is b.dtype and one.size == other.size == 1 and bool(one.reshape(()) == other.reshape(()))
