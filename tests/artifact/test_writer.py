"""Writing an artifact: the same bytes every time, aligned, whole or not at all, and the manifest in full."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit_harness import Builder, affine_program, chain_program, host_binary, package, save, unit_part

import planish
from planish.codegen.program import Program
from planish.compiler.artifact import format, manifest, provenance
from planish.compiler.dims import symbol
from planish.compiler.errors import PlanishError
from planish.runtime import archive, binary


def weighty_program() -> Program:
    """``y = x * 2 + 1`` with further weights of odd sizes around the one that is read."""
    b = Builder(n=(1, 64))
    n = symbol("n")
    x, y = b.input("x", (n,)), b.output("y", (n,))
    b.weight("first", np.arange(7, dtype=np.int8))
    w = b.weight("w", np.array([2, 1], np.float32))
    b.weight("empty", np.zeros((0, 4), np.float32))
    b.weight("strided", np.arange(24, dtype=np.uint16).reshape(4, 6).T)
    b.launch("affine", [x, w, y], [n])
    return b.program


def test_equal_packages_give_equal_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.planish", tmp_path / "two.planish"
    package(weighty_program(), plan={"*": "f32"}, report={"ms": 1.5}).save(one)
    os.utime(tmp_path, (0, 0))
    package(weighty_program(), plan={"*": "f32"}, report={"ms": 1.5}).save(two)
    assert one.read_bytes() == two.read_bytes()


def test_the_digest_covers_everything_but_the_report(tmp_path: Path) -> None:
    base = package(weighty_program())
    other = weighty_program()
    other.weights[0] = other.weights[0] + np.int8(1)
    assert package(weighty_program(), report={"ms": 9}).digest == base.digest
    assert package(other).digest != base.digest
    assert package(weighty_program(), plan={"*": "bf16"}).digest != base.digest
    assert package(chain_program()).digest != base.digest


def test_members_are_stored_and_hashed_and_weights_aligned(tmp_path: Path) -> None:
    path = save(tmp_path, weighty_program(), report={"ms": 9})
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        content = {info.filename: file.read(info) for info in file.infolist()}
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())
    told = json.loads(content["manifest.json"])
    assert content["digest"].decode().strip() == hashlib.sha256(content["manifest.json"]).hexdigest()
    assert set(told["members"]) == set(content) - {"manifest.json", "digest", "report.json"}
    for name, entry in told["members"].items():
        assert entry == {"sha256": hashlib.sha256(content[name]).hexdigest(), "bytes": len(content[name])}
    opened = archive.Archive(path)
    assert opened.extent("weights.bin")[0] % 4096 == 0
    program = weighty_program()
    for entry, array in zip(told["units"][0]["weights"]["index"], program.weights, strict=True):
        assert entry["offset"] % 64 == 0
        data = content["weights.bin"][entry["offset"] : entry["offset"] + entry["bytes"]]
        np.testing.assert_array_equal(np.frombuffer(data, entry["dtype"]).reshape(entry["shape"]), array)
    opened.close()
    with planish.load(path) as model:
        np.testing.assert_array_equal(model(np.ones(3, np.float32))["y"], [3, 3, 3])
        assert model.report == {"ms": 9}


def test_the_manifest_holds_its_schema(tmp_path: Path) -> None:
    extra: dict[str, Any] = {
        "plan": {"rules": {"*": "f32"}},
        "pipeline": "canonicalize,fuse{max-nodes=8}",
        "passes": {"fuse": 1},
        "ops": {"add": 1},
        "tools": provenance.tool_versions("g++ 12"),
        "source": {"sha256": provenance.hash_bytes(b"model")},
    }
    told = package(affine_program(), **extra).manifest
    assert set(told) == set(manifest.REQUIRED)
    assert {key: told[key] for key in extra} == extra
    assert told["tools"]["planish"]
    assert told["tools"]["c++"] == "g++ 12"
    assert told["symbols"] == [{"name": "batch", "min": 1, "max": 8}, {"name": "seq", "min": 1, "max": 512}]
    assert told["inputs"] == [{"name": "x", "dtype": "f32", "shape": ["batch", "seq"]}]
    unit = told["units"][0]
    assert unit["requires"]["glibc"].startswith("2.")
    assert unit["launches"][0]["label"] == "affine.0"
    with pytest.raises(PlanishError, match="differ at extra"):
        manifest.encode({**dict.fromkeys(manifest.REQUIRED), "extra": 1})


def test_reader_and_writer_agree_on_the_format() -> None:
    assert archive.FORMAT == format.FORMAT
    assert (archive.MANIFEST, archive.DIGEST, archive.WEIGHTS, archive.REPORT) == (
        format.MANIFEST, format.DIGEST, format.WEIGHTS, format.REPORT,
    )  # fmt: skip
    assert (binary.ABI, binary.HOST_ABI) == (format.UNIT_ABI, format.HOST_ABI)


def test_several_units_share_equal_weights(tmp_path: Path) -> None:
    """The loader takes the first that runs and says why not the ones before it."""
    program, other = weighty_program(), weighty_program()
    other.weights[1] = np.array([10, 0], np.float32)
    units = [
        unit_part(program, "alien", machine="riscv64"),
        unit_part(program, "future", cpu_flags=["avx2", "avx4096"]),
        unit_part(other, "fits"),
        unit_part(other, "again"),
    ]
    path = save(tmp_path, program, units=units)
    with planish.load(path) as model:
        assert model.unit == "fits"
        assert "riscv64" in model.skipped["alien"]
        assert model.skipped["future"] == "a CPU with avx4096, which this one lacks"
        np.testing.assert_array_equal(model(np.ones(3, np.float32))["y"], [10, 10, 10])
        spans = [(u["weights"]["offset"], u["weights"]["bytes"]) for u in model.manifest["units"]]
        assert spans[0] == spans[1] != spans[2] == spans[3]
        model.verify()
    with pytest.raises(PlanishError, match="the units cpu-portable and b differ in their symbols"):
        package(program, units=[unit_part(program), unit_part(chain_program(), "b")]).digest


def test_a_model_without_weights(tmp_path: Path) -> None:
    b = Builder()
    b.launch("copy", [b.input("x", (2,)), b.output("y", (2,))], [8])
    with planish.load(save(tmp_path, b.program), verify=True) as model:
        np.testing.assert_array_equal(model(np.ones(2, np.float32))["y"], [1, 1])


# -- whole or not at all -----------------------------------------------------------------------------------------------
def test_no_such_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(PlanishError, match=r"cannot be written: no such file or directory \(make the folder first\)"):
        package(affine_program()).save(tmp_path / "missing" / "x.planish")
    (tmp_path / "x.planish").mkdir()
    with pytest.raises(PlanishError, match="cannot be written: is a directory"):
        package(affine_program()).save(tmp_path / "x.planish")
    assert os.listdir(tmp_path) == ["x.planish"]


def test_a_failure_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, affine_program())
    before = path.read_bytes()
    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):

        def fail(*_: object, failure: BaseException = failure) -> None:
            raise failure

        monkeypatch.setattr(format.os, "fsync", fail)
        with pytest.raises((PlanishError, KeyboardInterrupt)) as caught:
            save(tmp_path, chain_program())
        if isinstance(caught.value, PlanishError):
            assert str(caught.value) == f"{path} cannot be written: no space left on device (free some space)"
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["model.planish"]


def mount(folder: Path, options: str) -> bool:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


needs_root = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root")


@needs_root
def test_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    if not mount(folder, "size=16k"):
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(PlanishError, match=r"cannot be written: no space left on device \(free some space\)"):
            package(affine_program()).save(folder / "x.planish")
        assert os.listdir(folder) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@needs_root
def test_a_read_only_noexec_folder(tmp_path: Path) -> None:
    """Nothing is written there; what lies there loads and runs although nothing on it may be executed."""
    folder = tmp_path / "sealed"
    if not mount(folder, "size=4m,noexec"):
        pytest.skip("mounting is not allowed here")
    try:
        path = save(folder, affine_program())
        subprocess.run(["mount", "-o", "remount,ro,noexec", str(folder)], check=True)
        with pytest.raises(
            PlanishError, match=r"cannot be written: read-only file system \(choose a folder that can be"
        ):
            save(folder, affine_program())
        script = f"""
import numpy as np, planish
with planish.load({str(path)!r}) as model:
    assert (model(np.ones((1, 2), np.float32))["y"] == 3).all()
    maps = open("/proc/self/maps").read()
    assert "memfd:planish-host" in maps and "memfd:planish-cpu-portable" in maps
"""
        where = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder), "XDG_CACHE_HOME": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=where, cwd=folder
        )
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# -- provenance --------------------------------------------------------------------------------------------------------
def test_the_glibc_that_a_binary_needs() -> None:
    shown = subprocess.run(["objdump", "-T", "-"], input=host_binary(), capture_output=True, check=False)
    told = provenance.required_glibc(host_binary())
    assert told is not None
    if shown.returncode == 0:
        versions = {
            word[6:]
            for word in shown.stdout.decode().replace("(", " ").replace(")", " ").split()
            if word[:6] == "GLIBC_"
        }
        assert told == max(versions, key=lambda v: tuple(map(int, v.split("."))))
    with pytest.raises(PlanishError, match="no 64-bit ELF file"):
        provenance.required_glibc(b"MZ text")
