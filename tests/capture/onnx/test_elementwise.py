"""Element-wise operators of ONNX models against ONNX Runtime: sizes that vary, special numbers, types, old forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

SIZES = [{"n": 1, "s": 5}, {"n": 3, "s": 1}]
SPECIAL = np.array([-np.inf, -3.5, -1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 1.5, 2.5, 88.0, np.inf, np.nan], np.float32)


def special(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return np.broadcast_to(SPECIAL, shape).copy()


def whole(low: int, high: int, dtype: Any) -> Any:
    return lambda rng, shape: rng.integers(low, high, tuple(shape)).astype(dtype)


def positive(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return (rng.random(tuple(shape)) + 0.5).astype(np.float32)


def coins(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.random(tuple(shape)) < 0.5


X = Fed(("n", "s", 4))
ROW = Fed((len(SPECIAL),), special)


@pytest.mark.parametrize(
    "op",
    ["Neg", "Abs", "Relu", "Floor", "Ceil", "Round", "Exp", "IsNaN", "Sigmoid", "Erf", "HardSwish", "Softplus", "Softsign",
     "Elu", "Selu", "Celu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Tanh", "IsInf", "Reciprocal", "Sqrt", "Atan", "Sin"],
)  # fmt: skip
def test_functions_of_special_numbers(op: str) -> None:
    against_runtime(op, ROW)


def test_signs() -> None:
    """The standard does not say what the sign of NaN is."""
    against_runtime("Sign", Fed((len(SPECIAL) - 1,), lambda rng, shape: SPECIAL[:-1]))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("Elu", {"alpha": 0.3}), ("Selu", {"alpha": 1.2, "gamma": 0.7}), ("Celu", {"alpha": 2.0}), ("LeakyRelu", {"alpha": 0.2}),
     ("HardSigmoid", {"alpha": 0.3, "beta": 0.1}), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
     ("ThresholdedRelu", {"alpha": 0.25}), ("Shrink", {"lambd": 0.4, "bias": 0.1}), ("IsInf", {"detect_positive": 0}),
     ("IsInf", {"detect_negative": 0}), ("IsInf", {"detect_negative": 0, "detect_positive": 0})],
)  # fmt: skip
def test_functions_with_attributes(op: str, attributes: dict[str, float]) -> None:
    against_runtime(op, ROW, **attributes)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_one_op(approximate: str) -> None:
    assert ops_of(against_runtime("Gelu", X, sizes=SIZES, opset=20, approximate=approximate)) == ["gelu"]


@pytest.mark.parametrize(
    "op", ["Add", "Sub", "Mul", "Div", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]
)
def test_operands_broadcast(op: str) -> None:
    against_runtime(op, X, Fed((1, "s", 1), positive), sizes=SIZES)
    against_runtime(op, Fed((4,)), X, sizes=SIZES)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_division_of_integers(op: str, dtype: Any) -> None:
    low = 0 if dtype == np.uint8 else -100
    if op == "Div" and dtype == np.int8:  # ONNX Runtime has no kernel: the standard says what C does
        model = one_node(op, [Fed((9,), whole(low, 100, dtype)), np.array([-7], dtype)], 1, 17, {})
        x = np.array([-8, -7, -6, -1, 0, 1, 6, 7, 8], dtype)
        assert interpret(capture_onnx(model).graph, [x])[0].tolist() == [1, 1, 0, 0, 0, 0, 0, -1, -1]
        return
    against_runtime(op, Fed((50,), whole(low, 100, dtype)), Fed((50,), whole(1, 20, dtype)))
    if low:
        against_runtime(op, Fed((50,), whole(low, 100, dtype)), Fed((50,), whole(-20, 0, dtype)))


def test_remainder_with_the_sign_of_the_dividend() -> None:
    against_runtime("Mod", X, Fed((4,), positive), sizes=SIZES, fmod=1)
    against_runtime("Mod", Fed((50,), whole(-100, 100, np.int32)), Fed((50,), whole(-20, 0, np.int32)), fmod=1)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 3.0, -1.0, -2.0, 1.7])
def test_powers(exponent: float) -> None:
    against_runtime("Pow", ROW, np.array(exponent, np.float32))


@pytest.mark.parametrize("theirs", [np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("ours", [np.float32, np.float64, np.int32, np.int64])
def test_powers_of_two_types(ours: Any, theirs: Any) -> None:
    against_runtime("Pow", Fed((20,), whole(1, 6, ours)), Fed((20,), whole(0, 5, theirs)))


def test_a_square_is_one() -> None:
    assert ops_of(against_runtime("Pow", X, np.array([2], np.int64), sizes=SIZES)) == ["square"]


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_any_number_of_operands(op: str) -> None:
    against_runtime(op, X, Fed((4,)), Fed((1, "s", 1)), sizes=SIZES)
    against_runtime(op, ROW)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_largest_of_integers(dtype: Any) -> None:
    against_runtime("Max", Fed((5,), whole(0, 9, dtype)), Fed((5,), whole(0, 9, dtype)))


# -- bounds, selection ------------------------------------------------------------------------------------------------------
def test_clip_to_constants_is_a_clamp() -> None:
    low, high = np.array(-0.5, np.float32), np.array(0.5, np.float32)
    assert ops_of(against_runtime("Clip", ROW, low, high)) == ["clamp"]
    assert ops_of(against_runtime("Clip", X, None, high, sizes=SIZES)) == ["clamp"]
    assert ops_of(against_runtime("Clip", ROW, high, low)) == ["clamp"]  # the upper bound wins


def test_clip_to_computed_bounds() -> None:
    against_runtime("Clip", X, Fed(()), np.array(0.5, np.float32), sizes=SIZES)
    against_runtime("Clip", X, None, Fed(()), sizes=SIZES)


def test_clip_by_attributes() -> None:
    against_runtime("Clip", X, sizes=SIZES, opset=6 + 1, min=-0.5)


def test_clip_of_bytes() -> None:
    against_runtime("Clip", Fed((50,), whole(0, 255, np.uint8)), np.array(20, np.uint8), np.array(200, np.uint8))


def test_where_broadcasts_all_three() -> None:
    against_runtime("Where", Fed(("n", "s", 1), coins), Fed((4,)), Fed(()), sizes=SIZES)


@pytest.mark.parametrize("slope", [Fed((4,)), np.array([0.2], np.float32), np.arange(4, dtype=np.float32)])
def test_prelu(slope: Any) -> None:
    against_runtime("PRelu", X, slope, sizes=SIZES)


# -- truth and bits -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    against_runtime(op, Fed(("n", 4), coins), Fed((4,), coins), sizes=SIZES)


@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
def test_bits(op: str, dtype: Any) -> None:
    low = 0 if dtype == np.uint8 else -100
    against_runtime(op, Fed((20,), whole(low, 100, dtype)), Fed((20,), whole(low, 100, dtype)), opset=18)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction: str) -> None:
    bits = Fed((20,), whole(0, 255, np.uint8)), Fed((20,), whole(0, 8, np.uint8))
    against_runtime("BitShift", *bits, direction=direction)


# -- conversion ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "to",
    [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.BOOL],
)
def test_casts(to: int) -> None:
    against_runtime(
        "Cast", Fed((20,), lambda rng, shape: (rng.standard_normal(tuple(shape)) * 20).astype(np.float32)), to=to
    )
    against_runtime("Cast", Fed((20,), whole(-3, 4, np.int32)), to=to)


def test_cast_like() -> None:
    against_runtime("CastLike", Fed((20,)), np.array([1], np.int32))


def test_element_types_without_counterpart_are_refused() -> None:
    with pytest.raises(CaptureError, match="float8e4m3fn"):
        capture_onnx(one_node("Cast", [X], 1, 19, {"to": TensorProto.FLOAT8E4M3FN}))


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_chance_is_refused(op: str) -> None:
    with pytest.raises(CaptureError, match="draws random numbers"):
        capture_onnx(one_node(op, [X], 1, 17, {}))
