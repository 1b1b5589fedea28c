"""int8 linears and convolutions out of QDQ: ``linear(dequantize(q, s), dequantize(w, t))`` runs on the integers themselves.

The scale of x is one for each row, found at run time (``quantize_dynamic``), or one constant for all of x with or without a
zero point (``quantize``). What has no int8 kernel stays what it says: a float product of dequantised values, with the weight
dequantised at compile time.
"""

from __future__ import annotations

import numpy as np

from ...codegen.linear import MAX_K_INT8, MAX_K_SHIFTED
from ...compiler.dims import product
from ...compiler.graph import Graph, Node, Value
from ...compiler.types import DType
from .builder import Builder

#: The most taps whose sum of (x - zero) * w a float32 holds exactly, as int8 convolutions of lone channels compute it.
MAX_TAPS = 2**24 // (255 * 127)


def parts(value: Value) -> tuple[Value, Value, Value | None] | None:
    """(q, scale, zero point) of a dequantised int8 value; None if ``value`` is something else."""
    node = value.node
    if node is None or node.op != "dequantize":
        return None
    q, scale, *zeros = node.inputs
    assert q is not None and scale is not None
    return (q, scale, zeros[0] if zeros else None) if q.dtype is DType.i8 else None


def one_scale(graph: Graph, scale: Value, zero: Value | None) -> bool:
    """Whether a scale and a zero point are one constant each, the zero point int8."""
    if graph.array(scale) is None or product(scale.shape) != 1:
        return False
    return zero is None or (graph.array(zero) is not None and product(zero.shape) == 1 and zero.dtype is DType.i8)


def integer_weight(graph: Graph, w: Value) -> tuple[Value, Value] | None:
    """(int8 weight, its scales) of a constant weight with one scale for each output and no zero point; None for others."""
    found = parts(w)
    if found is None or found[2] is not None:
        return None
    q, scale, _ = found
    array = graph.array(q)
    if array is None or graph.array(scale) is None or scale.shape != (q.shape[0], *(1 for _ in q.shape[1:])):
        return None
    return None if array.size == 0 or array.min() == -128 else (q, scale)


def integer_linear(b: Builder, x: Value, w: Value, bias: Value | None) -> Value | None:
    """The linear of ``x`` and ``w`` on their integers, in f32; None if they are not int8 as kernels take it."""
    graph = b.graph
    left, right = parts(x), integer_weight(graph, w)
    if left is None or right is None:
        return None
    (q, scale, zero), (wq, w_scale) = left, right
    k = wq.shape[1]
    assert isinstance(k, int)
    columns = _columns(b, w_scale)
    if zero is None and scale.shape == (*q.shape[:-1], 1) and not one_scale(graph, scale, None):
        return b("qlinear", q, scale, wq, columns, bias) if k <= MAX_K_INT8 else None
    if not one_scale(graph, scale, zero):
        return _with_range_found(b, q, scale, zero, wq, columns, bias)
    if k > (MAX_K_INT8 if zero is None else MAX_K_SHIFTED):
        return None
    return b("qlinear", q, _number(b, scale), wq, columns, bias, None if zero is None else _number(b, zero))


def _with_range_found(
    b: Builder, q: Value, scale: Value, zero: Value | None, wq: Value, columns: Value, bias: Value | None
) -> Value | None:
    """The linear of an int8 ``q`` whose one scale, or one zero point, is found at run time.

    The sums are those of ``q`` itself: what the zero point takes off is one number for each output, times it.
    """
    fits = zero is None or (product(zero.shape) == 1 and zero.dtype in (DType.i8, DType.i32))
    weight = b.graph.array(wq)
    assert weight is not None
    if product(scale.shape) != 1 or not fits or weight.shape[1] > MAX_K_INT8:
        return None
    one = b.constant(np.ones((), np.float32), "one")
    number = b("reshape", scale, shape=())
    less = None
    if zero is not None:  # before the product, so that what follows it can be computed where its sums are
        steps = b.graph.array(columns)
        assert steps is not None
        sums = b.constant((weight.sum(axis=1, dtype=np.int64) * steps).astype(np.float32), f"{wq.name}.sums")
        less = b("mul", sums, b("cast", b("reshape", zero, shape=()), dtype=DType.f32))
    y = b("qlinear", q, one, wq, columns, None)
    y = b("mul", y if less is None else b("sub", y, less), number)
    return y if bias is None else b("add", y, bias)


