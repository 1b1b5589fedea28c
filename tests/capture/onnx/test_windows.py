"""Convolution and transposed convolution of ONNX models against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of
from onnx_node_tests import outcomes

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError

RNG = np.random.default_rng(7)
PLANE = [{"n": 1, "h": 9, "w": 8}, {"n": 3, "h": 12, "w": 7}]


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_node_tests() -> None:
    found = {case.name: result for case, result in outcomes("Conv", "ConvTranspose")}
    assert len(found) >= 17
    assert {n: r for n, r in found.items() if r.kind != "pass"} == {}


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [0, 1, 2, 3]},
        {"pads": [2, 1, 0, 2], "strides": [2, 1], "dilations": [1, 2]},
        {"auto_pad": "VALID", "strides": [2, 3]},
        *({"auto_pad": f"SAME_{way}", "strides": s} for way in ("UPPER", "LOWER") for s in ([1, 1], [2, 3], [4, 1])),
    ],
    ids=str,
)
def test_conv_over_planes_of_any_size(attributes: dict[str, Any]) -> None:
    x = Fed(("n", 4, "h", "w"))
    against_runtime("Conv", x, weights(6, 4, 3, 2), weights(6), sizes=PLANE, **attributes)


def test_conv_with_groups_and_same_padding_is_one_conv() -> None:
    graph = against_runtime(
        "Conv", Fed(("n", 4, "h", "w")), weights(8, 1, 3, 4), sizes=PLANE, group=4, auto_pad="SAME_LOWER"
    )
    assert ops_of(graph) == ["conv"]


@pytest.mark.parametrize("rank", [1, 3])
def test_conv_along_one_and_three_axes(rank: int) -> None:
    space = ("a", "b", "c")[:rank]
    sizes = [{"n": 2, "a": 7, "b": 5, "c": 6}, {"n": 1, "a": 9, "b": 8, "c": 4}]
    pads = [1, 0, 1][:rank] + [0, 2, 1][:rank]
    against_runtime("Conv", Fed(("n", 2, *space)), weights(3, 2, *[3] * rank), sizes=sizes, pads=pads)


def test_conv_with_filters_that_are_computed() -> None:
    against_runtime("Conv", Fed((2, 3, 6, 6)), Fed((4, 3, 3, 3)), pads=[1, 1, 1, 1])


@pytest.mark.parametrize(
    ("attributes", "ops"),
    [
        ({}, ["conv_transpose"]),
        ({"strides": [2, 3], "pads": [1, 1, 1, 1]}, ["conv_transpose"]),
        ({"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 2]}, ["conv_transpose"]),
        ({"strides": [2, 2], "pads": [1, 0, 0, 1]}, ["conv_transpose"]),  # the second axis is cut behind alone
        ({"strides": [2, 2], "pads": [0, 0, 2, 2]}, None),
        ({"strides": [3, 2], "dilations": [2, 1], "pads": [2, 0, 1, 1]}, None),
        ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, None),
        ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, None),
    ],
    ids=str,
)
def test_transposed_conv(attributes: dict[str, Any], ops: list[str] | None) -> None:
    x = Fed(("n", 4, "h", "w"))
    graph = against_runtime("ConvTranspose", x, weights(4, 3, 3, 3), weights(3), sizes=PLANE, **attributes)
    found = ops_of(graph)
    assert found.count("conv_transpose") == 1
    if ops is not None and attributes.get("pads") != [1, 0, 0, 1]:
        assert found == ops


@pytest.mark.parametrize("wanted", [[13, 14], [11, 12], [14, 16]])
def test_transposed_conv_to_a_shape(wanted: list[int]) -> None:
    x = Fed((2, 4, 6, 7))
    against_runtime("ConvTranspose", x, weights(4, 2, 3, 3), weights(4), group=2, strides=[2, 2], output_shape=wanted)


def test_conv_without_axes_of_space_is_refused() -> None:
    model = one_node("Conv", [Fed((2, 3, 4, 4, 4, 4)), weights(1, 3, 2, 2, 2, 2)], 1, 17, {})
    with pytest.raises(CaptureError, match="1 to 3 axes of space"):
        capture_onnx(model)
