"""Models of one ONNX operator by ONNX Runtime, and by importer and interpreter: what tests of imported operators share.

case = Single("FastGelu", {"x": randn(2, 3, 8)}, shapes={"x": ("b", 3, 8)}, domain="com.microsoft")
case.check()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, helper, numpy_helper

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Single:
    """A model of one operator, or of several nodes.

    Attributes:
        op: the operator.
        inputs: operands in order by name; arrays, None for one that is absent.
        attributes: of the operator.
        constants: names of the operands that are initializers.
        shapes: by input, the sizes that the file states, names for those that vary; else they are those of the array.
        outputs: how many results; a string for each, empty where it is not wanted.
        domain: of the operator.
        opset: of the standard operators.
    """

    op: str
    inputs: Mapping[str, np.ndarray | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Sequence[str] = ()
    shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)
    domain: str = ""
    opset: int = 17

    @property
    def model(self) -> ModelProto:
        names = ["" if v is None else k for k, v in self.inputs.items()]
        node = helper.make_node(self.op, names, list(self.outputs), domain=self.domain, **self.attributes)
        ports, held = [], []
        for name, array in self.inputs.items():
            if array is None:
                continue
            if name in self.constants:
                held.append(numpy_helper.from_array(array, name))
                continue
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            ports.append(helper.make_tensor_value_info(name, kind, self.shapes.get(name, array.shape)))
        results = [onnx.ValueInfoProto(name=n) for n in self.outputs if n]
        graph = helper.make_graph([node], "single", ports, results, held)
        sets = [helper.make_opsetid("", self.opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=10)

    @property
    def feed(self) -> dict[str, np.ndarray]:
        return {k: v for k, v in self.inputs.items() if v is not None and k not in self.constants}

    def graph(self) -> Graph:
        """The model in the IR."""
        return capture_onnx(self.model).graph

    def expected(self) -> list[np.ndarray]:
        """What ONNX Runtime gives."""
        return run_onnxruntime(self.model, self.feed)

    def check(self, rtol: float = 1e-5, atol: float = 1e-5, steps: int = 0) -> Graph:
        """Compare the interpreter with ONNX Runtime.

        Args:
            rtol, atol: of floats.
            steps: by how much integers may differ.

        Returns:
            the graph.

        Raises:
            AssertionError: they differ.
        """
        graph = self.graph()
        got = [np.asarray(v) for v in interpret(graph, self.feed)]
        compare(self.expected(), got, rtol, atol, steps)
        return graph


def run_onnxruntime(model: ModelProto | str, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a model by ONNX Runtime's CPU provider, as the file stands: nothing is fused."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def compare(
    want: Sequence[np.ndarray], got: Sequence[np.ndarray], rtol: float = 1e-5, atol: float = 1e-5, steps: int = 0
) -> None:
    """Raise AssertionError where results differ, or where what is expected says nothing."""
    assert len(want) == len(got)
    for number, (a, b) in enumerate(zip(want, got, strict=True)):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), number
        if a.dtype.kind == "f":
            assert a.size < 2 or np.ptp(a.astype(np.float64)) > 0, "the expected result is constant"
            np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=str(number))
        else:
            apart = np.abs(a.astype(np.int64) - b.astype(np.int64))
            assert apart.max(initial=0) <= steps, f"result {number} differs by {apart.max()}"


def save(model: ModelProto, path: Any) -> str:
    """Write a model; returns the path as text."""
    onnx.save(model, str(path))
    return str(path)
