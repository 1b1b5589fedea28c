"""Operands that are missing, too many or make no sense together end in a plain error that names the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.capture.onnx.registry import HANDLERS, find, op, refuse
from planish.compiler.capture.unsupported import Unsupported
from planish.compiler.errors import CaptureError


def model(name: str, constants: dict[str, Any], outputs: int = 1, **attributes: Any) -> ModelProto:
    """One operator on ``x`` [n, 4, s, 6] and constants; a name that starts with "none" stands for an absent operand."""
    names = ["" if k.startswith("none") else k for k in constants]
    node = helper.make_node(name, ["x", *names], [f"y{i}" for i in range(outputs)], **attributes)
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, "s", 6])]
    results = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)]
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if not k.startswith("none")]
    graph = helper.make_graph([node], "net", ports, results, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (model("Slice", {"a": ids(0, 0), "b": ids(1), "c": ids(0), "d": ids(1)}), "2 starts, 1 ends, 1 axes and 1 steps|Slice"),
        (model("Slice", {"a": ids(0), "b": ids(1), "c": ids(0), "d": ids(0)}), "its step is 0|step"),
        (model("Slice", {"a": ids(0), "b": ids(1), "c": ids(7)}), "axis 7|axis"),
        (model("Pad", {"a": ids(1, 1, 1)}), "3 amounts for 4 axes|Pad"),
        (model("Split", {"a": ids(1, 1, 2)}, 2, axis=1), "2 results and 3 sizes|Split"),
        (model("CenterCropPad", {"a": ids(3)}, axes=[1, 3]), "1 sizes for 2 axes|CenterCropPad"),
        (model("Gather", {"none": 0}), "its input number 2 is missing|Gather"),
        (model("Unsqueeze", {"a": ids(0, 0)}), "twice|unique|Unsqueeze"),
        (model("Reshape", {"a": ids(-1, -1)}), "more than one size of the shape is -1|Reshape"),
        (model("Reshape", {"a": ids(5, 5)}), "cannot be seen as|Reshape"),
        (model("DepthToSpace", {}, blocksize=3), "cannot be seen as|DepthToSpace"),
    ],
)  # fmt: skip
def test_named_plainly(made: ModelProto, why: str) -> None:
    with pytest.raises(CaptureError, match=why) as caught:
        capture_onnx(made)
    assert made.graph.node[0].op_type in str(caught.value)


# -- the registry -------------------------------------------------------------------------------------------------------------
def test_an_operator_has_one_handler_for_an_opset() -> None:
    with pytest.raises(ValueError, match="handled twice"):
        op("Softmax", since=13)(lambda at, x: x)
    with pytest.raises(ValueError, match="both read and refused"):
        refuse("Softmax", why="it cannot")


def test_the_latest_form_up_to_an_opset_is_found() -> None:
    entries = HANDLERS["", "Softmax"]
    assert [e.since for e in entries] == sorted(e.since for e in entries)
    assert find("", "Softmax", 12) is entries[0]
    assert find("ai.onnx", "Softmax", 13) is entries[-1]
    assert find("", "NoSuchOperator", 13) is None


def test_what_a_handler_does_not_know_is_refused() -> None:
    entry = find("", "Gather", 17)
    assert entry is not None
    entry.check(["x", "ids"], {"axis": 1})
    for operands, attributes, why in (
        (["x", "ids"], {"axes": 1}, "its attribute 'axes' is not supported"),
        (["x", "ids", "more"], {}, "it has 3 inputs where 2 are known"),
        (["x"], {}, "its input number 2 is missing"),
        ([None, "ids"], {}, "its input number 1 is missing"),
    ):
        with pytest.raises(Unsupported, match=why):
            entry.check(operands, attributes)
