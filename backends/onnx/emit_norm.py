"""Emitters of normalisations and rotary embeddings. The 16-bit floats are computed in f32 and rounded once."""

from __future__ import annotations

from collections.abc import Sequence

from ...compiler.dims import Dim, bounds, product
from ...compiler.graph import Node, Value
from ...compiler.types import DType
from .calculation import Calculation
from .emit_elementwise import only_input
from .emit_reduce import reduce
from .emitter import Emitter, emits


def _optional(at: Emitter, node: Node, number: int, dtype: DType) -> str | None:
    """Operand ``number`` in ``dtype``; None where it is absent."""
    value = node.inputs[number] if len(node.inputs) > number else None
    return None if value is None else at.cast(at.name(value), dtype)


def _static(shape: Sequence[Dim]) -> tuple[int, ...] | None:
    sizes = tuple(d for d in shape if isinstance(d, int))
    return sizes if len(sizes) == len(shape) else None


def normalised(
    c: Calculation, x: str, axes: Sequence[int], eps: float, centred: bool = True, known: bool = False
) -> str:  # fmt: skip
    """``x`` less its mean (``centred``) over the root of its mean square, over axes.

    ``known``: the square is a power, by which providers that compile graphs know a norm again; ONNX Runtime does, too, and
    makes an operator of it whose ``eps`` and weights are f32, so it is for f32.
    """
    at = c.at
    if centred:
        x = c("Sub", x, reduce(at, "ReduceMean", x, c.dtype, axes, True))
    squares = c("Pow", x, 2.0) if known else c("Mul", x, x)
    square = reduce(at, "ReduceMean", squares, c.dtype, axes, True)
    return c("Div", x, c("Sqrt", c("Add", square, eps)))


