"""Networks of int8 convolutions: what they pass on is stored in eight bits too.

A plan says in what a convolution reads. A provider multiplies int8 images only where the result becomes int8 again, so the
results are rounded where they are stored: behind the ReLU, if there is one, and behind the addition of two such values. Ranges
come from the calibration data; a value that the plan rounds anyway, for the convolution that reads it, keeps that range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.graph import Graph, Node, Value
from ...compiler.pass_protocol import PassContext
from ...compiler.types import DType
from ...passes.observers import Range, find_observer
from ...passes.observers.histogram import Histogram
from ...passes.precision import CALIBRATION
from .table import Table

#: Calibration batches that are run for the ranges.
_MOST_BATCHES = 32
#: Which range a value gets that the plan says nothing of: none of what was seen is cut off.
_OBSERVER = "minmax"


def int8_regions(graph: Graph, table: Table, context: PassContext) -> bool:
    """Round the results of int8 convolutions, and the sums and maxima of such; whether any was."""
    unsigned = table.pays("qdq-u8s8-conv")
    if not unsigned and not table.pays("qdq-s8s8-conv"):
        return False
    convs = [n for n in graph.nodes if n.op == "conv" and _on_integers(graph, n)]
    batches: Sequence[Mapping[str, np.ndarray]] = context.data.get(CALIBRATION) or []
    if not convs or not batches:
        return False
    stores = _stores(graph, convs)
    ranges = _ranges(graph, stores, batches[:_MOST_BATCHES], context)
    for store in stores:
        context.at(store.node)
        _round(graph, store, ranges, unsigned)
    for conv in convs:
        context.at(conv)
        _round_bias(graph, conv)
    fresh = sum(1 for s in stores if s.value in ranges)
    if fresh:
        context.note(
            f"{fresh} results of int8 convolutions and their sums are stored in eight bits, which the plan leaves in float: "
            f"{table.provider} has int8 convolutions only with int8 results",
            kind="change",
        )
    graph.sweep()
    return True


@dataclass(frozen=True)
class _Store:
    """A value that is rounded where it is stored.

    Attributes:
        value: the float value.
        node: of the convolution, addition or pooling.
        known: the quantisation that the plan has for it: of one of its readers.
        pool: the value that it is the maximum of; it keeps its range.
    """

    value: Value
    node: Node
    known: Node | None
    pool: Value | None = None
    positive: bool = False


def _on_integers(graph: Graph, conv: Node) -> bool:
    x, w = conv.inputs[0], conv.inputs[1]
    return (
        _dequantised(x) is not None
        and _dequantised(w) is not None
        and not conv.attrs["channels_last"]
        and (
            graph.array(w.node.operands[0]) is not None  # type: ignore[union-attr]
        )
    )


def _dequantised(value: Value | None) -> Node | None:
    """The node that dequantises ``value``."""
    node = None if value is None else value.node
    return node if node is not None and node.op == "dequantize" else None


def _static_readers(graph: Graph, value: Value) -> list[Node]:
    """The quantisations with one constant scale that read ``value``."""
    return [
        u for u in value.users
        if u.op == "quantize" and all((a := graph.array(v)) is not None and a.size == 1 for v in u.operands[1:])
    ]  # fmt: skip


def _stores(graph: Graph, convs: Sequence[Node]) -> list[_Store]:
    """What is rounded, in the graph's order."""
    found: dict[Value, _Store] = {}
    wanted = set(convs)
    for node in graph.nodes:
        pool: Value | None = None
        if node.op == "max_pool" and len(node.outputs) == 1:
            pool = node.operands[0]
            whole = _source(pool) in found
        elif node.op == "add":
            whole = all(_source(v) in found for v in node.operands) and len({v.shape for v in node.operands}) == 1
        else:
            whole = node in wanted
        if not whole:
            continue
        value = node.outputs[0]
        relu = value.users[0] if len(value.users) == 1 and value not in graph.outputs else None
        positive = relu is not None and relu.op == "relu"
        if relu is not None and positive:
            value = relu.output
        if value in graph.outputs and not value.users:
            continue
        readers = _static_readers(graph, value)
        found[value] = _Store(value, node, readers[0] if readers else None, pool, positive)
    return list(found.values())


def _source(value: Value) -> Value:
    """``value`` before it was rounded."""
    back = _dequantised(value)
    q = None if back is None else back.operands[0].node
    return q.operands[0] if q is not None and q.op == "quantize" else value


