"""The commands on ONNX files: nothing but the file is needed, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import planish
from planish.cli import main
from planish.cli.options import parse_dim_wishes, parse_fixed
from planish.compiler.errors import UsageError

DATA = """
import numpy as np

def data():
    random = np.random.default_rng(0)
    return [{"ids": random.integers(0, 11, 6), "x": random.standard_normal((6, 32)).astype(np.float32)} for _ in range(150)]
"""


def network(ir_version: int = 10) -> ModelProto:
    """ids look up rows that are added to x; two layers follow, their weights as exporters write them."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    stored = {
        "table": normal(11, 32), "up.weight": normal(32, 64), "up.bias": normal(64), "down.weight": normal(64, 8),
        "axes": np.array([0], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="/embed/Gather"),
        helper.make_node("Add", ["rows", "x"], ["sum"], name="/Add"),
        helper.make_node("MatMul", ["sum", "up.weight"], ["up"], name="/up/MatMul"),
        helper.make_node("Add", ["up.bias", "up"], ["biased"], name="/up/Add"),
        helper.make_node("Relu", ["biased"], ["active"], name="/Relu"),
        helper.make_node("MatMul", ["active", "down.weight"], ["logits"], name="/down/MatMul"),
    ]
    shape: list[str | int] = ["batch", "seq"]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, shape),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [*shape, 32]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, 8])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in stored.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version)


def reducing() -> ModelProto:
    """Sums over axes that an input names."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 3]),
         helper.make_tensor_value_info("axes", TensorProto.INT64, [2])],
        [helper.make_empty_tensor_value_info("y")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx")
    onnx.save(network(), path / "net.onnx")
    onnx.save(reducing(), path / "sum.onnx")
    (path / "data.py").write_text(DATA)
    assert main(["compile", str(path / "net.onnx"), "-o", str(path / "net.planish")]) == 0
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """A command that works, with ``--json``."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> tuple[str, str]:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == status
    err = capsys.readouterr().err
    assert "Traceback" not in err
    first, _, rest = err.strip().partition("\n")
    return first.removeprefix("error: "), rest.removeprefix("hint:  ")


def inputs(batch: int, seq: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "ids": random.integers(0, 11, (batch, seq)), "x": random.standard_normal((batch, seq, 32)).astype(np.float32)
    }  # fmt: skip


# -- what works -----------------------------------------------------------------------------------------------------------
def test_compile_with_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "plain.planish"
    assert main(["compile", str(folder / "net.onnx"), "-o", str(path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "ONNX Runtime" in told
    assert "cosine 1.000000" in told
    assert "example inputs were made up: ids [1, 128]: random ids from 0 to 10; x [1, 128, 32]: standard normal" in told
    assert f"planish verify {path} --against {folder}/net.onnx" in told
    session = onnxruntime.InferenceSession(str(folder / "net.onnx"))
    with planish.load(path) as model:
        given = inputs(3, 7)
        got = model(**given)
        assert list(got) == ["logits"]
        np.testing.assert_allclose(got["logits"], session.run(None, given)[0], rtol=1e-5, atol=1e-4)


def test_in_python_from_a_proto() -> None:
    artifact = planish.compile(network(), dims={"batch": 1, "seq": (1, 16)})
    assert [(i["name"], i["shape"]) for i in artifact.manifest["inputs"]] == [
        ("ids", ["1", "seq"]),
        ("x", ["1", "seq", "32"]),
    ]
    assert {s["name"]: (s["min"], s["max"]) for s in artifact.manifest["symbols"]} == {"seq": (1, 16)}
    assert artifact.examples["ids"].shape == (1, 16)


def test_verify_bench_and_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, "verify", folder / "net.planish", "--against", folder / "net.onnx")
    assert found["passed"]
    assert len(found["cases"]) > 2
    assert found["cases"][0]["outputs"][0]["output"] == "logits"
    timed = call(capsys, "bench", folder / "net.planish", "--against", folder / "net.onnx", "--seconds", "0.1")
    assert set(timed["latency"]) == {"planish", "onnxruntime"}
    assert timed["runtime"] == "ONNX Runtime"
    np.savez(folder / "in.npz", **inputs(2, 5))
    call(capsys, "run", folder / "net.planish", "-i", folder / "in.npz", "-o", folder / "out.npz")
    assert np.load(folder / "out.npz")["logits"].shape == (2, 5, 8)


def test_verify_tells_another_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = network()
    weight = next(t for t in other.graph.initializer if t.name == "down.weight")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), "down.weight"))
    onnx.save(other, folder / "other.onnx")
    assert main(["verify", str(folder / "net.planish"), "--against", str(folder / "other.onnx")]) == 3


