"""If, Loop, Scan, sequences and optionals: folded, selected or unrolled, with the results that ONNX Runtime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from planish.compiler.capture.captured import Captured
from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

F, INT, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def port(name: str, code: int = F, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, code, shape)


def graph(
    nodes: list[NodeProto], inputs: list[Any], outputs: list[Any], stored: dict[str, Any] | None = None
) -> GraphProto:
    arrays = [numpy_helper.from_array(np.asarray(a), n) for n, a in (stored or {}).items()]
    return helper.make_graph(nodes, "g", inputs, outputs, arrays)


def model(
    nodes: list[NodeProto], inputs: list[Any], outputs: list[str], stored: dict[str, Any] | None = None
) -> ModelProto:
    made = graph(nodes, inputs, [helper.make_empty_tensor_value_info(o) for o in outputs], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def truth(proto: ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return [np.asarray(a) for a in session.run(None, feed)]


def check(proto: ModelProto, *feeds: dict[str, np.ndarray], fixed: dict[str, Any] | None = None) -> Captured:
    """The graph gives what ONNX Runtime does."""
    captured = capture_onnx(proto, fixed=fixed)
    for feed in feeds:
        expected = truth(proto, {**feed, **{n: np.asarray(v) for n, v in (fixed or {}).items()}})
        got = interpret(captured.graph, feed)
        for a, b in zip(expected, got, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
    return captured


def ops(captured: Captured) -> list[str]:
    return [n.op for n in captured.graph.nodes if n.op != "constant"]


X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
DOUBLE = graph([node("Add", ["x", "x"], ["t"])], [], [port("t")])
NEGATE = graph([node("Neg", ["x"], ["e"])], [], [port("e")])


# -- If --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("verdict", [True, False])
def test_a_condition_that_is_known(verdict: bool) -> None:
    branching = node("If", ["c"], ["y"], then_branch=DOUBLE, else_branch=NEGATE)
    proto = model([branching], [port("x", F, ["n", 4])], ["y"], {"c": np.array(verdict)})
    assert ops(check(proto, {"x": X})) == ["add" if verdict else "neg"]


def test_a_condition_on_a_size_that_is_known() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["d"]),
        node("Equal", ["d", "four"], ["c"]),
        node("If", ["c"], ["y"], then_branch=DOUBLE, else_branch=NEGATE),
    ]
    proto = model(nodes, [port("x", F, ["n", 4])], ["y"], {"one": np.array(1), "four": np.array(4)})
    assert ops(check(proto, {"x": X})) == ["add"]


@pytest.mark.parametrize("shape", [[], [1]])
def test_a_condition_from_the_data_selects(shape: list[int]) -> None:
    proto = model(
        [node("If", ["c"], ["y"], then_branch=DOUBLE, else_branch=NEGATE)],
        [port("x", F, ["n", 4]), port("c", B, shape)], ["y"],
    )  # fmt: skip
    captured = check(proto, *({"x": X, "c": np.full(shape, c)} for c in (True, False)))
    assert "where" in ops(captured)


def test_branches_of_different_types_need_the_condition() -> None:
    flat = graph([node("ReduceSum", ["x"], ["e"], keepdims=0)], [], [port("e")])
    proto = model(
        [node("If", ["c"], ["y"], then_branch=DOUBLE, else_branch=flat, name="/choose")],
        [port("x", F, [3, 4]), port("c", B, [])], ["y"],
    )  # fmt: skip
    with pytest.raises(CaptureError, match=r"its branches give f32\[3, 4\] or f32\[\]\) at /choose") as caught:
        capture_onnx(proto)
    assert caught.value.hint is not None
    assert "--fix c=" in caught.value.hint
    assert ops(check(proto, {"x": X}, fixed={"c": False})) == ["reduce_sum"]


def test_a_branch_that_may_fail_is_not_computed_in_vain() -> None:
    looking = graph([node("Gather", ["x", "i"], ["t"])], [], [port("t")])
    other = graph([node("Gather", ["x", "zero"], ["e"])], [], [port("e")], {"zero": np.array([0])})
    proto = model(
        [node("If", ["c"], ["y"], then_branch=looking, else_branch=other)],
        [port("x", F, [3, 4]), port("c", B, []), port("i", INT, [1])], ["y"],
    )  # fmt: skip
    with pytest.raises(CaptureError, match="a branch that is not taken might fail"):
        capture_onnx(proto)


def test_an_operator_of_a_branch_that_is_not_known_is_named_once() -> None:
    odd = graph([node("Odd", ["x"], ["t"], domain="mine")], [], [port("t")])
    proto = model(
        [node("If", ["c"], ["y"], then_branch=odd, else_branch=NEGATE), node("Neg", ["y"], ["z"])],
        [port("x", F, [3, 4]), port("c", B, [])], ["z"],
    )  # fmt: skip
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    with pytest.raises(CaptureError, match="the model uses an operator that cannot be read: mine::Odd at t"):
        capture_onnx(proto)


# -- Loop ------------------------------------------------------------------------------------------------------------------
def stepping(*, again: str = "going", collect: bool = True) -> GraphProto:
    """a <- a * 2 + step; collects the sum of a's rows."""
    nodes = [
        node("Cast", ["step"], ["f"], to=F),
        node("Mul", ["a", "two"], ["m"]),
        node("Add", ["m", "f"], ["s"]),
        node("Identity", ["going"], ["on"]) if again == "going" else node("Less", ["first", "limit"], ["on"]),
        node("ReduceSum", ["s"], ["rows"], keepdims=0),
    ]
    if again != "going":
        nodes.insert(3, node("ReduceMax", ["s"], ["first"], keepdims=0))
    outputs = [port("on", B, []), port("s", F, None)] + ([port("rows", F, [])] if collect else [])
    return graph(
        nodes, [port("step", INT, []), port("going", B, []), port("a", F, None)], outputs,
        {"two": np.float32(2), "limit": np.float32(100)},
    )  # fmt: skip


