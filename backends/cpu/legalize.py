"""legalize: say every op in terms of the few that have CPU kernels (linears, attention, programs over rows, copies)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from typing import Any, ClassVar

import numpy as np

from ...compiler.dims import Dim, floordiv, product
from ...compiler.errors import LoweringError
from ...compiler.graph import Graph, Node, Value
from ...compiler.ops import REDUCTIONS
from ...compiler.pass_protocol import PassContext, PassResult
from ...compiler.types import DType, bf16_to_float


class Builder:
    """Inserts nodes in front of one node, in its name."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.at = node

    def __call__(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        node = self.at
        new = self.graph.insert(
            op, inputs, attrs, before=node, name=node.name, location=node.location, sources=node.sources
        )
        return new.outputs[0]

    def constant(self, array: np.ndarray, name: str, dtype: DType | None = None) -> Value:
        return self.graph.add_constant(array, name, dtype, before=self.at)

    def full(self, number: float | int | bool | Dim, like: Value, shape: Sequence[Dim] = ()) -> Value:
        return self("full", value=number, shape=tuple(shape), dtype=like.dtype)

    def last(self, x: Value, axis: int) -> tuple[Value, tuple[int, ...]]:
        """``x`` with ``axis`` moved to the end, and the permutation that moves it back."""
        rank = x.type.rank
        axis %= rank
        if axis == rank - 1:
            return x, tuple(range(rank))
        perm = (*(a for a in range(rank) if a != axis), axis)
        return self("transpose", x, perm=perm), tuple(perm.index(a) for a in range(rank))

    def back(self, x: Value, perm: tuple[int, ...]) -> Value:
        return x if perm == tuple(range(len(perm))) else self("transpose", x, perm=perm)


Legal = Callable[[Builder, Node], "Value | None"]


def _reduction(b: Builder, node: Node) -> Value | None:
    """Reductions run along the last axis and keep it."""
    x = node.inputs[0]
    assert x is not None
    rank = x.type.rank
    axes = sorted(a % rank for a in node.attrs["axes"]) if rank else []
    if not axes:
        return x
    if axes == [rank - 1] and node.attrs["keepdim"]:
        return None
    kept = [a for a in range(rank) if a not in axes]
    moved = x if [*kept, *axes] == list(range(rank)) else b("transpose", x, perm=(*kept, *axes))
    outer = tuple(x.shape[a] for a in kept)
    flat = b("reshape", moved, shape=(*outer, product(x.shape[a] for a in axes)))
    reduced = b(node.op, flat, axes=(len(outer),), keepdim=True)
    return b("reshape", reduced, shape=node.output.shape)


def _along_axis(b: Builder, node: Node) -> Value | None:
    """softmax and log_softmax run along the last axis."""
    x = node.inputs[0]
    assert x is not None
    if node.attrs["axis"] % x.type.rank == x.type.rank - 1:
        return None
    moved, perm = b.last(x, node.attrs["axis"])
    return b.back(b(node.op, moved, axis=-1), perm)


def _layer_norm(b: Builder, node: Node) -> Value | None:
    axes, (x, *affine) = node.attrs["axes"], node.inputs
    assert x is not None
    if axes == 1:
        return None
    split = x.type.rank - axes
    width = product(x.shape[split:])
    flat = [None if v is None else b("reshape", v, shape=(width,)) for v in affine]
    normed = b("layer_norm", b("reshape", x, shape=(*x.shape[:split], width)), *flat, axes=1, eps=node.attrs["eps"])
    return b("reshape", normed, shape=x.shape)


def _group_norm(b: Builder, node: Node) -> Value:
    x, *affine = node.inputs
    assert x is not None
    groups = node.attrs["groups"]
    width = product(x.shape[1:]) // groups
    y = b("layer_norm", b("reshape", x, shape=(x.shape[0], groups, width)), axes=1, eps=node.attrs["eps"])
    y = b("reshape", y, shape=x.shape)
    for op, v in zip(("mul", "add"), affine, strict=False):
        if v is not None:
            y = b(op, y, b("reshape", v, shape=(x.shape[1],) + (1,) * (x.type.rank - 2)))
    return y


def _batch_norm(b: Builder, node: Node) -> Value:
    x, weight, bias, mean, var = node.inputs
    assert x is not None and mean is not None and var is not None
    spread = (x.shape[1],) + (1,) * (x.type.rank - 2)
    scale = b("rsqrt", b("add", var, b.full(node.attrs["eps"], var)))
    if weight is not None:
        scale = b("mul", scale, weight)
    shift = b("neg", b("mul", mean, scale))
    if bias is not None:
        shift = b("add", shift, bias)
    return b("add", b("mul", x, b("reshape", scale, shape=spread)), b("reshape", shift, shape=spread))


def _cumsum(b: Builder, node: Node) -> Value:
    """out[i] = sum of x[j] over j <= i: a masked reduction, quadratic in the length of the axis."""
    x = node.inputs[0]
    assert x is not None
    moved, perm = b.last(x, node.attrs["axis"])
    length = moved.shape[-1]
    steps = b("arange", end=length)
    seen = b("le", steps, b("reshape", steps, shape=(length, 1)))
    wide = b("where", seen, b("reshape", moved, shape=(*moved.shape[:-1], 1, length)), b.full(0, x))
    total = b("reduce_sum", wide, axes=(wide.type.rank - 1,), keepdim=True)
    return b.back(b("reshape", total, shape=moved.shape), perm)


def _arg_reduce(b: Builder, node: Node) -> Value:
    """The first index that holds the extreme value (a NaN counts as the extreme, as in PyTorch)."""
    x = node.inputs[0]
    assert x is not None
    moved, _ = b.last(x, node.attrs["axis"])
    extreme = b(f"reduce_{node.op[3:]}", moved, axes=(moved.type.rank - 1,), keepdim=True)
    found = b("eq", moved, extreme)
    if x.dtype.is_float:
        found = b("logical_or", found, b("isnan", moved))
    steps = b("arange", end=moved.shape[-1])
    index = b("where", found, steps, b.full(moved.shape[-1], steps))
    return b("reshape", b("reduce_min", index, axes=(moved.type.rank - 1,), keepdim=True), shape=node.output.shape)


def _matmul(b: Builder, node: Node) -> Value | None:
    """A product with a constant matrix is a linear; f16 is computed in f32."""
    x, w = node.inputs
    assert x is not None and w is not None
    if x.dtype is DType.f16:
        wide = b("matmul", b("cast", x, dtype=DType.f32), b("cast", w, dtype=DType.f32))
        return _as_type(b, wide, node.output.dtype)
    array = b.graph.array(w)
    if array is None or w.type.rank != 2 or x.dtype not in (DType.f32, DType.bf16):
        return None
    weight = b.constant(np.ascontiguousarray(array.T), w.name, w.dtype)
    return b("linear", x, weight, out_dtype=node.attrs["out_dtype"])


def _linear(b: Builder, node: Node) -> Value | None:
    """A linear whose weight is computed at run time is a matmul; other float types widen to f32."""
    x, w, *rest = node.inputs
    assert x is not None and w is not None
    bias = rest[0] if rest else None
    if w.shape[1] == 0 or w.shape[0] == 0:  # sums of nothing
        zeros = b("full", value=0, shape=node.output.shape, dtype=node.output.dtype)
        return zeros if bias is None else b("add", zeros, _as_type(b, bias, node.output.dtype))
    if b.graph.array(w) is not None and x.dtype in (DType.f32, DType.bf16):
        return None
    integer = _integer_linear(b, x, w, bias)
    if integer is not None:
        return integer
    if x.dtype is DType.f16:
        wide = [None if v is None else b("cast", v, dtype=DType.f32) for v in (x, w, bias)]
        return b("cast", b("linear", *wide), dtype=node.output.dtype)
    flat = b("reshape", x, shape=(product(x.shape[:-1]), x.shape[-1])) if x.type.rank != 2 else x
    y = b("matmul", flat, b("transpose", w, perm=(1, 0)), out_dtype=node.attrs["out_dtype"])
    if bias is not None:
        y = b("add", y, bias)
    return b("reshape", y, shape=node.output.shape)


def _as_type(b: Builder, value: Value, dtype: DType) -> Value:
    return value if value.dtype is dtype else b("cast", value, dtype=dtype)


def _integer_linear(b: Builder, x: Value, w: Value, bias: Value | None) -> Value | None:
    """``linear(dequantize(q, s), dequantize(w, t))`` runs on the integers themselves."""
    if x.node is None or w.node is None or x.node.op != "dequantize" or w.node.op != "dequantize":
        return None
    q, scale, *x_zero = x.node.inputs
    wq, w_scale, *w_zero = w.node.inputs
    assert q is not None and scale is not None and wq is not None and w_scale is not None
    if any(z is not None for z in (*x_zero, *w_zero)) or q.dtype is not DType.i8 or wq.dtype is not DType.i8:
        return None
    if scale.shape != (*q.shape[:-1], 1) or b.graph.array(wq) is None or b.graph.array(w_scale) is None:
        return None
    if w_scale.shape != (wq.shape[0], 1):
        return None
    columns = b.constant(np.ascontiguousarray(b.graph.array(w_scale)).reshape(-1), w_scale.name)
    return b("qlinear", q, scale, wq, columns, bias)


def _attention(b: Builder, node: Node) -> Value | None:
    q, k, v = node.inputs[:3]
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    assert q is not None and k is not None and v is not None
    if q.dtype is DType.f64:
        return _plain_attention(b, node, q, k, v, mask)
    if q.dtype is DType.f16:
        q, k, v = (b("cast", i, dtype=DType.f32) for i in (q, k, v))
        y = b("attention", q, k, v, mask, **{**node.attrs, "out_dtype": None})
        return _as_type(b, y, node.output.dtype)
    if mask is not None and mask.dtype not in (DType.bool, DType.f32):
        return b("attention", q, k, v, b("cast", mask, dtype=DType.f32), **node.attrs)
    return None


def _plain_attention(b: Builder, node: Node, q: Value, k: Value, v: Value, mask: Value | None) -> Value:
    """Attention in a type that its kernel does not have: two products and a softmax, with the scores in memory."""
    k, v = (_repeat_heads(b, i, q.shape[1]) for i in (k, v))
    scores = b("mul", b("matmul", q, b("transpose", k, perm=(0, 1, 3, 2))), b.full(float(node.attrs["scale"]), q))
    visible: Value | None = None
    if node.attrs["causal"]:
        rows = b("reshape", b("arange", end=q.shape[2]), shape=(q.shape[2], 1))
        last = b("add", rows, b.full(node.attrs["causal_offset"], rows))
        visible = b("le", b("arange", end=k.shape[2]), last)
    if mask is not None and mask.dtype is DType.bool:
        visible = mask if visible is None else b("logical_and", visible, mask)
    elif mask is not None:
        scores = b("add", scores, _as_type(b, mask, q.dtype))
    if visible is not None:
        scores = b("where", visible, scores, b.full(-float("inf"), scores))
    weights = b("softmax", scores, axis=-1)
    if visible is not None and node.attrs["empty_row"] == "zero":
        seen = b("reduce_any", visible, axes=(visible.type.rank - 1,), keepdim=True)
        weights = b("where", seen, weights, b.full(0.0, weights))
    return _as_type(b, b("matmul", weights, v), node.output.dtype)


def _repeat_heads(b: Builder, x: Value, heads: Dim) -> Value:
    """Key or value heads, each as often as query heads share it."""
    batch, shared, *rest = x.shape
    if shared == heads:
        return x
    apart = b("reshape", x, shape=(batch, shared, 1, *rest))
    wide = b("expand", apart, shape=(batch, shared, floordiv(heads, shared), *rest))
    return b("reshape", wide, shape=(batch, heads, *rest))


# -- convolution and pooling ----------------------------------------------------------------------------------------------
def _windows(
    b: Builder, x: Value, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Sequence[Dim]
) -> list[Value]:
    """For every kernel position, the elements of ``x`` it meets: a strided slice per spatial axis."""
    found = []
    for at in cartesian(*(range(k) for k in kernel)):
        piece = x
        for axis, (offset, step, spread, size) in enumerate(zip(at, stride, dilation, sizes, strict=True), start=2):
            start = offset * spread
            piece = b("slice", piece, axis=axis, start=start, end=start + step * (size - 1) + 1, step=step)
        found.append(piece)
    return found


def _padded(b: Builder, x: Value, padding: Sequence[int], value: float = 0.0) -> Value:
    if not any(padding):
        return x
    amounts = (0, 0, *padding)
    return b("pad", x, low=amounts, high=amounts, value=value)


def _conv(b: Builder, node: Node) -> Value:
    """Patches as rows of a linear; depthwise as a sum of scaled windows; groups one after the other."""
    x, w, *rest = node.inputs
    assert x is not None and w is not None
    array = b.graph.array(w)
    if array is None:
        raise LoweringError(f"the kernel of the convolution {node.name} is computed at run time")
    depthwise = (
        node.attrs["groups"] != 1 and array.shape[1] == 1 and node.attrs["groups"] == array.shape[0] == x.shape[1]
    )
    if x.dtype is DType.f16 or (x.dtype is DType.bf16 and depthwise):  # sums in f32, one rounding
        wide = b.constant(bf16_to_float(array) if x.dtype is DType.bf16 else array.astype(np.float32), w.name)
        rest = [v if v is None else _as_type(b, v, DType.f32) for v in rest]
        y = b("conv", b("cast", x, dtype=DType.f32), wide, *rest, **{**node.attrs, "out_dtype": None})
        return _as_type(b, y, node.output.dtype)
    bias = rest[0] if rest else None
    stride, padding, dilation, groups = (node.attrs[a] for a in ("stride", "padding", "dilation", "groups"))
    kernel, sizes = array.shape[2:], node.output.shape[2:]
    if groups == 1:
        return _dense_conv(b, node, x, array, bias)
    if depthwise:
        total: Value | None = None
        for at, window in enumerate(_windows(b, _padded(b, x, padding), kernel, stride, dilation, sizes)):
            scale = np.ascontiguousarray(array.reshape(groups, -1)[:, at]).reshape(groups, *(1 for _ in kernel))
            term = b("mul", window, b.constant(scale, f"{w.name}.{at}", w.dtype))
            total = term if total is None else b("add", total, term)
        assert total is not None
        if bias is not None:
            total = b("add", total, b("reshape", bias, shape=(groups, *(1 for _ in kernel))))
        return total
    inputs, outputs, parts = array.shape[1], array.shape[0] // groups, []
    for g in range(groups):
        piece = b("slice", x, axis=1, start=g * inputs, end=(g + 1) * inputs)
        shift = None if bias is None else b("slice", bias, axis=0, start=g * outputs, end=(g + 1) * outputs)
        parts.append(_dense_conv(b, node, piece, array[g * outputs : (g + 1) * outputs], shift))
    return b("concat", *parts, axis=1)


def _dense_conv(b: Builder, node: Node, x: Value, array: np.ndarray, bias: Value | None) -> Value:
    stride, padding, dilation = (node.attrs[a] for a in ("stride", "padding", "dilation"))
    kernel, sizes, spatial = array.shape[2:], node.output.shape[2:], x.type.rank - 2
    order = (0, *range(2, spatial + 2), 1)
    w_dtype = DType.bf16 if array.dtype == np.uint16 else None
    name = f"{node.name}.weight" if node.name else "conv.weight"
    if all(k == 1 for k in kernel):
        x = _padded(b, x, padding)
        for axis, step in enumerate(stride, start=2):
            if step != 1:
                x = b("slice", x, axis=axis, start=0, end=step * (sizes[axis - 2] - 1) + 1, step=step)
        rows = b("transpose", x, perm=order)
        weight = array.reshape(array.shape[0], -1)
    else:
        windows = _windows(b, _padded(b, x, padding), kernel, stride, dilation, sizes)
        rows = b("transpose", b("concat", *windows, axis=1), perm=order)
        weight = np.moveaxis(array, 1, -1).reshape(array.shape[0], -1)
    y = b(
        "linear", rows, b.constant(np.ascontiguousarray(weight), name, w_dtype), bias, out_dtype=node.attrs["out_dtype"]
    )
    return b("transpose", y, perm=(0, spatial + 1, *range(1, spatial + 1)))


def _pool(b: Builder, node: Node) -> Value:
    x = node.inputs[0]
    assert x is not None
    kernel, stride, padding = (node.attrs[a] for a in ("kernel", "stride", "padding"))
    dilation = node.attrs.get("dilation") or (1,) * len(kernel)
    largest = node.op == "max_pool"
    sizes = node.output.shape[2:]

    def combine(values: Sequence[Value]) -> Value:
        total = values[0]
        for v in values[1:]:
            total = b("maximum" if largest else "add", total, v)
        return total

    padded = _padded(b, x, padding, -float("inf") if largest else 0.0)
    total = combine(_windows(b, padded, kernel, stride, dilation, sizes))
    if largest:
        return total
    if not any(padding) or node.attrs["count_include_pad"]:
        return b("div", total, b.full(float(np.prod(kernel)), x))
    ones = _padded(b, b.full(1.0, x, (1, 1, *x.shape[2:])), padding)
    return b("div", total, combine(_windows(b, ones, kernel, stride, dilation, sizes)))


def _pad(b: Builder, node: Node) -> Value | None:
    """Negative padding is a slice."""
    low, high, x = node.attrs["low"], node.attrs["high"], node.inputs[0]
    assert x is not None
    if not any(isinstance(d, int) and d < 0 for d in (*low, *high)):
        return None
    for axis, (a, c) in enumerate(zip(low, high, strict=True)):
        if a < 0 or c < 0:
            x = b("slice", x, axis=axis, start=max(-a, 0), end=x.shape[axis] + min(c, 0))
    return b(
        "pad", x, low=tuple(max(a, 0) for a in low), high=tuple(max(c, 0) for c in high), value=node.attrs["value"]
    )


LEGAL: dict[str, Legal] = {
    **dict.fromkeys(REDUCTIONS, _reduction), "softmax": _along_axis, "log_softmax": _along_axis, "layer_norm": _layer_norm,
    "group_norm": _group_norm, "batch_norm": _batch_norm, "cumsum": _cumsum, "argmax": _arg_reduce, "argmin": _arg_reduce,
    "matmul": _matmul, "linear": _linear, "attention": _attention, "conv": _conv, "max_pool": _pool, "avg_pool": _pool,
    "pad": _pad,
}  # fmt: skip


@dataclass(frozen=True)
class Legalize:
    """Rewrite ops without a kernel of their own into ops that have one."""

    name: ClassVar[str] = "legalize"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed = False
        work = list(graph.nodes)
        for node in work:
            rule = LEGAL.get(node.op)
            if rule is None:
                continue
            context.at(node)
            before = node._previous
            new = rule(Builder(graph, node), node)
            if new is None:
                continue
            if new.type != node.output.type:
                raise LoweringError(f"{node.op} became {new.type} instead of {node.output.type}")
            graph.replace(node.output, new)
            inserted = before._next if before is not None else next(graph.nodes, None)
            while inserted is not None and inserted is not node:  # what was inserted may need legalising too
                work.append(inserted)
                inserted = inserted._next
            graph.erase(node)
            changed = True
        graph.sweep()
        return PassResult(changed)