def _ranges(
    graph: Graph, stores: Sequence[_Store], batches: Sequence[Mapping[str, np.ndarray]], context: PassContext
) -> dict[Value, Range]:
    """A range for each store that the plan has none for."""
    wanted = {s.value: Histogram() for s in stores if s.known is None and s.pool is None}
    if not wanted:
        return {}
    from ...compiler.interpret import interpret  # torch

    def look(node: Node, inputs: object, outputs: Sequence[object]) -> None:
        for value, tensor in zip(node.outputs, outputs, strict=True):
            if value in wanted:
                wanted[value].add(tensor.numpy())  # type: ignore[attr-defined]

    for number, batch in enumerate(batches):
        context.advance("ranges of int8 results", number, len(batches))
        interpret(graph, batch, hook=look)  # type: ignore[arg-type]
    observer = find_observer(_OBSERVER)
    return {
        value: Range.over(*observer.range(seen, symmetric=False), symmetric=False, observer=_OBSERVER)
        for value, seen in wanted.items()
    }


def _parameters(graph: Graph, store: _Store, ranges: Mapping[Value, Range], unsigned: bool) -> tuple[np.float32, int]:
    """(scale, zero point) of a store, of uint8 or of int8 without a zero point."""
    if store.pool is not None:
        before = _dequantised(store.node.operands[0])
        assert before is not None
        return _numbers(graph, before.operands[1:])
    if store.known is not None:
        scale, zero = _numbers(graph, store.known.operands[1:])
        low = -128 if store.known.attrs["dtype"] is DType.i8 else 0
        first, last = (low - zero) * float(scale), (low + 255 - zero) * float(scale)
    else:
        found = ranges[store.value]
        zero = found.zero or 0
        first, last = (-128 - zero) * float(found.scale), (127 - zero) * float(found.scale)
    if not unsigned:
        return np.float32(max(-first, last) / 127), 0
    if store.positive:  # all levels are for what a ReLU leaves, and the provider leaves the ReLU out
        first = 0.0
    scale = np.float32((last - first) / 255)
    return scale, int(np.clip(np.rint(-first / float(scale)), 0, 255))


def _numbers(graph: Graph, operands: Sequence[Value]) -> tuple[np.float32, int]:
    arrays = [graph.array(v) for v in operands]
    assert arrays[0] is not None
    zero = 0 if len(arrays) < 2 or arrays[1] is None else int(arrays[1].reshape(()))
    return np.float32(arrays[0].reshape(())), zero


def _round(graph: Graph, store: _Store, ranges: Mapping[Value, Range], unsigned: bool) -> None:
    """Every reader of a store reads it rounded, in one way."""
    value, node = store.value, store.node
    scale, zero = _parameters(graph, store, ranges, unsigned)
    dtype = DType.u8 if unsigned else DType.i8
    users = list(value.users)
    before = _first(graph, users)
    name = f"{node.name}.stored"
    steps = graph.add_constant(np.array(scale, np.float32), f"{name}.step", before=before)
    shift = graph.add_constant(np.array(zero, dtype.numpy), f"{name}.zero", before=before)
    around = {"name": node.name, "location": node.location, "sources": node.sources, "before": before}
    q = graph.insert("quantize", [value, steps, shift], {"dtype": dtype, "division": True}, **around).output  # type: ignore[arg-type]
    back = graph.insert("dequantize", [q, steps, shift], hint=value.name, **around).output  # type: ignore[arg-type]
    own = _static_readers(graph, value)
    for old in own:
        if old.output is q or not all(u.op == "dequantize" for u in old.output.users):
            continue
        for reader in list(old.output.users):
            graph.replace(reader.output, back)
            graph.erase(reader)
        graph.erase(old)
    rest = [u for u in value.users if u is not q.node]
    graph.replace(value, back, only=rest)


def _first(graph: Graph, users: Sequence[Node]) -> Node | None:
    """Of some nodes the one that comes first."""
    order = set(users)
    return next((n for n in graph.nodes if n in order), None)


def _round_bias(graph: Graph, conv: Node) -> None:
    """The bias in steps of the products, as int32: that is how providers add it."""
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    array = graph.array(bias)
    x, w = _dequantised(conv.inputs[0]), _dequantised(conv.inputs[1])
    if array is None or bias is None or x is None or w is None:
        return
    step, _ = _numbers(graph, x.operands[1:])
    scales = graph.array(w.operands[1])
    assert scales is not None
    steps = np.broadcast_to(float(step) * scales.astype(np.float64).reshape(-1), array.shape).astype(np.float32)
    counts = np.clip(np.rint(array / np.maximum(steps, np.finfo(np.float32).tiny)), -(2**31) + 1, 2**31 - 1)
    q = graph.add_constant(counts.astype(np.int32), f"{bias.name}.int32", before=conv)
    s = graph.add_constant(steps, f"{bias.name}.steps", before=conv)
    rounded = graph.derive(conv, "dequantize", [q, s], hint=bias.name)
    new = graph.derive(conv, "conv", [conv.inputs[0], conv.inputs[1], rounded], conv.attrs, hint=conv.output.name)
    graph.replace(conv.output, new)
    graph.erase(conv)
