"""Normalisation of ONNX models against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of
from onnx_node_tests import outcomes

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

OPS = (
    "BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization", "LRN",
    "LpNormalization", "MeanVarianceNormalization",
)  # fmt: skip
RNG = np.random.default_rng(11)
SIZES = [{"n": 1, "h": 5}, {"n": 3, "h": 2}]


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_node_tests() -> None:
    """Those of one node: the expanded ones are of the operators that they are made of."""
    found = {case.name: result for case, result in outcomes(*OPS) if len(case.model.graph.node) == 1}
    assert len(found) >= 55
    assert {n: r for n, r in found.items() if r.kind != "pass"} == {}


def test_batch_normalization() -> None:
    operands = weights(4), weights(4), weights(4), abs(weights(4)) + 0.1
    for shape in (("n", 4, "h", 3), ("n", 4)):
        graph = against_runtime("BatchNormalization", Fed(shape), *operands, sizes=SIZES, epsilon=1e-3)
        assert ops_of(graph) == ["batch_norm"]


def test_batch_normalization_of_the_batch_at_hand() -> None:
    operands = weights(4), weights(4), weights(4), abs(weights(4)) + 0.1
    x = Fed(("n", 4, "h", 3))
    against_runtime("BatchNormalization", x, *operands, sizes=SIZES, outputs=3, opset=15, training_mode=1, momentum=0.7)


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_instance_normalization(rank: int) -> None:
    x = Fed(("n", 3, "h", 4, 2)[:rank])
    graph = against_runtime("InstanceNormalization", x, weights(3), weights(3), sizes=SIZES, epsilon=1e-4)
    assert ops_of(graph) == ["group_norm"]


@pytest.mark.parametrize(
    ("axis", "shape"), [(-1, (6,)), (2, (4, 6)), (1, (3, 4, 6)), (2, (6,)), (2, (4, 1)), (-2, (4, 6))]
)
def test_layer_normalization(axis: int, shape: tuple[int, ...]) -> None:
    x = Fed(("n", 3, 4, 6))
    graph = against_runtime(
        "LayerNormalization", x, weights(*shape), weights(*shape), sizes=SIZES, axis=axis, epsilon=1e-3
    )
    assert "layer_norm" in ops_of(graph)
    against_runtime("LayerNormalization", x, weights(*shape), sizes=SIZES, outputs=3, axis=axis)


def test_layer_normalization_of_halves() -> None:
    x = Fed(("n", 3, 16), lambda rng, shape: rng.standard_normal(shape).astype(np.float16))
    against_runtime(
        "LayerNormalization", x, weights(16).astype(np.float16), sizes=SIZES, rtol=2e-3, atol=2e-3, outputs=3
    )


def test_group_normalization_with_a_scale_for_each_group_or_channel() -> None:
    x = Fed(("n", 6, "h", 3))
    for opset, count in ((18, 3), (21, 6)):
        graph = against_runtime(
            "GroupNormalization", x, weights(count), weights(count), sizes=SIZES, opset=opset, num_groups=3
        )
        assert ops_of(graph) == ["group_norm"]
    fed = Fed((3,)), Fed((3,))
    against_runtime("GroupNormalization", x, *fed, sizes=SIZES, opset=18, num_groups=3)


@pytest.mark.parametrize(("axis", "shape"), [(-1, (6,)), (1, (4, 6)), (1, (6,))])
def test_rms_normalization(axis: int, shape: tuple[int, ...]) -> None:
    graph = against_runtime(
        "RMSNormalization", Fed(("n", 4, 6)), weights(*shape), sizes=SIZES, opset=23, axis=axis, epsilon=1e-3
    )
    assert "rms_norm" in ops_of(graph)


@pytest.mark.parametrize("beta", [0.5, 0.6, 0.75])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_normalization(size: int, beta: float) -> None:
    x = Fed(("n", 4, "h", 3))
    against_runtime("LRN", x, sizes=SIZES, size=size, alpha=0.5, beta=beta, bias=1.5)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 1])
def test_lp_normalization_leaves_zeros(axis: int, p: int) -> None:
    x = Fed(("n", 3, 4), lambda rng, shape: rng.integers(-1, 2, shape).astype(np.float32))
    against_runtime("LpNormalization", x, sizes=[{"n": 6}], axis=axis, p=p)


@pytest.mark.parametrize("attributes", [{}, {"axes": [0, 3]}], ids=str)
def test_mean_variance_normalization(attributes: dict[str, Any]) -> None:
    against_runtime("MeanVarianceNormalization", Fed(("n", 3, "h", 4)), sizes=SIZES, rtol=1e-3, **attributes)


def test_dropout_does_nothing() -> None:
    x = Fed(("n", 3))
    graph = against_runtime("Dropout", x, np.float32(0.5), sizes=SIZES, outputs=2)
    assert ops_of(graph) == ["full"]
    against_runtime("Dropout", x, np.float32(0.0), np.array(True), sizes=SIZES)


def test_dropout_of_training_is_refused() -> None:
    model = one_node("Dropout", [Fed((2, 3)), np.float32(0.5), np.array(True)], 1, 17, {})
    with pytest.raises(CaptureError, match="random"):
        capture_onnx(model)


def test_dropout_of_old_opsets() -> None:
    model = one_node("Dropout", [Fed((2, 3))], [True, False], 10, {"ratio": 0.3})
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(interpret(capture_onnx(model).graph, {"in0": x})[0], x)
