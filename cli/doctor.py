"""``planish doctor``: is everything there that compiling and running need, and what does this machine offer?"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass

import typer

from .. import __version__
from ..compiler.errors import PlanishError
from ..runtime.machine import cpu_name
from .machine import cgroup_memory
from .options import Debug, Json
from .output import console, print_json, size

OK, NOTE, BROKEN = "ok", "note", "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the report: its subject, how it is (ok, note, broken), what was found, and what to do about it."""

    subject: str
    state: str
    found: str
    hint: str | None = None


def doctor(json: Json = False, debug: Debug = False) -> None:
    """Check that this machine can compile and run models."""
    findings = examine()
    broken = any(f.state == BROKEN for f in findings)
    if json:
        print_json({"ok": not broken, "findings": [vars(f) for f in findings]})
    else:
        marks = {OK: "[green]ok[/]", NOTE: "[yellow]note[/]", BROKEN: "[red]broken[/]"}
        out = console()
        width = max(len(f.subject) for f in findings)
        for f in findings:
            pad = " " * (6 - len(f.state))
            out.print(f"{marks[f.state]}{pad}  {f.subject:{width}}  ", end="")
            out.print(f.found, markup=False)
            if f.hint:
                out.print(" " * (width + 10) + f.hint, markup=False)
    if broken:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Every finding, the general ones first."""
    return [
        Finding("planish", OK, f"{__version__} on Python {platform.python_version()} ({sys.executable})"),
        _system(),
        _instructions(),
        _cores(),
        _memory(),
        _compiler(),
        _cache(),
        _torch(),
        *_packages(),
    ]


def _system() -> Finding:
    libc, version = platform.libc_ver()
    text = f"{platform.system()} {platform.release()} {platform.machine()}, {libc or 'libc'} {version}".strip()
    if platform.system() != "Linux":
        return Finding("system", BROKEN, text, "compiled models run on Linux only")
    return Finding("system", OK, text)


def _instructions() -> Finding:
    from ..backends.cpu.isa import available, detect
    from ..codegen.specs import ISA_LEVELS

    missing = [name for name in ISA_LEVELS if name not in available()]
    text = f"{cpu_name()}: target cpu is cpu:{detect()}"
    if missing:
        return Finding("cpu", NOTE, text, f"it lacks {', '.join(missing)}: models for these do not run here")
    return Finding("cpu", OK, text)


def _cores() -> Finding:
    from ..runtime.machine import cpu_quota, default_threads

    allowed, quota, threads = len(os.sched_getaffinity(0)), cpu_quota(), default_threads()
    text = f"{allowed} of {os.cpu_count()} may be used; a model uses {threads} thread{'s' if threads != 1 else ''} unless told"
    if quota is not None and quota < allowed:
        return Finding("cores", NOTE, text, f"the container's quota is {quota:g} cores")
    return Finding("cores", OK, text)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = cgroup_memory()
    if limit is not None and limit < total:
        return Finding("memory", OK, f"{size(total)}; the container's limit is {size(limit)}")
    return Finding("memory", OK, size(total))


def _compiler() -> Finding:
    from ..backends.cpu.isa import detect
    from ..backends.cpu.toolchain import build, find_compiler

    try:
        found = find_compiler()
        library = build(
            'extern "C" __attribute__((visibility("default"))) int planish_doctor() { return 42; }\n', detect()
        )
        if ctypes.CDLL(str(library)).planish_doctor() != 42:
            return Finding("compiler", BROKEN, f"{found.version}: what it builds gives wrong results")
    except PlanishError as error:
        return Finding("compiler", BROKEN, error.message, error.hint)
    except OSError as error:
        return Finding("compiler", BROKEN, f"{found.version}: what it builds cannot be loaded: {error}")
    return Finding("compiler", OK, found.version)


def _cache() -> Finding:
    from .cache import PARTS, contents, directory

    folder = directory()
    files, used = (sum(values) for values in zip(*(contents(folder / name) for name in PARTS), strict=True))
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    text = f"{folder}: {files} files, {size(used)}"
    if not os.access(existing, os.W_OK):
        return Finding("cache", BROKEN, f"{folder} cannot be written", "set PLANISH_CACHE_DIR to a folder that can be")
    return Finding("cache", OK, text)


def _torch() -> Finding:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Finding("torch", NOTE, "not installed", "compiled models run without it; to compile, pip install torch")
    parts = tuple(int(p) for p in version.split("+")[0].split(".")[:2] if p.isdecimal())
    if parts < (2, 9):
        return Finding("torch", BROKEN, version, "planish captures models with torch 2.9 or newer")
    return Finding("torch", OK, version)


def _packages() -> list[Finding]:
    """The declared dependencies that are missing or too old."""
    found = []
    for requirement in importlib.metadata.requires("planish") or ():
        if "extra ==" in requirement:
            continue
        name, _, least = (part.strip() for part in requirement.partition(">="))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, BROKEN, "not installed", f"pip install '{requirement}'"))
            continue
        if _release(version) < _release(least):
            found.append(Finding(name, BROKEN, f"{version} is older than {least}", f"pip install '{requirement}'"))
    if not found:
        found.append(Finding("packages", OK, "everything that planish needs is installed"))
    return found


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
