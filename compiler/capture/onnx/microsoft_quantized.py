"""Quantised operators of ``com.microsoft``: products with int8, and what QOperator models compute between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...dims import product as product_of
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from . import microsoft_blocks, microsoft_decoders, microsoft_refused  # noqa: F401  (they register what they know)
from .delegating import standard
from .importing import Importer
from .microsoft import channels_last as to_last
from .microsoft import channels_second
from .microsoft_attention import attended
from .microsoft_norm import embedded
from .quantization import dynamically_quantized, qlinear_conv
from .quantized_values import dequantized, moved, product, quantized
from .registry import MICROSOFT, op


def _biased(at: Importer, y: Value, bias: Value | None) -> Value:
    return y if bias is None else at.emit("add", y, bias)


# -- products ----------------------------------------------------------------------------------------------------------------
@op("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(
    at: Importer, a: Value, b: Value, b_scale: Value, b_zero: Value | None = None, bias: Value | None = None
) -> Value:
    """a is rounded to u8 with one range for all of it."""
    left = at.emit("dequantize", *dynamically_quantized(at, a))
    return _biased(at, product(at, left, b, b_scale, b_zero), bias)


@op("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(
    at: Importer,
    a: Value,
    b: Value,
    a_scale: Value,
    b_scale: Value,
    a_zero: Value | None = None,
    b_zero: Value | None = None,
    bias: Value | None = None,
) -> Value:
    left = dequantized(at, a, a_scale, a_zero, axis=-2)
    return _biased(at, product(at, left, b, b_scale, b_zero), bias)


@op("QGemm", domain=MICROSOFT)
def qgemm(
    at: Importer,
    a: Value,
    a_scale: Value,
    a_zero: Value | None,
    b: Value,
    b_scale: Value,
    b_zero: Value | None,
    c: Value | None = None,
    y_scale: Value | None = None,
    y_zero: Value | None = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Value:
    """c counts steps of ``alpha * a_scale * b_scale``; the result is float where it has no scale."""
    x = dequantized(at, a, a_scale, a_zero)
    x = at.transpose(x, (1, 0)) if transA else x
    y = product(at, x, moved(at, b, (1, 0)) if transB else b, b_scale, b_zero)
    y = y if alpha == 1 else at.emit("mul", y, at.scalar(alpha, y.dtype))
    if c is not None:
        one, other = at.array(a_scale), at.array(b_scale)
        if one is None or other is None:
            raise Unsupported("scales that are computed at run time are not supported")
        step = (alpha * one.reshape(()) * other.reshape(-1)).astype(np.float32)
        y = at.emit("add", y, dequantized(at, c, at.constant(step, DType.f32, "step"), None, axis=-1))
    return y if y_scale is None else quantized(at, y, y_scale, y_zero)


@op("QLinearConv", domain=MICROSOFT)
def qlinear_conv_last(
    at: Importer, x: Value, *operands: Value | None, channels_last: int = 0, **attributes: Any
) -> Value:
    x = channels_second(at, x) if channels_last else x
    y = qlinear_conv(at, x, *operands, **attributes)  # type: ignore[arg-type]
    return to_last(at, y) if channels_last else y


@op("QAttention", domain=MICROSOFT)
def qattention(
    at: Importer,
    x: Value,
    weights: Value,
    bias: Value,
    x_scale: Value,
    w_scale: Value,
    mask: Value | None = None,
    x_zero: Value | None = None,
    w_zero: Value | None = None,
    past: Value | None = None,
    *,
    num_heads: int,
    past_present_share_buffer: int = 0,
    **attributes: Any,
) -> list[Any]:
    """Attention whose product with the weights of Q, K and V is of int8."""
    if past_present_share_buffer:
        raise Unsupported("a cache that is written in place is not supported")
    whole = product(at, dequantized(at, x, x_scale, x_zero), weights, w_scale, w_zero)
    return attended(at, at.emit("add", whole, bias), mask, past, None, heads=num_heads, **attributes)


# -- what stands between products: dequantised, computed in float, quantised again ---------------------------------------------
def _binary(name: str) -> Callable[..., Value]:
    def handler(
        at: Importer,
        a: Value,
        a_scale: Value,
        a_zero: Value | None,
        b: Value,
        b_scale: Value,
        b_zero: Value | None,
        y_scale: Value,
        y_zero: Value | None = None,
    ) -> Value:
        y = at.emit(name, dequantized(at, a, a_scale, a_zero), dequantized(at, b, b_scale, b_zero))
        return quantized(at, y, y_scale, y_zero, a.dtype)

    return handler


for _theirs, _ours in {"QLinearAdd": "add", "QLinearMul": "mul"}.items():
    op(_theirs, domain=MICROSOFT)(_binary(_ours))


def _around(
    at: Importer,
    compute: Callable[[Value], Value],
    x: Value,
    scale: Value,
    zero: Value | None,
    y_scale: Value,
    y_zero: Value | None,
    last: int = 0,
) -> Value:
    """``compute`` of what quantised numbers stand for, quantised again; ``last``: it wants channels second, they lie last."""
    wide = dequantized(at, x, scale, zero)
    y = to_last(at, compute(channels_second(at, wide))) if last else compute(wide)
    return quantized(at, y, y_scale, y_zero, x.dtype)


@op("QLinearSigmoid", domain=MICROSOFT)
def qlinear_sigmoid(
    at: Importer, x: Value, scale: Value, zero: Value | None, y_scale: Value, y_zero: Value | None = None
) -> Value:
    return _around(at, lambda v: at.emit("sigmoid", v), x, scale, zero, y_scale, y_zero)


@op("QLinearLeakyRelu", domain=MICROSOFT)
def qlinear_leaky_relu(
    at: Importer,
    x: Value,
    scale: Value,
    zero: Value | None,
    y_scale: Value,
    y_zero: Value | None = None,
    *,
    alpha: float = 0.01,
) -> Value:
    return _around(at, lambda v: at.emit("leaky_relu", v, slope=alpha), x, scale, zero, y_scale, y_zero)


@op("QLinearAveragePool", domain=MICROSOFT)
def qlinear_average_pool(
    at: Importer,
    x: Value,
    scale: Value,
    zero: Value | None,
    y_scale: Value,
    y_zero: Value | None = None,
    *,
    channels_last: int = 0,
    **attributes: Any,
) -> Value:
    return _around(
        at, lambda v: standard(at, "AveragePool", v, **attributes), x, scale, zero, y_scale, y_zero, channels_last
    )


@op("QLinearGlobalAveragePool", domain=MICROSOFT)
def qlinear_global_average_pool(
    at: Importer, x: Value, scale: Value, zero: Value, y_scale: Value, y_zero: Value, *, channels_last: int = 0
) -> Value:
    rank = x.type.rank
    axes = tuple(range(1, rank - 1) if channels_last else range(2, rank))
    return _around(at, lambda v: at.emit("reduce_mean", v, axes=axes, keepdim=True), x, scale, zero, y_scale, y_zero)


@op("QLinearReduceMean", domain=MICROSOFT)
def qlinear_reduce_mean(
    at: Importer,
    x: Value,
    scale: Value,
    zero: Value | None,
    y_scale: Value,
    y_zero: Value | None = None,
    *,
    axes: Sequence[int],
    keepdims: int,
) -> Value:
    places = tuple(axes) or tuple(range(x.type.rank))
    return _around(
        at, lambda v: at.emit("reduce_mean", v, axes=places, keepdim=bool(keepdims)), x, scale, zero, y_scale, y_zero
    )


@op("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(
    at: Importer,
    x: Value,
    scale: Value,
    zero: Value | None,
    y_scale: Value,
    y_zero: Value,
    *,
    opset: int,
    axis: int = -1,
) -> Value:
    """Before opset 13 softmax is over all axes from ``axis`` on."""

    def compute(v: Value) -> Value:
        if opset >= 13 or axis % v.type.rank == v.type.rank - 1:
            return at.emit("softmax", v, axis=axis)
        first = axis % v.type.rank
        flat = at.reshape(v, (*v.shape[:first], product_of(v.shape[first:])))
        return at.reshape(at.emit("softmax", flat, axis=-1), v.shape)

    return _around(at, compute, x, scale, zero, y_scale, y_zero)


@op("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(at: Importer, y_scale: Value, y_zero: Value, *operands: Value, axis: int) -> Value:
    """The operands are three for each part: numbers, scale and zero point."""
    thirds = [operands[i : i + 3] for i in range(0, len(operands), 3)]
    parts = [dequantized(at, x, scale, zero) for x, scale, zero in thirds]
    return quantized(at, at.emit("concat", *parts, axis=axis), y_scale, y_zero)


@op("QLinearWhere", domain=MICROSOFT)
def qlinear_where(
    at: Importer,
    condition: Value,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    y: Value,
    y_scale: Value,
    y_zero: Value,
    z_scale: Value,
    z_zero: Value,
) -> Value:
    chosen = at.emit("where", condition, dequantized(at, x, x_scale, x_zero), dequantized(at, y, y_scale, y_zero))
    return quantized(at, chosen, z_scale, z_zero)


@op("QEmbedLayerNormalization", domain=MICROSOFT)
def qembed_layer_norm(
    at: Importer,
    ids: Value,
    segment_ids: Value | None,
    words: Value,
    positions: Value,
    segments: Value | None,
    gamma: Value,
    beta: Value,
    mask: Value | None,
    word_scale: Value,
    position_scale: Value,
    segment_scale: Value | None,
    gamma_scale: Value,
    beta_scale: Value,
    word_zero: Value,
    position_zero: Value,
    segment_zero: Value | None,
    gamma_zero: Value,
    beta_zero: Value,
    *,
    epsilon: float = 1e-12,
) -> list[Any]:
    """Rows of int8 tables, looked up as they are."""
    looked_up = [
        dequantized(at, at.emit("embedding", words, ids), word_scale, word_zero),
        dequantized(at, at.slice(positions, 0, 0, ids.shape[1]), position_scale, position_zero),
    ]
    if segment_ids is not None and segments is not None and segment_scale is not None:
        looked_up.append(dequantized(at, at.emit("embedding", segments, segment_ids), segment_scale, segment_zero))
    weights = [dequantized(at, gamma, gamma_scale, gamma_zero), dequantized(at, beta, beta_scale, beta_zero)]
    return embedded(at, ids, looked_up, weights[0], weights[1], mask, epsilon)
