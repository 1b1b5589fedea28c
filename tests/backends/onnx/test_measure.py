"""Measuring models through sessions: whose the time is, what is kept, and the search that stands on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import planish
from planish.backends.onnx import measure as measuring
from planish.backends.onnx.attribution import Event, Owners, divide, estimate, launch_weights, read_profile
from planish.compiler.capture.torch_export import capture
from planish.compiler.errors import UsageError
from planish.compiler.plan import Plan
from planish.compiler.target import LaunchCost, MeasureRequest, Target, backend, find_target
from planish.driver import build
from planish.runtime.onnx_session import Assigned

CPU = "CPUExecutionProvider"


class Mlp(torch.nn.Module):
    """Two linears around a GELU, with a residual and a norm."""

    def __init__(self, width: int = 128, inner: int = 512) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(width, inner), torch.nn.Linear(inner, width)
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.down(torch.nn.functional.gelu(self.up(x))) + x)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path / "cache"))


def _request(plan: str = "f32", threads: int = 1, rows: int = 64) -> MeasureRequest:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=256)
    captured = capture(Mlp().eval(), (torch.randn(8, 128),), dynamic_shapes={"x": {0: batch}})
    built = build(captured.graph, Plan.of(plan), find_target("onnx:cpu"))
    x = np.random.default_rng(0).standard_normal((rows, 128)).astype(np.float32)
    return MeasureRequest(built.program, built.binary, {"x": x}, {}, threads)


def _measure(requests: list[MeasureRequest], **options: Any) -> list[list[LaunchCost]]:
    return backend("onnx").measure(requests, Target("onnx", CPU), seconds=0.3, **options)


def test_each_launch_has_its_cost_in_order() -> None:
    request = _request()
    (costs,) = _measure([request])
    launches = request.unit.description["launches"]
    assert [c.label for c in costs] == [launch["label"] for launch in launches]
    assert all(c.seconds >= 0 and np.isfinite(c.seconds) for c in costs)
    linears = {c.label: c for c in costs if c.anchor}
    assert {name for c in linears.values() for name in c.anchor} == {"up", "down"}
    products = sum(c.seconds for c in linears.values())
    assert products > 0.3 * sum(c.seconds for c in costs), "what computes most takes most"
    assert sum(c.weights for c in costs) == request.unit.description["weights_bytes"]
    assert all(c.flops > 0 for c in linears.values())


def test_what_is_known_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request()
    first = _measure([request])

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(measuring, "open_session", never)
    assert _measure([request]) == first
    for changed in (
        replace(request, inputs={"x": np.zeros((63, 128), np.float32)}),
        replace(request, threads=2),
        replace(request, unit=replace(request.unit, model=request.unit.model + b"\x1a\x00")),
    ):
        with pytest.raises(AssertionError, match="a session was opened"):
            _measure([changed])
    with pytest.raises(AssertionError, match="a session was opened"):
        _measure([request], fresh=True)


def test_another_version_of_the_provider_is_another_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request()
    _measure([request])
    monkeypatch.setattr("planish.backends.onnx.providers.Provider.version", lambda self: "onnxruntime 99")
    monkeypatch.setattr(measuring, "open_session", lambda *_, **__: pytest.fail("as it should be"))
    with pytest.raises(pytest.fail.Exception, match="as it should be"):
        _measure([request])


def test_several_requests_at_several_sizes_and_threads() -> None:
    small, large = _request(rows=1), _request(rows=256)
    costs = _measure([small, replace(small, inputs=large.inputs), replace(large, threads=2)])
    totals = [sum(c.seconds for c in launches) for launches in costs]
    assert all(total > 0 for total in totals)
    assert totals[1] > 3 * totals[0], "256 rows take longer than one"


def test_models_that_do_not_fit_in_memory_together_are_timed_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request()
    others = [replace(request, unit=replace(request.unit)) for _ in range(3)]
    assert measuring._groups([request, *others]) == [[0, 1, 2, 3]]
    monkeypatch.setattr(measuring, "MEMORY", request.unit.description["weights_bytes"] * 5 // 2)
    assert measuring._groups([request, *others]) == [[0, 1], [0, 2], [0, 3]]
    assert len(measuring._totals([request, *others], measuring.find_provider("cpu"), 0.05)) == 4


def test_a_wrong_input_is_told() -> None:
    request = _request()
    with pytest.raises(UsageError, match="there is no input x"):
        _measure([replace(request, inputs={})])
    with pytest.raises(UsageError, match="dimension 1 of x is 3"):
        _measure([replace(request, inputs={"x": np.zeros((2, 3), np.float32)})])


def test_a_provider_of_another_environment_cannot_be_measured() -> None:
    with pytest.raises(UsageError, match="DmlExecutionProvider cannot be measured here") as error:
        backend("onnx").measure([_request()], find_target("onnx:directml"))
    assert "onnxruntime-directml" in str(error.value.hint)


# -- whose the time is -------------------------------------------------------------------------------------------------------
def _graph(*nodes: tuple[str, list[str], str, int | None]) -> onnx.GraphProto:
    graph = helper.make_graph([], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])], [])
    for name, inputs, output, launch in nodes:
        node = helper.make_node("Op", inputs, [output], name=name)
        if launch is not None:
            node.metadata_props.add(key="planish.launch", value=str(launch))
        graph.node.append(node)
    return graph


EXPORTED = _graph(
    ("a/Reshape", ["x"], "r", None), ("a/MatMul", ["r", "w"], "m", 0), ("a/Add", ["m", "b"], "n", 0), ("g/Gelu", ["n"], "y", 1),
)  # fmt: skip


def _events(*pairs: tuple[str, float]) -> list[Event]:
    return [Event(name, "Op", CPU, seconds) for name, seconds in pairs]


def test_nodes_of_one_launch_are_its_own() -> None:
    owners = Owners(EXPORTED, None, [])
    found = divide(_events(("a/Reshape", 1.0), ("a/MatMul", 2.0), ("a/Add", 3.0), ("g/Gelu", 4.0)), owners, [1.0, 1.0])
    assert found == pytest.approx([6.0, 4.0])


def test_a_fused_node_is_divided_by_what_its_launches_take_at_least() -> None:
    running = _graph(("a/Reshape", ["x"], "r", None), ("fused", ["r", "w", "b"], "y", None))
    owners = Owners(EXPORTED, running, [])
    assert divide(_events(("a/Reshape", 1.0), ("fused", 8.0)), owners, [3.0, 1.0]) == pytest.approx([7.0, 2.0])


def test_what_belongs_to_nobody_is_divided_in_proportion() -> None:
    found = divide(
        _events(("a/MatMul", 3.0), ("g/Gelu", 1.0), ("reorder", 4.0)), Owners(EXPORTED, None, []), [1.0, 1.0]
    )
    assert found == pytest.approx([6.0, 2.0])
    assert divide(_events(("reorder", 4.0)), Owners(EXPORTED, None, []), [1.0, 1.0]) == pytest.approx([2.0, 2.0])


def test_a_compiled_subgraph_is_what_the_provider_took() -> None:
    assigned = [Assigned("a/MatMul", "Op", "P", 0), Assigned("a/Add", "Op", "P", 0), Assigned("g/Gelu", "Op", "P", 1)]
    run = [Event("P_subgraph_1", "sub", "P", 5.0), Event("P_subgraph_2", "sub", "P", 7.0)]
    assert divide(run, Owners(EXPORTED, None, assigned), [1.0, 1.0]) == pytest.approx([5.0, 7.0])
    whole = [Event("P_subgraph_1", "sub", "P", 12.0)]
    assert divide(whole, Owners(EXPORTED, None, assigned), [3.0, 1.0]) == pytest.approx([9.0, 3.0])


def test_nodes_in_the_body_of_a_loop_are_not_counted_twice() -> None:
    running = _graph(("loop", ["x"], "y", None))
    owners = Owners(EXPORTED, running, [])
    assert sum(divide(_events(("inner", 2.0), ("inner", 2.0), ("loop", 5.0)), owners, [1.0, 1.0])) == pytest.approx(5.0)


def test_weights_are_divided_among_their_readers() -> None:
    graph = _graph(("a", ["x", "w"], "y", 0), ("b", ["y", "w"], "z", 1), ("c", ["z", "v"], "o", 1))
    index = [{"name": "w", "bytes": 7}, {"name": "v", "bytes": 10}, {"name": "of nobody", "bytes": 100}]
    assert launch_weights(graph, index, 2) == [4, 13]


def test_a_profile_is_read_run_by_run(tmp_path: Path) -> None:
    def node(name: str, micros: int) -> dict[str, Any]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros, "args": {"op_name": "Op", "provider": CPU}}

    run = {"cat": "Session", "name": "model_run", "dur": 9}
    path = tmp_path / "p.json"
    path.write_text(
        json.dumps(
            [{"cat": "Session", "name": "model_loading_uri"}, node("a", 3), run, node("a", 4), node("b", 1), run]
        )
    )
    runs = read_profile(path)
    assert [[(e.name, e.seconds) for e in events] for events in runs] == [[("a", 3e-6)], [("a", 4e-6), ("b", 1e-6)]]


def test_an_estimate_is_what_limits() -> None:
    assert estimate(1600.0, 10.0) == 100.0 and estimate(16.0, 10.0) == 10.0


# -- the search ------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_search_through_the_provider_meets_its_bar() -> None:
    torch.manual_seed(0)
    model = Mlp(256, 1024).eval()
    random = np.random.default_rng(0)
    samples = [{"x": random.standard_normal((8, 256)).astype(np.float32)} for _ in range(90)]
    artifact = planish.compile(
        model, (torch.randn(8, 256),), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}},
        target="onnx:cpu", budget="cosine >= 0.99 each", calibration=samples, effort="quick",
    )  # fmt: skip
    record = artifact.report["search"]
    assert record["machine"]["target"] == f"onnx:{CPU}"
    assert {"up", "down"} <= set(artifact.report["precision"])
    x = samples[0]["x"]
    expected = model(torch.from_numpy(x)).detach().numpy()
    with artifact.load() as loaded:
        (found,) = loaded.flat({"x": x})
    cosine = np.sum(found * expected, -1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosine.min() >= 0.99
