"""Reductions, softmax, running sums and sorting of ONNX models against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of

from planish.compiler.capture.onnx.capture import NotFixed, capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

SIZES = [{"n": 1, "s": 5}, {"n": 3, "s": 2}]
X = Fed(("n", "s", 4))
REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp",
              "ReduceSumSquare"]  # fmt: skip


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def whole(low: int, high: int, dtype: Any) -> Any:
    return lambda rng, shape: rng.integers(low, high, tuple(shape)).astype(dtype)


def far(rng: np.random.Generator, shape: Any) -> np.ndarray:
    return (rng.standard_normal(tuple(shape)) * 300).astype(np.float32)


@pytest.mark.parametrize("axes", [(1,), (-1, 0), ()])
@pytest.mark.parametrize("op", REDUCTIONS)
def test_axes_as_a_tensor(op: str, axes: tuple[int, ...]) -> None:
    against_runtime(op, X, ids(*axes), sizes=SIZES, opset=18, keepdims=len(axes) % 2)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_axes_as_an_attribute(op: str) -> None:
    against_runtime(op, X, sizes=SIZES, opset=11, axes=[1], keepdims=0)
    against_runtime(op, X, sizes=SIZES, opset=11)


def test_no_axes_may_mean_none() -> None:
    graph = against_runtime("ReduceSum", X, ids(), sizes=SIZES, noop_with_empty_axes=1)
    assert ops_of(graph) == []
    graph = capture_onnx(one_node("ReduceSumSquare", [X, ids()], 1, 18, {"noop_with_empty_axes": 1})).graph
    assert ops_of(graph) == ["square"]  # what is done to each element is done


def test_logarithms_of_sums_do_not_overflow() -> None:
    against_runtime("ReduceLogSumExp", Fed(("n", 6), far), ids(1), sizes=SIZES, opset=18)


def test_mean_of_integers() -> None:
    against_runtime("ReduceMean", Fed((3, 4), whole(-9, 9, np.int32)), ids(1), opset=18)


@pytest.mark.parametrize(("op", "least"), [("ReduceMax", -(2**31)), ("ReduceMin", 2**31 - 1)])
def test_the_extreme_of_nothing(op: str, least: int) -> None:
    model = one_node(op, [Fed((2, 0), whole(0, 1, np.int32)), ids(1)], 1, 20, {"keepdims": 0})
    (got,) = interpret(capture_onnx(model).graph, [np.zeros((2, 0), np.int32)])
    assert got.tolist() == [least, least]


def test_axes_that_are_computed_are_to_be_fixed() -> None:
    model = one_node("ReduceSum", [X, Fed((1,), whole(0, 1, np.int64))], 1, 18, {})
    with pytest.raises(NotFixed, match="the axes depends on the data") as caught:
        capture_onnx(model)
    assert caught.value.fixes == ("in1",)
    graph = capture_onnx(model, fixed={"in1": [2]}).graph
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(interpret(graph, [x])[0], x.sum(2, keepdims=True), rtol=1e-5)


def test_an_axis_that_is_not_there() -> None:
    model = one_node("ArgMax", [Fed(("n", 4))], 1, 17, {"axis": 0})
    model.graph.node[0].attribute[0].i = 5
    with pytest.raises(CaptureError, match="axis"):
        capture_onnx(model)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places_of_extremes(op: str, last: int) -> None:
    ties = Fed(("n", "s", 6), whole(0, 3, np.int32))
    against_runtime(op, ties, sizes=SIZES, axis=2, keepdims=0, select_last_index=last)
    against_runtime(op, ties, sizes=SIZES, axis=-2, select_last_index=last)


# -- softmax ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_along_an_axis(op: str, axis: int) -> None:
    graph = against_runtime(op, X, sizes=SIZES, opset=13, axis=axis)
    assert op == "Hardmax" or len(ops_of(graph)) == 1


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_over_all_later_axes(op: str, axis: int) -> None:
    against_runtime(op, X, sizes=SIZES, opset=11, axis=axis)


# -- order --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_running_sums(exclusive: int, reverse: int) -> None:
    against_runtime("CumSum", X, ids(1), sizes=SIZES, exclusive=exclusive, reverse=reverse)
    against_runtime(
        "CumSum", Fed(("n", 4), whole(-9, 9, np.int32)), np.array(-1, np.int64), sizes=SIZES, exclusive=exclusive, reverse=reverse
    )  # fmt: skip


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest: int) -> None:
    against_runtime("TopK", Fed(("n", 7)), ids(3), sizes=SIZES, outputs=2, largest=largest)
    against_runtime(
        "TopK", Fed((7, "s"), whole(0, 4, np.int64)), ids(5), sizes=SIZES, outputs=2, largest=largest, axis=0
    )
