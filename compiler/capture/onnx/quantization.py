"""Operators of quantised tensors in the standard: QDQ, QOperator, and products of integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .delegating import standard
from .importing import Importer
from .quantized_values import along, as_f32, dequantized, matrix_product, only_zeros, product, quantized, shaped
from .registry import MICROSOFT, op
from .types import dtype_of


@op("DequantizeLinear", since=10)
@op("DequantizeLinear", domain=MICROSOFT)
def dequantize_linear(
    at: Importer,
    q: Value,
    scale: Value,
    zero: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Value:
    return dequantized(at, q, scale, zero, axis, block_size, dtype_of(output_dtype) if output_dtype else None)


@op("QuantizeLinear", since=10)
@op("QuantizeLinear", domain=MICROSOFT)
def quantize_linear(
    at: Importer,
    x: Value,
    scale: Value,
    zero: Value | None = None,
    *,
    axis: int = 1,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
) -> Value:
    if zero is not None and zero in at.unsigned4:
        raise Unsupported("quantising to uint4")
    dtype = zero.dtype if zero is not None else dtype_of(output_dtype) if output_dtype else DType.u8
    return quantized(at, x, scale, zero, dtype, axis, block_size, dtype_of(precision) if precision else None)


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(at: Importer, x: Value) -> list[Value]:
    q, scale, zero = dynamically_quantized(at, x)
    return [q, scale, zero]


def dynamically_quantized(at: Importer, x: Value) -> tuple[Value, Value, Value]:
    """(u8 numbers, scale, zero point) of a float tensor, one range for all of it, which holds 0.

    Where there is nothing but zeros the scale is 1, as ONNX Runtime has it (the standard divides by zero).
    """
    zero = at.scalar(0.0, DType.f32)
    ends = [at.emit(name, _extreme(at, x, f"reduce_{name[:3]}"), zero) for name in ("minimum", "maximum")]
    step = at.emit("div", at.emit("sub", ends[1], ends[0]), at.scalar(255.0, DType.f32))
    scale = at.emit("where", at.emit("eq", step, zero), at.scalar(1.0, DType.f32), step)
    first = at.emit("sub", zero, at.emit("div", ends[0], scale))
    place = at.cast(at.emit("round", at.emit("clamp", first, min=0.0, max=255.0)), DType.u8)
    return at.emit("quantize", x, scale, place, dtype=DType.u8, division=True), scale, place


def _extreme(at: Importer, x: Value, reduce: str) -> Value:
    """The extreme of all elements: of each row first, which the rows' kernels do side by side."""
    if x.type.rank > 1:
        x = at.emit(reduce, x, axes=(x.type.rank - 1,), keepdim=False)
    return at.emit(reduce, x, axes=tuple(range(x.type.rank)), keepdim=False) if x.type.rank else x


# -- products of integers ----------------------------------------------------------------------------------------------------
def _less_zero(at: Importer, q: Value, zero: Value | None) -> Value:
    """``q - zero`` in i32; a constant stays one."""
    array, held = at.array(q), None if zero is None else at.array(zero)
    if array is not None and (zero is None or held is not None):
        less = array.astype(np.int32) - (0 if held is None else held.astype(np.int32))
        return at.constant(less, DType.i32, q.node.attrs["ref"] if q.node is not None else "weight")
    wide = at.cast(q, DType.i32)
    return wide if zero is None or only_zeros(at, zero) else at.emit("sub", wide, at.cast(zero, DType.i32))


@op("MatMulInteger", since=10)
def matmul_integer(at: Importer, a: Value, b: Value, a_zero: Value | None = None, b_zero: Value | None = None) -> Value:
    """Exact int32 sums."""
    if a_zero is not None and a_zero.type.rank == 1:  # one for each row
        a_zero = shaped(at, a_zero, () if a_zero.shape == (1,) else (*a_zero.shape, 1))
    if b_zero is not None and b_zero.shape == (1,):
        b_zero = shaped(at, b_zero, ())
    return matrix_product(at, _less_zero(at, a, a_zero), _less_zero(at, b, b_zero))


@op("ConvInteger", since=10)
def conv_integer(
    at: Importer, x: Value, w: Value, x_zero: Value | None = None, w_zero: Value | None = None, **attributes: Any
) -> Value:
    """Exact int32 sums, by way of f64, which holds all of them."""
    if w_zero is not None and w_zero.type.rank == 1:
        w_zero = along(at, w_zero, w, 0)
    if x_zero is not None and x_zero.type.rank == 1:
        x_zero = shaped(at, x_zero, ())
    filters = _less_zero(at, w, w_zero)
    array = at.array(filters)
    wide = at.cast(filters, DType.f64) if array is None else at.constant(array.astype(np.float64), DType.f64, "filters")
    return at.cast(standard(at, "Conv", at.cast(_less_zero(at, x, x_zero), DType.f64), wide, **attributes), DType.i32)


@op("QLinearMatMul", since=10)
def qlinear_matmul(
    at: Importer,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    y_scale: Value,
    y_zero: Value,
) -> Value:
    left = dequantized(at, a, a_scale, a_zero, axis=-2, dtype=DType.f32)
    return quantized(at, product(at, left, b, b_scale, b_zero), as_f32(at, y_scale), y_zero, axis=-2)


@op("QLinearConv", since=10)
def qlinear_conv(
    at: Importer,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    w: Value,
    w_scale: Value,
    w_zero: Value,
    y_scale: Value,
    y_zero: Value,
    bias: Value | None = None,
    **attributes: Any,
) -> Value:
    """The bias counts steps of ``x_scale * w_scale``."""
    filters = dequantized(at, w, w_scale, w_zero, axis=0)
    wide = None
    if bias is not None:
        one, other = at.array(x_scale), at.array(w_scale)
        if one is not None and other is not None:
            step = at.constant((one.reshape(()) * other.reshape(-1)).astype(np.float32), DType.f32, "bias.scale")
        else:
            step = at.emit("mul", shaped(at, x_scale, ()), w_scale)
        wide = dequantized(at, bias, step, None, axis=0)
    y = standard(at, "Conv", dequantized(at, x, x_scale, x_zero), filters, wide, **attributes)
    return quantized(at, y, y_scale, y_zero)