def test_a_loop_of_a_known_number_of_steps_is_unrolled() -> None:
    proto = model(
        [node("Loop", ["n", "", "x"], ["y", "sums"], body=stepping())], [port("x", F, ["n", 4])], ["y", "sums"],
        {"n": np.array(3)},
    )  # fmt: skip
    captured = check(proto, {"x": X})
    assert ops(captured).count("mul") == 3
    assert captured.graph.outputs[1].shape == (3,)


def test_a_loop_whose_condition_ends_it() -> None:
    """The condition is computed from the step alone, which is known."""
    nodes = [
        node("Add", ["a", "a"], ["b"]), node("Add", ["step", "one"], ["next"]), node("Less", ["next", "four"], ["on"])
    ]  # fmt: skip
    body = graph(
        nodes, [port("step", INT, []), port("going", B, []), port("a", F, None)], [port("on", B, []), port("b", F, None)],
        {"one": np.array(1), "four": np.array(4)},
    )  # fmt: skip
    proto = model(
        [node("Loop", ["", "c", "x"], ["y"], body=body)], [port("x", F, [3, 4])], ["y"], {"c": np.array(True)}
    )
    assert ops(check(proto, {"x": X})) == ["add"] * 4


def test_no_step_is_taken() -> None:
    loop = node("Loop", ["n", "", "x"], ["y", "sums"], body=stepping())
    proto = model([loop, node("Neg", ["y"], ["z"])], [port("x", F, ["n", 4])], ["z", "sums"], {"n": np.array(0)})
    captured = check(proto, {"x": X})
    assert captured.graph.outputs[1].shape == (0,)


def test_a_loop_that_the_data_may_end_keeps_what_it_carries() -> None:
    loop = node("Loop", ["n", "c", "x"], ["y"], body=stepping(again="data", collect=False))
    proto = model([loop], [port("x", F, [3, 4]), port("c", B, [])], ["y"], {"n": np.array(6)})
    feeds = [{"x": X * scale, "c": np.array(c)} for scale in (1.0, 3.0, 100.0) for c in (True, False)]
    check(proto, *({**f, "x": f["x"].astype(np.float32)} for f in feeds))


