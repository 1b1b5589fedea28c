"""A Hugging Face folder on the command line and in Python, from start to end; and files that are refused unread."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_folders import TEXT, add_tokenizer, save

import planish
from planish.cli import main

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text classifier with its tokenizer."""
    options = {**TEXT, "id2label": {"0": "no", "1": "yes", "2": "maybe"}}
    return add_tokenizer(
        save(tmp_path_factory.mktemp("hf") / "small", "BertForSequenceClassification", "BertConfig", **options)
    )


@pytest.fixture(scope="module")
def compiled(folder: Path) -> tuple[Path, str]:
    """What ``planish compile`` made of it, and what it printed."""
    path = folder.parent / "made.planish"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["compile", str(folder), "-o", str(path), "--task", "text-classification"]) == 0
    return path, out.getvalue()


@pytest.fixture(scope="module")
def artifact(compiled: tuple[Path, str]) -> Path:
    return compiled[0]


def test_compile_tells_what_it_derived(compiled: tuple[Path, str], folder: Path) -> None:
    path, out = compiled
    for words in (
        "BertForSequenceClassification for text-classification", "input_ids: i64[batch, seq]", "attention_mask: i64[batch, seq]",
        "example texts through the tokenizer; max_position_embeddings 64", "batch 1..1024, seq 1..64", "cosine 1.000000",
        "made.tokenizer with config.json", "tokenizer.json",
        f"planish verify {path} --against {folder} --task text-classification",
    ):  # fmt: skip
        assert words in out


