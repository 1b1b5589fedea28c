"""Loading: every file that has to be refused, in one plain sentence; and what loading does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from unit_harness import affine_program, host_binary, package, save, unit_part

import planish
from planish.compiler.artifact.provenance import hash_bytes
from planish.runtime import binary, machine

X = np.ones((1, 2), np.float32)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None], seal: bool = False) -> Path:
    """The artifact with its members changed; ``seal`` makes the digest fit again."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    change(members)
    if seal:
        members["digest"] = hash_bytes(members["manifest.json"]).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def edit_manifest(**changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        told = json.loads(members["manifest.json"])
        told.update(changes)
        members["manifest.json"] = json.dumps(told).encode()

    return change


def refused(path: Path, message: str, verify: bool = False) -> None:
    with pytest.raises(planish.ArtifactError, match=message) as caught:
        planish.load(path, verify=verify)
    assert isinstance(caught.value, planish.PlanishError)
    assert caught.value.hint or "there is no file" in message
    assert "\n" not in str(caught.value)


def test_no_file_a_folder_and_other_files(tmp_path: Path) -> None:
    refused(tmp_path / "x.planish", "there is no file .*x.planish")
    with pytest.raises(planish.ArtifactError, match="cannot be read: Is a directory"):
        planish.load(tmp_path)
    for name, data in (("text", b"hello\n" * 100), ("empty", b""), ("picture", b"\x89PNG\r\n" + bytes(3000))):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, f"{name} is no planish artifact")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("hello.txt", "hello")
    refused(tmp_path / "other.zip", "is no planish artifact")


def test_truncated_at_any_length(tmp_path: Path) -> None:
    path = save(tmp_path, affine_program())
    whole = path.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "is truncated or damaged")
    path.write_bytes(whole[:-1])
    refused(path, "is truncated or damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_manifest(name="other"), "was edited after it was made: its manifest does not match its digest"),
        (lambda m: m.update({"digest": b"0" * 64}), "its manifest does not match its digest"),
        (lambda m: m.pop("digest"), "its manifest does not match its digest"),
        (lambda m: m.update({"manifest.json": b"{"}), "has a manifest that cannot be read"),
        (lambda m: m.update({"manifest.json": b"[]"}), "has a manifest that cannot be read"),
        (
            lambda m: m.update({"units/cpu-portable.so": m["units/cpu-portable.so"] + b"\0"}),
            "cpu-portable.so has another size",
        ),
        (
            lambda m: m.update({"units/cpu-portable.so": m["units/cpu-portable.so"][::-1]}),
            "was edited after it was made: units/cpu-portable.so does not match its hash",
        ),
        (lambda m: m.pop("units/cpu-portable.so"), "lacks its part units/cpu-portable.so"),
        (lambda m: m.update({"weights.bin": b""}), "weights.bin has another size"),
        (edit_manifest(format=3), r"is in format 3, newer than this planish understands \(2\) \(upgrade planish"),
        (edit_manifest(format="x"), "is in format x, newer"),
    ],
)
def test_edited(tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str) -> None:
    refused(rewrite(save(tmp_path, affine_program()), change), message)


