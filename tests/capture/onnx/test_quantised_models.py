"""Models that ONNX Runtime's own tools quantise: read, equal to ONNX Runtime, and run by int8 kernels of the CPU target."""

from __future__ import annotations

import collections
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_harness import load_program, optimised
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_single_ops import compare, run_onnxruntime, save
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from planish.backends.cpu import isa
from planish.backends.cpu.backend import BACKEND
from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.target import find_target

EXAMPLES = Path(__file__).parents[3] / "examples"
Feed = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # the tools advise preprocessing
    yield
    logging.disable(logging.NOTSET)


def model(nodes: list[Any], x: list[Any], y: list[Any], weights: dict[str, np.ndarray]) -> ModelProto:
    ports = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
    )
    held = [numpy_helper.from_array(a, name) for name, a in weights.items()]
    graph = helper.make_graph([helper.make_node(*n[:3], name=n[3], **n[4]) for n in nodes], "model", *ports, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def perceptron() -> ModelProto:
    rng = np.random.default_rng(0)
    weights = {"w1": rng.standard_normal((64, 96)), "b1": rng.standard_normal(96), "w2": rng.standard_normal((96, 32))}
    nodes = [
        ("MatMul", ["x", "w1"], ["a"], "/fc1/MatMul", {}), ("Add", ["a", "b1"], ["b"], "/fc1/Add", {}),
        ("Relu", ["b"], ["c"], "relu", {}), ("MatMul", ["c", "w2"], ["y"], "/fc2/MatMul", {}),
    ]  # fmt: skip
    return model(nodes, ["batch", 5, 64], ["batch", 5, 32], {k: v.astype(np.float32) for k, v in weights.items()})


def network() -> ModelProto:
    """Convolutions, a residual, pools and a Gemm."""
    rng = np.random.default_rng(1)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (10, 16), "b3": (10,)}
    weights = {k: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for k, s in shapes.items()}
    square = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        ("Conv", ["x", "w1", "b1"], ["a"], "c1", {**square, "strides": [2, 2]}), ("Relu", ["a"], ["b"], "r1", {}),
        ("MaxPool", ["b"], ["p"], "p1", {"kernel_shape": [2, 2]}), ("Conv", ["p", "w2", "b2"], ["c"], "c2", square),
        ("Add", ["c", "p"], ["d"], "sum", {}), ("Relu", ["d"], ["e"], "r2", {}),
        ("GlobalAveragePool", ["e"], ["f"], "pool", {}), ("Flatten", ["f"], ["g"], "flat", {}),
        ("Gemm", ["g", "w3", "b3"], ["y"], "fc", {"transB": 1}),
    ]  # fmt: skip
    return model(nodes, ["batch", 3, 17, 17], ["batch", 10], weights)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Inputs for calibration."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)


