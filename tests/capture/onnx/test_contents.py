"""What is known of tensors of sizes while a model is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.capture.onnx.contents import compute, of_dims, truncated
from planish.compiler.dims import evaluate, symbol
from planish.compiler.interpret import interpret

H, W = symbol("h"), symbol("w")
BOUNDS = {"h": (1, 64), "w": (0, 64)}


def one(name: str, *operands: Any, **attributes: Any) -> Any:
    """The only element of what an operator gives for single sizes; None if that is not known."""
    found = compute(name, [of_dims([o]) for o in operands], attributes, BOUNDS)
    return None if found is None else found[0].reshape(-1)[0]


@pytest.mark.parametrize(
    ("a", "b"), [(H, 2), (-H, 2), (H + 3, -2), (-7, H), (-1 * W - 1, 3), (4 * H - 2, 2), (7, -2), (H * W, H)]
)
def test_division_goes_towards_zero(a: Any, b: Any) -> None:
    quotient = truncated(a, b, BOUNDS)
    for h in (1, 2, 3, 8, 63):
        for w in (0, 1, 5):
            env = {"h": h, "w": w}
            x, y = evaluate(a, env), evaluate(b, env)
            assert evaluate(quotient, env) == int(x / y), env


@pytest.mark.parametrize(("a", "b"), [(H - 8, 3), (8, W), (H, W - 4)])
def test_a_sign_that_depends_on_the_sizes_is_left_to_run_time(a: Any, b: Any) -> None:
    assert one("Div", a, b) is None


def test_remainders() -> None:
    assert evaluate(one("Mod", H, 8), {"h": 13}) == 5
    assert one("Mod", -3, 8) == 5
    assert one("Mod", 8, W) is None  # it may be zero
    assert one("Mod", H, 8, fmod=1) is None


def test_reductions_of_sizes() -> None:
    sizes = of_dims([H, 3, W])
    env = {"h": 5, "w": 2}
    for name, want in {"ReduceSum": 10, "ReduceProd": 30, "ReduceMax": 5, "ReduceMin": 2}.items():
        for keepdims in (0, 1):
            (found,) = compute(name, [sizes], {"keepdims": keepdims}, BOUNDS) or [None]
            assert found is not None
            assert found.shape == (1,) * keepdims
            assert evaluate(found.reshape(-1)[0], env) == want
        assert compute(name, [sizes, of_dims([])], {"noop_with_empty_axes": 1}, BOUNDS) is None


def test_padding_to_a_multiple_is_computed_from_sizes() -> None:
    """As vision models pad an image to whole windows: (8 - h % 8) % 8 below it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["h"], axis=0),
        helper.make_node("Mod", ["h", "eight"], ["over"]),
        helper.make_node("Sub", ["eight", "over"], ["left"]),
        helper.make_node("Mod", ["left", "eight"], ["pad"]),
        helper.make_node("Unsqueeze", ["pad", "zero"], ["behind"]),
        helper.make_node("Concat", ["five", "behind", "last"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["y"]),
    ]
    held = {
        "two": np.array(2),
        "eight": np.array(8),
        "zero": np.array([0]),
        "five": np.zeros(6, int),
        "last": np.array([0]),
    }
    stored = [numpy_helper.from_array(v.astype(np.int64), k) for k, v in held.items()]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", 4])]
    graph = helper.make_graph(nodes, "net", ports, [helper.make_empty_tensor_value_info("y")], stored)
    captured = capture_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).graph
    for h in (1, 8, 13):
        x = np.ones((2, 3, h, 4), np.float32)
        (y,) = interpret(captured, [x])
        assert y.shape == (2, 3, -(-h // 8) * 8, 4)
        assert y.sum() == x.sum()
