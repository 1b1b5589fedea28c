"""Products of integers that become floats and are scaled: products of dequantised operands.

``cast((q - zero) @ w) * (x_scale * w_scale)``, the sums in i32 as MatMulInteger has them (or in f64, as ConvInteger is read),
becomes ``dequantize(q, x_scale, zero) @ dequantize(w, w_scale)``.
"""

from __future__ import annotations

import numpy as np

from ..compiler.dims import product
from ..compiler.graph import Graph, Node, Value
from ..compiler.types import DType

Operand = tuple[Value, Value | None]


def float_product(graph: Graph, node: Node) -> bool:
    """Rewrite what leads to ``node``, a ``cast``, where that is a product of integers; returns whether it was."""
    if node.attrs["dtype"] is not DType.f32:
        return False
    found = _anchor(node.inputs[0])
    if found is None:
        return False
    left = _operand(graph, found, found.inputs[0])
    right = _operand(graph, found, found.inputs[1])
    if left is None or right is None or (len(found.inputs) > 2 and found.inputs[2] is not None):
        return False
    x_scale, w_scale, end = with_scales(graph, node, found)
    x = _dequantized(graph, end, left, x_scale)
    w = _dequantized(graph, end, right, w_scale)
    new = graph.insert(
        found.op, [x, w], {**found.attrs, "out_dtype": None}, before=end, name=found.name, location=found.location,
        sources=tuple(dict.fromkeys((*found.sources, *node.sources))), hint=end.output.name,
    )  # fmt: skip
    graph.replace(end.output, new.output)
    return True


def _anchor(value: Value | None) -> Node | None:
    """The product of integers that ``value`` holds the sums of."""
    node = None if value is None else value.node
    if (
        node is not None
        and node.op == "cast"
        and node.output.dtype is DType.i32
        and node.operands[0].dtype is DType.f64
    ):
        node = node.operands[0].node
        return node if node is not None and node.op == "conv" else None
    if node is None or node.op != "matmul" or node.output.dtype is not DType.i32:
        return None
    return node


def _operand(graph: Graph, before: Node, value: Value | None) -> Operand | None:
    """(q, zero) such that ``value`` holds ``q - zero``, of i8 or u8."""
    if value is None:
        return None
    if value.node is not None and value.node.op == "cast" and value.dtype is DType.f64:
        value = value.node.operands[0]
    array = graph.array(value)
    if array is not None:
        if array.size and not (array.min() >= -128 and array.max() <= 127):
            return _wide_constant(graph, before, value, array)
        return graph.add_constant(array.astype(np.int8), _stem(value), before=before), None
    node = value.node
    if node is None or value.dtype is not DType.i32:
        return None
    if node.op == "sub":
        inner = _operand(graph, before, node.operands[0])
        if inner is None or inner[1] is not None:
            return None
        zero = _zero(graph, before, node.operands[1], inner[0].dtype)
        return None if zero is None else (inner[0], zero)
    if node.op == "cast" and node.operands[0].dtype in (DType.i8, DType.u8):
        return node.operands[0], None
    return None


def _wide_constant(graph: Graph, before: Node, value: Value, array: np.ndarray) -> Operand | None:
    """A constant of u8 less its zero points, which were subtracted already: one, or one for each place along the last axis."""
    for axes in (None, tuple(range(array.ndim - 1))):
        low = np.minimum(array.min(axis=axes), 0)
        lifted = array - low
        if lifted.max() <= 255 and low.min() >= -255:
            q = graph.add_constant(lifted.astype(np.uint8), _stem(value), before=before)
            return q, graph.add_constant(np.asarray(-low, np.uint8), f"{_stem(value)}.zero", before=before)
    return None


def _stem(value: Value) -> str:
    return value.name if value.node is None else str(value.node.attrs["ref"])


def _zero(graph: Graph, before: Node, value: Value, dtype: DType) -> Value | None:
    array = graph.array(value)
    if array is not None:
        limits = np.iinfo(dtype.numpy)
        if array.size and not (limits.min <= array.min() and array.max() <= limits.max):
            return None
        return graph.add_constant(array.astype(dtype.numpy), _stem(value), dtype, before=before)
    node = value.node
    return node.operands[0] if node is not None and node.op == "cast" and node.operands[0].dtype is dtype else None


def with_scales(graph: Graph, node: Node, anchor: Node) -> tuple[Value | None, Value | None, Node]:
    """The factors behind a product that can go into it: that of x, one number; that of the weight, constant; and the node whose
    result is then the product. Where there are none, ``node`` itself."""
    y = node.output
    if y.use_count != 1 or y in graph.outputs:
        return None, None, node
    (reader,) = y.users
    if reader.op != "mul" or reader.output.type != y.type:
        return None, None, node
    other = next((v for v in reader.operands if v is not y), None)
    if other is None:
        return None, None, node
    factors = [other]
    if graph.array(other) is None and other.node is not None and other.node.op == "mul":
        factors = other.node.operands
    x_scale = w_scale = None
    for factor in factors:
        if graph.array(factor) is not None and w_scale is None and _fits(graph, factor, anchor):
            w_scale = factor
        elif x_scale is None and product(factor.shape) == 1:
            x_scale = factor
        else:
            return None, None, node
    return x_scale, w_scale, reader


def _fits(graph: Graph, factor: Value, anchor: Node) -> bool:
    """Whether ``factor`` is one number, or one for each output of a product with a constant."""
    if product(factor.shape) == 1:
        return True
    columns = anchor.op != "conv" and factor.shape[-1] == anchor.output.shape[-1]
    return columns and product(factor.shape) == factor.shape[-1]


def _dequantized(graph: Graph, before: Node, operand: Operand, scale: Value | None) -> Value:
    q, zero = operand
    if scale is None:
        scale = graph.add_constant(np.ones((), np.float32), "one", before=before)
    elif product(scale.shape) == 1 and scale.shape:
        array = graph.array(scale)
        if array is None:
            scale = graph.derive(before, "reshape", [scale], {"shape": ()})
        else:
            scale = graph.add_constant(array.reshape(()), scale.name, before=before)
    elif scale.type.rank > 1:
        array = graph.array(scale)
        assert array is not None
        scale = graph.add_constant(array.reshape(-1), scale.name, before=before)
    return graph.derive(before, "dequantize", [q, scale] if zero is None else [q, scale, zero])
