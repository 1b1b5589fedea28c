"""Element types in ONNX, and which of them ONNX Runtime has kernels for."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ...compiler.types import DType

ONNX_TYPE: dict[DType, int] = {
    DType.f64: TensorProto.DOUBLE, DType.f32: TensorProto.FLOAT, DType.f16: TensorProto.FLOAT16,
    DType.bf16: TensorProto.BFLOAT16, DType.i64: TensorProto.INT64, DType.i32: TensorProto.INT32,
    DType.i16: TensorProto.INT16, DType.i8: TensorProto.INT8, DType.i4: TensorProto.INT4, DType.u8: TensorProto.UINT8,
    DType.bool: TensorProto.BOOL,
}  # fmt: skip

_ALL = "f64 f32 i64 i32 i16 i8 u8"
#: Op -> the element types (f16 apart) that ONNX Runtime's CPU provider has kernels for, among ops that lack one. f16 has
#: hardly any: the provider puts casts around it, which is what :func:`work_type` does as well. ``tests`` hold the table against
#: the installed provider. An op that is not named has kernels for every type, bf16 included.
KERNELS: dict[str, frozenset[DType]] = {
    op: frozenset(DType(t) for t in types.split())
    for op, types in {
        **dict.fromkeys(("Neg",), "f64 f32 i64 i32 i16 i8"),
        **dict.fromkeys(("Abs", "Sign", "Add", "Sub", "Mul", "Div", "Mod", "Less", "Greater", "LessOrEqual",
                         "GreaterOrEqual"), _ALL),
        "Equal": f"{_ALL} bool",
        "Relu": "f64 f32 i32 i8",
        **dict.fromkeys(("Floor", "Ceil", "Round", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Tanh", "Sigmoid",
                         "Softmax", "LogSoftmax", "IsNaN", "IsInf", "LayerNormalization", "GroupNormalization",
                         "RMSNormalization", "BatchNormalization", "Gemm"), "f64 f32"),
        **dict.fromkeys(("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Erf", "Softplus", "Elu",
                         "LeakyRelu", "HardSwish", "HardSigmoid", "Mish", "Gelu", "PRelu", "InstanceNormalization", "Conv",
                         "ConvTranspose", "AveragePool", "GlobalAveragePool", "Col2Im"), "f32"),
        **dict.fromkeys(("BitwiseNot", "BitwiseAnd", "BitwiseOr", "BitwiseXor"), "i64 i32 i16 i8 u8"),
        **dict.fromkeys(("Pow", "MatMul", "ReduceSum", "ReduceMean", "ReduceProd", "CumSum", "Einsum"), "f64 f32 i64 i32"),
        **dict.fromkeys(("Max", "Min", "Clip"), "f64 f32 i64 i32 i8 u8"),
        "Where": "f64 f32 i64 i32 i8 u8",
        **dict.fromkeys(("ReduceMax", "ReduceMin"), "f64 f32 i64 i32 i8 u8 bool"),
        **dict.fromkeys(("ArgMax", "ArgMin"), "f64 f32 i64 i32 i8 u8"),
        "TopK": "f64 f32 i64 i32 i16 i8 u8",
        "MaxPool": "f64 f32 i8 u8",
        "Expand": f"{_ALL} bool",
        "Tile": f"{_ALL} bool",
        "Pad": "f64 f32 i64 i32 i8 u8 bool",
        "Range": "f64 f32 i64 i32 i16",
    }.items()
}  # fmt: skip

#: The types that hold every number of a type, nearest first.
_WIDER: dict[DType, tuple[DType, ...]] = {
    DType.f16: (DType.f32, DType.f64), DType.bf16: (DType.f32, DType.f64), DType.f32: (DType.f64,), DType.f64: (DType.f32,),
    DType.i8: (DType.i32, DType.i64, DType.f32), DType.u8: (DType.i32, DType.i64, DType.f32),
    DType.i16: (DType.i32, DType.i64, DType.f32), DType.i32: (DType.i64, DType.f64), DType.i64: (DType.f64,),
    DType.bool: (DType.u8, DType.i32),
}  # fmt: skip


def work_type(dtype: DType, ops: tuple[str, ...], half: bool = False) -> DType:
    """The element type in which ``ops`` are computed on data of ``dtype``: ``dtype`` itself where all of them have kernels
    for it, else the nearest that holds its numbers (f64 falls back to f32 where nothing computes in f64).

    Args:
        ops: ONNX ops of the standard domain.
        half: the provider computes in f16.
    """
    for candidate in (dtype, *_WIDER.get(dtype, ())):
        if all(candidate in KERNELS[op] or (half and candidate is DType.f16) for op in ops if op in KERNELS):
            return candidate
    return DType.f32


def pack_i4(array: np.ndarray) -> np.ndarray:
    """int8 numbers in -8 .. 7 as ONNX keeps INT4: two to a byte, the first in the low half; one axis, uint8."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & 15
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << 4)