@emits("layer_norm")
def _layer_norm(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    c = Calculation(at, at.wide(dtype))
    wide = at.cast(x, c.dtype)
    axes, eps = node.attrs["axes"], float(node.attrs["eps"])
    weight, bias = (_optional(at, node, i, c.dtype) for i in (1, 2))
    tail = node.operands[0].shape[node.operands[0].type.rank - axes :]
    if at.takes("layer-normalization", c.dtype.value) and (weight is not None or _static(tail) is not None):
        if weight is None:
            weight = at.filled(1.0, c.dtype, _static(tail) or ())
        result = at.op("LayerNormalization", [wide, weight, bias], axis=-axes, epsilon=eps, dtype=c.dtype)
        return at.cast(result, dtype)
    result = normalised(c, wide, range(-axes, 0), eps, known=dtype is DType.f32 and not at.mends)
    return at.cast(_affine(c, result, weight, bias), dtype)


def _affine(c: Calculation, x: str, weight: str | None, bias: str | None) -> str:
    x = x if weight is None else c("Mul", x, weight)
    return x if bias is None else c("Add", x, bias)


@emits("rms_norm")
def _rms_norm(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    c = Calculation(at, at.wide(dtype))
    wide, weight = at.cast(x, c.dtype), _optional(at, node, 1, c.dtype)
    eps = float(node.attrs["eps"])
    if at.opset >= 23 and weight is not None and at.takes("rms-normalization-23", c.dtype.value):
        return at.cast(at.op("RMSNormalization", [wide, weight], axis=-1, epsilon=eps, dtype=c.dtype), dtype)
    return at.cast(_affine(c, normalised(c, wide, [-1], eps, centred=False), weight, None), dtype)


@emits("group_norm")
def _group_norm(at: Emitter, node: Node) -> str:
    """Groups become rows: [batch, groups, the rest of each group]."""
    x, dtype = only_input(at, node)
    c = Calculation(at, at.wide(dtype))
    shape = node.operands[0].shape
    groups = node.attrs["groups"]
    channels = shape[1]
    length = (channels // groups) * product(shape[2:])
    rows = at.reshape(at.cast(x, c.dtype), (shape[0], groups, length), shape)
    filled = bounds(length, at.graph.bounds)[0] > 0  # ONNX Runtime's operator does not survive empty rows
    if filled and at.work(c.dtype, "InstanceNormalization") is c.dtype:
        ones, zeros = (at.filled(v, c.dtype, (groups,)) for v in (1.0, 0.0))
        rows = at.op("InstanceNormalization", [rows, ones, zeros], epsilon=float(node.attrs["eps"]), dtype=c.dtype)
    else:
        rows = normalised(c, rows, [-1], float(node.attrs["eps"]))
    weight, bias = (_per_channel(at, node, i, c.dtype, len(shape) - 2) for i in (1, 2))
    return at.cast(_affine(c, at.reshape(rows, shape, None), weight, bias), dtype)


def _per_channel(at: Emitter, node: Node, number: int, dtype: DType, space: int) -> str | None:
    """A vector over channels as [channels, 1, ...], with ``space`` ones."""
    name = _optional(at, node, number, dtype)
    if name is None or not space:
        return name
    value = node.inputs[number]
    assert value is not None
    return at.reshape(name, (*value.shape, *(1 for _ in range(space))), value.shape)


@emits("batch_norm")
def _batch_norm(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    c = Calculation(at, at.wide(dtype))
    mean, var = (node.inputs[i] for i in (3, 4))
    assert mean is not None and var is not None
    weight, bias = (
        _optional(at, node, i, c.dtype) or _every_channel(at, mean, number, c.dtype)
        for i, number in ((1, 1.0), (2, 0.0))
    )
    inputs = [at.cast(x, c.dtype), weight, bias, *(at.cast(at.name(v), c.dtype) for v in (mean, var))]
    return at.cast(at.op("BatchNormalization", inputs, epsilon=float(node.attrs["eps"]), dtype=c.dtype), dtype)


def _every_channel(at: Emitter, like: Value, number: float, dtype: DType) -> str:
    sizes = _static(like.shape)
    if sizes is not None:
        return at.filled(number, dtype, sizes)
    return at.op("ConstantOfShape", [at.dims(like.shape)], value=at.fill(number, dtype), dtype=dtype)


@emits("group_stats")
def _group_stats(at: Emitter, node: Node) -> tuple[str, str]:
    """In f64, as the reference, whose channels are last."""
    x, _ = only_input(at, node)
    shape, groups = node.operands[0].shape, node.attrs["groups"]
    c = Calculation(at, DType.f64)
    apart = at.reshape(at.cast(x, c.dtype), (shape[0], product(shape[1:-1]), groups, shape[-1] // groups))
    mean = reduce(at, "ReduceMean", apart, c.dtype, [1, 3], True)
    less = c("Sub", apart, mean)
    variance = reduce(at, "ReduceMean", c("Mul", less, less), c.dtype, [1, 3], True)
    factor = c("Reciprocal", c("Sqrt", c("Add", variance, float(node.attrs["eps"]))))
    wide = (shape[0], 1, groups, shape[-1] // groups)
    flat = (shape[0], *(1 for _ in shape[1:-1]), shape[-1])
    mean, factor = (at.reshape(at.op("Expand", [v, at.dims(wide)], dtype=c.dtype), flat) for v in (mean, factor))
    weight, bias = (_optional(at, node, i, c.dtype) for i in (1, 2))
    factor = factor if weight is None else c("Mul", factor, weight)
    shift = c("Neg", c("Mul", mean, factor))
    shift = shift if bias is None else c("Add", shift, bias)
    return at.cast(factor, DType.f32), at.cast(shift, DType.f32)


@emits("rotary")
def _rotary(at: Emitter, node: Node) -> str:
    """Slices, products and a join; with ``interleaved`` the pairs become an axis of their own."""
    x, dtype = only_input(at, node)
    value, table = node.operands[0], node.operands[1]
    c = Calculation(at, at.wide(dtype))
    wide, cos, sin = (at.cast(n, c.dtype) for n in (x, at.name(node.operands[1]), at.name(node.operands[2])))
    half, width, last = int(table.shape[-1]), int(value.shape[-1]), value.type.rank - 1  # type: ignore[arg-type]
    turned = cut(at, wide, last, 0, 2 * half) if 2 * half < width else wide
    if node.attrs["interleaved"]:
        pairs = at.reshape(turned, (*value.shape[:-1], half, 2), value.shape)
        first, second = (
            at.reshape(cut(at, pairs, last + 1, i, i + 1), (*value.shape[:-1], half), value.shape) for i in (0, 1)
        )
    else:
        first, second = (cut(at, turned, last, i * half, (i + 1) * half) for i in (0, 1))
    left = c("Sub", c("Mul", first, cos), c("Mul", second, sin))
    right = c("Add", c("Mul", second, cos), c("Mul", first, sin))
    if node.attrs["interleaved"]:
        columns = [at.reshape(v, (*value.shape[:-1], half, 1), value.shape) for v in (left, right)]
        parts = [
            at.reshape(
                at.op("Concat", columns, axis=last + 1, dtype=c.dtype), (*value.shape[:-1], 2 * half), value.shape
            )
        ]
    else:
        parts = [left, right]
    if 2 * half < width:
        parts.append(cut(at, wide, last, 2 * half, width))
    return at.cast(parts[0] if len(parts) == 1 else at.op("Concat", parts, axis=last, dtype=c.dtype), dtype)


def cut(at: Emitter, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
    """``x[start:end:step]`` along an axis."""
    steps = [at.ints(step)] if step != 1 else []
    return at.op("Slice", [x, at.ints(start), at.ints(end), at.ints(axis), *steps], dtype=at.dtype(x))
