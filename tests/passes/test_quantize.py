"""The plan written into the graph: QDQ, smoothing that is exact, shifts that are undone, casts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from planish.compiler.errors import PlanishError
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.precision import CALIBRATION, PRECISION
from planish.passes.quantize import Quantize
from planish.passes.weights.rtn import fake_quantize_rows, quantize_rows
from planish.passes.weights.smoothquant import channel_scale, choose
from planish.testing import capture_function

RNG = np.random.default_rng(0)


def quantised(
    model: nn.Module, x: torch.Tensor, precision: str, *, data: Any = "example", smooth: bool = True
) -> tuple[Graph, float, PassContext]:
    """The quantised graph, its relative error on the example, and the context."""
    graph, examples = capture_function(model, (x,))
    (want,) = interpret(graph, examples)
    batches = [examples] if data == "example" else data
    names = {n.name: precision for n in graph.nodes if n.op in ("linear", "attention", "conv")}
    context = PassContext(data={PRECISION: names, CALIBRATION: batches})
    assert Quantize(smooth=smooth).run(graph, context).changed
    verify(graph)
    (got,) = interpret(graph, examples)
    return graph, float(np.linalg.norm(got - want) / np.linalg.norm(want)), context


def lopsided(rows: int = 64) -> torch.Tensor:
    """Activations as they come: outlier channels, offsets, mostly small values."""
    x = torch.randn(rows, 32, generator=torch.Generator().manual_seed(3))
    x[:, 3] *= 40
    x[:, 7] = x[:, 7] * 0.1 + 25
    return x


def test_int8_is_qdq_around_a_float_linear() -> None:
    graph, error, _ = quantised(nn.Linear(32, 16), torch.randn(4, 32), "w8a8-dynamic", smooth=False)
    ops = [n.op for n in graph.nodes if n.op != "constant"]
    assert ops == ["quantize_dynamic", "dequantize", "dequantize", "linear"]
    assert 0 < error < 0.02
    assert not any(a.dtype == np.float32 and a.shape == (16, 32) for a in graph.constants.values()), (
        "float weights stay"
    )


def test_smoothing_helps_on_outliers() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(32, 16), lopsided()
    _, plain, _ = quantised(model, x, "w8a8-dynamic", smooth=False)
    graph, smoothed, context = quantised(model, x, "w8a8-dynamic")
    assert smoothed < plain / 2
    assert any("smoothed with alpha" in n.text for n in context.notes)
    assert any(n.op == "mul" for n in graph.nodes)


def test_lopsided_rows_are_centred_or_shifted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))
    _, error, context = quantised(model, torch.randn(128, 32) * 3, "w8a8-dynamic")
    assert error < 0.02
    assert any("centred" in n.text or "shifted" in n.text for n in context.notes), [str(n) for n in context.notes]


def test_linears_of_one_input_share_its_quantisation() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 8), nn.Linear(32, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    graph, _, _ = quantised(Two(), lopsided(), "w8a8-dynamic")
    assert sum(n.op == "quantize_dynamic" for n in graph.nodes) == 1


def test_without_data_there_is_a_warning_and_no_smoothing() -> None:
    graph, _, context = quantised(nn.Linear(32, 16), lopsided(), "w8a8-dynamic", data=[])
    assert [n.kind for n in context.notes] == ["warning"]
    assert not any(n.op == "mul" for n in graph.nodes)


def test_non_finite_calibration_data_is_refused() -> None:
    graph, examples = capture_function(nn.Linear(32, 16), (torch.randn(4, 32),))
    bad = {k: np.where(np.arange(32) == 3, np.nan, v).astype(np.float32) for k, v in examples.items()}
    names = {n.name: "w8a8-dynamic" for n in graph.nodes if n.op == "linear"}
    with pytest.raises(PlanishError, match="NaN or infinity"):
        Quantize().run(graph, PassContext(data={PRECISION: names, CALIBRATION: [bad]}))


def test_bf16_rounds_operands_and_keeps_the_result_f32() -> None:
    graph, error, _ = quantised(nn.Linear(32, 16), torch.randn(4, 32), "bf16")
    linear = next(n for n in graph.nodes if n.op == "linear")
    assert [v.dtype for v in linear.inputs[:2]] == [DType.bf16, DType.bf16]
    assert linear.output.dtype is DType.f32 and 1e-5 < error < 1e-2


def test_rows_of_weights() -> None:
    weight = np.array([[1.0, -2.0, 0.5], [0, 0, 0], [127, 63.5, -0.5]], np.float32)
    q, scale = quantize_rows(weight)
    assert q.tolist() == [[64, -127, 32], [0, 0, 0], [127, 64, 0]]  # ties to even: 63.5 -> 64, -0.5 -> 0
    np.testing.assert_allclose(scale[:, 0], [2 / 127, 0, 1])
    np.testing.assert_allclose(fake_quantize_rows(weight), q * scale)


def test_channel_scale_moves_amplitude_into_the_weights() -> None:
    scale = channel_scale(np.array([100.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0]), 0.5)
    assert scale[0] / scale[1] == pytest.approx(10.0) and scale[2] == 1.0


def test_choose_never_does_worse_than_plain_rounding() -> None:
    for _ in range(5):
        x = RNG.standard_normal((40, 24)).astype(np.float32) * RNG.uniform(0.1, 10, 24).astype(np.float32)
        w = RNG.standard_normal((12, 24)).astype(np.float32)
        found = choose(x, x.min(0), x.max(0), [w])
        assert found.error <= found.plain_error
