"""channels-last: convolutions and pools work on [batch, *space, channels], and what lies between them follows.

Every convolution and pool is given its channels-last form between two transposes; then, in one walk, the transpose behind each
moves through the ops that read it (elementwise, joins, pads, slices, lookups, reductions) until it meets the one in front of
the next, and the two cancel. Kernels then read and write whole channels, and the layout the model was written in survives only
at its inputs, its outputs, and ops that cannot follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...compiler.dims import Dim, product
from ...compiler.graph import Graph, Node, Value
from ...compiler.ops import REDUCTIONS
from ...compiler.pass_protocol import PassContext, PassResult
from ...compiler.types import DType
from .builder import Builder
from .legalize_int8 import integer_conv, parts
from .legalize_quantised import plain_weight
from .regions import by_element

#: Element types that kernels over windows have.
_KERNEL_TYPES = frozenset({DType.f32, DType.bf16})


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation from channels second to channels last."""
    return (0, *range(2, rank), 1)


def to_second(rank: int) -> tuple[int, ...]:
    """The permutation from channels last to channels second."""
    return (0, rank - 1, *range(1, rank - 1))


def _moved(axis: int, rank: int) -> int:
    """Where an axis of a value with channels second lies with channels last."""
    axis %= rank
    return axis if axis == 0 else rank - 1 if axis == 1 else axis - 1


def _is_to_second(transpose: Node) -> bool:
    perm = tuple(transpose.attrs["perm"])
    return len(perm) > 2 and perm == to_second(len(perm))


class _Walk:
    """The state of one walk: which values are channels-last ones seen with channels second."""

    def __init__(self, graph: Graph, context: PassContext) -> None:
        self.graph = graph
        self.context = context
        self.seen: set[Value] = set()

    def follows(self, value: Value | None) -> bool:
        """Whether ``value`` is a channels-last value behind a transpose that wants to move on: one of ours, or an image that
        the model itself keeps, or makes of tokens, with channels last."""
        if value in self.seen:
            return True
        node = None if value is None else value.node
        if node is None or value is None or value.type.rank < 4:
            return False
        if node.op == "reshape":
            source = node.inputs[0]
            node = None if source is None or source.shape[:2] != value.shape[:2] else source.node
        return node is not None and node.op == "transpose" and _is_to_second(node)

    def last(self, b: Builder, value: Value) -> Value:
        """``value`` with channels last."""
        node = value.node
        rank = value.type.rank
        if node is not None and node.op == "transpose" and _is_to_second(node):
            assert node.inputs[0] is not None
            return node.inputs[0]
        source = node.inputs[0] if node is not None and node.op == "reshape" else None
        if source is not None and source.type.rank > 2 and rank > 2 and source.shape[:2] == value.shape[:2]:
            inner = source.node
            if inner is not None and inner.op == "transpose" and _is_to_second(inner):
                assert inner.inputs[0] is not None  # only axes of space are joined or split
                return b("reshape", inner.inputs[0], shape=(value.shape[0], *value.shape[2:], value.shape[1]))
        return b("transpose", value, perm=to_last(rank))

    def second(self, b: Builder, value: Value) -> Value:
        """A channels-last ``value`` as the rest of the graph knows it."""
        seen = b("transpose", value, perm=to_second(value.type.rank))
        self.seen.add(seen)
        return seen


Rule = Callable[[_Walk, Builder, Node], "Value | None"]


