"""Exported folders: complete, valid, run by a Python that has never heard of planish; and nothing is overwritten by accident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_parts import ABSENT, B, W, dense, dense_part, part_of, save_onnx
from unit_harness import affine_program, save

import planish
from planish.backends.onnx.export import DATA, EXAMPLE, MODEL, SCRIPT, SESSION, Exported, example, export
from planish.backends.onnx.run_script import run_script
from planish.compiler.errors import PlanishError, UsageError
from planish.runtime.archive import Archive
from planish.runtime.onnx_session import Settings

pytest.importorskip("onnxruntime")


def exported(path: Path, folder: Path, target: str | None = None) -> Exported:
    archive = Archive(path)
    try:
        return export(archive, folder, target)
    finally:
        archive.close()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``run.py`` in a Python that cannot import planish: isolated, with planish blocked by a name that raises."""
    blocked = "import sys, runpy; sys.modules['planish'] = sys.modules['onnx'] = sys.modules['torch'] = None; "
    script = f"{blocked}sys.argv[0] = 'run.py'; runpy.run_path('run.py', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-c", script, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_folder_runs_without_planish(tmp_path: Path) -> None:
    made = exported(save_onnx(tmp_path), tmp_path / "out")
    assert made.unit == "onnx-cpu" and set(made.files) == {MODEL, DATA, SESSION, SCRIPT, EXAMPLE}
    assert all((made.folder / name).stat().st_size == size for name, size in made.files.items())
    random = run(made.folder)
    assert random.returncode == 0, random.stderr
    assert random.stdout.startswith("y float32 (1, 64)")
    x = np.random.default_rng(3).standard_normal((5, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    done = run(made.folder, str(tmp_path / "in.npz"), str(tmp_path / "out.npz"))
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        assert found.files == ["y"]
        np.testing.assert_allclose(found["y"], dense(x), rtol=1e-5, atol=1e-6)
        with planish.load(tmp_path / "model.planish", threads=1) as model:
            np.testing.assert_array_equal(found["y"], model(x)["y"])


def test_the_model_is_valid_and_keeps_its_names(tmp_path: Path) -> None:
    folder = exported(save_onnx(tmp_path), tmp_path / "out").folder
    onnx.checker.check_model(str(folder / MODEL), full_check=True)
    model = onnx.load(folder / MODEL)  # with its external data
    assert [i.name for i in model.graph.input] == ["x"] and [o.name for o in model.graph.output] == ["y"]
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(arrays["w"], W)
    np.testing.assert_array_equal(arrays["b"], B)
    told = json.loads((folder / SESSION).read_text())
    assert told["provider"] == "CPUExecutionProvider" and told["optimize"] is True
    assert told["inputs"] == [{"name": "x", "dtype": "f32", "shape": ["batch", "8"]}]
    with np.load(folder / EXAMPLE) as inputs:
        assert {name: (x.shape, x.dtype) for name, x in inputs.items()} == {"x": ((1, 8), np.float32)}


def test_a_model_without_large_weights_is_one_file(tmp_path: Path) -> None:
    part = part_of([helper.make_node("Relu", ["x"], ["y"])], [("x", "i64", [2])], [("y", "i64", [2])])
    made = exported(save_onnx(tmp_path, part), tmp_path / "out")
    assert set(made.files) == {MODEL, SESSION, SCRIPT, EXAMPLE}


def test_bf16_goes_through_the_script_as_bits(tmp_path: Path) -> None:
    ports = [("x", "bf16", ["n"])], [("y", "bf16", ["n"])]
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["f"], ["g"]),
        helper.make_node("Cast", ["g"], ["y"], to=TensorProto.BFLOAT16),
    ]
    folder = exported(save_onnx(tmp_path, part_of(nodes, *ports, {"n": (1, 8)})), tmp_path / "out").folder
    bits = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    np.savez(tmp_path / "in.npz", x=bits)
    done = run(folder, str(tmp_path / "in.npz"), str(tmp_path / "out.npz"))
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["y"], bits ^ 0x8000)


