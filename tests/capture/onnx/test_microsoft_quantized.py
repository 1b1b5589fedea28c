"""Quantised operators of com.microsoft, and weights in blocks: as ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_draws import coins, f32, i8, ids, microsoft, positive, shuffled, step, u8
from onnx_single_ops import Single, compare

from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

U8, I8 = np.uint8, np.int8


def zero(value: int, dtype: Any) -> np.ndarray:
    return np.array(value, dtype)


def products() -> dict[str, tuple[Single, int]]:
    """Operators that multiply, and by how many steps their results may differ."""
    cases = {
        "DynamicQuantizeMatMul": microsoft(
            "DynamicQuantizeMatMul",
            {"a": f32(2, 3, 16), "b": i8(16, 8), "s": positive(1) / 50, "z": np.zeros(1, I8), "bias": f32(8)}, {},
            ("b", "s", "z", "bias"), {"a": ("b", 3, 16)},
        ),
        "DynamicQuantizeMatMul, columns": microsoft(
            "DynamicQuantizeMatMul",
            {"a": f32(2, 3, 16), "b": i8(16, 8), "s": positive(8) / 50, "z": ids(9, 8, dtype=I8)}, {}, ("b", "s", "z"),
        ),
        "MatMulIntegerToFloat": microsoft(
            "MatMulIntegerToFloat",
            {"a": u8(2, 3, 16), "b": u8(16, 8), "as": positive(1), "bs": positive(1), "az": np.array([120], U8),
             "bz": np.array([130], U8), "bias": f32(8)},
            {}, ("b", "as", "bs", "az", "bz", "bias"),
        ),
        "QAttention": microsoft(
            "QAttention",
            {"x": u8(2, 6, 16), "w": i8(16, 48), "b": f32(48), "xs": step(0.02), "ws": step(0.01),
             "m": np.array([6, 4], np.int32), "xz": zero(120, U8), "wz": zero(0, I8)},
            {"num_heads": 4}, ("w", "b", "xs", "ws", "xz", "wz"),
        ),
        "QAttention, causal, u8": microsoft(
            "QAttention",
            {"x": u8(2, 6, 16), "w": u8(16, 48), "b": f32(48), "xs": step(0.02), "ws": step(0.01), "m": None,
             "xz": zero(120, U8), "wz": zero(128, U8)},
            {"num_heads": 4, "unidirectional": 1}, ("w", "b", "xs", "ws", "xz", "wz"), {"x": ("b", "s", 16)},
        ),
    }  # fmt: skip
    return {name: (case, 0) for name, case in cases.items()}


def between(dtype: Any, z: int) -> dict[str, tuple[Single, int]]:
    """Operators of QOperator models in an element type, with a zero point; averages meet ties, where a step is allowed."""
    name = np.dtype(dtype).name
    q: Any = u8 if dtype is U8 else i8
    inputs = {"a": q(2, 3, 8), "as": step(0.02), "az": zero(z, dtype)}
    other = {"b": q(8), "bs": step(0.03), "bz": zero(3, dtype)}
    image = {"a": q(2, 3, 8, 8), "as": step(0.02), "az": zero(z, dtype)}
    held = ("as", "az", "ys", "yz")

    def result(scale: float, at: int) -> dict[str, np.ndarray]:
        return {"ys": step(scale), "yz": zero(at, dtype)}

    def case(op: str, operands: Any, scale: float, at: int, **attributes: Any) -> Single:
        return microsoft(op, {**operands, **result(scale, at)}, attributes, held)

    cases = {
        "QLinearAdd": (microsoft("QLinearAdd", {**inputs, **other, **result(0.05, 7)}, {}, (*held, *other)), 0),
        "QLinearMul": (microsoft("QLinearMul", {**inputs, **other, **result(0.05, 7)}, {}, (*held, *other)), 0),
        "QLinearSigmoid": (case("QLinearSigmoid", inputs, 1 / 255, 0), 0),
        "QLinearLeakyRelu": (case("QLinearLeakyRelu", inputs, 0.02, 3, alpha=0.1), 0),
        "QLinearSoftmax": (case("QLinearSoftmax", inputs, 1 / 256, 0, axis=-1, opset=13), 0),
        "QLinearSoftmax, flat": (case("QLinearSoftmax", inputs, 1 / 256, 0, axis=1, opset=11), 0),
        "QLinearAveragePool": (
            case("QLinearAveragePool", image, 0.02, 3, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0), 1
        ),
        "QLinearAveragePool, channels last": (
            case("QLinearAveragePool", image, 0.02, 3, kernel_shape=[2, 2], strides=[2, 2], channels_last=1), 1
        ),
        "QLinearGlobalAveragePool": (case("QLinearGlobalAveragePool", image, 0.02, 3), 1),
        "QLinearConcat": (
            microsoft("QLinearConcat", {**result(0.02, 3), **inputs, "b": q(2, 4, 8), "bs": step(0.04), "bz": zero(1, dtype)},
                      {"axis": 1}, (*held, "bs", "bz")), 0,
        ),
        "QLinearWhere": (
            microsoft("QLinearWhere", {"c": coins(2, 3, 8), **inputs, **other, **result(0.05, 3)}, {}, (*held, *other)), 0
        ),
        "QGemm": (
            microsoft("QGemm", {"a": q(3, 16), "as": step(0.02), "az": zero(z, dtype), "b": i8(8, 16), "bs": positive(1) / 50,
                                "bz": np.zeros(1, I8), "c": ids(1000, 8), **result(0.05, 3)}, {"transB": 1, "alpha": 1.0},
                      (*held, "b", "bs", "bz", "c")), 1,
        ),
        "QGemm to floats": (
            microsoft("QGemm", {"a": q(3, 16), "as": step(0.02), "az": zero(z, dtype), "b": i8(16, 8), "bs": positive(8) / 50,
                                "bz": np.zeros(8, I8), "c": ids(1000, 8)}, {"alpha": 0.5}, ("as", "az", "b", "bs", "bz", "c")), 0,
        ),
        "QLinearConv, channels last": (
            microsoft("QLinearConv", {"a": q(2, 7, 7, 4), "as": step(0.02), "az": zero(z, dtype), "w": i8(6, 4, 3, 3),
                                      "ws": positive(6) / 50, "wz": np.zeros(6, I8), **result(0.1, 3), "b": ids(1000, 6)},
                      {"channels_last": 1, "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, (*held, "w", "ws", "wz", "b")), 1,
        ),
        "QuantizeLinear": (microsoft("QuantizeLinear", {"x": f32(2, 8), **result(0.05, 3)}, {}, ("ys", "yz")), 0),
        "DequantizeLinear": (microsoft("DequantizeLinear", inputs, {}, ("as", "az")), 0),
    }  # fmt: skip
    return {f"{what}, {name}": found for what, found in cases.items()}


def embeddings() -> Single:
    inputs = {"ids": ids(20, 2, 5), "seg": ids(2, 2, 5), "w": u8(20, 16), "p": u8(8, 16), "s": u8(2, 16), "g": u8(16),
              "b": u8(16), "m": ids(2, 2, 5)}  # fmt: skip
    tables = ("w", "p", "s", "g", "b")
    inputs |= {f"{t}.scale": step(0.02) for t in tables} | {f"{t}.zero": zero(120, U8) for t in tables}
    held = tuple(name for name in inputs if name not in ("ids", "seg", "m"))
    return microsoft("QEmbedLayerNormalization", inputs, {}, held, outputs=("y", "kept"))


CASES = {**products(), **between(U8, 120), **between(I8, 5), "QEmbedLayerNormalization": (embeddings(), 0)}


@pytest.mark.parametrize("name", CASES)
def test_as_onnxruntime(name: str) -> None:
    case, steps = CASES[name]
    case.check(1e-4, 1e-4, steps)


# -- blocks --------------------------------------------------------------------------------------------------------------------
def blocks(
    bits: int = 4, inputs: int = 64, block: int = 16, zeros: str = "", order: np.ndarray | None = None,
    bias: bool = False, **attributes: Any,
) -> Single:  # fmt: skip
    """MatMulNBits with 8 outputs; ``zeros``: "packed" or "floats"."""
    outputs, groups = 8, -(-inputs // block)
    points = {
        "": None, "packed": u8(outputs * ((groups * bits + 7) // 8)), "floats": positive(outputs * groups) * 2**bits / 3
    }[zeros]  # fmt: skip
    operands = {
        "a": f32(2, 3, inputs), "b": u8(outputs, groups, block * bits // 8), "s": positive(outputs * groups), "z": points,
        "g": order, "bias": f32(outputs) if bias else None,
    }  # fmt: skip
    shape = {"K": inputs, "N": outputs, "bits": bits, "block_size": block}
    return microsoft(
        "MatMulNBits", operands, {**shape, **attributes}, ("b", "s", "z", "g", "bias"), {"a": ("b", 3, inputs)}
    )


IN_ORDER = np.repeat(np.arange(4), 16).astype(np.int32)
SCATTERED = shuffled(IN_ORDER)
BLOCKS = {
    "4 bits": blocks(), "4 bits, zero points": blocks(zeros="packed"), "4 bits, float zero points": blocks(zeros="floats"),
    "4 bits, a block cut short": blocks(inputs=72, zeros="packed"), "4 bits, a bias": blocks(bias=True),
    "4 bits, blocks of 128": blocks(inputs=256, block=128), "4 bits, groups in order": blocks(order=IN_ORDER),
    "4 bits, scattered": blocks(order=SCATTERED), "8 bits": blocks(8), "8 bits, zero points": blocks(8, zeros="packed"),
    "2 bits": blocks(2), "2 bits, zero points": blocks(2, zeros="packed"),
    "bitsandbytes NF4": microsoft(
        "MatMulBnb4", {"a": f32(2, 3, 64), "b": u8(256), "s": positive(32)},
        {"K": 64, "N": 8, "block_size": 16, "quant_type": 1}, ("b", "s"),
    ),
    "bitsandbytes FP4": microsoft(
        "MatMulBnb4", {"a": f32(2, 3, 64), "b": u8(256), "s": positive(32)},
        {"K": 64, "N": 8, "block_size": 16, "quant_type": 0}, ("b", "s"),
    ),
    "rows of 8 bits": microsoft(
        "GatherBlockQuantized", {"d": u8(20, 64), "i": ids(20, 2, 3, dtype=np.int64), "s": positive(20, 4), "z": u8(20, 4)},
        {"block_size": 16, "bits": 8, "quantize_axis": 1}, ("d", "s", "z"), {"i": ("b", 3)},
    ),
    "rows of 4 bits": microsoft(
        "GatherBlockQuantized", {"d": u8(20, 32), "i": ids(20, 2, 3, dtype=np.int64), "s": positive(20, 4), "z": u8(20, 2)},
        {"block_size": 16, "bits": 4, "quantize_axis": 1}, ("d", "s", "z"),
    ),
    "rows of 4 bits, no zero points": microsoft(
        "GatherBlockQuantized", {"d": u8(20, 32), "i": ids(20, 2, 3, dtype=np.int64), "s": positive(20, 4)},
        {"block_size": 16, "bits": 4, "quantize_axis": 1}, ("d", "s"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_as_onnxruntime(name: str) -> None:
    BLOCKS[name].check(1e-4, 1e-4)


def test_scattered_groups_with_zero_points() -> None:
    """As the operator is defined; ONNX Runtime's CPU kernel leaves the zero points out here."""
    case = blocks(zeros="packed", order=SCATTERED)
    held = case.inputs
    q = np.stack([held["b"] & 15, held["b"] >> 4], -1).reshape(8, 64).astype(np.float32)
    z = np.stack([held["z"] & 15, held["z"] >> 4], -1).reshape(8, 4).astype(np.float32)
    weight = (q - z[:, SCATTERED]) * held["s"].reshape(8, 4)[:, SCATTERED]
    got = [np.asarray(v) for v in interpret(case.graph(), case.feed)]
    compare([held["a"] @ weight.T], got, 1e-4, 1e-4)


@pytest.mark.parametrize(("level", "rounded"), [(0, False), (1, False), (3, True), (4, True)])
def test_activations_are_rounded_where_the_file_allows_it(level: int, rounded: bool) -> None:
    graph = blocks(inputs=64, block=32, accuracy_level=level).graph()
    linear = next(n for n in graph.nodes if n.op == "linear")
    x, weight = linear.inputs
    assert (x.node is not None and x.node.op == "cast") == rounded
    assert weight.node.op == "dequantize" and weight.node.inputs[0].dtype == "i4"


def test_refused() -> None:
    with pytest.raises(CaptureError, match="layout of their own"):
        blocks(weight_prepacked=1).graph()
    case = blocks()
    late = Single(case.op, case.inputs, case.attributes, ("s",), {}, case.outputs, case.domain)
    with pytest.raises(CaptureError, match="the weight depends on the data"):
        late.graph()