# -- what has kernels of its own --------------------------------------------------------------------------------------------
def _floats(walk: _Walk, b: Builder, node: Node, rule: Rule) -> Value | None:
    """f16 is computed in f32 and rounded once; types without a kernel stay as they are."""
    x = node.inputs[0]
    assert x is not None
    if x.dtype is not DType.f16:
        return rule(walk, b, node) if x.dtype in _KERNEL_TYPES or node.op == "qconv" else None
    wide: list[Value | None] = [None if v is None else _widened(b, v) for v in node.inputs]
    attrs = {**node.attrs, "out_dtype": None} if "out_dtype" in node.attrs else node.attrs
    twin = b.graph.insert(
        node.op, wide, attrs, before=node, name=node.name, location=node.location, sources=node.sources
    )
    result = rule(walk, b, twin)
    if result is None:
        b.graph.erase(twin)
        return None
    narrow = b("cast", walk.last(b, result), dtype=node.output.dtype)
    b.graph.erase(twin)
    return walk.second(b, narrow)


def _widened(b: Builder, value: Value) -> Value:
    array = b.graph.array(value)
    if array is not None:
        return b.constant(array.astype(np.float32), value.name)
    return b("cast", value, dtype=DType.f32)


def _filters(b: Builder, node: Node, w: Value) -> np.ndarray | None:
    """The filters of a convolution that has a channels-last form; None if it has none."""
    array = b.graph.array(w)
    return None if array is None or node.output.type.rank > 5 or 0 in array.shape else array


def _conv(walk: _Walk, b: Builder, node: Node) -> Value | None:
    x, w, *rest = node.inputs
    assert x is not None and w is not None
    bias = rest[0] if rest else None
    if parts(w) is not None:
        new = _integer_conv(walk, b, node, x, w, bias)
        if new is not None:
            return new
        w = plain_weight(b, w)
    array = _filters(b, node, w)
    if array is None:
        return None
    source, padding, high = _with_padding(b, node, walk.last(b, x))
    attrs = {**node.attrs, "padding": padding, "padding_high": high, "channels_last": True}
    pointwise = all(k == 1 for k in array.shape[2:]) and set(attrs["stride"]) == {1} and attrs["groups"] == 1
    if pointwise and not any(padding) and not any(high or ()):
        matrix = b.constant(np.ascontiguousarray(array.reshape(array.shape[:2])), w.name, w.dtype)
        return walk.second(b, b("linear", source, matrix, bias, out_dtype=attrs["out_dtype"]))
    return walk.second(b, b("conv", source, w, bias, **attrs))


def _integer_conv(walk: _Walk, b: Builder, node: Node, x: Value, w: Value, bias: Value | None) -> Value | None:
    """A convolution of dequantised values on the integers; None, and a note, where there is no kernel for it."""
    low, high, last = tuple(node.attrs["padding"]), node.attrs["padding_high"], walk.last(b, x)
    found = parts(last) or parts(x)
    if found is not None:
        q, *scales = found
        made = q.node
        if (
            parts(last) and made is not None and made.op == "quantize"
        ):  # zeros that were put around x become zero points
            inner, low, high = _with_padding(b, node, made.operands[0])
            if inner is not made.operands[0]:
                q = b("quantize", inner, *made.inputs[1:], **made.attrs)
        last = b("dequantize", q if parts(last) else walk.last(b, q), *scales)
    if node.output.type.rank > 5:
        new: Value | str = "there is no kernel for windows over so many axes"
    else:
        new = integer_conv(b, node, last, w, bias, low, high)
    if isinstance(new, str):
        walk.context.note(f"{node.name or 'conv'} runs in float on dequantised values: {new}", node, "miss")
        return None
    return walk.second(b, new if node.output.dtype is DType.f32 else b("cast", new, dtype=node.output.dtype))


def _qconv(walk: _Walk, b: Builder, node: Node) -> Value | None:
    x, w = node.inputs[0], node.inputs[2]
    assert x is not None and w is not None
    if _filters(b, node, w) is None:
        return None
    return walk.second(b, _again(b, node, [walk.last(b, x), *node.inputs[1:]], channels_last=True))


