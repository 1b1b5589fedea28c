"""Every command on a small model, in this process; the figures it prints are checked, not how they are laid out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.cli import main

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 32)
    def forward(self, x, scale=None):
        y = self.down(nn.functional.gelu(self.norm(self.up(x))))
        return {"y": y + x, "mean": y.mean(-1)}

def model():
    torch.manual_seed(0)
    rows = torch.export.Dim("rows", min=1, max=64)
    return Net().eval(), (torch.randn(5, 32),), None, {"x": {0: rows}}

def other():
    torch.manual_seed(1)
    return Net().eval(), (torch.randn(5, 32),)

def unsupported():
    class Odd(nn.Module):
        def forward(self, x): return torch.linalg.det(x)
    return Odd(), (torch.randn(3, 3),)
"""

RULES = """
import planish

class Never(planish.RewriteRule):
    name = "never"
    def pattern(self, op, x): return op.tanh(op.tanh(x))
    def check(self, m): return None
    def rewrite(self, op, m): return op.tanh(m.x)

class Broken(planish.RewriteRule):
    name = "broken"
    def pattern(self, op, x): return op.gelu(x)
    def check(self, m): raise ZeroDivisionError("by hand")
    def rewrite(self, op, m): return m.x

class Wrong(planish.RewriteRule):
    name = "wrong"
    def pattern(self, op, x): return op.gelu(x)
    def check(self, m): return None
    def rewrite(self, op, m): return op.relu(m.x)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("commands")
    (path / "net.py").write_text(FILE)
    (path / "rules.py").write_text(RULES)
    return path


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    path = folder / "net.planish"
    assert main(["compile", f"{folder}/net.py:model", "-o", str(path), "--no-measure"]) == 0
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run a command with ``--json``; it must succeed."""
    status = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def fails(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> tuple[str, str]:
    """Run a command that must end with ``status``; the sentence and the hint on stderr. ``--json`` must say the same."""
    assert main([*map(str, arguments)]) == status
    err = capsys.readouterr().err
    first, _, rest = err.strip().partition("\n")
    assert first.startswith("error: ")
    assert "Traceback" not in err
    assert main([*map(str, arguments), "--json"]) == status
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit"] == status
    assert first == f"error: {error['message']}"
    return first.removeprefix("error: "), rest.removeprefix("hint:  ")


# -- what works -----------------------------------------------------------------------------------------------------------
def test_compile_ends_with_figures_and_the_next_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder / "told.planish"
    assert main(["compile", f"{folder}/net.py:model", "-o", str(target)]) == 0
    out = capsys.readouterr().out
    for word in ("speed", "PyTorch", "quality", "cosine 1.000000", "size", "runs on", "Linux x86_64", "next"):
        assert word in out
    assert f"planish verify {target} --against {folder}/net.py:model" in out


def test_compile_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, "compile", f"{folder}/net.py:model", "-o", folder / "json.planish", "--dump", folder / "dump")
    assert found["bytes"] == (folder / "json.planish").stat().st_size
    assert [s["name"] for s in found["manifest"]["symbols"]] == ["rows"]
    assert found["measured"]["cosine"] > 0.99999
    assert found["measured"]["source_bytes"] == 4 * (32 * 64 * 2 + 64 + 64 * 2 + 32)
    assert len(list((folder / "dump").glob("*.txt"))) > 3