def test_the_tokenizer_beside_it_feeds_it(artifact: Path, folder: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    beside = artifact.with_suffix(".tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(beside)
    assert AutoConfig.from_pretrained(beside).id2label == {0: "no", 1: "yes", 2: "maybe"}
    inputs = tokenizer(["Is this it?", "A second, somewhat longer text."], padding=True, return_tensors="np")
    with planish.load(artifact) as model:
        got = model(**{name: array.astype(np.int64) for name, array in inputs.items()}).logits
    source = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = source(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_verify_and_json(artifact: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(artifact), "--against", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert len(found["cases"]) > 2


def test_python_does_the_same(folder: Path, tmp_path: Path) -> None:
    compiled = planish.compile(str(folder), task="feature-extraction")
    assert [p["name"] for p in compiled.manifest["inputs"]][:2] == ["input_ids", "attention_mask"]
    assert {s["name"]: s["max"] for s in compiled.manifest["symbols"]} == {"batch": 1024, "seq": 64}
    assert any("pooler" in str(note) or "classifier" in str(note) for note in compiled.report["notes"])
    compiled.save(tmp_path / "f.planish")
    assert sorted(os.listdir(tmp_path)) == ["f.planish", "f.tokenizer"]


def refused(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> tuple[str, str]:
    """Message and hint of a command that must end with ``status``."""
    assert main([*map(str, arguments), "--json"]) == status
    error: dict[str, Any] = json.loads(capsys.readouterr().out)["error"]
    return error["message"], error["hint"] or ""


def test_a_task_for_something_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message, hint = refused(capsys, 2, "compile", folder, "--task", "ner-ish")
    assert "there is no task 'ner-ish'" in message
    assert "token-classification" in hint
    (folder.parent / "net.py").write_text("")
    message, _ = refused(capsys, 2, "compile", f"{folder.parent}/net.py:model", "--task", "fill-mask")
    assert "--task is for a Hugging Face folder" in message
    with pytest.raises(planish.UsageError, match="only for a Hugging Face folder"):
        planish.compile(torch.nn.Linear(2, 2), torch.ones(1, 2), task="fill-mask")


def test_a_folder_in_the_way_is_found_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = folder.parent / "mine.tokenizer"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    message, _ = refused(capsys, 2, "compile", folder, "-o", folder.parent / "mine.planish")
    assert "is in the way" in message
    assert (other / "notes.txt").exists()
    assert not (folder.parent / "mine.planish").exists()


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def saved(path: Path, what: str) -> None:
    """A file of the kind that people have, which is no exported program."""
    linear = torch.nn.Linear(2, 2)
    if what == "module":
        torch.save(linear, path)
    elif what == "old module":
        torch.save(linear, path, _use_new_zipfile_serialization=False)
    elif what == "state":
        torch.save(linear.state_dict(), path)
    elif what == "checkpoint":
        torch.save({"model": linear.state_dict(), "epoch": 3}, path)
    elif what == "trap":
        torch.save(Trap(path.with_name("was_run")), path)
    elif what == "script":
        torch.jit.script(linear).save(path)
    else:
        path.write_bytes(b"neither this nor that")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "what", "words", "hint"),
    [
        (
            "m.pt",
            "module",
            "is a pickled torch.nn.modules.linear.Linear of torch.save, which executes code",
            "torch.export.save",
        ),
        ("m.pth", "old module", "is a pickled torch.nn.modules.linear.Linear", "FILE.py:callable"),
        ("m.pt2", "module", "is a pickled torch.nn.modules.linear.Linear", "torch.export.save"),
        ("m.bin", "state", "holds weights without the model they belong to (a state_dict)", "FILE.py:callable"),
        ("m.ckpt", "checkpoint", "holds weights without the model", "FILE.py:callable"),
        ("m.pt", "trap", "which executes code when it is read", "FILE.py:callable"),
        ("m.pt", "script", "is TorchScript", "nn.Module"),
        ("m.onnx", "", "is no ONNX model, or it is damaged", "export it or copy it again"),
        ("m.ort", "", "is a model in ONNX Runtime's own format", "the .onnx file that it was made from"),
        ("m.safetensors", "", "is weights without the model", "config.json"),
        ("m.gguf", "", "is a GGUF model", "folder"),
        ("m.pt2", "", "is no model", "torch.export.save"),
        ("m.dat", "", "is no model", "torch.export.save"),
    ],
)
def test_files_that_are_refused_unread(
    name: str, what: str, words: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / name, what)
    message, advice = refused(capsys, 1, "compile", tmp_path / name)
    assert words in message
    assert hint in advice
    assert os.listdir(tmp_path) == [name]
    with pytest.raises(planish.CaptureError) as caught:
        planish.compile(tmp_path / name)
    assert caught.value.message == message
    missing, near = refused(capsys, 2, "compile", tmp_path / f"no{name}")
    assert "there is no file" in missing
    assert "did you mean" in near


def test_an_exported_program_with_a_pickle_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import zipfile

    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "good.pt2")
    saved(tmp_path / "trap.pt", "trap")
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            trapped = "sample_inputs" in name
            bad.writestr(name, (tmp_path / "trap.pt").read_bytes() if trapped else good.read(name))
    with zipfile.ZipFile(tmp_path / "good.pt2") as good, zipfile.ZipFile(tmp_path / "worse.pt2", "w") as worse:
        for name in good.namelist():
            data = good.read(name)
            worse.writestr(name, data.replace(b'"use_pickle":false', b'"use_pickle":true').replace(
                b'"use_pickle": false', b'"use_pickle": true'))  # fmt: skip
    message, hint = refused(capsys, 1, "compile", tmp_path / "bad.pt2")
    assert "example inputs" in message
    assert "executes code" in message
    assert "FILE.py:callable" in hint
    message, _ = refused(capsys, 1, "compile", tmp_path / "worse.pt2")
    assert "as a pickle, which executes code" in message
    assert not (tmp_path / "was_run").exists()


def test_an_exported_program_that_is_damaged_or_has_no_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "good.pt2")
    data = (tmp_path / "good.pt2").read_bytes()
    (tmp_path / "flipped.pt2").write_bytes(data.replace(b'"nodes"', b'"nodez"'))
    assert "is damaged" in refused(capsys, 1, "compile", tmp_path / "flipped.pt2")[0]
    (tmp_path / "cut.pt2").write_bytes(data[: len(data) // 2])
    assert "is cut short" in refused(capsys, 1, "compile", tmp_path / "cut.pt2")[0]
    program._example_inputs = None
    torch.export.save(program, tmp_path / "bare.pt2")
    path = tmp_path / "bare.planish"
    assert main(["compile", str(tmp_path / "bare.pt2"), "-o", str(path)]) == 0
    assert "not measured: the source carries no example inputs" in capsys.readouterr().out
    message, hint = refused(capsys, 1, "verify", path, "--against", tmp_path / "bare.pt2")
    assert "no example inputs" in message
    assert "--input" in hint
    np.savez(tmp_path / "in.npz", input=np.ones((1, 2), np.float32))
    assert main(["verify", str(path), "--against", str(tmp_path / "bare.pt2"), "-i", str(tmp_path / "in.npz")]) == 0
