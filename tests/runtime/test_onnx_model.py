"""Units for ONNX Runtime: chosen, opened, called like any other; and every way in which they are refused."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_parts import ABSENT, CPU, W, dense, dense_part, onnx_package, part_of, save_onnx
from unit_harness import BATCH, Builder, affine_program, host_binary, host_source, package, unit_part

import planish
from planish.compiler.artifact import HostPart, NativePart, provenance
from planish.compiler.errors import PlanishError
from planish.runtime import loader, machine, onnx_session
from planish.runtime.onnx_model import OnnxModel

pytest.importorskip("onnxruntime")

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_onnx(tmp_path)


# -- calling -------------------------------------------------------------------------------------------------------------
def test_a_call_computes_what_the_model_says(path: Path) -> None:
    with planish.load(path, threads=1, verify=True) as model:
        assert isinstance(model, OnnxModel)
        for rows in (3, 1, 16):
            x = np.resize(X, (rows, 8))
            np.testing.assert_allclose(model(x)["y"], dense(x), rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(model(x=x)["y"], model.flat({"x": x})[0])
        assert model.unit == "onnx-cpu" and not model.skipped
        assert str(model.inputs[0]) == "x: f32[batch, 8]"
        assert "onnx-cpu" in repr(model)


def test_outputs_are_written_where_they_are_wanted(path: Path) -> None:
    with planish.load(path, threads=1) as model:
        out = np.full((3, 64), np.nan, np.float32)
        assert model(X, out=out)["y"] is out
        np.testing.assert_allclose(out, dense(X), rtol=1e-5, atol=1e-6)
        with pytest.raises(planish.InputError, match="out for y is"):
            model(X, out=np.empty((2, 64), np.float32))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X.astype(np.float64)}, "x has the type float64"),
        ({"x": X[:, :7]}, "dimension 1 of x is 7 and has to be 8"),
        ({"x": np.zeros((17, 8), np.float32)}, r"dimension 0 of x \(batch\) is 17 and this model takes 1 to 16"),
        ({"z": X}, "does not take an input z"),
        ({}, "the input x is missing"),
    ],
)
def test_inputs_are_checked_as_natively(path: Path, given: dict[str, Any], message: str) -> None:
    with planish.load(path, threads=1) as model, pytest.raises(planish.InputError, match=message):
        model(**given)


def test_a_bound_model_reads_and_fills_its_arrays(path: Path) -> None:
    with planish.load(path, threads=1) as model:
        bound = model.bind(X.copy())
        np.testing.assert_allclose(bound()["y"], dense(X), rtol=1e-5, atol=1e-6)
        bound.inputs["x"][:] = 2
        result = bound()
        np.testing.assert_allclose(result["y"], dense(np.full((3, 8), 2, np.float32)), rtol=1e-5)
        assert result["y"] is bound.outputs["y"] and bound.symbols == {"batch": 3}
    with pytest.raises(planish.RunError, match="the model is closed"):
        bound()


def test_bf16_travels_as_bits(tmp_path: Path) -> None:
    ports = [("x", "bf16", ["n"])], [("y", "bf16", ["n"]), ("z", "f32", ["n"])]
    nodes = [
        helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["z"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.BFLOAT16),
    ]
    with planish.load(save_onnx(tmp_path, part_of(nodes, *ports, {"n": (0, 8)})), threads=1) as model:
        for values in ([1.5, -2.0, 0.25], []):
            bits = (np.array(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
            result = model(bits)
            np.testing.assert_array_equal(result["z"], np.array(values, np.float32))
            np.testing.assert_array_equal(result["y"], bits ^ 0x8000)


def test_an_index_out_of_range_is_a_sentence(tmp_path: Path) -> None:
    table = helper.make_tensor("t", TensorProto.FLOAT, [4, 2], np.arange(8, dtype=np.float32))
    ports = [("ids", "i64", ["n"])], [("y", "f32", ["n", 2])]
    part = part_of([helper.make_node("Gather", ["t", "ids"], ["y"])], *ports, {"n": (1, 8)}, [table])
    with planish.load(save_onnx(tmp_path, part), threads=1) as model:
        with pytest.raises(planish.RunError, match=r"CPUExecutionProvider failed: .*out of data bounds") as caught:
            model(np.array([9]))
        assert "smaller than the table" in str(caught.value)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(model(np.array([1]))["y"], [[2, 3]])


def test_calls_from_several_threads(path: Path) -> None:
    with planish.load(path, threads=1, concurrency=2) as model:
        wrong: list[Any] = []

        def caller(seed: int) -> None:
            x = np.random.default_rng(seed).standard_normal((4, 8)).astype(np.float32)
            wrong.extend(seed for _ in range(50) if not np.allclose(model(x)["y"], dense(x), atol=1e-5))

        threads = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_closing_waits_and_then_refuses(path: Path) -> None:
    model = planish.load(path, threads=1)
    model.close()
    model.close()
    with pytest.raises(planish.RunError, match="the model is closed"):
        model(X)


def _child(model: planish.runtime.Model, queue: Any) -> None:
    queue.put(model(X)["y"])


def test_a_forked_child_opens_a_session_of_its_own(path: Path) -> None:
    """The threads of the parent's session do not exist there: a call that used it would wait for ever."""
    with planish.load(path, threads=2) as model:
        expected = model(X)["y"]
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_child, args=(model, queue))
        child.start()
        np.testing.assert_array_equal(queue.get(timeout=60), expected)
        child.join(60)
        assert child.exitcode == 0
        np.testing.assert_array_equal(model(X)["y"], expected)


