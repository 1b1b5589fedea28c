"""``planish export``, and the commands on an artifact of several variants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx_parts import ABSENT, dense, dense_part, save_onnx
from unit_harness import affine_program, save

from planish.cli import main

pytest.importorskip("onnxruntime")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with ``model.planish``: a variant that cannot run, and one that can."""
    monkeypatch.chdir(tmp_path)
    save_onnx(tmp_path, dense_part("onnx-npu", ABSENT), dense_part())
    return tmp_path


def failed(capsys: pytest.CaptureFixture[str], status: int, *argv: str) -> str:
    assert main(list(argv)) == status
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text
    return text


def test_export_writes_the_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "model.planish", "-o", "out", "--target", "onnx:cpu"]) == 0
    told = capsys.readouterr().out
    assert (
        "out holds onnx-cpu of model.planish" in told
        and "python out/run.py" in told
        and "pip install onnxruntime" in told
    )
    assert sorted(p.name for p in (here / "out").iterdir()) == [
        "example.npz",
        "model.onnx",
        "model.onnx.data",
        "run.py",
        "session.json",
    ]


def test_export_for_machines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "model.planish", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == "model-onnx" and told["unit"] == "onnx-npu"
    assert told["session"]["provider"] == "NPUExecutionProvider"
    assert set(told["files"]) == {p.name for p in (here / "model-onnx").iterdir()}


def test_what_export_refuses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--target 'cpu' is no execution provider" in failed(capsys, 2, "export", "model.planish", "--target", "cpu")
    assert "did you mean" in failed(capsys, 2, "export", "model.planish", "--target", "onnx:openvin")
    assert "there is no file" in failed(capsys, 2, "export", "modle.planish")
    save(here, affine_program())
    text = failed(capsys, 2, "export", "model.planish")
    assert "holds no model for ONNX Runtime, only cpu-portable" in text and "--target onnx:cpu" in text
    (here / "no.planish").write_bytes(b"nothing")
    assert "is no planish artifact" in failed(capsys, 1, "export", "no.planish")
    assert not (here / "model-onnx").exists() and not (here / "no-onnx").exists()


def test_run_says_which_variant_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.ones((2, 8), np.float32)
    np.savez(here / "in.npz", x=x)
    assert main(["run", "model.planish", "-i", "in.npz", "-o", "out.npz"]) == 0
    told = capsys.readouterr()
    assert "onnx-cpu runs; onnx-npu needs NPUExecutionProvider, which this build of ONNX Runtime lacks" in told.err
    with np.load(here / "out.npz") as found:
        np.testing.assert_allclose(found["y"], dense(x), rtol=1e-5)
    assert main(["run", "model.planish", "--quiet"]) == 0
    assert not capsys.readouterr().err
    assert main(["run", "model.planish", "--json", "-q"]) == 0
    told_json = json.loads(capsys.readouterr().out)
    assert told_json["unit"] == "onnx-cpu" and list(told_json["skipped"]) == ["onnx-npu"]


def test_run_is_silent_where_there_is_no_choice(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_onnx(here)
    assert main(["run", "model.planish"]) == 0
    assert not capsys.readouterr().err


def test_inspect_lists_the_variants(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "model.planish"]) == 0
    told = capsys.readouterr().out
    assert "ONNX Runtime 1.20 or newer with NPUExecutionProvider (package onnxruntime-npu)" in told
    assert "onnx-cpu runs; onnx-npu needs" in told and "precision per layer of onnx-cpu" in told


def test_bench_times_the_variant_that_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model.planish", "--seconds", "0.1", "--threads", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unit"] == "onnx-cpu" and told["latency"]["planish"]["calls"] >= 5
    assert any(kernel["operations"] for kernel in told["kernels"])


def test_a_target_given_twice_and_one_that_is_unknown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "m.py").write_text("import torch\ndef model(): return torch.nn.ReLU(), (torch.ones(2),)\n")
    text = failed(capsys, 2, "compile", "m.py:model", "--target", "cpu:avx2", "--target", "cpu:avx2")
    assert "the target cpu:avx2 is given twice" in text
    text = failed(capsys, 2, "compile", "m.py:model", "--target", "cpu:avx2", "--target", "onnx:opnvino")
    assert "there is no execution provider 'opnvino'" in text and "did you mean 'openvino'" in text
    assert sorted(p.name for p in here.iterdir()) == ["m.py", "model.planish"]