@pytest.mark.parametrize("precision", ["bf16", "w8a8-dynamic"])
def test_precision_by_layer(folder: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / f"{precision}.planish"
    call(capsys, "compile", f"{folder}/net.py:model", "-o", path, "-p", precision, "-p", "up=f32", "--no-measure")
    launches = call(capsys, "inspect", path)["manifest"]["units"][0]["launches"]
    kinds = {
        source: launch["precision"] for launch in launches for source in launch["sources"] if source in ("up", "down")
    }
    assert kinds["up"] == "f32"
    assert kinds["down"].startswith(precision.partition("-")[0])


def test_run_gives_what_the_source_gives(artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    np.savez(folder / "in.npz", x=x)
    found = call(capsys, "run", artifact, "-i", folder / "in.npz", "-o", folder / "out.npz")
    assert found["outputs"] == {"y": {"dtype": "float32", "shape": [7, 32]}, "mean": {"dtype": "float32", "shape": [7]}}
    import torch

    from planish.cli.source import load_source

    expected = load_source(f"{folder}/net.py:model").eager()[0](torch.from_numpy(x))
    with np.load(folder / "out.npz") as data:
        for name in ("y", "mean"):
            np.testing.assert_allclose(data[name], expected[name].detach().numpy(), rtol=1e-4, atol=1e-5)


def test_run_without_input_makes_some_up(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "run", artifact, "--dims", "rows=3")["outputs"]["y"]["shape"] == [3, 32]


def test_inspect_names_every_layer(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(artifact)]) == 0
    out = capsys.readouterr().out
    for word in ("x: f32[rows, 32]", "rows 1..64", "up", "down", "canonicalize", "Linux x86_64", "scale"):
        assert word in out


def test_what_stayed_unfused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "apart.py").write_text(APART)
    path = folder / "apart.planish"
    assert main(["compile", f"{folder}/apart.py:model", "-o", str(path), "--no-measure"]) == 0
    told = capsys.readouterr().out
    assert "5 ops in 4 launches, 1 of them fused from several ops; 2 apart from their neighbours" in told
    assert f"(planish inspect {path} --unfused says why)" in told
    assert main(["inspect", str(path), "--unfused"]) == 0
    told = capsys.readouterr().out
    assert "2 x exp" in told
    assert "at  blocks.0..1.exp, apart.py:9" in told
    assert "after linear: a transposition in between" in told
    report = call(capsys, "inspect", path)["report"]
    assert report["launches"] == {"ops": 5, "launches": 4, "fused": 1, "apart": 2, "copies": 0}
    assert [(g["what"], g["count"], g["where"]) for g in report["unfused"]] == [("exp", 2, ["blocks.0..1.exp"])]


APART = """
import torch
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(8, 8)
    def forward(self, x):
        y = self.up(x).transpose(1, 2)
        return torch.exp(y)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
    def forward(self, x):
        return [block(x + i) for i, block in enumerate(self.blocks)]
def model(): return Net(), (torch.randn(2, 8, 8) / 8,)
"""


def test_bench_adds_up(artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(
        capsys, "bench", artifact, "--against", f"{folder}/net.py:model", "--seconds", "0.2", "--dims", "rows=8",
        "--threads", "1",
    )  # fmt: skip
    assert found["sizes"] == {"rows": 8}
    assert found["threads"] == 1
    for name in ("planish", "pytorch"):
        times = found["latency"][name]
        assert 0 < times["min"] <= times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    assert found["limit"]["operations"] == sum(k["operations"] for k in found["kernels"])
    assert found["limit"]["operations"] >= 2 * 8 * 32 * 64 * 2
    assert {s for k in found["kernels"] for s in k["sources"]} >= {"up", "down"}
    assert found["throughput"]["calls_per_second"] > 0
    assert found["memory"]["peak"] > 0


def test_verify_counts_every_case(artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, "verify", artifact, "--against", f"{folder}/net.py:model")
    assert found["passed"]
    assert [case["sizes"]["rows"] for case in found["cases"]] == [5, 1, 7]
    for case in found["cases"]:
        assert [d["output"] for d in case["outputs"]] == ["y", "mean"]
        assert all(d["cosine"] > 0.99999 for d in case["outputs"])


def test_verify_misses_its_bar_with_another_model(
    artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(artifact), "--against", f"{folder}/net.py:other"]) == 3
    out = capsys.readouterr().out
    assert "missed: cosine of 'mean'" in out
    assert "worst" in out
    assert main(["verify", str(artifact), "--against", f"{folder}/net.py:model", "--max-abs", "0", "--json"]) == 3
    assert "max abs of" in json.loads(capsys.readouterr().out)["missed"][0]


