"""Weights in blocks, as ONNX Runtime's quantisers of language models write them: a few bits each, a scale for each block."""

from __future__ import annotations

import numpy as np

from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .quantized_values import as_f32
from .registry import MICROSOFT, op

#: The 16 numbers of the 4-bit floats of bitsandbytes (Dettmers et al. 2023): FP4 and NF4.
_CODES = (
    (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25,
     -0.0, -5.208333333e-03, -0.66666667, -1.0, -0.33333333, -0.5, -0.16666667, -0.25),
    (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)  # fmt: skip


def unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The unsigned numbers of ``bits`` bits in bytes, the lowest bits first, along the last axis; u8."""
    each = 8 // bits
    if each == 1:
        return packed.view(np.uint8)
    raw = packed.view(np.uint8)
    parts = [(raw >> (bits * i)) & ((1 << bits) - 1) for i in range(each)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], packed.shape[-1] * each)


@op("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(
    at: Importer,
    a: Value,
    b: Value,
    scales: Value,
    zeros: Value | None = None,
    g_idx: Value | None = None,
    bias: Value | None = None,
    *,
    K: int,
    N: int,
    block_size: int,
    bits: int = 4,
    accuracy_level: int = 0,
    weight_prepacked: int = 0,
) -> Value:
    """``a @ w.T``: w is ``[N, K]``, each row in blocks of ``block_size`` with one scale (and zero point) each.

    a is rounded to bf16 where the file allows that or less (``accuracy_level`` 3 and 4: bfloat16, int8): the form of
    planish's own w4a16.

    Raises:
        Unsupported: weights computed at run time, or laid out for one device.
    """
    if weight_prepacked or bits not in (2, 4, 8):
        raise Unsupported(f"weights of {bits} bits in a layout of their own are not supported")
    groups = -(-K // block_size)
    padded = groups * block_size
    q = unpacked(at.data(b, "the weight").reshape(N, -1), bits)[:, :padded].astype(np.int16)
    steps = at.data(as_f32(at, scales), "the scales").reshape(N, groups)
    middle = 1 << (bits - 1)
    values, zero = (q - middle).astype(np.int8), None
    if zeros is not None:
        zero = _zeros(at, zeros, N, groups, bits, middle)
    stem = str(b.node.attrs["ref"]) if b.node is not None else "weight"
    x = at.cast(a, DType.f32) if accuracy_level < 3 else at.cast(at.cast(a, DType.bf16), DType.f32)
    if g_idx is not None:
        order = np.argsort(at.data(g_idx, "the groups")[:K], kind="stable")
        counts = np.bincount(at.data(g_idx, "the groups")[:K], minlength=groups)
        if not (order == np.arange(K)).all():
            return _scattered(at, x, a.dtype, values, steps, zero, at.data(g_idx, "the groups"), bias, K, stem)
        if (counts[:-1] != block_size).any():
            return _scattered(at, x, a.dtype, values, steps, zero, at.data(g_idx, "the groups"), bias, K, stem)
    if padded != K:
        rank = a.type.rank
        x = at.emit("pad", x, low=(0,) * rank, high=(*(0,) * (rank - 1), padded - K), value=0.0)
        values = values.copy()
        values[:, K:] = 0
    parts = [
        at.constant(values, DType.i4 if bits < 8 else DType.i8, stem),
        at.constant(steps, DType.f32, f"{stem}.scale"),
    ]
    if zero is not None and zero.any():
        if zero.dtype.kind == "f":  # (q - z) s = q s - z s, block by block
            weight = (values - np.repeat(zero, block_size, 1)) * np.repeat(steps, block_size, 1)
            return _finish(
                at, at.emit("linear", x, at.constant(weight.astype(np.float32), DType.f32, stem)), bias, a.dtype
            )
        parts.append(at.constant(zero, DType.i8, f"{stem}.zero"))
    return _finish(at, at.emit("linear", x, at.emit("dequantize", *parts)), bias, a.dtype)


def _zeros(at: Importer, zeros: Value, rows: int, groups: int, bits: int, middle: int) -> np.ndarray:
    """Zero points ``[rows, groups]`` less the middle: i8, or f32 where the file has floats."""
    array = at.data(zeros, "the zero points")
    if zeros.dtype.is_float:
        return at.data(as_f32(at, zeros), "the zero points").reshape(rows, groups) - np.float32(middle)
    packed = array.reshape(rows, -1)
    return (unpacked(packed, bits)[:, :groups].astype(np.int16) - middle).astype(np.int8)


def _scattered(
    at: Importer,
    x: Value,
    dtype: DType,
    values: np.ndarray,
    steps: np.ndarray,
    zero: np.ndarray | None,
    group: np.ndarray,
    bias: Value | None,
    inputs: int,
    stem: str,
) -> Value:
    """Inputs whose groups lie scattered (GPTQ's order): the inputs of a group side by side where all are of one size."""
    size, groups = values.shape[1] // steps.shape[1], steps.shape[1]
    order = np.argsort(group[:inputs], kind="stable")
    whole = (np.bincount(group[:inputs], minlength=groups) == size).all()
    if not whole or (zero is not None and zero.dtype.kind == "f"):
        less = values[:, :inputs].astype(np.float32) - (0 if zero is None else zero[:, group[:inputs]])
        weight = (less * steps[:, group[:inputs]]).astype(np.float32)
        return _finish(at, at.emit("linear", x, at.constant(weight, DType.f32, stem)), bias, dtype)
    x = at.emit("gather", x, at.constant(order.astype(np.int64), DType.i64, f"{stem}.order"), axis=x.type.rank - 1)
    kind = DType.i4 if values.min() >= -8 and values.max() <= 7 else DType.i8
    parts = [
        at.constant(np.ascontiguousarray(values[:, order]), kind, stem),
        at.constant(steps, DType.f32, f"{stem}.scale"),
    ]
    if zero is not None and zero.any():
        parts.append(at.constant(zero, DType.i8, f"{stem}.zero"))
    return _finish(at, at.emit("linear", x, at.emit("dequantize", *parts)), bias, dtype)


def _finish(at: Importer, y: Value, bias: Value | None, dtype: DType) -> Value:
    y = at.cast(y, dtype)
    return y if bias is None else at.emit("add", y, bias)


@op("MatMulBnb4", domain=MICROSOFT)
def matmul_bnb4(
    at: Importer, a: Value, b: Value, absmax: Value, *, K: int, N: int, block_size: int, quant_type: int, transB: int = 1,
    training_mode: int = 0,
) -> Value:  # fmt: skip
    """4-bit floats in blocks over the flattened ``[N, K]``, the first of two in the upper half of a byte."""
    if quant_type not in (0, 1) or not transB:
        raise Unsupported(f"its type {quant_type} is not supported")
    packed = at.data(b, "the weight").reshape(-1).view(np.uint8)
    codes = np.stack([packed >> 4, packed & 15], -1).reshape(-1)[: N * K]
    table = np.array(_CODES[quant_type], np.float32)
    steps = np.repeat(at.data(as_f32(at, absmax), "the scales").reshape(-1), block_size)[: N * K]
    weight = (table[codes] * steps).reshape(N, K)
    stem = str(b.node.attrs["ref"]) if b.node is not None else "weight"
    y = at.emit("linear", at.cast(a, DType.f32), at.constant(weight, DType.f32, stem))
    return at.cast(y, a.dtype)


@op("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(
    at: Importer,
    data: Value,
    ids: Value,
    scales: Value,
    zeros: Value | None = None,
    *,
    gather_axis: int = 0,
    quantize_axis: int = 1,
    block_size: int = 128,
    bits: int = 4,
) -> Value:
    """Rows of a table in blocks of few bits, looked up with their scales.

    Raises:
        Unsupported: a table computed at run time, or blocks along another axis than the last.
    """
    table = at.data(data, "the table")
    rank = table.ndim
    if gather_axis % rank == rank - 1 or quantize_axis % rank != rank - 1:
        raise Unsupported("only blocks along the last axis, looked up along another one, are supported")
    held = None if zeros is None else at.data(zeros, "the zero points")
    unsigned = data.dtype is DType.u8
    if unsigned and not (bits == 4 and data in at.unsigned4):
        table = unpacked(table, bits)
        held = None if held is None else unpacked(held, bits)[..., : scales.shape[-1]]  # type: ignore[misc]
    middle = (1 << (bits - 1)) if unsigned else 0
    values = (table.astype(np.int16) - middle).astype(np.int8)
    if held is not None:
        held = (held.astype(np.int16) - middle).astype(np.int8)
    if values.shape[-1] % block_size and scales.shape[-1] != 1:
        raise Unsupported(f"blocks of {block_size} do not divide {values.shape[-1]}")
    stem = str(data.node.attrs["ref"]) if data.node is not None else "table"
    parts = [at.constant(values, DType.i8, stem), as_f32(at, scales)]
    if held is not None and held.any():
        parts.append(at.constant(held, DType.i8, f"{stem}.zero"))
    looked_up = [at.emit("gather", p, ids, axis=gather_axis % rank) for p in parts]
    return at.cast(at.emit("dequantize", *looked_up), scales.dtype)
