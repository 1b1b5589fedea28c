"""Sessions: they run, they say who runs what in the names of the exported model, and strict ones refuse what runs elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.backends.onnx.assignment import (
    Origins,
    Placement,
    check_strict,
    misplaced,
    placements,
    shape_only,
    sources_of,
)  # fmt: skip
from planish.backends.onnx.providers import find_provider
from planish.backends.onnx.session import open_session
from planish.compiler.errors import LoweringError, UsageError
from planish.runtime.onnx_session import Assigned, as_array, as_value, first_line

CPU, OPENVINO = find_provider("cpu"), find_provider("openvino")


def _node(op: str, inputs: list[str], output: str, source: str = "") -> onnx.NodeProto:
    node = helper.make_node(op, inputs, [output], name=f"{source or 'main'}/{op}_{output}")
    if source:
        node.metadata_props.add(key="planish.sources", value=json.dumps([source]))
    return node


def _model(external: bool = False) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """``tanh(x @ w + b)``, reshaped by a computed shape; and the weights, as a matrix and as an external file."""
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((64, 64)).astype(np.float32), rng.standard_normal(64).astype(np.float32)
    tensors = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")]
    file = bytearray()
    for tensor in tensors if external else ():
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", len(file)), ("length", len(tensor.raw_data))):
            tensor.external_data.add(key=key, value=str(value))
        file += tensor.raw_data
        tensor.ClearField("raw_data")
    nodes = [
        _node("MatMul", ["x", "w"], "a", "layer"),
        _node("Add", ["a", "b"], "c", "layer"),
        _node("Tanh", ["c"], "d", "act"),
        _node("Shape", ["x"], "s"),
        _node("Concat", ["s", "one"], "t"),
        _node("Reshape", ["d", "t"], "y", "act"),
    ]
    nodes[4].attribute.append(helper.make_attribute("axis", 0))
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64, 1])],
        [*tensors, numpy_helper.from_array(np.array([1]), "one")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, np.concatenate([w, b[None]]), np.frombuffer(bytes(file), np.uint8)


@pytest.mark.parametrize("external", [False, True])
def test_a_session_runs_and_takes_weights_from_memory(external: bool) -> None:
    model, weights, file = _model(external)
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    with open_session(model.SerializeToString(), file if external else None, CPU) as session:
        (y,) = session.run({"x": x, "not an input": x})
    np.testing.assert_allclose(y[..., 0], np.tanh(x @ weights[:64] + weights[64]), atol=1e-5)


def test_the_assignment_is_in_the_names_that_were_exported() -> None:
    model, _, _ = _model()
    with open_session(model.SerializeToString(), None, CPU, strict=True) as session:
        assigned = session.assignment()
        by_name = {p.node: p for p in session.placements}
    assert set(assigned) <= {node.name for node in model.graph.node}
    assert assigned["layer/MatMul_a"] == assigned["act/Tanh_d"] == "CPUExecutionProvider"
    assert by_name["layer/MatMul_a"].sources == ("layer",)
    assert by_name["layer/Add_c"].provider == "", "ONNX Runtime merges it into the product"
    assert by_name["main/Concat_t"].shape_only and not by_name["act/Reshape_y"].shape_only


def test_a_missing_input_is_named() -> None:
    with open_session(_model()[0].SerializeToString(), None, CPU) as session, pytest.raises(UsageError, match="'x'"):
        session.run({})


def test_a_model_that_the_provider_refuses_is_told_in_a_sentence() -> None:
    model = _model()[0]
    model.graph.node[0].op_type = "MatMull"
    with pytest.raises(LoweringError, match=r"CPUExecutionProvider refuses the model: .*MatMull") as error:
        open_session(model.SerializeToString(), None, CPU)
    assert "\n" not in error.value.message and "ONNXRuntimeError" not in error.value.message
    with pytest.raises(LoweringError, match="refuses the model"):
        open_session(b"no model", None, CPU)


def test_a_provider_that_is_not_installed_is_not_replaced_by_the_cpu() -> None:
    with pytest.raises(UsageError, match="DmlExecutionProvider cannot run here") as error:
        open_session(_model()[0].SerializeToString(), None, find_provider("dml"))
    assert "onnxruntime-directml" in str(error.value.hint)


def test_profiles_and_the_running_graph_are_written_where_asked(tmp_path: Path) -> None:
    model = _model()[0]
    session = open_session(
        model.SerializeToString(), None, CPU, profile=tmp_path / "profile", optimized=tmp_path / "running.onnx"
    )
    session.run({"x": np.ones((2, 64), np.float32)})
    assert Path(session.end_profiling()).parent == tmp_path
    running = onnx.load(tmp_path / "running.onnx", load_external_data=False)
    kinds = {node.op_type for node in running.graph.node}
    assert "MatMul" not in kinds and any("Gemm" in kind for kind in kinds)


# -- names -----------------------------------------------------------------------------------------------------------------
def test_origins_by_name_and_between_tensors() -> None:
    model = _model()[0]
    origins = Origins(model.graph)
    assert origins.by_name("layer/MatMul_a") == "layer/MatMul_a"
    assert origins.by_name("layer/MatMul_a/MatMulAddFusion") == "layer/MatMul_a"
    assert origins.by_name("layer/MatMul_a_nchwc") == "layer/MatMul_a"
    assert origins.by_name("layer/MatMul_ab") is None and origins.by_name("") is None
    assert set(origins.between(["d"], {"x"})) == {"act/Tanh_d", "layer/Add_c", "layer/MatMul_a"}
    assert set(origins.between(["d"], {"x", "c"})) == {"act/Tanh_d"}
    assert origins.between(["of nobody"], set()) == []


def test_a_fused_name_begins_with_the_longest_exported_name() -> None:
    graph = helper.make_graph([], "g", [], [])
    for name in ("a/MatMul_1", "a/MatMul_1/b"):
        graph.node.append(helper.make_node("Relu", ["x"], [name], name=name))
    assert Origins(graph).by_name("a/MatMul_1/b/Fused") == "a/MatMul_1/b"


def test_sources_that_planish_did_not_write_are_none() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    assert sources_of(node) == ()
    node.metadata_props.add(key="planish.sources", value="{")
    assert sources_of(node) == ()


def test_shape_arithmetic_is_told_from_data() -> None:
    graph = _model()[0].graph
    assert shape_only(graph) == {"main/Shape_s", "main/Concat_t"}


def test_what_a_loop_reads_from_outside_counts() -> None:
    body = helper.make_graph(
        [helper.make_node("Mul", ["outer", "outer"], ["z"], name="inner")], "body", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["outer"], name="relu"),
         helper.make_node("If", ["flag"], ["y"], name="if", then_branch=body, else_branch=body)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])], [],
        [numpy_helper.from_array(np.array(True), "flag")],
    )  # fmt: skip
    assert shape_only(graph) == set()
    assert set(Origins(graph).between(["y"], set())) == {"if", "relu"}


# -- strict ----------------------------------------------------------------------------------------------------------------
def test_strict_names_each_node_on_the_wrong_provider() -> None:
    graph = _model()[0].graph
    assigned = [
        Assigned("layer/MatMul_a/MatMulAddFusion", "Gemm", OPENVINO.name),
        Assigned("act/Tanh_d", "Tanh", "CPUExecutionProvider", 1),
        Assigned("main/Shape_s", "Shape", "CPUExecutionProvider", 2),
        Assigned("made/up", "Cast", "CPUExecutionProvider", 3),
    ]
    found = placements(graph, assigned)
    assert [p.node for p in misplaced(found, OPENVINO)] == ["act/Tanh_d", "made/up"]
    with pytest.raises(
        LoweringError, match=r"does not take 2 nodes of the model: act/Tanh_d: Tanh \(act\) on CPU"
    ) as error:
        check_strict(found, OPENVINO)
    assert "--probe onnx:openvino" in str(error.value.hint)
    check_strict([p for p in found if p.node == "layer/MatMul_a"], OPENVINO)


def test_strict_does_not_list_without_end() -> None:
    many = [Placement(f"n{i}", "Relu", "CPUExecutionProvider") for i in range(40)]
    with pytest.raises(LoweringError, match=r"40 nodes.*n4: Relu on CPUExecutionProvider; and 35 more"):
        check_strict(many, OPENVINO)


# -- values ----------------------------------------------------------------------------------------------------------------
def test_bf16_goes_in_and_out_as_bits() -> None:
    bits = np.array([[0x3F80, 0x4000], [0xC0A0, 0x0000]], np.uint16)  # 1, 2, -5, 0
    value = as_value(bits, "bf16")
    assert value.data_type() == "tensor(bfloat16)"
    np.testing.assert_array_equal(as_array(value), bits)
    assert as_array(as_value(np.zeros((0, 3), np.uint16), "bf16")).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, np.bool_])
def test_other_types_go_in_and_out_as_they_are(dtype: type) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)[:, ::-1]
    found = as_array(as_value(array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : it is so.\nmore", "it is so"),
        (
            "[ONNXRuntimeError] : 6 : X : Exception during initialization: /onnxruntime/core/a.cc:12 void f(int) bad",
            "bad",
        ),
        ("", "ValueError"),
    ],
)
def test_errors_of_onnx_runtime_become_sentences(text: str, sentence: str) -> None:
    assert first_line(ValueError(text)) == sentence
