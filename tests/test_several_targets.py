"""One plan, several targets: an artifact with a variant for each, built, chosen, and with a bar proved, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import planish
from planish.backends.cpu import isa
from planish.compiler.errors import BudgetError, UsageError
from planish.runtime import machine

BATCH = torch.export.Dim("batch", min=1, max=32)
RNG = np.random.default_rng(0)
SAMPLES = [{"input": RNG.standard_normal(16).astype(np.float32)} for _ in range(160)]
SEARCH: dict[str, Any] = {
    "calibration": SAMPLES, "effort": "quick", "coverage": 0.8, "confidence": 0.9, "restart": True,
}  # fmt: skip


@pytest.fixture
def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)).eval()


def compiled(model: torch.nn.Module, target: Any, **options: Any) -> planish.Artifact:
    return planish.compile(model, (torch.ones(4, 16),), dynamic_shapes=({0: BATCH},), target=target, **options)


def levels() -> list[str]:
    """The levels that run here, the best first."""
    order = ["avx512-bf16", "avx512-vnni", "avx2", "portable"]
    return [f"cpu:{level}" for level in order[order.index(isa.detect()) :]]


def test_every_target_has_its_unit_and_the_first_that_runs_is_taken(
    mlp: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = levels()
    if len(targets) < 2:
        pytest.skip("this CPU runs portable code only")
    artifact = compiled(mlp, targets, precision="w8a8-dynamic")
    units = artifact.manifest["units"]
    assert [unit["target"] for unit in units] == targets and artifact.manifest["format"] == 1
    assert {unit["kind"] for unit in units} == {"native"}
    assert len(artifact.manifest["hosts"]) == 1
    assert set(artifact.manifest["plan"]["variants"]) == {unit["name"] for unit in units}
    assert [v["target"] for v in artifact.report["variants"]] == targets
    x = RNG.standard_normal((5, 16)).astype(np.float32)
    with artifact.load(threads=1) as model:
        assert model.unit == units[0]["name"] and not model.skipped
        first = model(x)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset())
    with artifact.load(threads=1) as model:
        assert model.unit == "cpu-portable" and set(model.skipped) == {u["name"] for u in units[:-1]}
        np.testing.assert_allclose(model(x), first, rtol=1e-3, atol=1e-3)


def test_equal_artifacts_give_equal_bytes(mlp: torch.nn.Module) -> None:
    assert (
        compiled(mlp, ["cpu:avx2", "cpu:portable"]).package.digest
        == compiled(mlp, ["cpu:avx2", "cpu:portable"]).package.digest
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([], "there is no target to compile for"),
        (["cpu:avx2", "cpu:avx2"], "the target cpu:avx2 is given twice"),
        (["cpu", "cpu:avx3"], "has no level 'avx3'"),
    ],
)
def test_targets_that_make_no_sense(mlp: torch.nn.Module, target: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compiled(mlp, target)


def test_each_variant_is_proved(mlp: torch.nn.Module) -> None:
    best = levels()[0]
    others = [t for t in ("cpu:portable",) if t != best]
    artifact = compiled(mlp, [best, *others], budget="cosine >= 0.99 each", **SEARCH)
    assert [unit["target"] for unit in artifact.manifest["units"]] == [best, *others]
    told = artifact.report["search"]["variants"]
    assert [v["target"] for v in told] == others
    for variant in told:
        assert variant["why_not"] is None and variant["seconds"] > 0
        assert all(
            p["holds"] and p["samples"] == artifact.report["search"]["proof"][0]["samples"] for p in variant["proof"]
        )


def test_a_variant_that_cannot_run_here_is_said_to_be_unproved(
    mlp: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planish import decide

    monkeypatch.setattr(decide, "why_not", lambda unit: "a CPU from another world")
    artifact = compiled(mlp, [levels()[0], "cpu:portable"], budget="cosine >= 0.9 mean", **SEARCH)
    (told,) = artifact.report["search"]["variants"]
    assert told["why_not"] == "it needs a CPU from another world" and not told["proof"]
    assert len(artifact.manifest["units"]) == 2


def test_a_variant_that_misses_the_bar_is_an_error(mlp: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second variant's outputs are spoilt on their way out: as if its target computed something else."""
    from planish import trial

    class Spoilt(trial.Variant):
        def outputs(self, inputs: Any) -> Any:
            found = super().outputs(inputs)
            return [-y for y in found] if self.artifact.manifest["units"][0]["name"] == "cpu-portable" else found

    from planish import decide

    monkeypatch.setattr(decide, "Variant", Spoilt)
    with pytest.raises(BudgetError, match=r"meets the bar, but not as cpu:portable computes it: .*cosine") as caught:
        compiled(mlp, [levels()[0], "cpu:portable"], budget="cosine >= 0.99 each", **SEARCH)
    assert caught.value.hint is not None and "leave cpu:portable out" in caught.value.hint


