"""Examples made up from a graph, and those that a user gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

import planish
from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.capture.onnx.inputs import example_inputs, usual_sizes


def model(
    inputs: dict[str, tuple[int, list[object]]], nodes: list[object], tables: dict[str, np.ndarray] | None = None
) -> ModelProto:
    """A model whose only output is ``y``."""
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info(n, code, shape) for n, (code, shape) in inputs.items()],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a, n) for n, a in (tables or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


TABLE = np.arange(21, dtype=np.float32).reshape(7, 3)


def test_ids_lie_inside_the_table() -> None:
    """Ids, directly and moved by two, as positions are; a table of 7 rows leaves 5 for the latter."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["a"]),
        helper.make_node("Add", ["places", "two"], ["moved"]),
        helper.make_node("Gather", ["table", "moved"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    shape = (TensorProto.INT64, ["batch", "seq"])
    graph = capture_onnx(
        model({"ids": shape, "places": shape}, nodes, {"table": TABLE, "two": np.array(2, np.int64)})
    ).graph
    arrays, words = example_inputs(graph, usual_sizes(graph))
    assert arrays["ids"].shape == (1, 128)
    assert set(np.unique(arrays["ids"])) == set(range(7))
    assert set(np.unique(arrays["places"])) == set(range(5))
    assert words[0] == "ids [1, 128]: random ids from 0 to 6"


def test_what_looks_up_nothing() -> None:
    nodes = [
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["image"], ["i"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["flag"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["m", "i", "f", "x"], ["y"]),
    ]
    shape = ["batch", 50]
    graph = capture_onnx(
        model(
            {"mask": (TensorProto.INT64, shape), "image": (TensorProto.UINT8, shape), "flag": (TensorProto.BOOL, shape),
             "x": (TensorProto.FLOAT, shape)}, nodes,
        )
    ).graph  # fmt: skip
    arrays, _ = example_inputs(graph, {"batch": 40})
    assert (arrays["mask"] == 1).all()
    assert arrays["flag"].all()
    assert arrays["image"].max() > 200
    assert abs(arrays["x"].mean()) < 0.1
    assert abs(arrays["x"].std() - 1) < 0.1


def test_the_same_seed_gives_the_same_arrays() -> None:
    made = model({"x": (TensorProto.FLOAT, ["n", 4])}, [helper.make_node("Relu", ["x"], ["y"])])
    one, again, other = (capture_onnx(made, seed=s).examples["x"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("shape", "code", "sizes"),
    [
        (["N", 3, "H", "W"], TensorProto.FLOAT, [1, 3, 224, 224]),
        (["batch_size", "sequence_length"], TensorProto.INT64, [1, 128]),
        (["batch_size", "unk"], TensorProto.INT64, [1, 128]),
        (["batch", "features"], TensorProto.FLOAT, [1, 32]),
        (["batch", "past + 1"], TensorProto.FLOAT, [1, 129]),
    ],
)
def test_usual_sizes(shape: list[object], code: int, sizes: list[int]) -> None:
    captured = capture_onnx(model({"x": (code, shape)}, [helper.make_node("Neg", ["x"], ["y"])]))
    assert list(captured.examples["x"].shape) == sizes
    assert captured.made_up
    assert "made up" in captured.notes[-1]


def two() -> ModelProto:
    shape = (TensorProto.FLOAT, ["batch", 4])
    return model({"a": shape, "b": shape}, [helper.make_node("Add", ["a", "b"], ["y"])])


def test_examples_by_name_and_in_order() -> None:
    a, b = np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)
    for given in ({"b": b, "a": torch.from_numpy(a)}, [a, b]):
        captured = capture_onnx(two(), examples=given)
        assert not captured.made_up
        np.testing.assert_array_equal(captured.examples["a"], a)
        np.testing.assert_array_equal(captured.examples["b"], b)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": np.zeros((3, 4))}, "the example lacks the input 'b'"),
        ({"a": np.zeros((3, 4)), "b": np.zeros((3, 4)), "c": 1}, "the model has no input 'c'"),
        ({"a": np.zeros((3, 4)), "b": np.zeros((2, 4))}, r"'b' has shape \[2, 4\], where \[batch, 4\] is expected"),
        ({"a": np.zeros((3, 4)), "b": np.zeros(4)}, r"'b' has shape \[4\], where \[batch, 4\] is expected"),
        ({"a": np.zeros((9000, 4)), "b": np.zeros((9000, 4))}, "batch is 9000, outside of its bounds 1 to 4096"),
        ({"a": np.zeros((3, 4)), "b": np.full((3, 4), "x")}, "'b' holds <U1, where f32 is expected"),
        ([np.zeros((3, 4))], "the example has 1 inputs, and the model takes 2: a, b"),
    ],
)
def test_examples_that_do_not_fit(given: object, message: str) -> None:
    with pytest.raises(planish.UsageError, match=message):
        capture_onnx(two(), examples=given)  # type: ignore[arg-type]
