"""Narrow weights out of QDQ: int8 and int4 weights with bf16 x, int4 weights with int8 x; and scales of groups elsewhere."""

from __future__ import annotations

from math import gcd

import numpy as np

from ...codegen.linear import GROUP_STEP
from ...compiler.dims import product
from ...compiler.graph import Graph, Node, Value
from ...compiler.ops_anchor import scale_group
from ...compiler.types import DType
from .builder import Builder
from .narrow_weights import exact_bf16


def narrow_linear(b: Builder, x: Value, w: Value, bias: Value | None) -> Value | None:
    """The linear of ``x`` and ``w`` on their narrow weights, in f32; None if no kernel takes them.

    x is bf16 (widened to f32), or int8 with one scale for each row where the weight is int4. The weight is constant and
    symmetric; int8 has one scale for each output, int4 one for each group of a multiple of 32 inputs.
    """
    found, left = _weight(b.graph, w), _activation(b.graph, x)
    if found is None or left is None or w.node is None:
        return None
    (wq, scale), (q, x_scale) = found, left
    outputs, inputs = wq.shape
    array = b.graph.array(scale)
    assert array is not None and isinstance(inputs, int)
    if wq.dtype is DType.i8:
        if x_scale is not None or array.shape != (outputs, 1):
            return None
        columns = b.constant(np.ascontiguousarray(array).reshape(-1), scale.name)
        return b("qlinear", q, None, wq, columns, bias)
    if array.ndim != 2 or array.shape[0] != outputs or inputs % (array.shape[1] * GROUP_STEP):
        return None
    bits = exact_bf16(array)
    groups = b.constant(array, scale.name) if bits is None else b.constant(bits, scale.name, DType.bf16)
    return b("qlinear", q, x_scale, wq, groups, bias)


def split_linear(b: Builder, x: Value, w: Value, bias: Value | None) -> Value | None:
    """The linear of an f32 x on int4 weights as they are; None for other weights.

    x becomes the sum of two bf16 tensors, which holds 16 of its 24 bits at least; their rows stand below each other, so that the
    weight, which is all that a few rows cost, is read once. A zero point of a group takes off its product with the group's sum.
    """
    node = w.node
    if x.dtype is not DType.f32 or node is None or node.op != "dequantize" or node.operands[0].dtype is not DType.i4:
        return None
    arrays = _constants(b.graph, w)
    if arrays is None or arrays[0].ndim != 2 or arrays[1].ndim != 2:
        return None
    wq, scale, *zeros = arrays
    outputs, inputs = wq.shape
    groups = scale.shape[1]
    if scale.shape[0] != outputs or inputs % (groups * GROUP_STEP) or any(z.shape != scale.shape for z in zeros):
        return None
    rows = product(x.shape[:-1])
    flat = b("reshape", x, shape=(rows, inputs))
    high = b("cast", flat, dtype=DType.bf16)
    low = b("cast", b("sub", flat, b("cast", high, dtype=DType.f32)), dtype=DType.bf16)
    bits = exact_bf16(scale)
    steps = b.constant(scale, w.name) if bits is None else b.constant(bits, w.name, DType.bf16)
    both = b("qlinear", b("concat", high, low, axis=0), None, node.operands[0], steps)
    y = b("add", *(b("slice", both, axis=0, start=i * rows, end=(i + 1) * rows) for i in (0, 1)))
    if zeros:
        sums = b("reduce_sum", b("reshape", flat, shape=(rows, groups, inputs // groups)), axes=(2,), keepdim=False)
        y = b("sub", y, b("linear", sums, b.constant(scale * zeros[0].astype(np.float32), f"{w.name}.zeros")))
    y = b("reshape", y, shape=(*x.shape[:-1], outputs))
    return y if bias is None else b("add", y, bias)


def _weight(graph: Graph, w: Value) -> tuple[Value, Value] | None:
    """The integers and the f32 scales of a constant weight without a zero point."""
    if w.node is None or w.node.op != "dequantize" or len(w.node.operands) != 2:
        return None
    q, scale = w.node.operands
    if q.dtype not in (DType.i8, DType.i4) or scale.dtype is not DType.f32 or q.type.rank != 2:
        return None
    return None if graph.array(q) is None or graph.array(scale) is None else (q, scale)


def _activation(graph: Graph, x: Value) -> tuple[Value, Value | None] | None:
    """What x is made of: bf16 values, or int8 ones and a scale for each row found at run time."""
    node = x.node
    if node is not None and node.op == "cast" and node.operands[0].dtype is DType.bf16:
        return node.operands[0], None
    if node is None or node.op != "dequantize" or len(node.operands) != 2:
        return None
    q, scale = node.operands
    rows = q.dtype is DType.i8 and scale.shape == (*q.shape[:-1], 1) and graph.array(scale) is None
    return (q, scale) if rows else None


def plain_weight(b: Builder, w: Value) -> Value:
    """``w``, as a constant where it is a dequantised one."""
    arrays = _constants(b.graph, w)
    if arrays is None:
        return w
    q, scale, *zero = arrays
    values = q.astype(np.float32)
    if zero:
        values = values - _over_groups(zero[0].astype(np.float32), q.shape)
    return b.constant(np.ascontiguousarray(values * _over_groups(scale, q.shape)), w.name)


def _constants(graph: Graph, w: Value) -> list[np.ndarray] | None:
    """The data of a dequantised constant: integers, scale, zero point if it has one."""
    if w.node is None or w.node.op != "dequantize":
        return None
    arrays = [graph.array(v) for v in w.node.operands]
    if any(a is None or a.dtype == np.uint16 for a in arrays):
        return None
    return [a for a in arrays if a is not None]


def _over_groups(scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``scale`` with an element for each along the last axis of ``shape``, where it has one for each group of neighbours."""
    if scale.ndim != len(shape) or not shape or scale.shape[-1] in (0, 1, shape[-1]):
        return scale
    return np.repeat(scale, shape[-1] // scale.shape[-1], axis=-1)


def legal_dequantize(b: Builder, node: Node) -> Value | None:
    """A scale for each group of neighbours is one for each row where the groups are rows of their own.

    Linears read grouped weights as they are.
    """
    q, *scales = node.operands
    sizes = [size for s in scales if (size := scale_group(q.type, s.type)) is not None]
    users = node.output.users
    weight = [u.op == "linear" and u.inputs[1] is node.output for u in users]
    if not sizes or (weight and all(weight)):
        return None
    if any(weight):
        return plain_weight(b, node.output)
    rows, length = gcd(*sizes), q.shape[-1]
    assert isinstance(length, int)
    split = b("reshape", q, shape=(*q.shape[:-1], length // rows, rows))
    y = b("dequantize", split, *(_split(b, s, length, rows) for s in scales))
    return b("reshape", y, shape=node.output.shape)


def _split(b: Builder, scale: Value, length: int, rows: int) -> Value:
    """``scale`` for rows of so many elements of what it served along an axis of ``length``."""
    if not scale.type.rank:
        return scale
    *outer, groups = scale.shape
    assert isinstance(groups, int)
    if groups in (1, length):
        return b("reshape", scale, shape=(*outer, length // rows, rows) if groups == length else (*outer, 1, 1))
    apart = b("reshape", scale, shape=(*outer, groups, 1))
    each = length // groups // rows
    return b("reshape", b("expand", apart, shape=(*outer, groups, each)), shape=(*outer, length // rows, 1))
