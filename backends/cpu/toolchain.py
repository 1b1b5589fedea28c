"""From C++ text to a shared object with the machine's g++ or clang++, cached on disk by digest.

The digest covers the text, the flags and the compiler's version, so a cached object is never stale; files appear under
their final name by a rename, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...compiler.errors import ToolchainError
from .isa import compiler_flags

#: Flags of a sanitizer build: the first report ends the process.
SANITIZE_FLAGS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
LINK_FLAGS = ("-shared", "-Wl,--as-needed", "-Wl,--build-id=none")


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command (with fixed arguments) and the first line of its ``--version``."""

    command: tuple[str, ...]
    version: str

    @property
    def kind(self) -> str:
        return "clang" if "clang" in self.version else "gcc"


@cache
def _probe(command: str) -> Compiler | None:
    words = shlex.split(command)
    if not words or shutil.which(words[0]) is None:
        return None
    try:
        answer = subprocess.run([*words, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.splitlines()
    return Compiler(tuple(words), lines[0]) if answer.returncode == 0 and lines else None


def find_compiler() -> Compiler:
    """The C++ compiler: ``$CXX`` where set, else g++, else clang++.

    Raises:
        ToolchainError: there is none, or ``$CXX`` does not run.
    """
    wanted = os.environ.get("CXX")
    if wanted:
        found = _probe(wanted)
        if found is None:
            raise ToolchainError(
                f"the C++ compiler '{wanted}' named by CXX does not run", "unset CXX or name a working g++ or clang++"
            )
        return found
    for command in ("g++", "clang++"):
        found = _probe(command)
        if found is not None:
            return found
    raise ToolchainError(
        "there is no C++ compiler", "install one: 'apt install g++', 'dnf install gcc-c++' or 'apk add g++', or set CXX"
    )


def cache_directory() -> Path:
    """Where built objects are kept: ``$PLANISH_CACHE_DIR``, else ``~/.cache/planish``."""
    given = os.environ.get("PLANISH_CACHE_DIR")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "planish"


def _cached_files() -> list[Path]:
    root = cache_directory() / "cpu"
    return [path for path in root.glob("*/*") if path.is_file()] if root.is_dir() else []


def cache_size() -> tuple[int, int]:
    """Number of files in the cache and their bytes."""
    sizes = []
    for path in _cached_files():
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # cleared by another process in between
            continue
    return len(sizes), sum(sizes)


def clear_cache() -> int:
    """Delete what the cache holds; returns how many bytes that freed. Loaded objects stay usable."""
    freed = cache_size()[1]
    shutil.rmtree(cache_directory() / "cpu", ignore_errors=True)
    return freed


def build(sources: str | Sequence[str], isa: str, *, sanitize: bool = False, extra_flags: Sequence[str] = ()) -> Path:
    """Compile C++ text into a shared object.

    Args:
        sources: one translation unit or several, which are compiled in parallel and linked together.
        isa: the ISA level.
        sanitize: build with the address and undefined-behaviour sanitizers (the process that loads the object must
            preload the sanitizer's run-time library).
        extra_flags: further flags; part of the digest.

    Returns:
        The path of the object in the cache; the source lies beside it.

    Raises:
        ToolchainError: no compiler, no place to write, or the compiler failed (its command, its first error line, and
            where the source is kept).
    """
    texts = [sources] if isinstance(sources, str) else list(sources)
    compiler = find_compiler()
    flags = [*compiler_flags(isa), *(SANITIZE_FLAGS if sanitize else ()), *extra_flags]
    if compiler.kind == "clang":
        flags.append("-Wno-unknown-warning-option")
    digest = _digest(*compiler.command, compiler.version, *flags, *LINK_FLAGS, *texts)
    folder = cache_directory() / "cpu" / digest[:2]
    target = folder / f"{digest}.so"
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if len(texts) == 1:
            source = _keep_source(folder, digest, texts[0])
            _produce(target, [*compiler.command, *flags, *LINK_FLAGS, str(source)], ["-lm"], source)
        else:
            _build_units(compiler, flags, texts, target)
    except OSError as error:
        raise ToolchainError(
            f"the compiler cache {folder} cannot be written: {error.strerror}",
            "set PLANISH_CACHE_DIR to a folder that can be written",
        ) from error
    return target


def _build_units(compiler: Compiler, flags: list[str], texts: list[str], target: Path) -> None:
    """Objects in parallel, each cached by its own digest, then one link."""

    def compile_one(text: str) -> Path:
        digest = _digest(*compiler.command, compiler.version, *flags, text)
        folder = cache_directory() / "cpu" / digest[:2]
        folder.mkdir(parents=True, exist_ok=True)
        source, unit = _keep_source(folder, digest, text), folder / f"{digest}.o"
        if not unit.exists():
            _produce(unit, [*compiler.command, *flags, "-c", str(source)], [], source)
        return unit

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        units = list(pool.map(compile_one, texts))
    _produce(target, [*compiler.command, *flags, *LINK_FLAGS, *map(str, units)], ["-lm"], target)


def _digest(*parts: str) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


def _keep_source(folder: Path, digest: str, text: str) -> Path:
    path = folder / f"{digest}.cpp"
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    return path


def _produce(target: Path, command: list[str], libraries: list[str], source: Path) -> None:
    """Run ``command`` with its output going to a temporary name, then rename it to ``target``."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.stem[:16], suffix=".tmp")
    os.close(handle)
    try:
        result = subprocess.run([*command, "-o", temporary, *libraries], capture_output=True, text=True)
        if result.returncode != 0:
            lines = result.stderr.splitlines()
            reason = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
            shown = shlex.join([*command, "-o", str(target), *libraries])
            raise ToolchainError(
                f"the C++ compiler failed: {reason.strip()}",
                f"the source is kept in {source}; the command was: {shown}",
            )
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
