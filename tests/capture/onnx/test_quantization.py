"""QDQ, QOperator and products of integers of the standard: exactly what ONNX Runtime and ONNX's own tests expect."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_draws import f32, i8, ids, positive, step, u8
from onnx_node_tests import cases, outcome
from onnx_single_ops import Single, compare

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

OPS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv", "MatMulInteger",
       "ConvInteger")  # fmt: skip


def test_node_tests() -> None:
    found = {case.name: outcome(case) for case in cases(*OPS)}
    assert len(found) >= 8
    assert {name: o.why for name, o in found.items() if o.kind != "pass"} == {}


def quantize(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, **attributes: Any) -> Single:
    inputs = {"x": x, "s": scale} if zero is None else {"x": x, "s": scale, "z": zero}
    return Single("QuantizeLinear", inputs, attributes, ("s", "z"), {}, ("y",), opset=21)


def dequantize(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, **attributes: Any) -> Single:
    inputs = {"x": q, "s": scale} if zero is None else {"x": q, "s": scale, "z": zero}
    return Single("DequantizeLinear", inputs, attributes, ("s", "z"), {}, ("y",), opset=21)


EXTREME = np.array([[-1e9, -12.75, -0.25, 0.0, 0.25, 0.75, 12.7, 1e9]], np.float32)
CASES = {
    "u8": quantize(EXTREME, step(0.1), np.array(128, np.uint8)),
    "u8, no zero point": quantize(EXTREME, step(0.1)),
    "i8, all of its range": quantize(EXTREME, step(0.1), np.array(0, np.int8)),
    "i16": quantize(EXTREME, step(1e-3), np.array(7, np.int16)),
    "ties": quantize(np.arange(-8, 8, dtype=np.float32).reshape(1, -1) / 2, step(1.0), np.array(3, np.int8)),
    "channels": quantize(f32(2, 3, 4), positive(3), np.array([1, 2, 3], np.uint8), axis=1),
    "channels, last axis": quantize(f32(2, 3, 4), positive(4), np.array([1, 2, 3, 4], np.int8), axis=-1),
    "blocks": quantize(f32(2, 8), positive(2, 4), ids(9, 2, 4, dtype=np.int8), axis=1, block_size=2),
    "blocks of rows": quantize(f32(8, 3), positive(2, 3), ids(9, 2, 3, dtype=np.uint8), axis=0, block_size=4),
    "back from u8": dequantize(u8(2, 5), step(0.1), np.array(128, np.uint8)),
    "back from i8": dequantize(i8(2, 5), step(0.1)),
    "back from i16": dequantize(ids(30000, 2, 5, dtype=np.int16), step(0.1), np.array(5, np.int16)),
    "back from i32": dequantize(ids(30000, 2, 5), step(0.1)),
    "back, channels": dequantize(u8(2, 3, 4), positive(3), np.array([1, 2, 3], np.uint8), axis=1),
    "back, blocks": dequantize(i8(2, 8), positive(2, 4), ids(9, 2, 4, dtype=np.int8), axis=1, block_size=2),
    "back, blocks of rows": dequantize(i8(8, 3), positive(2, 3), axis=0, block_size=4),
    "back to halves": dequantize(u8(2, 50), np.float16(0.03), np.array(3, np.uint8)),  # type: ignore[arg-type]
    "range of its own": Single("DynamicQuantizeLinear", {"x": f32(3, 40)}, {}, (), {"x": ("b", 40)}, ("y", "s", "z")),
    "range of its own, positive": Single("DynamicQuantizeLinear", {"x": positive(3, 40)}, {}, (), {}, ("y", "s", "z")),
    "integers, rows and columns": Single(
        "MatMulInteger", {"a": u8(2, 3, 16), "b": i8(16, 8), "az": np.array(120, np.uint8), "bz": ids(9, 8, dtype=np.int8)},
        {}, ("b", "bz"), {"a": ("b", 3, 16)},
    ),
    "integers, both at run time": Single("MatMulInteger", {"a": u8(2, 3, 16), "b": u8(2, 16, 8), "az": np.array(9, np.uint8)}),
    "integer convolution": Single(
        "ConvInteger", {"x": u8(2, 4, 7, 7), "w": u8(6, 4, 3, 3), "xz": np.array(120, np.uint8), "wz": np.array(9, np.uint8)},
        {"pads": [1, 1, 1, 1]}, ("w", "wz"), {"x": ("b", 4, 7, 7)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_onnxruntime(name: str) -> None:
    CASES[name].check(0, 0)


def test_halves_are_divided_as_halves() -> None:
    """As the standard says; ONNX Runtime divides in f32, which now and then gives the neighbour."""
    case = quantize(f32(4, 50).astype(np.float16), np.float16(0.03), np.array(3, np.int8))  # type: ignore[arg-type]
    case.check(steps=1)
    got = np.asarray(interpret(case.graph(), case.feed)[0])
    np.testing.assert_array_equal(
        got, np.clip(np.rint(case.inputs["x"] / np.float16(0.03)) + 3, -128, 127).astype(np.int8)
    )


def test_integers_are_quantised() -> None:
    inputs = {"x": ids(1000, 2, 5), "s": step(3.0), "z": np.array(3, np.uint8)}
    case = Single("QuantizeLinear", inputs, constants=("s", "z"), opset=13)
    got = np.asarray(interpret(case.graph(), case.feed)[0])
    np.testing.assert_array_equal(got, np.clip(np.rint(case.inputs["x"] / np.float32(3)) + 3, 0, 255).astype(np.uint8))


def test_nothing_but_zeros() -> None:
    case = Single("DynamicQuantizeLinear", {"x": np.zeros((2, 3), np.float32)}, {}, (), {}, ("y", "s", "z"))
    got = [np.asarray(v) for v in interpret(case.graph(), case.feed)]
    for a, b in zip(case.expected(), got, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bias", [True, False])
def test_qoperator_products(bias: bool) -> None:
    held = {"as": step(0.02), "az": np.array(120, np.uint8), "bs": step(0.01), "bz": np.array(0, np.int8),
            "ys": step(0.1), "yz": np.array(100, np.uint8)}  # fmt: skip
    inputs = {
        "a": u8(2, 3, 16),
        "as": held["as"],
        "az": held["az"],
        "b": i8(16, 8),
        **{k: held[k] for k in ("bs", "bz", "ys", "yz")},
    }
    Single("QLinearMatMul", inputs, {}, tuple(n for n in inputs if n != "a"), {"a": ("b", 3, 16)}).check(steps=1)
    inputs = {"a": u8(2, 4, 7, 7), "as": held["as"], "az": held["az"], "b": i8(6, 4, 3, 3), "bs": positive(6) / 50,
              "bz": np.zeros(6, np.int8), "ys": held["ys"], "yz": held["yz"]}  # fmt: skip
    inputs |= {"bias": ids(2000, 6)} if bias else {}
    Single(
        "QLinearConv", inputs, {"pads": [1, 1, 1, 1]}, tuple(n for n in inputs if n != "a"), {"a": ("b", 4, 7, 7)}
    ).check(steps=1)


def narrow(op: str, kind: int, values: np.ndarray, opset: int = 21) -> onnx.ModelProto:
    """A model with a constant of int4 or uint4 in it."""
    q = helper.make_tensor("q", kind, values.shape, values.reshape(-1).tolist())
    zero = helper.make_tensor("z", kind, (), [3])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", values.shape[1]])
    scale = numpy_helper.from_array(np.float32(0.5), "s")  # type: ignore[arg-type]
    if op == "DequantizeLinear":
        nodes = [helper.make_node(op, ["q", "s", "z"], ["w"]), helper.make_node("Add", ["x", "w"], ["y"])]
    else:
        nodes = [
            helper.make_node(op, ["x", "s", "z"], ["r"]),
            helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
        ]
    graph = helper.make_graph(nodes, "narrow", [x], [onnx.ValueInfoProto(name="y")], [q, zero, scale])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize(("kind", "low"), [(TensorProto.INT4, -8), (TensorProto.UINT4, 0)])
def test_four_bits(kind: int, low: int) -> None:
    values = np.arange(low, low + 16).reshape(1, 16)
    x = f32(2, 16)
    graph = capture_onnx(narrow("DequantizeLinear", kind, values)).graph
    compare(
        [x + np.float32(0.5) * (values - 3).astype(np.float32)], [np.asarray(v) for v in interpret(graph, {"x": x})]
    )


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4])
def test_nothing_is_rounded_to_four_bits(kind: int) -> None:
    with pytest.raises(CaptureError, match=r"quantising to u?i"):
        capture_onnx(narrow("QuantizeLinear", kind, np.arange(8).reshape(1, 8)))