# -- about ---------------------------------------------------------------------------------------------------------------
def test_who_runs_what(path: Path) -> None:
    with planish.load(path, threads=1) as model:
        assert model.assignment and set(model.assignment.values()) == {"CPUExecutionProvider"}
        assert any(name.startswith("dense/") for name in model.assignment)


def test_a_profile_names_nodes_and_their_work(path: Path) -> None:
    with planish.load(path, threads=1) as model:
        found = model.profile(X, repeat=5)
        assert {time.label for time in found} & {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Relu"}
        assert all(time.seconds >= 0 for time in found)
        assert sum(time.flops for time in found) == 3 * 1024
        (busy,) = [time for time in found if time.flops]
        assert busy.sources == ("dense",) and busy.precision == "f32" and busy.bytes == 288 * 3 + 2048


def test_warming_up(path: Path) -> None:
    with planish.load(path, threads=1) as model:
        model.warmup(batch=4)
        with pytest.raises(planish.InputError, match="there is no dimension batches"):
            model.warmup(batches=4)


# -- choosing ------------------------------------------------------------------------------------------------------------
def native_part(name: str, **changes: Any) -> NativePart:
    """Machine code with the ports of ``dense_part``; it computes nothing."""
    b = Builder(batch=(1, 16))
    b.launch("nothing", [b.input("x", (BATCH, 8)), b.output("y", (BATCH, 64))], [])
    return unit_part(b.program, name, **changes)


def test_the_first_variant_that_runs_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    future = native_part("cpu-future", cpu_flags=["avx4096"])
    hosts = [HostPart(host_binary(), host_source(), machine.machine())]
    units = [future, dense_part("onnx-npu", ABSENT), dense_part("onnx-cpu")]
    path = save_onnx(tmp_path, *units, hosts=hosts)
    with planish.load(path, threads=1) as model:
        assert model.unit == "onnx-cpu"
        assert model.skipped == {
            "cpu-future": "a CPU with avx4096, which this one lacks",
            "onnx-npu": "NPUExecutionProvider, which this build of ONNX Runtime lacks (install onnxruntime-npu)",
        }
        np.testing.assert_allclose(model(X)["y"], dense(X), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx4096"}))
    with planish.load(path, threads=1) as model:
        assert model.unit == "cpu-future" and not model.skipped and not model.assignment


def test_equal_weights_of_variants_are_stored_once(tmp_path: Path) -> None:
    package = onnx_package(dense_part("onnx-npu", ABSENT), dense_part("onnx-cpu"))
    first, second = (unit["weights"] for unit in package.manifest["units"])
    assert (first["offset"], first["bytes"]) == (second["offset"], second["bytes"])
    other = onnx_package(dense_part("onnx-npu", ABSENT), dense_part("onnx-cpu", w=W + 1))
    assert other.manifest["members"]["weights.bin"]["bytes"] > package.manifest["members"]["weights.bin"]["bytes"]
    other.save(tmp_path / "other.planish")
    with planish.load(tmp_path / "other.planish", threads=1) as model:
        np.testing.assert_allclose(model(X)["y"], dense(X, W + 1), rtol=1e-5, atol=1e-5)


def test_the_format_rises_only_where_it_has_to() -> None:
    assert onnx_package().manifest["format"] == 2
    assert package(affine_program()).manifest["format"] == 1
    unit = onnx_package().manifest["units"][0]
    assert unit["kind"] == "onnx" and unit["requires"]["provider"] == "CPUExecutionProvider"
    assert unit["session"] == {"optimize": True, "config": {}, "options": {}}


# -- refusing ------------------------------------------------------------------------------------------------------------
def test_no_provider_no_model(tmp_path: Path) -> None:
    with pytest.raises(planish.ArtifactError, match="needs NPUExecutionProvider, which this build") as caught:
        planish.load(save_onnx(tmp_path, dense_part("onnx-npu", ABSENT)))
    assert caught.value.hint == "pip install onnxruntime-npu"


def test_an_onnx_runtime_that_is_too_old(tmp_path: Path) -> None:
    with pytest.raises(planish.ArtifactError, match=r"needs ONNX Runtime 99\.1 or newer, and this is"):
        planish.load(save_onnx(tmp_path, dense_part(session={**CPU, "least": "99.1"})))


def test_without_onnx_runtime_another_variant_runs(tmp_path: Path) -> None:
    """In a process where importing onnxruntime fails, and nothing of the compiler or torch is imported either way."""
    b = Builder()
    b.launch("copy", [b.input("x", (2,)), b.output("y", (2,))], [8])
    native = unit_part(b.program)
    copies = part_of([helper.make_node("Identity", ["x"], ["y"])], [("x", "f32", [2])], [("y", "f32", [2])])
    hosts = [HostPart(host_binary(), host_source(), machine.machine())]
    both, alone = tmp_path / "both.planish", tmp_path / "alone.planish"
    onnx_package(copies, native, hosts=hosts).save(both)
    onnx_package(copies).save(alone)
    script = textwrap.dedent(f"""
        import json, sys
        import numpy as np
        blocked = sys.argv[1] == "blocked"
        for name in ("torch", "onnx", "jinja2", "typer", *(["onnxruntime"] if blocked else [])):
            sys.modules[name] = None  # an import now raises
        import planish
        told = {{}}
        with planish.load({str(both)!r}, threads=1) as model:
            told = {{"unit": model.unit, "skipped": model.skipped, "y": model(np.ones(2, np.float32))["y"].tolist()}}
        try:
            planish.load({str(alone)!r}, threads=1).close()
        except planish.ArtifactError as error:
            told["error"] = [error.message, error.hint]
        rooms = {{name.split(".")[1] for name in sys.modules if name.startswith("planish.")}}
        told["rooms"] = sorted(rooms - {{"runtime", "errors"}})
        print(json.dumps(told))
    """)
    for mode in ("free", "blocked"):
        done = subprocess.run([sys.executable, "-c", script, mode], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["y"] == [1, 1] and told["rooms"] == []
        if mode == "free":
            assert told["unit"] == "onnx-cpu" and "error" not in told
        else:
            assert told["unit"] == "cpu-portable" and "ONNX Runtime is not installed" in told["skipped"]["onnx-cpu"]
            assert "ONNX Runtime is not installed" in told["error"][0] and told["error"][1] == "pip install onnxruntime"


def test_a_model_that_the_provider_refuses(tmp_path: Path) -> None:
    part = part_of([helper.make_node("NoSuchOp", ["x"], ["y"])], [("x", "f32", [2])], [("y", "f32", [2])])
    with pytest.raises(planish.RunError, match="CPUExecutionProvider refuses the model") as caught:
        planish.load(save_onnx(tmp_path, part))
    assert "\n" not in str(caught.value)


def test_a_model_unlike_its_manifest(tmp_path: Path) -> None:
    part = dense_part(
        binary=part_of([helper.make_node("Relu", ["q"], ["y"])], [("q", "f32", [2])], [("y", "f32", [2])]).binary
    )
    with pytest.raises(planish.ArtifactError, match="unlike its manifest"):
        planish.load(save_onnx(tmp_path, part))


def test_fewer_weights_than_the_model_reads(tmp_path: Path) -> None:
    description = dict(dense_part().description)
    path = save_onnx(tmp_path, dense_part(description={**description, "weights": description["weights"][:1],
                                                       "weights_bytes": 64}, weights=[np.zeros(3, np.int8)]))  # fmt: skip
    with pytest.raises(planish.RunError, match="refuses the model"):
        planish.load(path)


@pytest.mark.parametrize("member", ["units/onnx-cpu.onnx", "weights.bin"])
def test_an_edited_part_is_refused(path: Path, member: str) -> None:
    data = bytearray(path.read_bytes())
    with planish.load(path) as model:
        start, size = model._archive.extent(member)
    data[start + size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(planish.ArtifactError, match=f"{member} does not match its hash"):
        planish.load(path, verify=True)


def test_a_kind_from_the_future_is_skipped() -> None:
    assert loader.why_not({"kind": "quantum", "requires": {}}) == "a planish that knows units of the kind quantum"
    assert onnx_session.why_not(onnx_session.Settings("CPUExecutionProvider")) is None


def test_states_and_double_names_are_refused(tmp_path: Path) -> None:
    described = {**dense_part().description, "states": [{"name": "s", "dtype": "f32", "shape": ["2"]}]}
    with pytest.raises(planish.ArtifactError, match="has states, which an ONNX model cannot keep"):
        planish.load(save_onnx(tmp_path, dense_part(description=described)))
    with pytest.raises(PlanishError, match="would hold onnx-cpu twice"):
        onnx_package(dense_part(), dense_part()).digest


def test_equal_packages_give_equal_bytes(tmp_path: Path) -> None:
    one, two = onnx_package(), onnx_package()
    one.save(tmp_path / "one.planish")
    two.save(tmp_path / "two.planish")
    assert provenance.hash_file(tmp_path / "one.planish") == provenance.hash_file(tmp_path / "two.planish")