def integer_conv(
    b: Builder, node: Node, x: Value, w: Value, bias: Value | None, low: tuple[int, ...], high: tuple[int, ...] | None
) -> Value | str:  # fmt: skip
    """The convolution of the channels-last ``x``, a dequantised value, on the integers; a string says why there is none.

    Args:
        low, high: the padding in front and behind (None: as in front).
    """
    graph = b.graph
    left, right = parts(x), integer_weight(graph, w)
    if left is None or not one_scale(graph, *left[1:]):
        return "x is not int8 with one constant scale"
    if right is None:
        return "the filters are not constant symmetric int8 with one scale for each output channel"
    (q, scale, zero), (wq, w_scale) = left, right
    array = graph.array(wq)
    assert array is not None
    taps, groups = array[0].size, int(node.attrs["groups"])
    if taps > (MAX_K_INT8 if zero is None else MAX_K_SHIFTED):
        return f"the sums of {taps} products could overflow int32"
    if array.shape[1] == 1 and groups == array.shape[0] != 1 and taps > MAX_TAPS:
        return f"a channel of its own has more than {MAX_TAPS} taps"
    one, shift = _number(b, scale), None if zero is None else _number(b, zero)
    columns = _columns(b, w_scale)
    pointwise = taps == array.shape[1] and set(node.attrs["stride"]) == {1} and groups == 1
    if pointwise and not any(low) and not any(high or ()):
        matrix = b.constant(np.ascontiguousarray(array.reshape(array.shape[:2])), wq.name)
        return b("qlinear", q, one, matrix, columns, bias, shift)
    attrs = {name: node.attrs[name] for name in ("stride", "dilation", "groups")}
    around = {"padding": low, "padding_high": high, "channels_last": True}
    return b("qconv", q, one, wq, columns, bias, shift, **attrs, **around)


def legal_quantize_tensor(b: Builder, node: Node) -> Value:
    """One range for all of x: that of the rows first, which row kernels find side by side."""
    x = b("cast", node.operands[0], dtype=DType.f32) if node.operands[0].dtype is not DType.f32 else node.operands[0]
    zero, ends = b.full(0.0, x), []
    for reduce, widen in (("reduce_min", "minimum"), ("reduce_max", "maximum")):
        end = b(reduce, x, axes=(x.type.rank - 1,), keepdim=False) if x.type.rank > 1 else x
        end = b(reduce, end, axes=tuple(range(end.type.rank)), keepdim=False) if end.type.rank else end
        ends.append(b(widen, end, zero))
    step = b("div", b("sub", ends[1], ends[0]), b.full(255.0, x))
    scale = b("where", b("eq", step, zero), b.full(1.0, x), step)
    place = b("round", b("clamp", b("sub", zero, b("div", ends[0], scale)), min=0.0, max=255.0))
    narrow = b("cast", place, dtype=DType.u8)
    for old, new in zip(node.outputs[1:], (scale, narrow), strict=True):
        b.graph.replace(old, new)
    return b("quantize", x, scale, narrow, dtype=DType.u8, division=True)


def _columns(b: Builder, scale: Value) -> Value:
    array = b.graph.array(scale)
    assert array is not None
    return b.constant(np.ascontiguousarray(array).reshape(-1), scale.name)


def _number(b: Builder, value: Value) -> Value:
    """A constant of one number, without axes."""
    array = b.graph.array(value)
    assert array is not None
    return value if not value.shape else b.constant(array.reshape(()), value.name, value.dtype)
