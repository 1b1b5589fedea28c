"""Graphs as ONNX models in a plain session of ONNX Runtime, beside the interpreter: the oracle of the emitters.

Nothing of planish runs the model: what an export writes is what a session reads, external weights at their offsets included.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from graph_harness import Env, Sketch, near

from planish.backends.onnx.lower import lower
from planish.backends.onnx.providers import find_provider
from planish.backends.onnx.unit import EXTERNAL_LOCATION, OnnxUnit
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.types import DType

PROVIDER = "CPUExecutionProvider"


def section(unit: OnnxUnit) -> bytes:
    """The weights of a unit as the file that its model names."""
    data = bytearray(unit.description["weights_bytes"])
    for entry, array in zip(unit.description["weights"], unit.weights, strict=True):
        raw = np.ascontiguousarray(np.asarray(array)).tobytes()
        assert len(raw) == entry["bytes"]
        assert entry["offset"] % 64 == 0
        data[entry["offset"] : entry["offset"] + len(raw)] = raw
    return bytes(data)


def whole_model(unit: OnnxUnit) -> onnx.ModelProto:
    """The model with its weights inside, read at the offsets that it names; checked with full shape inference."""
    model = onnx.ModelProto.FromString(unit.model)
    data = section(unit)
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {e.key: e.value for e in tensor.external_data}
        assert place["location"] == EXTERNAL_LOCATION
        start = int(place["offset"])
        tensor.raw_data = data[start : start + int(place["length"])]
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    onnx.checker.check_model(model, full_check=True)
    return model


class Session:
    """A graph, lowered and opened in ONNX Runtime's CPU provider.

    Args:
        graph: what is lowered.
        optimize: whether ONNX Runtime may rewrite the model.
        unit: what the graph was lowered to; None lowers it here.
        options: for ``lower``.
    """

    def __init__(
        self, graph: Graph, *, optimize: bool = True, unit: OnnxUnit | None = None, **options: Any
    ) -> None:  # fmt: skip
        self.graph = graph
        self.unit = unit or lower(graph, **{"provider": PROVIDER, "opset": 21, **options})
        self.model = whole_model(self.unit)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1
        settings.log_severity_level = 4
        found = find_provider(PROVIDER).settings_for(self.model.graph)
        for key, entry in found.config.items():
            settings.add_session_config_entry(key, entry)
        if not optimize:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = ort.InferenceSession(self.model.SerializeToString(), settings, providers=[PROVIDER])

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in order; bf16 as bits, which numpy has no type for."""
        binding, kept = self.session.io_binding(), []
        for value in self.graph.inputs:
            array = np.asarray(inputs[value.name], order="C")  # ascontiguousarray gives a scalar an axis
            tensor = (
                ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx.TensorProto.BFLOAT16)
                if value.dtype is DType.bf16
                else ort.OrtValue.ortvalue_from_numpy(array)
            )
            kept.append((array, tensor))
            binding.bind_ortvalue_input(value.name, tensor)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, "cpu")
        self.session.run_with_iobinding(binding)
        return [_array(value) for value in binding.get_outputs()]


def _array(value: Any) -> np.ndarray:
    if "bfloat16" not in value.data_type():
        return value.numpy()
    shape = tuple(value.shape())
    count = int(np.prod(shape))
    if not count:
        return np.zeros(shape, np.uint16)
    return np.frombuffer((ctypes.c_uint16 * count).from_address(value.data_ptr()), np.uint16).reshape(shape).copy()


def difference(
    session: Session, sketch: Sketch, env: Env, *, seed: int = 0, slack: float = 1.0, floor: float = 0.0
) -> str | None:
    """None if ONNX Runtime gives what the interpreter gives at these sizes, else the first difference."""
    inputs = sketch.inputs(env, seed)
    want, got = interpret(sketch.graph, inputs), session(inputs)
    rough: Sequence[DType | None] = sketch.rough or [None] * len(want)
    for i, (value, a, b) in enumerate(zip(sketch.graph.outputs, want, got, strict=True)):
        why = near(a, b, value.dtype, slack, rough[i], floor)
        if why is not None:
            return f"at {dict(env)}, output {i}: {why}"
    return None
