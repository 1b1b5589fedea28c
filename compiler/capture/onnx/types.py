"""Element types and arrays of ONNX as the IR has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ...errors import CaptureError
from ...types import DType
from ..unsupported import Unsupported

#: ONNX element type -> ours.
DTYPES = {
    TensorProto.FLOAT: DType.f32, TensorProto.DOUBLE: DType.f64, TensorProto.FLOAT16: DType.f16,
    TensorProto.BFLOAT16: DType.bf16, TensorProto.INT64: DType.i64, TensorProto.INT32: DType.i32,
    TensorProto.INT16: DType.i16, TensorProto.INT8: DType.i8, TensorProto.UINT8: DType.u8, TensorProto.BOOL: DType.bool,
    TensorProto.INT4: DType.i4,
}  # fmt: skip
ELEMENT_TYPES = {dtype: code for code, dtype in DTYPES.items()}


def dtype_of(code: int) -> DType:
    """Our element type for ONNX's.

    Raises:
        Unsupported: there is none.
    """
    try:
        return DTYPES[code]
    except KeyError:
        raise Unsupported(f"the element type {type_name(code)}") from None


def type_name(code: int) -> str:
    """ONNX's own name of an element type, lower case."""
    try:
        return str(TensorProto.DataType.Name(code)).lower()
    except ValueError:
        return f"number {code}"


def array_of(tensor: onnx.TensorProto) -> tuple[np.ndarray, DType]:
    """The data of a tensor that holds it, and its element type; bf16 as ``uint16`` bits, i4 as ``int8``, uint4 as u8.

    Raises:
        Unsupported: no counterpart for the element type.
        CaptureError: the data does not fit the shape.
    """
    dtype = DType.u8 if tensor.data_type == TensorProto.UINT4 else dtype_of(tensor.data_type)
    try:
        return plain(numpy_helper.to_array(tensor), dtype), dtype
    except (ValueError, TypeError) as error:
        raise CaptureError(f"the tensor {tensor.name!r} of the ONNX model is damaged: {error}") from error


def plain(array: Any, dtype: DType) -> np.ndarray:
    """An array in the numpy type that the IR keeps elements of ``dtype`` in."""
    array = np.asarray(array)
    if dtype is DType.bf16 and array.dtype.itemsize == 2:
        return array.view(np.uint16)
    return array.astype(dtype.numpy, copy=False)


def tensor_of(array: np.ndarray, dtype: DType, name: str) -> onnx.TensorProto:
    """A tensor of ONNX that holds an array of ours."""
    return onnx.helper.make_tensor(
        name, ELEMENT_TYPES[dtype], array.shape, np.ascontiguousarray(array).tobytes(), raw=True
    )