def test_what_onnx_runtime_does_not_read_is_interpreted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """IR versions newer than this ONNX Runtime knows."""
    onnx.save(network(ir_version=99), folder / "new.onnx")
    found = call(capsys, "compile", folder / "new.onnx", "-o", folder / "new.planish")
    assert found["measured"]["runtime"] == "the interpreter"
    assert found["measured"]["cosine"] > 0.99999


def test_layers_go_by_their_paths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "mixed.planish"
    found = call(capsys, "compile", folder / "net.onnx", "-o", path, "-p", "up=bf16", "-p", "f32", "--no-measure")
    layers = found["manifest"]["plan"]["layers"]
    assert (layers["up"], layers["down"]) == ("bf16", "f32")


def test_int8_on_what_was_made_up_warns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, source = folder / "static.planish", folder / "net.onnx"
    made_up = call(capsys, "compile", source, "-o", path, "-p", "w8a8", "--no-measure")["report"]["notes"]
    assert any("made up; give calibration data" in str(note) for note in made_up)
    data = f"{folder}/data.py:data"
    given = call(capsys, "compile", source, "-o", path, "-p", "w8a8", "--no-measure", "--calibration", data)
    assert not any("give calibration data" in str(note) for note in given["report"]["notes"])


def test_a_search(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, data = folder / "found.planish", f"{folder}/data.py:data"
    budget = ["--budget", "cosine >= 0.99 mean", "--calibration", data, "--effort", "quick"]
    found = call(capsys, "compile", folder / "net.onnx", "-o", path, *budget, "--no-measure")
    assert found["report"]["search"]["workload"]["dims"][0] == {"batch": 1, "seq": 128}
    assert planish.load(path)(**inputs(1, 6))["logits"].shape == (1, 6, 8)


def test_bisect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = f"{folder}/data.py:data"
    found = call(capsys, "bisect", folder / "net.onnx", "-p", "w8a8-dynamic", "--calibration", data, "--samples", "4")
    assert {unit["name"] for unit in found["units"]} == {"up", "down"}


def test_inputs_that_decide_shapes_are_fixed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message, hint = refused(capsys, 1, "compile", folder / "sum.onnx", "-o", folder / "sum.planish")
    assert "ReduceSum" in message
    assert "--fix axes=" in hint
    assert not (folder / "sum.planish").exists()
    call(capsys, "compile", folder / "sum.onnx", "-o", folder / "sum.planish", "--fix", "axes=0,2", "--dim", "n=2..9")
    x = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    with planish.load(folder / "sum.planish") as model:
        np.testing.assert_allclose(model(x=x)["y"], x.sum((0, 2)))
    found = call(
        capsys, "verify", folder / "sum.planish", "--against", folder / "sum.onnx", "--fix", "axes=0,2"
    )  # fmt: skip
    assert found["passed"]


def test_weights_beside_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder / "beside"
    place.mkdir()
    onnx.save(network(), place / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=64)
    found = call(capsys, "compile", place / "big.onnx", "-o", place / "big.planish")
    assert found["measured"]["cosine"] > 0.99999
    assert found["measured"]["source_bytes"] >= 4 * (11 * 32 + 32 * 64 + 64 + 64 * 8)


def test_dims_of_a_pytorch_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "net.py").write_text(
        "import torch\n"
        "def model():\n"
        "    dims = {0: torch.export.Dim('batch', min=1, max=8), 1: torch.export.Dim('seq', min=2, max=40)}\n"
        "    return torch.nn.Linear(4, 3).eval(), (torch.randn(2, 5, 4),), None, ({**dims},)\n"
    )
    found = call(
        capsys,
        "compile",
        f"{folder}/net.py:model",
        "-o",
        folder / "torch.planish",
        "--dim",
        "batch=1",
        "--dim",
        "seq=2..8",
    )
    assert [i["shape"] for i in found["manifest"]["inputs"]] == [["1", "seq", "4"]]
    assert found["measured"]["cosine"] > 0.99999
    message, _ = refused(capsys, 2, "compile", f"{folder}/net.py:model", "-o", folder / "t.planish", "--dim", "seq=99")
    assert message == "the dimension 'seq' cannot be 99: the model was captured for 1 to 40"
    message, _ = refused(capsys, 2, "compile", f"{folder}/net.py:model", "-o", folder / "t.planish", "--fix", "seq=1")
    assert message == "--fix is for an ONNX model"


