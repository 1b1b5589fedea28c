"""What a low precision looks like in the graph: casts, and quantised values with the way back (QDQ) around float ops.

Nodes are replaced where they stand; ``quantize`` decides which, ``recipe`` how.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..compiler.graph import Graph, Node, Value
from ..compiler.precision import Precision, kind_of_node
from ..compiler.types import DType, float_to_bf16
from .recipe import Recipe, is_static
from .weights import QuantisedWeight
from .weights.smoothquant import Smoothing

#: What only moves the elements of its operand.
MOVES = ("reshape", "transpose")


def refusal(graph: Graph, node: Node, precision: Precision) -> str | None:
    """Why ``node`` cannot be written in ``precision``; None if it can."""
    kind, name = kind_of_node(node), precision.name
    if precision.weight.is_float:
        return None if name in ("f32", "bf16") and kind != "rest" else f"{name} has no form in the graph"
    if kind == "embedding":
        whole = node.inputs[0].dtype is DType.f32 and precision.weight.dtype == "i8"  # type: ignore[union-attr]
        return None if whole and precision.activation.is_float else f"{name} is not for lookups"
    if kind == "attention":
        return _scores_refusal(node, precision)
    if kind not in ("linear", "conv") or node.op == "qlinear":
        return f"{name} is for linears"
    x, weight = node.inputs[0], graph.array(node.inputs[1])
    if weight is None or weight.dtype != np.float32 or x is None or x.dtype is not DType.f32:
        return f"{name} is for f32 {node.op}s with constant weights"
    if kind == "conv":
        if not is_static(precision):
            return f"{name} is for linears; a convolution has a range fixed at compile time (w8a8)"
        return "its channels are last already" if node.attrs["channels_last"] else None
    size = precision.weight.group_size
    if size and weight.shape[1] % size:
        return f"groups of {size} do not divide its {weight.shape[1]} inputs"
    return None


def _scores_refusal(node: Node, precision: Precision) -> str | None:
    """Why the scores of an attention cannot be products of int8; None if they can."""
    if not is_static(precision) or precision.weight.dtype != "i8":
        return f"{precision.name} is for linears; attention has ranges fixed at compile time (w8a8)"
    q, k, v = node.operands[:3]
    if q is k or v in (q, k):
        return "its queries, keys and values are not three tensors"
    return None if q.dtype is k.dtype is DType.f32 else f"it computes in {q.dtype} already"


# -- floats ---------------------------------------------------------------------------------------------------------------
def write_bf16(graph: Graph, node: Node) -> None:
    """Operands rounded to bf16, sums in f32. The result of attention is rounded once more where it is stored: the next linear
    reads it in bf16 or int8 anyway. What joins the residual stream, the result of a linear or a lookup, stays as it was."""
    if kind_of_node(node) == "embedding":
        rows = graph.derive(node, node.op, [_rounded(graph, node.inputs[0], node), node.inputs[1]], node.attrs)
        new = graph.derive(node, "cast", [rows], {"dtype": node.output.dtype}, hint=node.output.name)
    else:
        attention = node.op == "attention"
        count, dtype = (3, DType.bf16) if attention else (2, node.output.dtype)
        operands = [_rounded(graph, v, node) for v in node.inputs[:count]]
        inputs, attrs = [*operands, *node.inputs[count:]], {**node.attrs, "out_dtype": dtype}
        new = graph.derive(node, node.op, inputs, attrs, hint=node.output.name)
        if attention:
            new = graph.derive(node, "cast", [new], {"dtype": node.output.dtype})
    graph.replace(node.output, new)
    graph.erase(node)


def _rounded(graph: Graph, value: Value | None, node: Node) -> Value | None:
    if value is None or value.dtype is DType.bf16:
        return value
    array = graph.array(value)
    if array is not None and value.dtype is DType.f32:
        return graph.add_constant(float_to_bf16(array), value.name, DType.bf16, before=node)
    return graph.derive(node, "cast", [value], {"dtype": DType.bf16})


# -- lookups --------------------------------------------------------------------------------------------------------------
def write_lookup(graph: Graph, node: Node, table: QuantisedWeight) -> None:
    """Rows of int8 and their scales, looked up apart and multiplied."""
    held = node.inputs[0]
    assert held is not None
    q = graph.add_constant(table.values, f"{held.name}.int8", table.dtype, before=node)
    s = graph.add_constant(table.scale, f"{held.name}.scale", before=node)
    looked_up = [graph.derive(node, node.op, [v, *node.inputs[1:]], node.attrs) for v in (q, s)]
    new = graph.derive(node, "dequantize", looked_up, hint=node.output.name)
    graph.replace(node.output, new)
    graph.erase(node)


# -- attention ------------------------------------------------------------------------------------------------------------
def write_operand(graph: Graph, node: Node, operand: int, recipe: Recipe) -> None:
    """Queries (0) or keys (1) in int8 and back, where they are made: in front of the views that set heads apart, so that whoever
    makes them can store int8."""
    assert recipe.range is not None
    reader, value = node, node.operands[operand]
    while value.node is not None and value.node.op in MOVES and value.use_count == 1 and value not in graph.outputs:
        reader, value = value.node, value.node.operands[0]
    scale = np.array(recipe.range.scale, np.float32)
    step = graph.add_constant(scale, f"{node.name}.{('query', 'key')[operand]}.step", before=reader)
    q = graph.derive(reader, "quantize", [value, step], {"dtype": DType.i8})
    graph.replace(value, graph.derive(reader, "dequantize", [q, step]), only=[reader])


# -- linears and convolutions -----------------------------------------------------------------------------------------------
def write_readers(graph: Graph, readers: Sequence[Node], precision: Precision, recipe: Recipe) -> None:
    """Replace linears, or convolutions, that read one value; ``readers`` in the graph's order, as the recipe has them."""
    first = readers[0]
    x = first.inputs[0]  # may have changed since: what is in front of it was quantised too
    assert x is not None
    smoothing = recipe.smoothing or Smoothing()
    smoothed = _smoothed(graph, first, x, smoothing)
    centre: Value | None = None
    if smoothing.centred:
        centre, smoothed = _centred(graph, first, smoothed)
    back = _activation(graph, first, smoothed, precision, recipe)
    for node, weight in zip(readers, recipe.weights, strict=True):
        _write_reader(graph, node, back, weight, smoothing, centre)


