"""Quantised tensors of ONNX in the IR: ``quantize`` and ``dequantize`` with scales and zero points as the IR broadcasts them.

ONNX gives one scale for a tensor, one for each place along an axis, or one for each block of neighbours along an axis; the IR
broadcasts scales as numpy does, and has blocks along the last axis alone. Constants are put in form here, so that what reads
them still sees constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...dims import Dim
from ...graph import Value
from ...types import DType, bf16_to_float
from ..unsupported import Unsupported
from .importing import Importer

#: Element types that ``quantize`` gives.
QUANTISED = (DType.i8, DType.u8, DType.i16)


def as_f32(at: Importer, value: Value) -> Value:
    """``value`` in f32; a constant stays one."""
    if value.dtype is DType.f32:
        return value
    array = at.array(value)
    if array is None:
        return at.cast(value, DType.f32)
    wide = bf16_to_float(array) if value.dtype is DType.bf16 else array.astype(np.float32)
    return at.constant(wide, DType.f32, _name(value))


def shaped(at: Importer, value: Value, shape: Sequence[Dim]) -> Value:
    """``value`` in another shape; a constant stays one."""
    array = at.array(value)
    if array is None or value.shape == tuple(shape):
        return at.reshape(value, shape)
    return at.constant(array.reshape([d if isinstance(d, int) else -1 for d in shape]), value.dtype, _name(value))


def moved(at: Importer, value: Value, perm: Sequence[int]) -> Value:
    """``value`` with its axes in another order; a constant stays one."""
    array = at.array(value)
    if array is None or list(perm) == list(range(len(perm))):
        return at.transpose(value, perm)
    return at.constant(np.ascontiguousarray(array.transpose(perm)), value.dtype, _name(value))


def _name(value: Value) -> str:
    return str(value.node.attrs["ref"]) if value.node is not None and value.node.op == "constant" else value.name


def only_zeros(at: Importer, zero: Value | None) -> bool:
    """Whether a zero point is absent, or zero everywhere."""
    array = None if zero is None else at.array(zero)
    return zero is None or (array is not None and not array.any())


def along(at: Importer, value: Value, of: Value, axis: int) -> Value:
    """A scale or a zero point in a shape that broadcasts to ``of``: a number, or one for each place along ``axis``.

    Raises:
        Unsupported: it is neither.
    """
    if all(d == 1 for d in value.shape):
        return shaped(at, value, ())
    rank = of.type.rank
    if value.type.rank != 1 or not -rank <= axis < rank:
        raise Unsupported(f"a scale of shape {list(value.shape)} for axis {axis} of {of.type}")
    return shaped(at, value, [value.shape[0] if i == axis % rank else 1 for i in range(rank)])


def dequantized(
    at: Importer, q: Value, scale: Value, zero: Value | None, axis: int = 1, block: int = 0, dtype: DType | None = None
) -> Value:
    """What quantised numbers stand for, in the element type of the scale.

    Args:
        q: integers.
        scale, zero: one number, one for each place along ``axis``, or where ``block`` is not 0 a tensor of the rank of ``q`` with
            one for each ``block`` neighbours along it.
        axis: of ``q``.
        block: neighbours that share a scale; 0: none do.
        dtype: of the result; None: that of the scale.

    Raises:
        Unsupported: scales that do not fit.
    """
    dtype = dtype or scale.dtype
    parameters = [as_f32(at, scale)] if only_zeros(at, zero) else [as_f32(at, scale), zero]
    if block:
        result = _blocked(at, q, parameters, axis % q.type.rank, block)  # type: ignore[arg-type]
    else:
        placed = [along(at, p, q, axis) for p in parameters]  # type: ignore[arg-type]
        held, numbers = at.array(q), at.array(placed[0])
        if q.dtype is DType.i32 and held is not None and numbers is not None and len(placed) == 1:
            result = at.constant(held.astype(np.float32) * numbers, DType.f32, _name(q))  # a bias
        else:
            result = at.emit("dequantize", q, *placed)
    return at.cast(result, dtype)


def _blocked(at: Importer, q: Value, parameters: Sequence[Value], axis: int, block: int) -> Value:
    """Blocks lie along the last axis in the IR; another axis goes there and back."""
    rank, length = q.type.rank, q.shape[axis]
    if not isinstance(length, int) or length % block:
        raise Unsupported(f"blocks of {block} do not divide the {length} elements of axis {axis}")
    for p in parameters:
        if p.type.rank != rank or p.shape[axis] != length // block:
            raise Unsupported(f"scales {p.type} for blocks of {block} along axis {axis} of {q.type}")
    if block == 1:
        return at.emit("dequantize", q, *parameters)
    perm = [*(i for i in range(rank) if i != axis), axis]
    result = at.emit("dequantize", *(moved(at, v, perm) for v in (q, *parameters)))
    return at.transpose(result, np.argsort(perm).tolist())


def quantized(
    at: Importer,
    x: Value,
    scale: Value,
    zero: Value | None,
    dtype: DType | None = None,
    axis: int = 1,
    block: int = 0,
    precision: DType | None = None,
) -> Value:
    """``saturate(round(x / scale) + zero)``.

    Args:
        x: floats, or i32.
        scale, zero, axis, block: as of :func:`dequantized`.
        dtype: of the result; None: that of the zero point.
        precision: the element type to divide in; None: that of the scale.

    Raises:
        Unsupported: an element type, or scales that do not fit.
    """
    dtype = dtype or (DType.u8 if zero is None else zero.dtype)
    if dtype not in QUANTISED:
        raise Unsupported(f"quantising to {dtype}")
    if zero is None:  # said outright: i8 without one would leave out -128
        zero = at.constant(np.zeros((), dtype.numpy), dtype, "zero")
        placed = [_spread(at, scale, x, axis, block), zero]
    else:
        placed = [_spread(at, p, x, axis, block) for p in (scale, zero)]
    narrow = precision or scale.dtype
    if narrow in (DType.f16, DType.bf16):  # the quotient is rounded to it
        quotient = at.emit("div", at.cast(x, narrow), at.cast(placed[0], narrow))
        return at.emit("quantize", at.cast(quotient, DType.f32), at.scalar(1.0, DType.f32), placed[1], dtype=dtype)
    wide = at.cast(x, DType.f32)
    return at.emit("quantize", wide, as_f32(at, placed[0]), placed[1], dtype=dtype, division=True)


def _spread(at: Importer, value: Value, of: Value, axis: int, block: int) -> Value:
    """A scale or a zero point in a shape that broadcasts to ``of``; blocks become one for each element."""
    if not block:
        return along(at, value, of, axis)
    axis %= of.type.rank
    length = of.shape[axis]
    if not isinstance(length, int) or value.type.rank != of.type.rank or value.shape[axis] != -(-length // block):
        raise Unsupported(f"scales {value.type} for blocks of {block} along axis {axis} of {of.type}")
    groups = -(-length // block)
    array = at.array(value)
    if array is not None:
        cut = [slice(None)] * axis + [slice(0, length)]
        return at.constant(np.repeat(array, block, axis)[tuple(cut)], value.dtype, _name(value))
    outer, inner = value.shape[:axis], value.shape[axis + 1 :]
    wide = at.expand(at.reshape(value, (*outer, groups, 1, *inner)), (*outer, groups, block, *inner))
    return at.slice(at.reshape(wide, (*outer, groups * block, *inner)), axis, 0, length)


def product(at: Importer, a: Value, q: Value, scale: Value, zero: Value | None) -> Value:
    """``a @ dequantized(q)``, as a linear where ``q`` is a constant matrix.

    Args:
        a: floats ``[..., M, K]``.
        q: integers ``[..., K, N]``.
        scale, zero: one number, one for each column ``[N]``, or of the rank of ``q``.
    """
    array = at.array(q)
    if array is None or array.ndim != 2 or a.type.rank < 1:
        parameters = [v if v is None or v.type.rank > 1 else _columns(at, v) for v in (scale, zero)]
        weight = at.emit("dequantize", q, as_f32(at, parameters[0]), *([] if only_zeros(at, zero) else parameters[1:]))  # type: ignore[arg-type]
        return matrix_product(at, a, at.cast(weight, a.dtype))
    weight = moved(at, q, (1, 0))
    rows = [
        v if v is None else shaped(at, v, () if v.type.elements == 1 else (v.type.elements, 1)) for v in (scale, zero)
    ]
    w = at.emit("dequantize", weight, as_f32(at, rows[0]), *([] if only_zeros(at, zero) else rows[1:]))  # type: ignore[arg-type]
    return at.emit("linear", a, at.cast(w, a.dtype))


def _columns(at: Importer, value: Value) -> Value:
    return shaped(at, value, ()) if value.type.elements == 1 else value


def matrix_product(at: Importer, a: Value, b: Value) -> Value:
    """``a @ b`` as numpy has it: an operand of one axis is a row, or a column, that the result does not have."""
    row, column = a.type.rank == 1, b.type.rank == 1
    left = at.reshape(a, (1, *a.shape)) if row else a
    right = at.reshape(b, (*b.shape, 1)) if column else b
    y = at.emit("matmul", left, right)
    shape = list(y.shape)
    if column:
        del shape[-1]
    if row:
        del shape[-1 if column else -2]
    return at.reshape(y, shape)