@pytest.mark.parametrize(
    ("inputs", "trips", "collect", "message"),
    [
        (["n", "", "x"], port("n", INT, []), True, "the number of its steps depends on the data"),
        (["", "c", "x"], port("c", B, []), False, "how often it runs depends on the data"),
    ],
)
def test_loops_that_cannot_be_unrolled(inputs: list[str], trips: Any, collect: bool, message: str) -> None:
    outputs = ["y", "sums"] if collect else ["y"]
    loop = node("Loop", inputs, outputs, body=stepping(again="data", collect=collect))
    with pytest.raises(CaptureError, match=message):
        capture_onnx(model([loop], [port("x", F, [3, 4]), trips], outputs))


def test_a_loop_as_long_as_a_size_that_varies() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["d"]),
        node("Loop", ["d", "", "x"], ["y", "sums"], body=stepping()),
    ]
    proto = model(nodes, [port("x", F, ["rows", 4])], ["y", "sums"], {"zero": np.array(0)})
    with pytest.raises(CaptureError, match="it takes as many steps as rows, a size that varies") as caught:
        capture_onnx(proto)
    assert "--dim rows=" in str(caught.value.hint)
    captured = capture_onnx(proto, dims={"rows": 3})
    expected = truth(proto, {"x": X})
    for a, b in zip(expected, interpret(captured.graph, {"x": X}), strict=True):
        np.testing.assert_allclose(b, a)


def test_a_loop_without_end() -> None:
    body = graph(
        [node("Add", ["a", "a"], ["b"]), node("Identity", ["going"], ["on"])],
        [port("step", INT, []), port("going", B, []), port("a", F, None)], [port("on", B, []), port("b", F, None)],
    )  # fmt: skip
    proto = model([node("Loop", ["", "", "x"], ["y"], body=body)], [port("x", F, [3, 4])], ["y"])
    with pytest.raises(CaptureError, match="it takes more than 1024 steps, which is too many to unroll"):
        capture_onnx(proto)


# -- Scan ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan(axis: int, backwards: int) -> None:
    """A running sum along an axis in either direction, collected along the last axis, back to front."""
    body = graph(
        [node("Add", ["total", "part"], ["sum"]), node("Neg", ["sum"], ["out"])],
        [port("total", F, None), port("part", F, None)], [port("sum", F, None), port("out", F, None)],
    )  # fmt: skip
    scan = node(
        "Scan", ["start", "x"], ["y", "all"], body=body, num_scan_inputs=1, scan_input_axes=[axis],
        scan_input_directions=[backwards], scan_output_axes=[1], scan_output_directions=[backwards],
    )  # fmt: skip
    start = np.zeros(4 if axis == 0 else 3, np.float32)
    proto = model([scan], [port("x", F, [3, 4])], ["y", "all"], {"start": start})
    captured = capture_onnx(proto)
    last, collected = interpret(captured.graph, {"x": X})
    steps = np.moveaxis(X, axis, 0)
    steps = steps[::-1] if backwards else steps
    sums = np.cumsum(steps, 0)
    np.testing.assert_allclose(last, sums[-1])
    expected = -(sums[::-1] if backwards else sums)
    np.testing.assert_allclose(collected, np.moveaxis(expected, 0, 1))


def test_scan_along_a_size_that_varies() -> None:
    body = graph([node("Identity", ["p"], ["q"])], [port("p", F, None)], [port("q", F, None)])
    proto = model([node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)], [port("x", F, ["rows", 4])], ["y"])
    with pytest.raises(CaptureError, match="it takes as many steps as rows"):
        capture_onnx(proto)


