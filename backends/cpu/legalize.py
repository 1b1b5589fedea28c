"""legalize: say every op in terms of the few that have CPU kernels (linears, attention, programs over rows, copies)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.dims import Dim, floordiv, product
from ...compiler.errors import LoweringError
from ...compiler.graph import Graph, Node, Value
from ...compiler.ops import REDUCTIONS
from ...compiler.pass_protocol import PassContext, PassResult
from ...compiler.types import DType
from .builder import Builder
from .custom_ops import cpp_op, widen
from .legalize_columns import column_sum
from .legalize_int8 import integer_linear, legal_quantize_tensor
from .legalize_quantised import legal_dequantize, narrow_linear, plain_weight, split_linear
from .legalize_spatial import LEGAL_SPATIAL
from .lower_recurrent import legal_recurrent

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
    if (down := column_sum(b, node, axes)) is not None:
        return down
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


def _scatter(b: Builder, node: Node) -> Value | None:
    """Slices are written along the middle axis of three, at one row of ids."""
    x, ids, source = node.inputs
    assert x is not None and ids is not None and source is not None
    axis = node.attrs["axis"] % x.type.rank
    if x.type.rank == 3 and axis == 1 and ids.type.rank == 1:
        return None
    outer, rows, inner = product(x.shape[:axis]), x.shape[axis], product(x.shape[axis + 1 :])
    count = product(ids.shape)
    lined = b("reshape", source, shape=(outer, count, inner))
    written = b("scatter", b("reshape", x, shape=(outer, rows, inner)), b("reshape", ids, shape=(count,)), lined,
                axis=1, reduce=node.attrs["reduce"])  # fmt: skip
    return b("reshape", written, shape=x.shape)


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
    integer = integer_linear(b, x, w, bias) or narrow_linear(b, x, w, bias) or split_linear(b, x, w, bias)
    if integer is not None:
        return _as_type(b, integer, node.output.dtype)
    plain = plain_weight(b, w)
    if plain is not w:
        return b("linear", x, plain, bias, **node.attrs)
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
    if visible is not None and node.attrs["empty_row"] != "nan":
        seen = b("reduce_any", visible, axes=(visible.type.rank - 1,), keepdim=True)
        instead = b.full(0.0, weights)
        if node.attrs["empty_row"] == "mean":
            instead = b(
                "div",
                b.full(1.0, weights),
                b("cast", b("full", value=k.shape[2], shape=(), dtype=DType.i64), dtype=weights.dtype),
            )
        weights = b("where", seen, weights, instead)
    return _as_type(b, b("matmul", weights, v), node.output.dtype)


def _repeat_heads(b: Builder, x: Value, heads: Dim) -> Value:
    """Key or value heads, each as often as query heads share it."""
    batch, shared, *rest = x.shape
    if shared == heads:
        return x
    apart = b("reshape", x, shape=(batch, shared, 1, *rest))
    wide = b("expand", apart, shape=(batch, shared, floordiv(heads, shared), *rest))
    return b("reshape", wide, shape=(batch, heads, *rest))


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


def _rotary(b: Builder, node: Node) -> Value:
    """Each output half by itself; both are stored where they lie in the whole (see ``Lowering.home``)."""
    x, cos, sin = node.operands
    if x.dtype in (DType.bf16, DType.f16):  # products in f32, one rounding
        wide = b("rotary", *(b("cast", v, dtype=DType.f32) for v in (x, cos, sin)), **node.attrs)
        return b("cast", wide, dtype=x.dtype)
    half, last, width = cos.shape[-1], x.type.rank - 1, x.shape[-1]
    assert isinstance(half, int) and isinstance(width, int)
    pairs = node.attrs["interleaved"]
    step, apart = (2, 1) if pairs else (1, half)
    one, two = (
        b("slice", x, axis=last, start=start, end=start + step * (half - 1) + 1, step=step) for start in (0, apart)
    )
    parts = [b("sub", b("mul", one, cos), b("mul", two, sin)), b("add", b("mul", two, cos), b("mul", one, sin))]
    if pairs:
        parts = [b("reshape", v, shape=(*v.shape, 1)) for v in parts]
        turned = b("concat", *parts, axis=last + 1)
        parts = [b("reshape", turned, shape=(*x.shape[:-1], 2 * half))]
    if 2 * half != width:
        parts.append(b("slice", x, axis=last, start=2 * half, end=width))
    return parts[0] if len(parts) == 1 else b("concat", *parts, axis=last)


LEGAL: dict[str, Legal] = {
    **dict.fromkeys(REDUCTIONS, _reduction), "softmax": _along_axis, "log_softmax": _along_axis, "layer_norm": _layer_norm,
    "group_norm": _group_norm, "batch_norm": _batch_norm, "scatter": _scatter, "argmax": _arg_reduce, "argmin": _arg_reduce,
    "matmul": _matmul, "linear": _linear, "attention": _attention, **LEGAL_SPATIAL,
    "recurrent": legal_recurrent, "pad": _pad, "rotary": _rotary, "dequantize": legal_dequantize,
    "quantize_tensor": legal_quantize_tensor,
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
                own = cpp_op(node)
                changed |= own is not None and widen(graph, node, own)
                continue
            context.at(node)
            before = node._previous
            new = rule(Builder(graph, node), node)
            if new is None:
                continue
            first = node.outputs[0]  # a rule for several results replaces the others itself
            if new.type != first.type:
                raise LoweringError(f"{node.op} became {new.type} instead of {first.type}")
            graph.replace(first, new)
            inserted = before._next if before is not None else next(graph.nodes, None)
            while inserted is not None and inserted is not node:  # what was inserted may need legalising too
                work.append(inserted)
                inserted = inserted._next
            graph.erase(node)
            changed = True
        graph.sweep()
        return PassResult(changed)
