"""Dimensions of a captured model fixed, narrowed and made equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import planish
from planish.compiler.capture.captured import Captured
from planish.compiler.capture.torch_export import capture
from planish.compiler.interpret import interpret
from planish.compiler.specialise import checked_wishes, specialise, specialised


class Net(nn.Module):
    """Pairs of rows: every size that varies shows in a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = self.layer(x).reshape(x.shape[0], x.shape[1] * 4)
        return torch.cat([found, y.sum(-1, keepdim=True)], 1) * x.shape[1]


@pytest.fixture(scope="module")
def captured() -> Captured:
    torch.manual_seed(0)
    batch, seq, width = Dim("batch", min=1, max=8), Dim("seq", min=2, max=40), Dim("width", min=2, max=40)
    return capture(
        Net(), (torch.randn(3, 5, 6), torch.randn(3, 7)), dynamic_shapes=({0: batch, 1: seq}, {0: batch, 1: width})
    )


def run(one: Captured, seq: int, width: int, batch: int = 3) -> np.ndarray:
    random = np.random.default_rng(0)
    x, y = (random.standard_normal(s).astype(np.float32) for s in ((batch, seq, 6), (batch, width)))
    return np.asarray(interpret(one.graph, {"x": x, "y": y})[0])


def test_fixed(captured: Captured) -> None:
    one = specialised(captured, {"seq": 5, "batch": 3})
    assert set(one.graph.symbols) == {"width"}
    assert [str(v.type) for v in one.graph.inputs] == ["f32[3, 5, 6]", "f32[3, width]"]
    assert one.graph.outputs[0].shape == (3, 21)
    np.testing.assert_array_equal(run(one, 5, 7), run(captured, 5, 7))
    assert one.source != captured.source
    assert one.graph.meta["source"] == one.source
    assert set(captured.graph.symbols) == {"batch", "seq", "width"}


def test_narrowed(captured: Captured) -> None:
    one = specialised(captured, {"seq": (2, 4)})
    assert (one.graph.symbols["seq"].lower, one.graph.symbols["seq"].upper) == (2, 4)
    assert one.examples["x"].shape == (3, 4, 6)  # the example had 5
    assert one.examples["y"].shape == (3, 7)


def test_made_equal(captured: Captured) -> None:
    one = specialised(captured, {"width": "seq", "seq": (3, 9)})
    assert set(one.graph.symbols) == {"batch", "seq"}
    assert one.graph.symbols["seq"].lower == 3
    np.testing.assert_array_equal(run(one, 6, 6), run(captured, 6, 6))


def test_equal_to_what_is_fixed(captured: Captured) -> None:
    one = specialised(captured, {"width": "seq", "seq": 6})
    assert set(one.graph.symbols) == {"batch"}
    assert one.examples["y"].shape == (3, 6)


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"sequence": 5}, "no dimension 'sequence'"),
        ({"seq": 50}, "'seq' cannot be 50: the model was captured for 1 to 40"),
        ({"seq": (0, 9)}, "'seq' cannot be 0 to 9"),
        ({"seq": "width", "width": "seq"}, "said to equal itself"),
        ({"seq": "other"}, "no dimension 'other'"),
        ({"seq": (2, 4), "width": "seq", "batch": 3}, None),
        ({"width": (9, 20), "seq": (2, 4)}, None),
    ],
)
def test_wishes_that_do_not_fit(captured: Captured, wishes: dict[str, object], message: str | None) -> None:
    wishes = checked_wishes(wishes)  # type: ignore[assignment]
    if message is None:
        specialise(captured.graph, wishes)  # type: ignore[arg-type]
    else:
        with pytest.raises(planish.UsageError, match=message):
            specialise(captured.graph, wishes)  # type: ignore[arg-type]


@pytest.mark.parametrize("wish", [-1, 1.5, True, "", (3, 2), (1, 2, 3), None])
def test_no_wish(wish: object) -> None:
    with pytest.raises(planish.UsageError, match="the dimension 'seq' cannot be"):
        checked_wishes({"seq": wish})


def test_compiled(captured: Captured) -> None:
    """The same through the driver, which takes what was captured as well."""
    artifact = planish.compile(captured, dims={"seq": 5, "width": "batch", "batch": (2, 3)})
    assert {s["name"]: (s["min"], s["max"]) for s in artifact.manifest["symbols"]} == {"batch": (2, 3)}
    with artifact.load() as model:
        x, y = torch.randn(2, 5, 6).numpy(), torch.randn(2, 2).numpy()
        expected = np.asarray(interpret(captured.graph, {"x": x, "y": y})[0])
        np.testing.assert_allclose(model(x, y), expected, rtol=1e-5, atol=1e-5)