# -- sequences -------------------------------------------------------------------------------------------------------------
def test_sequences_vanish() -> None:
    nodes = [
        node("SplitToSequence", ["x", "two"], ["s"], axis=1),
        node("SequenceAt", ["s", "one"], ["b"]),
        node("SequenceInsert", ["s", "b", "zero"], ["longer"]),
        node("SequenceErase", ["longer", "last"], ["shorter"]),
        node("SequenceLength", ["shorter"], ["count"]),
        node("ConcatFromSequence", ["shorter"], ["y"], axis=-1),
        node("ConcatFromSequence", ["shorter"], ["z"], axis=1, new_axis=1),
    ]
    numbers = {"zero": np.array(0), "one": np.array(1), "two": np.array(2), "last": np.array(-1)}
    captured = check(model(nodes, [port("x", F, ["n", 4])], ["y", "z", "count"], numbers), {"x": X})
    assert "concat" in ops(captured)


def test_split_without_sizes() -> None:
    nodes = [
        node("SplitToSequence", ["x"], ["s"], axis=0, keepdims=0),
        node("SequenceConstruct", ["x", "x"], ["pair"]),
        node("SequenceEmpty", [], ["none"]),
        node("SequenceInsert", ["none", "x"], ["only"]),
        node("ConcatFromSequence", ["s"], ["y"], axis=0),
        node("ConcatFromSequence", ["pair"], ["z"], axis=0),
        node("ConcatFromSequence", ["only"], ["w"], axis=0),
    ]
    check(model(nodes, [port("x", F, [3, 4])], ["y", "z", "w"]), {"x": X})


def test_a_sequence_carried_by_a_loop() -> None:
    body = graph(
        [node("SequenceInsert", ["held", "x"], ["more"]), node("Identity", ["going"], ["on"])],
        [port("step", INT, []), port("going", B, []), helper.make_tensor_sequence_value_info("held", F, None)],
        [port("on", B, []), helper.make_tensor_sequence_value_info("more", F, None)],
    )
    nodes = [
        node("SequenceEmpty", [], ["none"]),
        node("Loop", ["n", "", "none"], ["all"], body=body),
        node("ConcatFromSequence", ["all"], ["y"], axis=0),
    ]
    check(model(nodes, [port("x", F, ["n", 4])], ["y"], {"n": np.array(3)}), {"x": X})


def test_sequence_map() -> None:
    body = graph([node("Mul", ["p", "p"], ["q"])], [port("p", F, None)], [port("q", F, None)])
    nodes = [
        node("SplitToSequence", ["x", "two"], ["s"], axis=1),
        node("SequenceMap", ["s"], ["t"], body=body),
        node("ConcatFromSequence", ["t"], ["y"], axis=1),
    ]
    check(model(nodes, [port("x", F, [3, 4])], ["y"], {"two": np.array(2)}), {"x": X})


def test_optionals_vanish() -> None:
    nodes = [
        node("Optional", ["x"], ["o"]),
        node("OptionalHasElement", ["o"], ["c"]),
        node("If", ["c"], ["y"], then_branch=DOUBLE, else_branch=NEGATE),
        node("OptionalGetElement", ["o"], ["z"]),
    ]
    check(model(nodes, [port("x", F, [3, 4])], ["y", "z"]), {"x": X})


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("SequenceAt", ["s", "nine"], ["y"])], "the place 9 is outside of its sequence of 2"),
        ([node("SequenceAt", ["s", "i"], ["y"])], "the place in a sequence depends on the data"),
        ([node("Neg", ["s"], ["y"])], None),
        ([node("Identity", ["s"], ["y"])], "the output 'y' is no tensor"),
    ],
)
def test_what_sequences_cannot_do(nodes: list[NodeProto], message: str | None) -> None:
    first = node("SequenceConstruct", ["x", "x"], ["s"])
    proto = model([first, *nodes], [port("x", F, [3, 4]), port("i", INT, [])], ["y"], {"nine": np.array(9)})
    with pytest.raises(CaptureError, match=message):
        capture_onnx(proto)
