"""One operator in ONNX Runtime and, captured once for all sizes, in the interpreter: the oracle beside ONNX's own node tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, helper, numpy_helper

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret

Draw = Callable[[np.random.Generator, Sequence[int]], np.ndarray]


def normal(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Standard normal numbers in f32."""
    return rng.standard_normal(tuple(shape)).astype(np.float32)


@dataclass(frozen=True)
class Fed:
    """An input of the model: sizes (a name for one that varies) and how its data is drawn."""

    shape: tuple[int | str, ...]
    draw: Draw = normal

    def array(self, rng: np.random.Generator, sizes: Mapping[str, int]) -> np.ndarray:
        """Data at these sizes."""
        return np.asarray(self.draw(rng, [sizes[d] if isinstance(d, str) else d for d in self.shape]))


Operand = Fed | np.ndarray | None


def one_node(
    op: str, operands: Sequence[Operand], outputs: int | Sequence[bool], opset: int, attributes: Mapping[str, Any]
) -> ModelProto:
    """A model of one node; arrays are constants of it. ``outputs``: how many, or which of them are wanted."""
    wanted = [True] * outputs if isinstance(outputs, int) else list(outputs)
    names = ["" if o is None else f"in{i}" for i, o in enumerate(operands)]
    results = [f"out{i}" if w else "" for i, w in enumerate(wanted)]
    node = helper.make_node(op, names, results, name=op, **attributes)
    rng, fed, stored = np.random.default_rng(0), [], []
    for name, operand in zip(names, operands, strict=True):
        if isinstance(operand, Fed):
            dtype = operand.array(rng, {d: 4 for d in operand.shape if isinstance(d, str)}).dtype
            fed.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), operand.shape))
        elif operand is not None:
            stored.append(numpy_helper.from_array(np.asarray(operand), name))
    ports = [helper.make_empty_tensor_value_info(r) for r in results if r]
    graph = helper.make_graph([node], "net", fed, ports, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, opset + 3))


def against_runtime(
    op: str,
    *operands: Operand,
    sizes: Sequence[Mapping[str, int]] = ({},),
    outputs: int | Sequence[bool] = 1,
    opset: int = 17,
    rtol: float = 1e-4,
    atol: float = 1e-5,
    **attributes: Any,
) -> Graph:
    """Compare both at all ``sizes``, with the model captured once.

    Returns:
        what was captured.

    Raises:
        AssertionError: they differ.
    """
    model = one_node(op, operands, outputs, opset, attributes)
    graph = capture_onnx(model).graph
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for seed, here in enumerate(sizes):
        rng = np.random.default_rng(seed)
        feed = {f"in{i}": o.array(rng, here) for i, o in enumerate(operands) if isinstance(o, Fed)}
        want = session.run(None, feed)
        got = interpret(graph, {v.name: feed[v.name] for v in graph.inputs})
        assert len(want) == len(got)
        for a, b in zip(want, got, strict=True):
            assert a.dtype == b.dtype, f"{b.dtype} instead of {a.dtype}"
            np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=f"{op} at {dict(here)}")
    return graph


def ops_of(graph: Graph) -> list[str]:
    """The ops of a graph in order, constants apart."""
    return [n.op for n in graph.nodes if n.op != "constant"]
