"""``planish.load``: from a file to a model that runs. Needs numpy and the standard library; and ONNX Runtime where the unit that
it takes is a model for that."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import machine
from .archive import Archive
from .binary import Host, declare, load_code
from .errors import ArtifactError, InputError
from .model import Model
from .native_model import NativeModel
from .weights import load_weights

if TYPE_CHECKING:
    from .onnx_session import Settings

#: Kinds of units.
NATIVE, ONNX = "native", "onnx"


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    concurrency: int = 1,
    verify: bool = False,
    share_weights: bool = False,
) -> Model:
    """Load an artifact.

    Loading runs code from the file: load only artifacts that you trust.

    Args:
        path: the artifact.
        threads: threads of one call, the caller's own included; None takes the physical cores that the process may use
            (its affinity and its cgroup's quota), divided by ``concurrency``.
        concurrency: how many calls may run at the same time, from as many threads; further ones wait. They share the
            weights, each has its own memory for activations.
        verify: hash the weights as well (the manifest and the code always are).
        share_weights: map all weights from the file, so that processes share one copy. Otherwise those that every call
            streams through are read into huge pages, which is faster; embedding tables are mapped and shared in any case.
            ONNX Runtime keeps a copy of its own.

    Returns:
        The model, to be called with numpy arrays; a context manager. Of several variants it is the first that runs here;
        ``model.unit`` names it, and ``model.skipped`` says why those before it do not.

    Raises:
        ArtifactError: the file is missing, no artifact, truncated, edited or too new, or needs a CPU, C library, kernel
            feature or execution provider that is not here.
        RunError: the execution provider refuses the model.
        InputError: ``threads`` or ``concurrency`` is no positive number.
    """
    for name, value in (("threads", threads), ("concurrency", concurrency)):
        if value is None and name == "threads":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} has to be a positive number and is {value!r}")
    archive = Archive(path)
    try:
        unit, skipped = choose_unit(archive)
        if verify:
            archive.verify()
        if threads is None:
            threads = max(1, machine.default_threads() // concurrency)
        if unit.get("kind", NATIVE) == ONNX:
            from .onnx_model import OnnxModel

            return OnnxModel(archive, unit, skipped, settings_of(unit), threads, concurrency)
        member = _host_member(archive)
        host = Host.shared() or Host.provide(archive.read(member))
        library = declare(load_code(archive.read(unit["binary"]), unit["name"]))
        weights = load_weights(archive, unit, share_weights)
        return NativeModel(archive, unit, skipped, library, host, weights, threads, concurrency)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        archive.close()
        raise ArtifactError(
            f"{archive.path} has a manifest that lacks what it should hold ({error})", "compile it again"
        ) from error
    except BaseException:
        archive.close()
        raise


def choose_unit(archive: Archive) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The first unit of the artifact that runs here, and why those before it do not.

    Raises:
        ArtifactError: none does; says what is missing.
    """
    skipped: dict[str, str] = {}
    units = archive.manifest["units"]
    for unit in units:
        reason = why_not(unit)
        if reason is None:
            return unit, skipped
        skipped[unit["name"]] = reason
    if len(units) == 1:
        sentence = f"{archive.path} needs {skipped[units[0]['name']]}"
    else:
        sentence = f"no part of {archive.path} runs here: " + "; ".join(f"{n} needs {r}" for n, r in skipped.items())
    raise ArtifactError(sentence, _remedy(units))


def _remedy(units: Sequence[Mapping[str, Any]]) -> str:
    """What makes one of the units run: a package, where that is all that is missing."""
    packages = dict.fromkeys(str(u["requires"]["package"]) for u in units if u.get("kind", NATIVE) == ONNX)
    if packages:
        return f"pip install {' or '.join(packages)}"
    return "compile the model for this machine, for example with target='cpu:portable'"


def why_not(unit: Mapping[str, Any]) -> str | None:
    """What a unit, as the manifest lists it, needs that is not here, to stand after "needs"; None if nothing is missing."""
    kind = unit.get("kind", NATIVE)
    if kind == NATIVE:
        return why_not_native(unit["requires"])
    if kind == ONNX:
        from . import onnx_session

        return onnx_session.why_not(settings_of(unit))
    return f"a planish that knows units of the kind {kind}"


def settings_of(unit: Mapping[str, Any]) -> Settings:
    """How the session of a unit for ONNX Runtime is opened."""
    from .onnx_session import Settings

    return Settings.from_data({**unit["requires"], **unit["session"]})


def why_not_native(requires: Mapping[str, Any]) -> str | None:
    """What native code needs that is not here, to stand after "needs"; None if nothing is missing."""
    wanted = requires["machine"]
    if wanted != machine.machine():
        return f"a machine of the architecture {wanted}, and this one is {machine.machine()}"
    flags = machine.cpu_flags()
    missing = [flag for flag in requires.get("cpu_flags", ()) if flag not in flags]
    if missing:
        return f"a CPU with {', '.join(missing)}, which this one lacks"
    glibc, have = requires.get("glibc"), machine.glibc_version()
    if glibc and have is None:
        return f"the GNU C library {glibc} or newer, and this system has another C library"
    if glibc and have is not None and have < machine.version_tuple(glibc):
        return f"the GNU C library {glibc} or newer, and this system has {'.'.join(map(str, have))}"
    return None


def _host_member(archive: Archive) -> str:
    reasons = []
    for host in archive.manifest["hosts"]:
        reason = why_not_native(host["requires"])
        if reason is None:
            return str(host["binary"])
        reasons.append(reason)
    raise ArtifactError(
        f"the host of {archive.path} needs {'; '.join(reasons) or 'to be in it'}", "compile the model again"
    )