def _smoothed(graph: Graph, first: Node, x: Value, smoothing: Smoothing) -> Value:
    if smoothing.scale is not None:
        inverse = (1.0 / smoothing.scale).astype(np.float32)
        factor = graph.add_constant(inverse, f"{first.name}.smooth", before=first)
        x = graph.derive(first, "mul", [x, factor])
        if smoothing.shift is not None:
            offset = graph.add_constant(smoothing.shift * inverse, f"{first.name}.shift", before=first)
            x = graph.derive(first, "sub", [x, offset])
    return x


def _centred(graph: Graph, first: Node, x: Value) -> tuple[Value, Value]:
    """The middle of every row, and the rows without it."""
    ends = [
        graph.derive(first, op, [x], {"axes": (x.type.rank - 1,), "keepdim": True})
        for op in ("reduce_max", "reduce_min")
    ]
    half = graph.derive(first, "full", [], {"value": 0.5, "shape": (), "dtype": DType.f32})
    centre = graph.derive(first, "mul", [graph.derive(first, "add", ends), half])
    return centre, graph.derive(first, "sub", [x, centre])


def _activation(graph: Graph, first: Node, x: Value, precision: Precision, recipe: Recipe) -> Value:
    """``x`` as it is multiplied: rounded, and back in f32."""
    if precision.activation.is_float:
        narrow = graph.derive(first, "cast", [x], {"dtype": DType(precision.activation.dtype)})
        return graph.derive(first, "cast", [narrow], {"dtype": DType.f32})
    if recipe.range is None:
        quantised = graph.insert(
            "quantize_dynamic", [x], before=first, name=first.name, location=first.location, sources=first.sources
        )
        return graph.derive(first, "dequantize", quantised.outputs)
    scale = graph.add_constant(np.array(recipe.range.scale, np.float32), f"{first.name}.step", before=first)
    operands = [scale]
    if recipe.range.zero is not None:
        zero = np.array(recipe.range.zero, np.int8)
        operands.append(graph.add_constant(zero, f"{first.name}.zero", before=first))
    q = graph.derive(first, "quantize", [x, *operands], {"dtype": DType.i8})
    return graph.derive(first, "dequantize", [q, *operands])


def _write_reader(
    graph: Graph, node: Node, x: Value, made: QuantisedWeight, smoothing: Smoothing, centre: Value | None
) -> None:
    weight = node.inputs[1]
    assert weight is not None
    stem, bits = weight.name, "int8" if made.dtype is DType.i8 else "int4"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    values, scale = made.values, made.scale
    if node.op == "conv":
        shape = graph.array(weight).shape  # type: ignore[union-attr]
        values, scale = values.reshape(shape), scale.reshape(-1, *[1] * (len(shape) - 1))
    q = graph.add_constant(values, f"{stem}.{bits}", made.dtype, before=node)
    s = graph.add_constant(scale, f"{stem}.scale", before=node)
    w = graph.derive(node, "dequantize", [q, s])
    offset = None if smoothing.shift is None else smoothing.shift
    if offset is not None and smoothing.scale is not None:
        offset = (offset / smoothing.scale).astype(np.float32)
    rounded = made.dequantised() if offset is not None or centre is not None else None
    if offset is not None and rounded is not None:  # what the shift took off comes back here
        back_in = rounded @ offset
        held = graph.array(bias)
        if held is not None or bias is None:
            bias = graph.add_constant(back_in if held is None else held + back_in, f"{stem}.bias", before=node)
        else:
            extra = graph.add_constant(back_in, f"{stem}.bias", before=node)
            bias = graph.derive(node, "add", [bias, extra])
    result = graph.derive(node, node.op, [x, w, bias], node.attrs, hint=node.output.name)
    if centre is not None and rounded is not None:  # the centre of a row times the row sums of the weights
        sums = graph.add_constant(rounded.sum(axis=1), f"{stem}.sums", before=node)
        result = graph.derive(node, "add", [result, graph.derive(node, "mul", [centre, sums])])
    graph.replace(node.output, result)
    graph.erase(node)