@pytest.mark.parametrize("key", ["units", "hosts", "members", "symbols", "structure", "inputs"])
def test_a_manifest_that_lacks_something(tmp_path: Path, key: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        told = json.loads(members["manifest.json"])
        del told[key]
        members["manifest.json"] = json.dumps(told).encode()

    refused(rewrite(save(tmp_path, affine_program()), change, seal=True), f"{key}|does not list")


def test_edited_code_is_never_loaded(tmp_path: Path) -> None:
    """The host of another process would run its constructor: the hash is looked at before that."""
    path = save(tmp_path, affine_program())
    name = next(n for n in package(affine_program()).manifest["members"] if n.startswith("host/") and n.endswith(".so"))
    rewrite(path, lambda m: m.update({name: m[name][::-1]}))
    done = subprocess.run(
        [sys.executable, "-c", f"import planish; planish.load({str(path)!r})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"was edited after it was made: {name} does not match its hash" in done.stderr


def test_edited_weights_are_found_when_asked(tmp_path: Path) -> None:
    path = rewrite(
        save(tmp_path, affine_program()),
        lambda m: m.update({"weights.bin": np.array([3, 1], np.float32).tobytes().ljust(64, b"\0")}),
    )
    refused(path, "was edited after it was made: weights.bin does not match its hash", verify=True)
    refused_later = save(tmp_path, affine_program())
    with planish.load(refused_later, verify=True) as model:
        model.verify()


def test_a_cpu_a_machine_and_a_c_library_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = affine_program()
    path = save(tmp_path, program, units=[unit_part(program, cpu_flags=["avx2", "avx99", "amx_fp3"])])
    refused(path, r"needs a CPU with .*avx99, amx_fp3, which this one lacks \(compile the model for this machine")
    path = save(tmp_path, program, units=[unit_part(program, machine="s390x")])
    refused(path, f"needs a machine of the architecture s390x, and this one is {machine.machine()}")
    path = save(tmp_path, program)
    monkeypatch.setattr(machine, "glibc_version", lambda: (2, 5))
    refused(path, r"needs the GNU C library 2\.\d+ or newer, and this system has 2\.5")
    monkeypatch.setattr(machine, "glibc_version", lambda: None)
    refused(path, "or newer, and this system has another C library")
    several = [unit_part(program, "a", machine="s390x"), unit_part(program, "b")]
    refused(
        save(tmp_path, program, units=several),
        r"no part of .* runs here: a needs a machine .*; b needs the GNU C library",
    )


def test_code_that_is_no_unit(tmp_path: Path) -> None:
    path = save(tmp_path, affine_program(), units=[unit_part(affine_program(), binary=host_binary())])
    refused(path, "the code in the artifact is no unit of planish")


def test_code_from_a_folder_where_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "memfd_create is not allowed")

    monkeypatch.setattr(binary.os, "memfd_create", refuse)
    monkeypatch.setattr(binary, "_loaded", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = save(tmp_path, affine_program())
    with planish.load(path) as model:
        np.testing.assert_array_equal(model(X)["y"], 2 * X + 1)
    folder = tmp_path / "cache" / "planish" / "code"
    assert folder.stat().st_mode & 0o777 == 0o700
    (kept,) = folder.iterdir()
    kept.unlink()  # what is mapped stays what it was
    kept.write_bytes(b"somebody else's code")  # never loaded: replaced
    monkeypatch.setattr(binary, "_loaded", {})
    with planish.load(path) as model:
        np.testing.assert_array_equal(model(X)["y"], 2 * X + 1)
    folder.chmod(0o777)  # others could write: not used
    monkeypatch.setattr(binary, "_loaded", {})
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with planish.load(path) as model:
        np.testing.assert_array_equal(model(X)["y"], 2 * X + 1)


def test_descriptors_used_again_give_the_right_code(tmp_path: Path) -> None:
    """Different artifacts one after the other: each loads its own code although the descriptor has the same number."""
    for factor in range(1, 5):
        program = affine_program()
        program.launches[0] = type(program.launches[0])(
            program.launches[0].spec, program.launches[0].pointers, (1,), f"launch {factor}"
        )
        with planish.load(save(tmp_path, program)) as model:
            assert model._library.planish_unit_query
            assert model.manifest["units"][0]["launches"][0]["label"] == f"launch {factor}"
            assert label_in_code(model._library) == f"launch {factor}"


def label_in_code(library: object) -> str:
    import ctypes

    class Info(ctypes.Structure):
        _fields_ = [
            ("abi", ctypes.c_uint32), ("host_abi", ctypes.c_uint32), ("isa", ctypes.c_char_p), ("weights", ctypes.c_uint64),
            ("counts", ctypes.c_int32 * 6), ("symbols", ctypes.c_void_p), ("ports", ctypes.c_void_p * 3),
            ("launches", ctypes.POINTER(ctypes.c_char_p)),
        ]  # fmt: skip

    library.planish_unit_query.restype = ctypes.POINTER(Info)  # type: ignore[attr-defined]
    label: bytes = library.planish_unit_query().contents.launches[0]  # type: ignore[attr-defined]
    return label.decode()


def test_needs_numpy_alone(tmp_path: Path) -> None:
    """In a process where importing anything of the compiler or its libraries raises."""
    path = save(tmp_path, affine_program())
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        parts = name.split(".")
        if parts[0] in ("torch", "onnx", "networkx", "jinja2", "scipy", "pydantic", "typer", "rich", "safetensors", "sympy"):
            raise ImportError(name + " is not to be imported")
        if parts[0] == "planish" and parts[1:2] and parts[1] not in ("runtime", "errors"):
            raise ImportError(name + " is not to be imported")
sys.meta_path.insert(0, Refuse())
import numpy as np, planish
with planish.load({str(path)!r}, verify=True) as model:
    assert (model(x=np.ones((2, 3), np.float32))["y"] == 3).all()
    assert (model.bind(np.ones((2, 3), np.float32))()["y"] == 3).all()
    model.warmup(batch=2)
    assert model.profile(np.ones((2, 3), np.float32))[0].label == "affine.0"
try:
    import jinja2
except ImportError:
    print("good")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr


def test_nothing_stays_open_or_mapped(tmp_path: Path) -> None:
    path = save(tmp_path, affine_program())
    with planish.load(path) as model:
        model(X)
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with planish.load(path) as model:
            model(X)
    assert set(os.listdir("/proc/self/fd")) == before
    with open("/proc/self/maps") as maps:
        assert str(path) not in maps.read()