# -- what does not --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (["--dim", "bach=1"], "the model has no dimension 'bach'", "did you mean 'batch'?"),
        (
            ["--dim", "batch=sek"],
            "the dimension 'batch' is said to equal 'sek', and there is no such dimension",
            "'seq'",
        ),
        (["--dim", "batch=batch"], "the dimension 'batch' is said to equal itself", ""),
        (["--dim", "batch"], "--dim 'batch' does not say what a dimension is", "--dim seq=1..512"),
        (["--dim", "batch=4..1"], "--dim 'batch=4..1': the lower bound is above the upper one", "batch=1..4"),
        (["--dim", "batch=1", "--dim", "batch=2"], "--dim names the dimension 'batch' twice", ""),
        (["--fix", "idz=1"], "the model has no input 'idz' that could be fixed", "did you mean 'ids'?"),
        (["--fix", "ids"], "--fix 'ids' is not of the form INPUT=VALUE[,VALUE...]", "--fix axes=0,1"),
        (["--fix", "ids=1,2"], "the input 'ids' has 2 axes, and what it is fixed to has 1", ""),
        (["--fix", "ids=0.5"], "the input 'ids' is fixed to 0.5, which is no i64", ""),
        (["--task", "x"], "--task is for a Hugging Face folder", ""),
    ],
)
def test_misuse(folder: Path, options: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    got, advice = refused(capsys, 2, "compile", folder / "net.onnx", "-o", folder / "no.planish", *options)
    assert got == message
    assert hint in advice
    assert not (folder / "no.planish").exists()


def test_no_such_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message, hint = refused(capsys, 2, "compile", folder / "nett.onnx")
    assert message == f"there is no file '{folder}/nett.onnx'"
    assert "net.onnx" in hint


def test_a_source_is_no_artifact_and_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "net.onnx").read_bytes()
    message, hint = refused(capsys, 2, "run", folder / "net.onnx")
    assert message == f"'{folder}/net.onnx' is a source, not a compiled model"
    assert f"planish compile {folder}/net.onnx" in hint
    message, hint = refused(capsys, 2, "compile", folder / "net.onnx", "-o", folder / "net.onnx")
    assert "would overwrite a source" in message
    assert (folder / "net.onnx").read_bytes() == before


@pytest.mark.parametrize("size", [0, 7, 3000])
def test_a_damaged_file(folder: Path, size: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty, cut in the head, cut in the weights."""
    cut = folder / f"cut{size}.onnx"
    cut.write_bytes((folder / "net.onnx").read_bytes()[:size])
    message, hint = refused(capsys, 1, "compile", cut, "-o", folder / "cut.planish")
    assert message == f"{cut} is no ONNX model, or it is damaged"
    assert hint == "export it or copy it again"
    assert not (folder / "cut.planish").exists()


def test_weights_that_are_missing_short_or_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "model"
    place.mkdir()
    onnx.save(network(), place / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    whole = (place / "m.data").read_bytes()
    (place / "m.data").write_bytes(whole[:-1000])
    message, hint = refused(capsys, 1, "compile", place / "m.onnx", "-o", tmp_path / "m.planish")
    assert message.startswith(f"the weights of {place}/m.onnx are cut short: m.data has {len(whole) - 1000} bytes")
    assert hint == "copy that file again"
    (place / "m.data").unlink()
    message, hint = refused(capsys, 1, "compile", place / "m.onnx", "-o", tmp_path / "m.planish")
    assert message == f"the weights of {place}/m.onnx are missing: there is no m.data beside it"
    (tmp_path / "m.data").write_bytes(whole)
    outside = (place / "m.onnx").read_bytes().replace(b"m.data", b"../m.d")
    shutil.copy(tmp_path / "m.data", tmp_path / "m.d")
    (place / "m.onnx").write_bytes(outside)
    message, _ = refused(capsys, 1, "compile", place / "m.onnx", "-o", tmp_path / "m.planish")
    assert message == f"{place}/m.onnx wants weights from outside of its folder: ../m.d"
    assert not (tmp_path / "m.planish").exists()
    proto = onnx.load(place / "m.onnx", load_external_data=False)
    with pytest.raises(planish.PlanishError, match="a ModelProto has no place"):
        planish.compile(proto)


# -- the languages of the options ------------------------------------------------------------------------------------------
def test_options_are_read() -> None:
    assert parse_dim_wishes(["batch=1", "seq = 1..512", "past=seq", "a + b=3"]) == {
        "batch": 1, "seq": (1, 512), "past": "seq", "a + b": 3
    }  # fmt: skip
    assert parse_fixed(["axes=0,-1", "k=5", "scale=0.5", "flag=true", "none=[]", "one=3,"]) == {
        "axes": [0, -1], "k": 5, "scale": 0.5, "flag": True, "none": [], "one": [3]
    }  # fmt: skip
    for wrong in ("batch=", "=1", "seq=1..", "seq=..5", "seq=-1"):
        with pytest.raises(UsageError, match="does not say what a dimension is"):
            parse_dim_wishes([wrong])
    for wrong in ("axes", "=1", "axes=a"):
        with pytest.raises(UsageError, match="is not of the form INPUT=VALUE"):
            parse_fixed([wrong])