@pytest.fixture(scope="module")
def onnx_and_native() -> planish.Artifact:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)).eval()
    return compiled(model, ["onnx:cpu", "cpu:portable"], strict=True)


def test_onnx_runtime_and_native_code_agree(onnx_and_native: planish.Artifact) -> None:
    units = onnx_and_native.manifest["units"]
    assert [unit["name"] for unit in units] == ["onnx-cpu", "cpu-portable"]
    x = RNG.standard_normal((7, 16)).astype(np.float32)
    with onnx_and_native.load(threads=1) as model:
        assert model.unit == "onnx-cpu"
        first = model(x)
    from dataclasses import replace

    alone = replace(onnx_and_native.package, units=onnx_and_native.package.units[1:])
    with planish.Artifact(alone, onnx_and_native.graph).load(threads=1) as model:
        assert model.unit == "cpu-portable"
        np.testing.assert_allclose(model(x), first, rtol=1e-4, atol=1e-5)


def test_who_runs_what_is_reported(onnx_and_native: planish.Artifact) -> None:
    told = onnx_and_native.report["placement"]
    assert list(told) == ["onnx-cpu"]
    assert told["onnx-cpu"]["nodes"].keys() == {"CPUExecutionProvider"} and not told["onnx-cpu"]["elsewhere"]
    assert told["onnx-cpu"]["version"].startswith("onnxruntime ")


def test_an_artifact_exports_itself(onnx_and_native: planish.Artifact, tmp_path: Path) -> None:
    import json

    import onnx

    made = onnx_and_native.export(tmp_path / "out")
    model = onnx.load(made.folder / "model.onnx")
    onnx.checker.check_model(str(made.folder / "model.onnx"), full_check=True)
    data = {entry.key: entry.value for entry in model.metadata_props}
    assert data["planish.source"] == onnx_and_native.manifest["source"]["sha256"]
    assert json.loads(data["planish.plan"]) == onnx_and_native.report["plan"]
    assert [i.name for i in model.graph.input] == ["input"]


def test_a_search_runs_against_onnx_runtime_and_the_native_variant_is_proved(mlp: torch.nn.Module) -> None:
    pytest.importorskip("onnxruntime")
    artifact = compiled(mlp, ["onnx:cpu", "cpu:portable"], budget="cosine >= 0.99 each", **SEARCH)
    assert [unit["name"] for unit in artifact.manifest["units"]] == ["onnx-cpu", "cpu-portable"]
    search = artifact.report["search"]
    assert search["machine"]["target"] == "onnx:CPUExecutionProvider" and search["proof"][0]["holds"]
    assert [v["unit"] for v in search["variants"]] == ["cpu-portable"] and search["variants"][0]["proof"][0]["holds"]
    assert artifact.report["kernels"]  # measured in the session that ships


def test_a_plan_is_fitted_to_further_targets_and_the_change_is_listed() -> None:
    """ONNX Runtime's CPU provider has no kernels for bf16; native code has."""
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = torch.nn.Linear(16, 8).eval()
    artifact = compiled(model, ["cpu", "onnx:cpu"], precision="bf16")
    changes = [str(note) for note in artifact.report["notes"] if note.kind == "change"]
    assert any("1 linear of bf16 by the plan: computed in f32" in text for text in changes)
    variants = artifact.manifest["plan"]["variants"]
    assert set(variants["cpu-" + isa.detect()]["layers"].values()) == {"bf16"}
    assert set(variants["onnx-cpu"]["layers"].values()) == {"f32"}
    with pytest.raises(UsageError, match="has no kernel for a linear in bf16"):
        compiled(model, "onnx:cpu", precision="bf16")  # alone, it is what was asked for or an error