def test_an_exported_program_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from planish.cli.source import load_source

    source = load_source(f"{folder}/net.py:model")
    program = torch.export.export(*source.eager()[:2], dynamic_shapes=source.dynamic_shapes)
    torch.export.save(program, folder / "saved.pt2")
    path = folder / "saved.planish"
    assert call(capsys, "compile", folder / "saved.pt2", "-o", path)["measured"]["cosine"] > 0.99999
    assert call(capsys, "verify", path, "--against", folder / "saved.pt2")["passed"]
    (folder / "text.pt2").write_text("hello")
    assert "is no model" in fails(capsys, 1, "compile", folder / "text.pt2", "-o", path)[0]


def test_a_rule_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "rule.planish"
    found = call(
        capsys, "compile", f"{folder}/net.py:model", "-o", path, "--no-measure", "--pass", f"{folder}/rules.py:Never@after=fold"
    )  # fmt: skip
    assert "fold,never," in found["manifest"]["pipeline"].replace(" ", "")


def test_passes_targets_doctor_and_cache_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = {p["name"]: p for p in call(capsys, "passes")["passes"]}
    assert {"canonicalize", "fold", "quantize", "fuse"} <= set(passes)
    assert [o["name"] for o in passes["fold"]["options"]] == ["max-bytes"]
    targets = call(capsys, "targets")
    assert targets["targets"][0]["name"] == "cpu:portable"
    assert sum(t["default"] for t in targets["targets"]) == 1
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path))
    doctor = call(capsys, "doctor")
    assert doctor["ok"]
    assert {f["subject"] for f in doctor["findings"]} >= {"cpu", "cores", "compiler", "cache", "torch"}
    (tmp_path / "mine.txt").write_text("not planish's")
    assert call(capsys, "cache")["parts"]["cpu"]["files"] >= 2  # the doctor built something
    assert call(capsys, "cache", "--clear")["freed"] > 0
    assert call(capsys, "cache")["files"] == 0
    assert (tmp_path / "mine.txt").exists()


