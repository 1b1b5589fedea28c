"""What a compilation costs as the model grows: work in proportion to its nodes, memory in proportion to its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import nn

from planish import driver
from planish.codegen.unit import describe, split_unit
from planish.compiler.capture.torch_export import Captured, capture
from planish.compiler.pass_protocol import PassContext
from planish.compiler.plan import Plan
from planish.compiler.target import find_target
from planish.passes.precision import CALIBRATION, PLAN

LAYERS = (4, 8, 16)
PRECISIONS = ("f32", "bf16", "w8a8-dynamic")


def encoder(layers: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval(), torch.randn(2, 5, 16)


def calls(body: Callable[[], object]) -> Counter[str]:
    """Calls of each Python function of planish while ``body`` runs, by file and name."""
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and "planish" in frame.f_globals.get("__name__", ""):
            counted[f"{frame.f_globals['__name__']}.{frame.f_code.co_name}"] += 1

    sys.setprofile(count)
    try:
        body()
    finally:
        sys.setprofile(None)
    return counted


@pytest.fixture(scope="module")
def captured() -> dict[int, tuple[Captured, Counter[str]]]:
    """A model of each depth, and what the walk into the IR called. (torch.export is torch's.)"""
    found: dict[int, tuple[Captured, Counter[str]]] = {}
    for layers in LAYERS:
        model, x = encoder(layers)
        kept: list[Captured] = []
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},))
        counted = calls(lambda: kept.append(capture(program)))  # noqa: B023
        found[layers] = (kept[0], counted)
    return found


def grows_in_proportion(counts: dict[int, Counter[str]]) -> None:
    """From 8 layers to 16 twice as many calls are added as from 4 to 8, whatever is constant."""
    few, some, many = (counts[layers] for layers in LAYERS)
    assert few.total() < some.total() < many.total()
    excess = {name: many[name] - some[name] - 2 * (some[name] - few[name]) for name in many}
    worst = sorted(excess.items(), key=lambda item: -item[1])[:5]
    assert many.total() - some.total() < 2.2 * (some.total() - few.total()), worst


def test_capture_is_linear(captured: dict[int, tuple[Captured, Counter[str]]]) -> None:
    grows_in_proportion({layers: counted for layers, (_, counted) in captured.items()})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_passes_lowering_and_rendering_are_linear(
    captured: dict[int, tuple[Captured, Counter[str]]], precision: str
) -> None:
    """A scan of the whole graph for each node would show: a generator that goes on counts as called."""

    def compile_one(one: Captured) -> None:
        graph = one.graph.copy()
        data = {PLAN: Plan.of(precision), CALIBRATION: [one.examples]}
        driver.preset(target).run(graph, PassContext(target=target, data=data))
        program = driver.backend("cpu").lower(graph, target)
        assert split_unit(program).text
        assert describe(program)

    target = find_target("cpu:avx2")
    compile_one(captured[LAYERS[0]][0])  # what is made once: templates
    counts = {layers: calls(lambda: compile_one(one)) for layers, (one, _) in captured.items()}  # noqa: B023
    grows_in_proportion(counts)


#: Makes a model, compiles it for each precision and saves that; prints, in bytes, the weights and the most the process had
#: held by the end of each.
MEMORY = """
import json, sys
import torch, planish
from planish.compiler.profile import peak_bytes

with torch.no_grad():
    model = torch.nn.Sequential(*(
        torch.nn.TransformerEncoderLayer(1024, 8, 4096, batch_first=True, activation="gelu") for _ in range(12)
    )).eval()
batch, found = torch.export.Dim("batch", min=1, max=8), {}
for precision in sys.argv[2:]:
    artifact = planish.compile(
        model, (torch.randn(2, 8, 1024),), dynamic_shapes=[{0: batch}], target="cpu:avx2", precision=precision
    )
    artifact.save(sys.argv[1])
    found[precision] = peak_bytes()
    del artifact
print(json.dumps([sum(4 * p.numel() for p in model.parameters()), found]))
"""


@pytest.mark.slow
def test_memory_stays_below_two_and_a_half_times_the_weights(tmp_path: Path) -> None:
    """Of a process that makes a model of 600 MB, compiles it and writes it: all it ever held, with torch itself and what
    torch holds of the model."""
    program = tmp_path / "compile.py"
    program.write_text(MEMORY)
    command = [sys.executable, str(program), str(tmp_path / "model.planish"), *PRECISIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    weights, peaks = json.loads(done.stdout)
    assert weights > 570 * 2**20
    times = {precision: peak / weights for precision, peak in peaks.items()}
    assert times["f32"] > 1.2, "the model itself was in memory"
    assert max(times.values()) < 2.5, times
