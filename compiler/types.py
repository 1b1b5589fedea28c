"""Element types and tensor types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from .dims import Dim, product

_Bool = bool  # inside DType, `bool` is a member


class DType(StrEnum):
    """An element type. ``bf16`` has no numpy type: its arrays are ``uint16`` holding the upper half of the float32.

    ``i4`` (-8 .. 7, quantised weights) has none either: its arrays are ``int8``; only the weights that kernels read hold two
    to a byte.
    """

    f64 = "f64"
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    i64 = "i64"
    i32 = "i32"
    i16 = "i16"
    i8 = "i8"
    i4 = "i4"
    u8 = "u8"
    bool = "bool"

    @property
    def size(self) -> int:
        """Bytes per element of an array; that of i4 is held in a byte."""
        return {"f64": 8, "i64": 8, "f32": 4, "i32": 4, "f16": 2, "bf16": 2, "i16": 2}.get(self.value, 1)

    @property
    def is_float(self) -> _Bool:
        return self in (DType.f64, DType.f32, DType.f16, DType.bf16)

    @property
    def is_integer(self) -> _Bool:
        return not self.is_float and self is not DType.bool

    @property
    def numpy(self) -> np.dtype:
        """The numpy type that holds it (``uint16`` for bf16, ``int8`` for i4)."""
        names = {"f64": "f8", "f32": "f4", "f16": "f2", "bf16": "u2", "i64": "i8", "i32": "i4", "i16": "i2"}
        return np.dtype({**names, "i8": "i1", "i4": "i1", "u8": "u1", "bool": "?"}[self.value])

    @staticmethod
    def of(array: np.ndarray) -> DType:
        """The element type of a numpy array (never bf16 or i4).

        Raises:
            TypeError: numpy type without a counterpart.
        """
        for dtype in DType:
            if dtype not in (DType.bf16, DType.i4) and dtype.numpy == array.dtype:
                return dtype
        raise TypeError(f"arrays of {array.dtype} are not supported")


#: Elements that are converted at a time.
_PIECE = 1 << 18

floats = frozenset(d for d in DType if d.is_float)


@dataclass(frozen=True)
class TensorType:
    """Element type and logical shape; ``layout`` names a blocking of the storage and is set by backends alone."""

    dtype: DType
    shape: tuple[Dim, ...]
    layout: str | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        return product(self.shape)

    @property
    def bytes(self) -> Dim:
        return self.elements * self.dtype.size

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    def with_shape(self, shape: Sequence[Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        shape = ", ".join(str(d) for d in self.shape)
        return f"{self.dtype.value}[{shape}]" + (f"@{self.layout}" if self.layout else "")


def float_to_bf16(array: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16 (nearest even; NaN stays NaN) as ``uint16``."""
    flat = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    result = np.empty(flat.shape, np.uint16)
    for start in range(0, flat.size, _PIECE):  # a table of embeddings would need several times its size in between
        part = flat[start : start + _PIECE]
        bits = part.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        result[start : start + _PIECE] = np.where(np.isnan(part), np.uint32(0x7FC0), rounded)
    return result.reshape(np.shape(array))


def bf16_to_float(array: np.ndarray) -> np.ndarray:
    """Widen bfloat16 bits (``uint16``) to float32."""
    return (np.ascontiguousarray(array).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(array))