def normal(*shape: int) -> list[Feed]:
    return [{"x": np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(8)]


def on_cpu(graph: Graph, feed: Feed) -> tuple[list[np.ndarray], collections.Counter[str]]:
    """The results of the CPU target, and how many nodes of each kind it runs."""
    level = isa.detect()
    made = optimised(graph, level)
    ops = collections.Counter(n.op for node in made.nodes for n in (node, *(m for r in node.regions for m in r.nodes)))
    return list(load_program(BACKEND.lower(made, find_target(f"cpu:{level}")))(**feed).values()), ops


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic(tmp_path: Path, weights: QuantType, channels: bool) -> None:
    source, made = save(perceptron(), tmp_path / "m.onnx"), str(tmp_path / "q.onnx")
    quantize_dynamic(source, made, weight_type=weights, per_channel=channels)
    feed = normal(3, 5, 64)[0]
    want, graph = run_onnxruntime(made, feed), capture_onnx(made).graph
    compare(want, [np.asarray(v) for v in interpret(graph, feed)], 1e-5, 1e-4)
    got, ops = on_cpu(graph, feed)
    compare(want, got, 1e-5, 1e-4)
    assert ops["linear"] == ops["matmul"] == 0 and ops["qlinear"] >= 2


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("activations", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("which", ["perceptron", "network"])
def test_static(tmp_path: Path, which: str, form: QuantFormat, activations: QuantType, channels: bool) -> None:
    plain, shape = (perceptron(), (3, 5, 64)) if which == "perceptron" else (network(), (2, 3, 17, 17))
    source, made, feeds = save(plain, tmp_path / "m.onnx"), str(tmp_path / "q.onnx"), normal(*shape)
    quantize_static(source, made, Samples(feeds), quant_format=form, activation_type=activations, per_channel=channels)
    want, graph = run_onnxruntime(made, feeds[0]), capture_onnx(made).graph
    step = float(np.abs(want[0]).max()) / 100  # where a float sum meets a tie
    compare(want, [np.asarray(v) for v in interpret(graph, feeds[0])], 0, step)
    if channels:  # half of them are enough to build
        return
    got, ops = on_cpu(graph, feeds[0])
    compare(want, got, 0, step)
    assert ops["linear"] == ops["matmul"] == ops["conv"] == 0
    assert (ops["qlinear"], ops["qconv"]) == ((2, 0) if which == "perceptron" else (1, 2))


# -- the real MiniLM -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as both exporters of torch write it, and what ONNX Runtime's tools make of that."""
    sys.path.insert(0, str(EXAMPLES))
    import torch
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.transformers import optimizer

    try:
        from minilm import encoder, example_inputs

        network, example = encoder("eager"), example_inputs(2, 24)
    except Exception as error:  # the weights are a package of their own
        pytest.skip(f"no MiniLM: {error}")

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # type: ignore[no-any-return]

    folder = tmp_path_factory.mktemp("minilm")
    names, args = ["input_ids", "attention_mask"], (example["input_ids"], example["attention_mask"])
    axes = {n: {0: "batch", 1: "seq"} for n in names}
    common: dict[str, Any] = {"input_names": names, "output_names": ["y"]}
    torch.onnx.export(Encoder().eval(), args, str(folder / "script.onnx"), dynamo=False, opset_version=17,
                      dynamic_axes={**axes, "y": axes[names[0]]}, **common)  # fmt: skip
    torch.onnx.export(Encoder().eval(), args, str(folder / "dynamo.onnx"), dynamo=True, external_data=False,
                      dynamic_shapes=axes, **common)  # fmt: skip
    for name in ("script", "dynamo"):
        fused = optimizer.optimize_model(
            str(folder / f"{name}.onnx"), model_type="bert", num_heads=12, hidden_size=384, opt_level=0
        )
        fused.save_model_to_file(str(folder / f"{name}.fused.onnx"))
    plain = str(folder / "script.onnx")
    quantize_dynamic(plain, str(folder / "dynamic.onnx"), per_channel=True)
    quantize_dynamic(str(folder / "script.fused.onnx"), str(folder / "dynamic.fused.onnx"),
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})  # fmt: skip
    samples = [{k: v.numpy() for k, v in example.items()}]
    quantize_static(
        plain, str(folder / "static.onnx"), Samples(samples), per_channel=True, activation_type=QuantType.QUInt8
    )
    for symmetric in (True, False):
        quantizer = MatMulNBitsQuantizer(onnx.load(plain), block_size=32, is_symmetric=symmetric)
        quantizer.process()
        quantizer.model.save_model_to_file(str(folder / f"blocks.{symmetric}.onnx"))
    return folder


#: The file, how near it comes to ONNX Runtime (1 less the cosine), and the nodes of the CPU target.
MINILM = {
    "script": (1e-6, {"linear": 24, "attention": 6}), "dynamo": (1e-6, {"linear": 24, "attention": 6}),
    "script.fused": (1e-6, {"linear": 24, "attention": 6}), "dynamo.fused": (1e-6, {"linear": 24, "attention": 6}),
    # one range for a whole tensor: a value that is rounded to the other side of a tie moves many others
    "dynamic": (2e-2, {"qlinear": 24, "linear": 0, "attention": 6}),
    "dynamic.fused": (2e-2, {"qlinear": 24, "linear": 0, "attention": 6}),
    "static": (1e-3, {"qlinear": 36, "linear": 0}),
    "blocks.True": (1e-6, {"qlinear": 36, "attention": 6}), "blocks.False": (1e-6, {"qlinear": 36, "attention": 6}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MINILM)
def test_minilm(minilm: Path, name: str) -> None:
    from sentences import running_text

    feed = {k: v.astype(np.int64) for k, v in running_text(3, 17, seed=5, name="calibration").items()}
    feed["attention_mask"][1, 10:] = 0
    path, (apart, nodes) = str(minilm / f"{name}.onnx"), MINILM[name]
    graph = capture_onnx(path, dims={"seq": (1, 512)}).graph
    feed = {v.name: feed[v.name] for v in graph.inputs}
    (want,) = run_onnxruntime(path, feed)
    got, ops = on_cpu(graph, feed)
    for result in (np.asarray(interpret(graph, feed)[0]), got[0]):
        assert result.shape == want.shape
        cosine = float((result * want).sum(dtype=np.float64) / np.linalg.norm(result) / np.linalg.norm(want))
        assert 1 - cosine < apart
    assert {op: ops[op] for op in nodes} == nodes
