"""ATen ops that make tensors from nothing but sizes and numbers, and the triangles of a matrix."""

from __future__ import annotations

from typing import Any

from ..dims import Dim, Expr
from ..graph import Value
from ..types import DType
from .lowering import Lowering, Scalar, aten
from .symbols import Unsupported


def filled(b: Lowering, value: Value | Scalar, shape: tuple[Dim, ...], dtype: DType) -> Value:
    """One number everywhere."""
    if isinstance(value, Value):
        return b.expand(b.cast(value, dtype), shape)
    if isinstance(value, Expr):
        return b.expand(b.scalar(value, dtype), shape)
    number = bool(value) if dtype is DType.bool else (float(value) if dtype.is_float else int(value))
    if not shape:
        return b.scalar(number, dtype)
    return b.emit("full", value=number, shape=shape, dtype=dtype)


@aten("full", "new_full", "full_like")
def _full(b: Lowering, fill_value: Value | Scalar, **_: Any) -> Value:
    return filled(b, fill_value, b.out_shape, b.out_dtype)


@aten("zeros", "zeros_like", "new_zeros", "empty.memory_format", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
      "empty_permuted", "zero")  # fmt: skip
def _zeros(b: Lowering, **_: Any) -> Value:
    return filled(b, 0, b.out_shape, b.out_dtype)


@aten("ones", "ones_like", "new_ones")
def _ones(b: Lowering, **_: Any) -> Value:
    return filled(b, 1, b.out_shape, b.out_dtype)


@aten("scalar_tensor")
def _scalar_tensor(b: Lowering, s: Scalar, **_: Any) -> Value:
    return b.operand(s, b.out_dtype)


@aten("arange", "arange.start", "arange.start_step")
def _arange(b: Lowering, end: Scalar, start: Scalar = 0, step: Scalar = 1, **_: Any) -> Value:
    if any(isinstance(x, Value) for x in (start, end, step)):
        raise Unsupported("bounds that are computed as real numbers are not supported")
    dtype = b.out_dtype
    whole = all(isinstance(x, (int, Expr)) for x in (start, end, step))
    if whole and not isinstance(step, (int, float)):
        raise Unsupported("a step that varies is not supported")
    if whole:
        return b.cast(b.emit("arange", start=start, end=end, step=step, dtype=DType.i64), dtype)
    return b.emit("arange", start=start, end=end, step=step, dtype=dtype)


@aten("eye", "eye.m")
def _eye(b: Lowering, **_: Any) -> Value:
    rows, columns = b.out_shape
    same = b.emit("eq", *_grid(b, rows, columns))
    return b.cast(same, b.out_dtype)


def _grid(b: Lowering, rows: Dim, columns: Dim) -> tuple[Value, Value]:
    row = b.reshape(b.emit("arange", end=rows, dtype=DType.i64), (rows, 1))
    return row, b.reshape(b.emit("arange", end=columns, dtype=DType.i64), (1, columns))


@aten("tril", "triu")
def _triangle(b: Lowering, self: Value, diagonal: Dim) -> Value:
    row, column = _grid(b, *self.shape[-2:])
    if diagonal != 0:
        row = b.emit("add", row, b.scalar(diagonal, DType.i64))
    kept = b.emit("le" if "tril" in b.op else "ge", column, row)
    if self.dtype is DType.bool:
        return b.emit("logical_and", self, kept)
    return b.emit("where", kept, self, b.scalar(0, self.dtype))