# -- what does not --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (["comple"], "No such command 'comple'", "did you mean compile?"),
        (["compile", "{m}", "--precison", "f32"], "No such option: --precison", "did you mean --precision?"),
        (["compile", "{m}", "-p", "int8"], "int8", "w8a8-dynamic"),
        (["compile", "{m}", "-p", "bf61"], "bf61", "bf16"),
        (["compile", "{m}", "-p", "encoder.*=bf16"], "encoder.*", ""),
        (["compile", "{m}", "--target", "cpu:avx3"], "no level 'avx3'", "avx2"),
        (["compile", "{m}", "--pipeline", "canonicalise"], "canonicalise", "canonicalize"),
        (["compile", "{m}", "--pipeline", "fold{{max-byte=3}}"], "no option 'max-byte'", "max-bytes"),
        (["compile", "{m}", "--pass", "fould"], "fould", "fold"),
        (["compile", "{m}", "--pass", "fold@behind=fuse"], "does not say where", ""),
        (["compile", "{m}", "--pass", "{f}/rules.py:Nevr"], "has no 'Nevr'", "Never"),
        (["compile", "{m}", "--pass", "{f}/rules.py:Never@after=fould"], "no pass 'fould'", "fold"),
        (["compile", "{m}", "-o", "{f}"], "is a folder", "model.planish"),
        (["compile", "{m}", "-o", "{f}/net.py"], "would overwrite a source", "-o"),
        (["compile", "{m}", "-o", "{f}/nowhere/x.planish"], "there is no folder", ""),
        (["run", "{f}/nett.planish"], "there is no file", "net.planish"),
        (["run", "{f}/net.py"], "is a source", "planish compile"),
        (["run", "{a}", "--dims", "rows=65"], "outside the bounds 1..64", ""),
        (["run", "{a}", "--dims", "row=3"], "no dynamic dimension 'row'", "rows"),
        (["run", "{a}", "--threads", "0"], "Invalid value for '--threads'", ""),
        (["verify", "{a}"], "Missing option '--against'", ""),
    ],
)  # fmt: skip
def test_misuse_is_one_sentence(
    arguments: list[str], sentence: str, hint: str, artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [a.format(m=f"{folder}/net.py:model", f=folder, a=artifact) for a in arguments]
    message, advice = fails(capsys, 2, *filled)
    assert sentence in message
    assert hint in advice


def test_inputs_that_do_not_fit(artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "name": {"z": np.ones((2, 32), np.float32)},
        "type": {"x": np.ones((2, 32))},
        "rank": {"x": np.ones(32, np.float32)},
        "size": {"x": np.ones((2, 31), np.float32)},
        "bounds": {"x": np.ones((65, 32), np.float32)},
    }
    for name, arrays in cases.items():
        path = folder / f"{name}.npz"
        np.savez(path, **arrays)  # type: ignore[arg-type]
        message, _ = fails(capsys, 2, "run", artifact, "-i", path, "-o", folder / "never.npz")
        assert message
    assert not (folder / "never.npz").exists()


def test_an_op_that_is_not_supported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message, _ = fails(capsys, 1, "compile", f"{folder}/net.py:unsupported", "-o", folder / "odd.planish")
    assert "det" in message
    assert "net.py" in message
    assert not (folder / "odd.planish").exists()


def test_a_rule_that_fails_or_lies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "bad.planish"
    source = f"{folder}/net.py:model"
    message, _ = fails(capsys, 1, "compile", source, "-o", path, "--pass", f"{folder}/rules.py:Broken")
    assert "broken" in message
    assert "ZeroDivisionError" in message
    wrong = ("compile", source, "-o", path, "--pass", f"{folder}/rules.py:Wrong", "--check-each-pass")
    message, _ = fails(capsys, 1, *wrong)
    assert "wrong" in message
    assert not path.exists()


def test_files_that_are_no_artifacts(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = artifact.read_bytes()
    (tmp_path / "text.planish").write_text("hello")
    (tmp_path / "half.planish").write_bytes(data[: len(data) // 2])
    with zipfile.ZipFile(tmp_path / "zip.planish", "w") as archive:
        archive.writestr("a.txt", "a")
    for name, sentence in (
        ("text", "no planish artifact"),
        ("half", "truncated or damaged"),
        ("zip", "no planish artifact"),
    ):
        for command in ("run", "inspect"):
            message, _ = fails(capsys, 1, command, tmp_path / f"{name}.planish")
            assert sentence in message


def test_no_compiler(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(folder / "empty-cache"))
    message, hint = fails(capsys, 1, "compile", f"{folder}/net.py:model", "-o", folder / "none.planish", "--no-measure")
    assert "/nonexistent/g++" in message
    assert "CXX" in hint
    assert not (folder / "none.planish").exists()
    assert main(["doctor"]) == 1
    assert "broken" in capsys.readouterr().out


def test_a_compiler_that_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = folder / "c++"
    fake.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo fake 1 && exit 0\necho 'x.cpp:1: error: no luck' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(folder / "fake-cache"))
    message, hint = fails(capsys, 1, "compile", f"{folder}/net.py:model", "-o", folder / "none.planish", "--no-measure")
    assert "error: no luck" in message
    assert str(fake) in hint
    kept = hint.split("the source is kept in ")[1].split(";")[0]
    assert Path(kept).exists()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self/mem").exists(), reason="needs /proc")
def test_a_place_that_cannot_be_written(artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message, _ = fails(capsys, 1, "compile", f"{folder}/net.py:model", "-o", "/proc/x.planish", "--no-measure")
    assert "/proc" in message
    message, _ = fails(capsys, 1, "run", artifact, "-o", "/proc/x.npz")
    assert "/proc" in message


def test_debug_shows_the_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(folder / "gone.planish"), "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "error: there is no file" in err


def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    (folder / "slow.py").write_text("import time\ndef model():\n    print('started', flush=True)\n    time.sleep(60)\n")
    out = folder / "interrupted.planish"
    process = subprocess.Popen(
        [sys.executable, "-m", "planish.cli", "compile", f"{folder}/slow.py:model", "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the shell of a background job ignores it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "error: interrupted"
    assert not out.exists()
    assert not [p for p in folder.iterdir() if "interrupted" in p.name]