def _quantize(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """What convolutions read in int8 is quantised with channels last, whoever makes it."""
    x = node.inputs[0]
    assert x is not None
    read = [u for d in node.output.users if d.op == "dequantize" for u in d.output.users]
    if walk.follows(x) or x.type.rank < 3 or not any(u.op == "conv" for u in read):
        return _elementwise(walk, b, node)
    others = [_broadcast_last(walk, b, v, x.type.rank) for v in node.operands[1:]]
    return walk.second(b, b("quantize", walk.last(b, x), *others, **node.attrs))


def _with_padding(b: Builder, node: Node, x: Value) -> tuple[Value, tuple[int, ...], tuple[int, ...] | None]:
    """What a convolution reads with channels last, and its padding, when zeros that were put around it become part of it."""
    low, high = tuple(node.attrs["padding"]), node.attrs["padding_high"]
    narrowed = x.node if x.node is not None and x.node.op == "cast" and x.dtype.is_float else None
    pad = x.node if narrowed is None or narrowed.inputs[0] is None else narrowed.inputs[0].node
    if pad is None or pad.op != "pad" or pad.attrs["value"] != 0:
        return x, low, high
    before, behind = pad.attrs["low"], pad.attrs["high"]
    if not all(isinstance(a, int) and a >= 0 for a in (*before, *behind)):
        return x, low, high
    if any((before[0], before[-1], behind[0], behind[-1])):
        return x, low, high
    assert pad.inputs[0] is not None
    around = [
        tuple(a + p for a, p in zip(old, new[1:-1], strict=True)) for old, new in ((low, before), (high or low, behind))
    ]
    inner = pad.inputs[0]
    return inner if narrowed is None else b("cast", inner, dtype=x.dtype), around[0], around[1]


def _conv_transpose(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """A linear that gives every position its window, and the sum of the windows; groups: a convolution of spread-out x."""
    x, w, *rest = node.inputs
    assert x is not None and w is not None
    array = _filters(b, node, w)
    if array is None:
        return None
    bias = rest[0] if rest else None
    source, attrs = walk.last(b, x), node.attrs
    if attrs["groups"] != 1:
        y = _spread_conv(b, node, source, array, bias)
    else:
        taps = np.moveaxis(array, (0, 1), (-1, -2)).reshape(-1, array.shape[0])  # [taps * out, in]
        filters = b.constant(np.ascontiguousarray(taps), w.name, w.dtype)
        parts = b("linear", source, filters, out_dtype=DType.f32)
        windows = {name: attrs[name] for name in ("stride", "padding", "output_padding", "dilation")}
        y = b("fold", parts, kernel=tuple(array.shape[2:]), **windows)
        if bias is not None:
            y = b("add", y, bias if bias.dtype is DType.f32 else b("cast", bias, dtype=DType.f32))
        if y.dtype is not node.output.dtype:
            y = b("cast", y, dtype=node.output.dtype)
    return walk.second(b, y)


def _spread_conv(b: Builder, node: Node, x: Value, array: np.ndarray, bias: Value | None) -> Value:
    """A transposed convolution as the convolution of x with zeros between its elements and flipped filters."""
    attrs, groups, space = node.attrs, node.attrs["groups"], x.type.rank - 2
    for axis in range(1, space + 1):
        x = spread(b, x, axis, attrs["stride"][axis - 1])
    kernel = array.shape[2:]
    apart = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
    filters = np.moveaxis(apart, 2, 1).reshape(-1, array.shape[0] // groups, *kernel)
    filters = np.flip(filters, axis=tuple(range(2, 2 + space)))
    low, high = [], []
    for i in range(space):
        reach = attrs["dilation"][i] * (kernel[i] - 1) - attrs["padding"][i]
        low.append(reach)
        high.append(reach + attrs["output_padding"][i])
    if any(a < 0 for a in (*low, *high)):  # a convolution crops nothing
        x = b("pad", x, low=(0, *(min(a, 0) for a in low), 0), high=(0, *(min(a, 0) for a in high), 0), value=0.0)
    stem = node.inputs[1].name if node.inputs[1] is not None else "weight"
    weight = b.constant(
        np.ascontiguousarray(filters), stem, node.inputs[1].dtype if node.inputs[1] is not None else None
    )
    ones = (1,) * space
    return b(
        "conv", x, weight, bias, stride=ones, padding=tuple(max(a, 0) for a in low), dilation=attrs["dilation"],
        padding_high=tuple(max(a, 0) for a in high), groups=groups, channels_last=True, out_dtype=attrs["out_dtype"],
    )  # fmt: skip


def spread(b: Builder, x: Value, axis: int, stride: int) -> Value:
    """``x`` with ``stride - 1`` zeros between its elements along ``axis``."""
    if stride == 1:
        return x
    size, shape = x.shape[axis], list(x.shape)
    apart = b("reshape", x, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
    none = [0] * apart.type.rank
    more = [*none]
    more[axis + 1] = stride - 1
    wide = b("pad", apart, low=tuple(none), high=tuple(more), value=0.0)
    flat = b("reshape", wide, shape=(*shape[:axis], size * stride, *shape[axis + 1 :]))
    return b("slice", flat, axis=axis, start=0, end=size * stride - (stride - 1))


def _pool(walk: _Walk, b: Builder, node: Node) -> Value | None:
    x = node.inputs[0]
    assert x is not None
    if x.type.rank > 5:
        return None
    return walk.second(b, b(node.op, walk.last(b, x), **{**node.attrs, "channels_last": True}))


# -- what follows -------------------------------------------------------------------------------------------------------------
def _elementwise(walk: _Walk, b: Builder, node: Node) -> Value | None:
    rank = node.output.type.rank
    if not any(walk.follows(v) and v.type.rank == rank for v in node.operands):
        return None
    return walk.second(
        b, _again(b, node, [None if v is None else _broadcast_last(walk, b, v, rank) for v in node.inputs])
    )


def _broadcast_last(walk: _Walk, b: Builder, value: Value, rank: int) -> Value:
    """An operand that broadcasts to ``rank`` axes, with channels last."""
    if value.type.rank < rank and all(d == 1 for d in value.shape):
        return value
    if value.type.rank == rank:
        return walk.last(b, value)
    wide = b("reshape", value, shape=(*(1 for _ in range(rank - value.type.rank)), *value.shape))
    return b("transpose", wide, perm=to_last(rank))


def _again(b: Builder, node: Node, inputs: Sequence[Value | None], **changed: object) -> Value:
    return b(node.op, *inputs, **{**node.attrs, **changed})


def _concat(walk: _Walk, b: Builder, node: Node) -> Value | None:
    if not any(walk.follows(v) for v in node.operands):
        return None
    rank = node.output.type.rank
    parts = [walk.last(b, v) for v in node.operands]
    return walk.second(b, _again(b, node, parts, axis=_moved(node.attrs["axis"], rank)))


def _along(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """Ops with one ``axis`` whose result has the axes of x."""
    x = node.inputs[0]
    if not walk.follows(x) or (node.op == "gather" and node.inputs[1].type.rank != 1):  # type: ignore[union-attr]
        return None
    assert x is not None
    axis = _moved(node.attrs["axis"], x.type.rank)
    return walk.second(b, _again(b, node, [walk.last(b, x), *node.inputs[1:]], axis=axis))


def _arg_reduce(walk: _Walk, b: Builder, node: Node) -> Value | None:
    x = node.inputs[0]
    if not walk.follows(x):
        return None
    assert x is not None
    axis = _moved(node.attrs["axis"], x.type.rank)
    if node.attrs["keepdim"]:
        return walk.second(b, _again(b, node, [walk.last(b, x)], axis=axis))
    return _again(b, node, [walk.last(b, x)], axis=axis) if axis == x.type.rank - 1 else None


def _pad(walk: _Walk, b: Builder, node: Node) -> Value | None:
    x = node.inputs[0]
    if not walk.follows(x):
        return None
    assert x is not None
    order = to_last(x.type.rank)
    low, high = (tuple(node.attrs[name][a] for a in order) for name in ("low", "high"))
    return walk.second(b, _again(b, node, [walk.last(b, x)], low=low, high=high))


def _reshape(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """Axes of space are joined or split among themselves."""
    x, shape = node.inputs[0], node.output.shape
    if not walk.follows(x) or len(shape) < 3:
        return None
    assert x is not None
    if shape[:2] != x.shape[:2]:
        return None
    return walk.second(b, b("reshape", walk.last(b, x), shape=(shape[0], *shape[2:], shape[1])))


def _reduce(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """Means, sums and extremes over all of space are pools with one window; others reduce other axes."""
    x = node.inputs[0]
    if not walk.follows(x):
        return None
    assert x is not None
    rank = x.type.rank
    axes, source = sorted(a % rank for a in node.attrs["axes"]), walk.last(b, x)
    kinds = {"reduce_mean": "avg_pool", "reduce_sum": "avg_pool", "reduce_max": "max_pool"}
    if axes == list(range(2, rank)) and node.op in kinds and x.dtype in _KERNEL_TYPES:
        cells = product(x.shape[2:])
        flat = b("reshape", source, shape=(x.shape[0], cells, x.shape[1]))
        more = {"divisor": 1} if node.op == "reduce_sum" else {}
        y = b(kinds[node.op], flat, kernel=(cells,), stride=(1,), padding=(0,), channels_last=True, **more)
        return b("reshape", y, shape=node.output.shape)
    moved = tuple(sorted(_moved(a, rank) for a in axes))
    if node.attrs["keepdim"]:
        return walk.second(b, _again(b, node, [source], axes=moved))
    return _again(b, node, [source], axes=moved) if set(range(2, rank)) <= set(axes) or 1 in axes else None


def _batch_norm(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """One factor and one summand per channel."""
    x, weight, bias, mean, var = node.inputs
    if not walk.follows(x):
        return None
    assert x is not None and mean is not None and var is not None
    scale = b("rsqrt", b("add", var, b.full(node.attrs["eps"], var)))
    if weight is not None:
        scale = b("mul", scale, weight)
    shift = b("neg", b("mul", mean, scale))
    if bias is not None:
        shift = b("add", shift, bias)
    return walk.second(b, b("add", b("mul", walk.last(b, x), scale), shift))


def _group_norm(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """One factor and one summand per channel and batch element, from the statistics of its group."""
    x, *affine = node.inputs
    if not walk.follows(x):
        return None
    assert x is not None
    if x.dtype not in _KERNEL_TYPES or not all(isinstance(d, int) for d in x.shape[1:2]):
        return None
    source = walk.last(b, x)
    wide = [None if v is None else v if v.dtype is DType.f32 else b("cast", v, dtype=DType.f32) for v in affine]
    while wide and wide[-1] is None:
        wide.pop()
    stats = b.graph.insert(
        "group_stats", [source, *wide], {"groups": node.attrs["groups"], "eps": node.attrs["eps"]}, before=node,
        name=node.name, location=node.location, sources=node.sources,
    ).outputs  # fmt: skip
    y = source if source.dtype is DType.f32 else b("cast", source, dtype=DType.f32)
    y = b("add", b("mul", y, stats[0]), stats[1])
    return walk.second(b, y if y.dtype is x.dtype else b("cast", y, dtype=x.dtype))


def _linear(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """A constant matrix along the last axis of space, as resampling has it."""
    x, w, *rest = node.inputs
    if not walk.follows(x) or (rest and rest[0] is not None) or b.graph.array(w) is None:
        return None
    assert x is not None and w is not None
    source = walk.last(b, x)
    mixed = _interpolated(b, source, w, source.type.rank - 2, node.output.dtype)
    return walk.second(b, b("matmul", w, source, out_dtype=node.attrs["out_dtype"]) if mixed is None else mixed)


def _matmul(walk: _Walk, b: Builder, node: Node) -> Value | None:
    """A constant matrix along the last axis but one of space."""
    w, x = node.inputs
    if not walk.follows(x) or b.graph.array(w) is None or w.type.rank != 2 or x.type.rank < 4:  # type: ignore[union-attr]
        return None
    assert x is not None and w is not None
    source = walk.last(b, x)
    mixed = _interpolated(b, source, w, source.type.rank - 3, node.output.dtype)
    if mixed is not None:
        return walk.second(b, mixed)
    flat = b("reshape", source, shape=(*source.shape[:-2], source.shape[-2] * source.shape[-1]))
    y = b("matmul", w, flat, out_dtype=node.attrs["out_dtype"])
    shape: tuple[Dim, ...] = (*source.shape[:-3], w.shape[0], *source.shape[-2:])
    return walk.second(b, b("reshape", y, shape=shape))


def _interpolated(b: Builder, x: Value, matrix: Value, axis: int, dtype: DType) -> Value | None:
    """``matrix`` along ``axis`` of a channels-last ``x``, where every row of it mixes at most two neighbours: two lookups of
    whole rows, weighted. None where it mixes more."""
    array = b.graph.array(matrix)
    if array is None or array.dtype != np.float32 or x.dtype is not DType.f32 or dtype is not DType.f32:
        return None
    filled = array != 0
    if int(filled.sum(1).max(initial=0)) > 2 or not np.isfinite(array).all() or 0 in array.shape:
        return None
    first = filled.argmax(1)
    last = array.shape[1] - 1 - filled[:, ::-1].argmax(1)
    last = np.where(filled.any(1), last, first)
    rows = np.arange(array.shape[0])
    shape = (array.shape[0], *(1 for _ in range(x.type.rank - axis - 1)))
    terms = []
    for ids, weights in ((first, array[rows, first]), (last, np.where(last == first, 0, array[rows, last]))):
        picked = b("gather", x, b.constant(ids.astype(np.int64), f"{matrix.name}.ids"), axis=axis)
        factor = b.constant(weights.astype(np.float32).reshape(shape), f"{matrix.name}.weights")
        terms.append(b("mul", picked, factor))
    return b("add", *terms)


_OWN: dict[str, Rule] = {
    "conv": _conv,
    "qconv": _qconv,
    "conv_transpose": _conv_transpose,
    "max_pool": _pool,
    "avg_pool": _pool,
}
_FOLLOW: dict[str, Rule] = {
    "quantize": _quantize, "concat": _concat, "pad": _pad, "reshape": _reshape, "batch_norm": _batch_norm,
    "group_norm": _group_norm, "linear": _linear, "matmul": _matmul,
    **dict.fromkeys(("slice", "gather", "softmax", "log_softmax", "cumsum"), _along),
    **dict.fromkeys(("argmax", "argmin"), _arg_reduce), **dict.fromkeys(REDUCTIONS, _reduce),
}  # fmt: skip


@dataclass(frozen=True)
class ChannelsLast:
    """Give convolutions and pools their channels-last form, and let what stands between them follow."""

    name: ClassVar[str] = "channels-last"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        walk, changed = _Walk(graph, context), False
        for node in list(graph.nodes):
            if node.attrs.get("channels_last") or len(node.outputs) != 1:
                continue
            context.at(node)
            b = Builder(graph, node)
            own, follow = _OWN.get(node.op), _FOLLOW.get(node.op)
            if own is not None:
                new = _floats(walk, b, node, own)
            elif follow is not None:
                new = follow(walk, b, node)
            else:
                new = _elementwise(walk, b, node) if by_element(node) and node.operands else None
            if new is None:
                continue
            graph.replace(node.output, new)
            graph.erase(node)
            changed = True
        graph.sweep()
        return PassResult(changed)