def test_the_variant_is_chosen(tmp_path: Path) -> None:
    npu = dense_part("onnx-npu", {**ABSENT, "provider": "QNNExecutionProvider"}, w=W + 1)
    path = save_onnx(tmp_path, npu, dense_part("onnx-cpu"))
    assert exported(path, tmp_path / "first").unit == "onnx-npu"
    second = exported(path, tmp_path / "second", "onnx:cpu")
    assert second.unit == "onnx-cpu"
    (tensor,) = [t for t in onnx.load(second.folder / MODEL).graph.initializer if t.name == "w"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), W)
    with pytest.raises(UsageError, match="holds no model for CUDAExecutionProvider") as caught:
        exported(path, tmp_path / "third", "onnx:cuda")
    assert caught.value.hint == "it holds onnx:qnn, onnx:cpu"


def test_a_provider_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    folder = exported(save_onnx(tmp_path, dense_part("onnx-npu", ABSENT)), tmp_path / "out").folder
    done = run(folder)
    assert done.returncode == 1
    wanted = "NPUExecutionProvider is not in this build of ONNX Runtime: pip install onnxruntime-npu\n"
    assert done.stderr == wanted


@pytest.mark.parametrize("plugin", ["", "some_provider"])
def test_the_script_is_python_for_every_kind_of_provider(plugin: str) -> None:
    settings = Settings(
        "SomeExecutionProvider", "onnxruntime-some", plugin, False, {"ep.context": "1"},
        {"device": "CPU", "threads": "{threads}", "path": "{package}/lib.so"},
    )  # fmt: skip
    text = run_script(settings, {"inputs": [], "outputs": []})
    compile(text, "run.py", "exec")
    assert "ORT_DISABLE_ALL" in text and "add_session_config_entry('ep.context', '1')" in text
    assert "{threads}" not in text and "'device': 'CPU'" in text
    assert ("register_execution_provider_library" in text) == bool(plugin)


def test_example_shapes_keep_the_bounds() -> None:
    manifest = {
        "symbols": [{"name": "batch", "min": 2, "max": 8}, {"name": "s", "min": 1, "max": 64}],
        "inputs": [{"name": "x", "dtype": "i64", "shape": ["batch", "2*s + 1", 3]}],
    }
    (x,) = example(manifest).values()
    assert x.shape == (2, 129, 3) and x.dtype == np.int64 and set(np.unique(x)) == {0, 1}


def test_an_artifact_without_onnx(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no model for ONNX Runtime, only cpu-portable") as caught:
        exported(save(tmp_path, affine_program()), tmp_path / "out")
    assert "--target onnx:cpu" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = save_onnx(tmp_path)
    exported(path, tmp_path / "out")
    (tmp_path / "out" / DATA).write_bytes(b"old")
    assert exported(path, tmp_path / "out").files[DATA] > 3
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other files \(notes\.txt\)"):
        exported(path, tmp_path / "out")
    with pytest.raises(UsageError, match="is a file"):
        exported(path, path)
    with pytest.raises(UsageError, match="there is no folder"):
        exported(path, tmp_path / "no" / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.planish", "out"]


def test_an_edited_artifact_is_not_exported(tmp_path: Path) -> None:
    path = save_onnx(tmp_path)
    data = bytearray(path.read_bytes())
    archive = Archive(path)
    start, _ = archive.extent("weights.bin")
    archive.close()
    data[start + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(PlanishError, match=r"weights\.bin does not match its hash"):
        exported(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = save_onnx(tmp_path)
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PlanishError, match="cannot be written: Permission denied"):
        exported(path, tmp_path / "locked" / "out")


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    path = save_onnx(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PlanishError, match="cannot be written: No space left on device"):
        exported(path, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.planish"]
