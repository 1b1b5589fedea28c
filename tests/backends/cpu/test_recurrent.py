"""Recurrent layers on the CPU against the interpreter, and whole recurrent nets against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from case_table import LOWER, Table
from graph_harness import B, S, Sketch
from torch import Tensor, nn
from torch.export import Dim

import planish
from planish.backends.cpu import isa
from planish.compiler.capture.torch_export import capture
from planish.compiler.errors import PassError
from planish.compiler.graph import Value
from planish.compiler.ops_recurrent import GATES
from planish.compiler.types import DType

TABLE = Table()
#: Hidden units: a part of a vector, a block and a bit, one.
WIDTHS = {"small": 6, "blocks": 70, "one": 1}


def layer(g: Sketch, cell: str, hidden: int, dtype: DType = DType.f32, zero: bool = False, **attrs: Any) -> list[Value]:
    """One recurrent layer over inputs of its own."""
    rng = np.random.default_rng(hidden)
    gates = GATES[cell] * hidden
    w = g.const(rng.standard_normal((gates, hidden)) / np.sqrt(hidden), dtype if dtype is not DType.f32 else None)
    count = 2 if cell == "lstm" else 1
    if zero:
        states: list[Value | None] = [g("full", value=0.0, shape=(B, hidden), dtype=dtype) for _ in range(count)]
    else:
        states = [g.input(B, hidden, dtype=dtype) for _ in range(count)]
    bias = g.random(hidden, dtype=dtype) if cell == "gru" else None
    return g.both(
        "recurrent", g.input(S, B, gates, dtype=dtype), w, *states, *[None] * (2 - count), bias, cell=cell, **attrs
    )


@TABLE.each(**{f"{cell}_{name}": (cell, width) for cell in GATES for name, width in WIDTHS.items()})
def recurrent(g: Sketch, case: tuple[str, int]) -> list[Value]:
    cell, width = case
    return [*layer(g, cell, width), *layer(g, cell, width, zero=True, reverse=True)[:1]]


@TABLE.each(bf16=DType.bf16, f16=DType.f16)
def recurrent_type(g: Sketch, dtype: DType) -> list[Value]:
    return [*layer(g, "lstm", 6, dtype), *layer(g, "gru", 6, dtype, reverse=True)]


@TABLE.case
def both_ways(g: Sketch) -> Value:
    """Two directions side by side, batch first."""
    ways = [layer(g, "gru", 6, reverse=reverse)[0] for reverse in (False, True)]
    return g("transpose", g("concat", *ways, axis=2), perm=(1, 0, 2))


@pytest.mark.parametrize("name", TABLE.sketches)
def test_recurrent(name: str) -> None:
    TABLE.check(name, isa.detect(), slack=4.0)


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_recurrent_at_lower_levels(level: str) -> None:
    TABLE.check_all(level, slack=4.0)


@pytest.mark.parametrize(
    ("shapes", "cell"), [(((5, 2, 24), (24, 8), (2, 8)), "gru"), (((5, 2, 24), (24, 6), (2, 6)), "lstm"),
                     (((5, 2, 8), (8, 8), (3, 8)), "rnn_tanh"), (((5, 2, 8), (8, 8), (2, 8)), "elman")],
    ids=["fits", "states", "batch", "name"],
)  # fmt: skip
def test_what_fits(shapes: tuple, cell: str) -> None:
    g = Sketch()
    x, w, h = (g.input(*shape) for shape in shapes)
    if cell == "gru":
        assert g("recurrent", x, w, h, cell=cell).shape == (5, 2, 8)
        return
    with pytest.raises(PassError, match="recurrent"):
        g("recurrent", x, w, h, cell=cell)


# -- whole nets ------------------------------------------------------------------------------------------------------------
class Nets(nn.Module):
    """Every way PyTorch spells a recurrent net, over one batch of sequences of varying length."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(7, 10, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3)
        self.gru = nn.GRU(20, 9)
        self.rnn = nn.RNN(9, 5, nonlinearity="relu", bias=False)
        self.tanh = nn.RNN(5, 4, bidirectional=True)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        y, (last, cell) = self.lstm(x)
        z, end = self.gru(y.transpose(0, 1), h)
        return self.tanh(self.rnn(z)[0])[0], last, cell, end


def test_nets_of_torch_with_a_varying_length() -> None:
    torch.manual_seed(0)
    net = Nets().eval()
    batch, length = Dim("batch", min=1, max=8), Dim("length", min=1, max=99)
    shapes = ({0: batch, 1: length}, {1: batch})
    artifact = planish.compile(net, (torch.randn(2, 5, 7), torch.randn(1, 2, 9)), dynamic_shapes=shapes)
    ops = [node.op for node in artifact.graph.nodes]
    assert ops.count("recurrent") == 8, "one per layer and direction, whatever the length"
    model = artifact.load(threads=2)
    for b, t in ((2, 5), (1, 1), (8, 64)):
        x, h = torch.randn(b, t, 7), torch.randn(1, b, 9)
        for want, got in zip(net(x, h), model(x.numpy(), h.numpy()), strict=True):
            np.testing.assert_allclose(np.asarray(got), want.detach().numpy(), atol=2e-6, rtol=2e-5)


class Projected(nn.Module):
    """A net whose state is projected, which torch writes step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, proj_size=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def test_a_projected_state_is_written_out_where_the_length_is_fixed() -> None:
    captured = capture(Projected().eval(), (torch.randn(3, 2, 4),))
    assert not [node for node in captured.graph.nodes if node.op == "recurrent"]
    with pytest.raises(planish.CaptureError, match="length"):
        capture(Projected().eval(), (torch.randn(3, 2, 4),), dynamic_shapes=({0: Dim("t", min=2, max=9)},))


def test_torch_is_left_as_it_was() -> None:
    """Tracing replaces torch's own step by step evaluation on fake tensors for as long as it lasts, and no longer."""
    before = dict(torch.ops.aten.lstm.input.py_kernels)
    capture(nn.LSTM(3, 4).eval(), (torch.randn(2, 1, 3),))
    assert torch.ops.aten.lstm.input.py_kernels == before
