"""Small ONNX units, put together by hand: what the tests of artifacts, the runtime and the export share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from planish.compiler.artifact import OnnxPart, Package, UnitPart

LOCATION = "weights.bin"
CPU = {
    "provider": "CPUExecutionProvider", "package": "onnxruntime", "plugin": "", "least": "1.20", "optimize": True, "config": {},
    "options": {},
}  # fmt: skip
ABSENT = {**CPU, "provider": "NPUExecutionProvider", "package": "onnxruntime-npu"}
TYPES = {"f32": TensorProto.FLOAT, "bf16": TensorProto.BFLOAT16, "i64": TensorProto.INT64, "f16": TensorProto.FLOAT16}

W = np.arange(512, dtype=np.float32).reshape(8, 64) / 512
B = np.linspace(-1, 1, 64, dtype=np.float32)


def external(name: str, array: np.ndarray, offset: int) -> TensorProto:
    """An initializer whose data lies at ``offset`` of the unit's weights."""
    tensor = TensorProto(
        name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )  # fmt: skip
    for key, value in (("location", LOCATION), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def serialised(nodes: Sequence[Any], inputs: Any, outputs: Any, initializers: Sequence[TensorProto] = ()) -> bytes:
    """A model of opset 20; ports as (name, type, shape)."""
    ports = [
        [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name, dtype, shape in part] for part in (inputs, outputs)
    ]  # fmt: skip
    graph = helper.make_graph(list(nodes), "main", *ports, list(initializers))
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def described(
    inputs: Any, outputs: Any, symbols: Any, weights: Sequence[tuple[str, np.ndarray, int]] = ()
) -> dict[str, Any]:
    """What a unit says of itself."""
    return {
        "isa": "CPUExecutionProvider",
        "symbols": [{"name": n, "min": low, "max": high} for n, (low, high) in symbols.items()],
        "inputs": [{"name": n, "dtype": d, "shape": [str(s) for s in shape]} for n, d, shape in inputs],
        "outputs": [{"name": n, "dtype": d, "shape": [str(s) for s in shape]} for n, d, shape in outputs],
        "states": [],
        "weights_bytes": max((offset + array.nbytes for _, array, offset in weights), default=0),
        "weights": [
            {"name": n, "offset": o, "bytes": a.nbytes, "dtype": str(a.dtype), "shape": list(a.shape), "gathered": False}
            for n, a, o in weights
        ],
        "launches": [
            {
                "label": "dense", "kernel": "linear", "digest": "0", "precision": "f32", "sources": ["dense"],
                "flops": "1024*batch", "bytes": "288*batch + 2048",
            }
        ] if "batch" in symbols else [],
    }  # fmt: skip


INPUTS, OUTPUTS = [("x", "f32", ["batch", 8])], [("y", "f32", ["batch", 64])]
BATCH = {"batch": (1, 16)}


def dense_part(name: str = "onnx-cpu", session: Any = CPU, w: np.ndarray = W, **changes: Any) -> OnnxPart:
    """``y = relu(x @ w + b)``, x f32[batch, 8], with w (external) and b (in the model)."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="dense/MatMul_0"),
        helper.make_node("Add", ["m", "b"], ["a"], name="dense/Add_1"),
        helper.make_node("Relu", ["a"], ["y"], name="act/Relu_0"),
    ]
    initializers = [external("w", w, 64), helper.make_tensor("b", TensorProto.FLOAT, [64], B)]
    given: dict[str, Any] = {
        "name": name,
        "binary": serialised(nodes, INPUTS, OUTPUTS, initializers),
        "source": "the model",
        "description": described(INPUTS, OUTPUTS, BATCH, [("first", np.zeros(3, np.int8), 0), ("w", w, 64)]),
        "weights": [np.zeros(3, np.int8), w],
        "session": session,
        "target": f"onnx:{session['provider']}",
        **changes,
    }
    return OnnxPart(**given)


def dense(x: np.ndarray, w: np.ndarray = W) -> np.ndarray:
    """The same in numpy."""
    return np.maximum(x @ w + B, 0)


def part_of(nodes: Any, inputs: Any, outputs: Any, symbols: Any = {}, initializers: Any = ()) -> OnnxPart:  # noqa: B006
    """A part without external weights."""
    return OnnxPart(
        name="onnx-cpu", binary=serialised(nodes, inputs, outputs, initializers), source="",
        description=described(inputs, outputs, symbols), weights=[], session=CPU, target="onnx:CPUExecutionProvider",
    )  # fmt: skip


def onnx_package(*units: UnitPart, **changes: Any) -> Package:
    """A package; outputs come back in a dict of their names."""
    parts = list(units) or [dense_part()]
    names = [port["name"] for port in parts[0].description["outputs"]]
    items = [{"kind": "tensor", "index": i} for i in range(len(names))]
    given: dict[str, Any] = {
        "name": "test", "units": parts, "hosts": [], "structure": {"kind": "dict", "keys": names, "items": items}, **changes,
    }  # fmt: skip
    return Package(**given)


def save_onnx(folder: Path, *units: UnitPart, **changes: Any) -> Path:
    """Written to ``folder``."""
    path = folder / "model.planish"
    onnx_package(*units, **changes).save(path)
    return path
