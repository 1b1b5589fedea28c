"""``planish targets``: the list, one target, and asking a provider."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planish.backends.onnx.providers import PROVIDERS
from planish.cli import main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path))


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["targets", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_has_levels_and_providers(capsys: pytest.CaptureFixture[str]) -> None:
    found = {t["name"]: t for t in _json(capsys)["targets"]}
    assert {"cpu:portable", *(f"onnx:{name}" for name in PROVIDERS)} <= set(found)
    cpu, dml = found["onnx:CPUExecutionProvider"], found["onnx:DmlExecutionProvider"]
    assert cpu["runs_here"] and cpu["version"].startswith("onnxruntime") and cpu["table"]["origin"] == "shipped"
    assert not dml["runs_here"] and dml["needs"] == ["onnxruntime-directml"] and dml["missing"]
    assert main(["targets"]) == 0
    text = capsys.readouterr().out
    assert "onnx:openvino" in text and "install onnxruntime-directml" in text and "from documentation" in text


def test_one_target_shows_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "onnx:coreml")
    assert found["name"] == "onnx:CoreMLExecutionProvider"
    assert {"form", "dtype", "taken", "source"} <= set(found["rows"][0])
    assert main(["targets", "onnx:coreml"]) == 0
    assert "matmul" in capsys.readouterr().out
    assert _json(capsys, "cpu:avx2")["needs"]


def test_one_form_is_tried_and_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    tried = _json(capsys, "--probe", "onnx:cpu", "--form", "gelu-20")
    assert tried["kept"] is None and [row["form"] for row in tried["rows"]] == ["gelu-20"] * 3
    assert _json(capsys, "onnx:cpu")["table"]["origin"] == "shipped"


def test_a_probed_table_goes_before_the_shipped_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from planish.backends.onnx import probe

    monkeypatch.setattr(probe, "FORMS", {name: probe.FORMS[name] for name in ("gelu-decomposed", "gelu-20")})
    found = _json(capsys, "--probe", "onnx:cpu")
    assert Path(found["kept"]).exists() and found["table"]["taken"] >= 2
    assert _json(capsys, "onnx:cpu")["table"] == found["table"]
    assert found["table"]["origin"] == "cache" and found["table"]["rows"] == 6


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (["onnx:cda"], "no execution provider 'cda'", "'cuda'"),
        (["onnx"], "a family of targets", "onnx:openvino"),
        (["cpu:avx3"], "no level 'avx3'", "avx2"),
        (["--probe", "onnx:abacus"], "no execution provider 'abacus'", "openvino"),
        (["--probe", "onnx:directml"], "DmlExecutionProvider cannot be probed", "pip install onnxruntime-directml"),
        (["--probe", "onnx:cpu", "--python", "/no/where"], "there is no Python at /no/where", "environment"),
        (["--probe", "onnx:cpu", "--form", "gelu"], "no lowering form 'gelu'", "gelu-20"),
        (["--python", "x"], "nothing is to be probed", "--probe"),
        (["onnx:cpu", "--probe", "onnx:cpu"], "a target and --probe", ""),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str, hint: str
) -> None:
    assert main(["targets", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and hint in error and "Traceback" not in error
