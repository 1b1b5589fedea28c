"""An ONNX model out of an artifact: a folder that a plain ``onnxruntime`` runs, without planish."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...compiler.errors import PlanishError, UsageError
from ...runtime.archive import WEIGHTS, Archive
from ...runtime.errors import ArtifactError
from ...runtime.inputs import DTYPES
from ...runtime.loader import ONNX, settings_of
from ...runtime.onnx_session import Settings
from ...runtime.shapes import parse
from .providers import find_provider
from .run_script import run_script
from .unit import EXTERNAL_LOCATION

MODEL, SESSION, SCRIPT, EXAMPLE = "model.onnx", "session.json", "run.py", "example.npz"
DATA = f"{MODEL}.data"
#: What a folder that is written over may hold.
FILES = frozenset({MODEL, DATA, SESSION, SCRIPT, EXAMPLE})
#: What the example's dynamic dimensions are: the batch, and every other one.
_BATCH, _REST = 1, 128


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: that holds it.
        unit: name of the variant that it is.
        files: name -> bytes.
        settings: how a session is opened.
    """

    folder: Path
    unit: str
    files: Mapping[str, int]
    settings: Settings


def export(archive: Archive, folder: str | os.PathLike[str], target: str | None = None) -> Exported:
    """Write into ``folder`` ``model.onnx``, ``model.onnx.data`` where it has large weights, ``session.json``, ``run.py`` and
    ``example.npz``, which it runs on.

    Args:
        archive: the artifact.
        folder: made; whole or not at all. An earlier export there is replaced.
        target: which variant, as ``onnx:openvino``; None: the first for ONNX Runtime.

    Raises:
        UsageError: the artifact has no such variant, or at ``folder`` is something else.
        ArtifactError: the artifact is damaged or edited.
        PlanishError: it cannot be written there.
    """
    unit = find_unit(archive, target)
    place = Path(folder).resolve()
    check_folder(place)
    archive.verify()
    settings = settings_of(unit)
    try:
        staged = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".tmp"))
    except OSError as error:
        raise PlanishError(f"{place} cannot be written: {error.strerror}") from error
    try:
        _write(staged, archive, unit, settings)
        mask = os.umask(0)
        os.umask(mask)
        staged.chmod(0o777 & ~mask)
        files = {path.name: path.stat().st_size for path in sorted(staged.iterdir())}
        old = staged.with_name(f"{staged.name}-old")
        if place.exists():  # a folder that holds something cannot be replaced in one step
            place.rename(old)
        staged.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise PlanishError(f"{place} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Exported(Path(folder), str(unit["name"]), files, settings)


def find_unit(archive: Archive, target: str | None = None) -> Mapping[str, Any]:
    """The variant for ``target``; None: the first for ONNX Runtime.

    Raises:
        UsageError: there is none; says what there is.
    """
    units: Sequence[Mapping[str, Any]] = archive.manifest["units"]
    models = [unit for unit in units if unit.get("kind") == ONNX]
    name = archive.path.name
    if not models:
        raise UsageError(
            f"{name} holds no model for ONNX Runtime, only {', '.join(str(u['name']) for u in units)}",
            "compile it with --target onnx:cpu (or another execution provider)",
        )
    if target is None:
        return models[0]
    wanted = find_provider(target).name
    found = next((unit for unit in models if unit["requires"]["provider"] == wanted), None)
    if found is None:
        there = ", ".join(f"onnx:{find_short(unit)}" for unit in models)
        raise UsageError(f"{name} holds no model for {wanted}", f"it holds {there}")
    return found


def find_short(unit: Mapping[str, Any]) -> str:
    """The short name of a unit's provider; its whole name where this version does not know it."""
    try:
        return find_provider(str(unit["requires"]["provider"])).short
    except UsageError:
        return str(unit["requires"]["provider"])


def check_folder(place: Path) -> None:
    """Nothing is overwritten but an earlier export.

    Raises:
        UsageError: there is a file, or a folder that holds other files, or the folder above is missing.
    """
    if place.is_dir():
        foreign = sorted({path.name for path in place.iterdir()} - FILES)
        if foreign:
            raise UsageError(
                f"the folder {str(place)!r} holds other files ({foreign[0]})", "choose a new folder with -o"
            )
    elif place.exists():
        raise UsageError(f"{str(place)!r} is a file", "choose a new folder with -o")
    elif not place.parent.is_dir():
        raise UsageError(f"there is no folder {str(place.parent)!r} to make {place.name} in", "make it first")


def _write(folder: Path, archive: Archive, unit: Mapping[str, Any], settings: Settings) -> None:
    model = onnx.load_from_string(archive.read(str(unit["binary"])))
    external = relocated(model, DATA)
    (folder / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    if external:
        _copy_weights(folder / DATA, archive, unit)
    try:
        onnx.checker.check_model(str(folder / MODEL), full_check=True)
    except onnx.checker.ValidationError as error:
        raise ArtifactError(f"the model in {archive.path} is not valid: {error}", "compile it again") from error
    ports = {key: archive.manifest[key] for key in ("inputs", "outputs", "symbols")}
    (folder / SESSION).write_text(json.dumps({**settings.to_data(), **ports}, indent=1) + "\n", encoding="utf-8")
    with (folder / EXAMPLE).open("wb") as file:
        np.savez(file, **example(archive.manifest))  # type: ignore[arg-type]
    (folder / SCRIPT).write_text(run_script(settings, archive.manifest), encoding="utf-8")


def relocated(model: onnx.ModelProto, location: str) -> bool:
    """Say in ``model`` that its external data lies in the file ``location``; whether it has any."""
    found = False
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == EXTERNAL_LOCATION:
                entry.value, found = location, True
    return found


def _copy_weights(path: Path, archive: Archive, unit: Mapping[str, Any]) -> None:
    offset, size = unit["weights"]["offset"], unit["weights"]["bytes"]
    with archive.map(WEIGHTS) as mapping:
        if offset + size > mapping.size:
            raise ArtifactError(f"{archive.path} has fewer weights than its model reads", "copy or compile it again")
        part = mapping.view[offset : offset + size]
        try:
            path.write_bytes(part)
        finally:
            part.release()


def example(manifest: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Random inputs within the bounds: one sample, 128 along every other dynamic dimension; integers are 0 and 1."""
    sizes = {
        s["name"]: max(s["min"], min(s["max"], _BATCH if "batch" in s["name"] or i == 0 else _REST))
        for i, s in enumerate(manifest["symbols"])
    }
    random, made = np.random.default_rng(0), {}
    for port in manifest["inputs"]:
        shape = [parse(str(d))(sizes) for d in port["shape"]]
        made[port["name"]] = random.uniform(0, 2, shape).astype(DTYPES[port["dtype"]])
    return made
