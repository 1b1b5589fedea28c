"""Which element types the installed CPU provider of ONNX Runtime has kernels for, found by opening models of one node."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from planish.backends.onnx.element_types import ONNX_TYPE
from planish.compiler.types import DType

#: Of f16 the provider says that it has everything, since it puts casts around it.
TYPES = tuple(DType(t) for t in ("f64", "f32", "i64", "i32", "i16", "i8", "u8", "bool"))
_TRUTH = {"Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal", "IsNaN", "IsInf"}
_BINARY = {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "PRelu", "BitwiseAnd", "BitwiseOr", "BitwiseXor",
           "LayerNormalization", "RMSNormalization"} | _TRUTH - {"IsNaN", "IsInf"}  # fmt: skip
_VECTORS = {"GroupNormalization": 2, "InstanceNormalization": 2, "BatchNormalization": 4}
_CONSTANTS: dict[str, tuple[Any, ...]] = {
    "Expand": ([3, 2, 4],), "Tile": ([2, 2],), "Pad": ([0, 1, 0, 1],), "TopK": ([2],), "CumSum": (1,),
    "Col2Im": ([4, 4], [2, 2]), **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin"), ([1],)),
}  # fmt: skip
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "GroupNormalization": {"num_groups": 2}, "MaxPool": {"kernel_shape": [2, 2]}, "AveragePool": {"kernel_shape": [2, 2]},
    "Einsum": {"equation": "ij,jk->ik"},
}  # fmt: skip


def _inputs(op: str, kind: int) -> list[tuple[int, list[int]]]:
    if op in _VECTORS:
        return [(kind, [2, 4, 3])] + [(kind, [4])] * _VECTORS[op]
    if op in ("Conv", "ConvTranspose"):
        return [(kind, [1, 2, 5, 5]), (kind, [2, 2, 3, 3])]
    if op in ("MatMul", "Gemm", "Einsum"):
        return [(kind, [2, 4]), (kind, [4, 2])]
    if op == "Where":
        return [(TensorProto.BOOL, [2, 4]), (kind, [2, 4]), (kind, [2, 4])]
    if op == "Range":
        return [(kind, [])] * 3
    if op in ("MaxPool", "AveragePool", "GlobalAveragePool"):
        return [(kind, [1, 2, 5, 5])]
    if op == "Col2Im":
        return [(kind, [1, 4, 9])]
    if op == "Clip":
        return [(kind, [2, 4]), (kind, [])]
    return [(kind, [2, 4])] * (2 if op in _BINARY else 1)


def opens(op: str, dtype: DType) -> bool:
    """Whether a model of this one op opens without being rewritten."""
    kind = ONNX_TYPE[dtype]
    inputs = [helper.make_tensor_value_info(f"x{i}", t, s) for i, (t, s) in enumerate(_inputs(op, kind))]
    constants = [numpy_helper.from_array(np.array(c, np.int64), f"c{i}") for i, c in enumerate(_CONSTANTS.get(op, ()))]
    result = TensorProto.BOOL if op in _TRUTH else TensorProto.INT64 if op.startswith("Arg") else kind
    outputs = [helper.make_tensor_value_info("y", result, None)]
    if op == "TopK":
        outputs.append(helper.make_tensor_value_info("places", TensorProto.INT64, None))
    names = [v.name for v in (*inputs, *constants)]
    node = helper.make_node(op, names, [o.name for o in outputs], **_ATTRIBUTES.get(op, {}))
    graph = helper.make_graph([node], "probe", inputs, outputs, constants)
    opset = 23 if op == "RMSNormalization" else 21
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # the types of ONNX Runtime's errors differ from release to release
        return False
    return True


@cache
def types(op: str) -> frozenset[DType]:
    """The element types in which a model of this one op opens."""
    return frozenset(d for d in TYPES if opens(op, d))
