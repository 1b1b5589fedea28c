"""From C++ text to a shared object with the machine's g++ or clang++, cached on disk by digest.

Every translation unit is an object of its own in the cache, so that a kernel which any earlier model had is only linked.
The digest covers the text, the flags and the compiler's version, so a cached object is never stale; files appear under
their final name by a rename, so a reader never sees half of one. What is built is the same bytes whatever the cache
holds and wherever it is.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...compiler.cache import cache_directory as cache_directory
from ...compiler.errors import ToolchainError
from ...compiler.profile import phase, record
from .isa import compiler_flags

#: Flags of a sanitizer build: the first report ends the process.
SANITIZE_FLAGS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
LINK_FLAGS = ("-shared", "-Wl,--as-needed", "-Wl,--build-id=none")
#: Units that share a header from which on precompiling it pays: that takes about as long as it saves in three.
PRECOMPILE_FROM = 4


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


@dataclass(frozen=True)
class Source:
    """One translation unit.

    Attributes:
        text: its C++.
        name: what reports call it.
        headers: texts that stand before it, outermost first. Those that other units have too are kept once; the first
            is precompiled where that pays, so it is the place for what the machine's own headers are included by.
    """

    text: str
    headers: tuple[str, ...] = ()
    name: str = ""


def build(
    sources: str | Sequence[str | Source],
    isa: str,
    *,
    sanitize: bool = False,
    extra_flags: Sequence[str] = (),
    link_flags: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Compile C++ into a shared object: units in parallel, each cached by its own digest, then one link.

    Args:
        sources: one translation unit or several.
        isa: the ISA level.
        sanitize: build with the address and undefined-behaviour sanitizers (the process that loads the object must
            preload the sanitizer's run-time library).
        extra_flags: further flags of the compiler and the linker; part of the digest.
        link_flags: further flags of the linker alone; part of the digest of the shared object.
        progress: called with (units compiled, units to compile); units that the cache holds are in neither.

    Returns:
        The path of the object in the cache; the sources lie in the cache too.

    Raises:
        ToolchainError: no compiler, no place to write, or the compiler failed (its command, its first error line, and
            where the source is kept).
    """
    units = [s if isinstance(s, Source) else Source(s) for s in ([sources] if isinstance(sources, str) else sources)]
    compiler = find_compiler()
    flags = [*compiler_flags(isa), *(SANITIZE_FLAGS if sanitize else ()), *extra_flags]
    if compiler.kind == "clang":
        flags.append("-Wno-unknown-warning-option")
    workshop = _Workshop(compiler, tuple(flags))
    digests = [workshop.digest(*unit.headers, "", unit.text) for unit in units]
    target = workshop.place(workshop.digest(*LINK_FLAGS, *link_flags, "", *digests), ".so")
    if target.exists():
        return target
    try:
        objects = _compile(workshop, units, digests, progress)
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [*compiler.command, *flags, *LINK_FLAGS, *link_flags, *map(str, objects)]
        with phase("link", f"{len(objects)} objects"):
            _produce(target, command, ["-lm"], objects[0].with_suffix(".cpp"))
    except OSError as error:
        raise ToolchainError(
            f"the compiler cache {cache_directory() / 'cpu'} cannot be written: {error.strerror}",
            "set PLANISH_CACHE_DIR to a folder that can be written",
        ) from error
    return target


def _compile(
    workshop: _Workshop, units: Sequence[Source], digests: Sequence[str], progress: Callable[[int, int], None] | None
) -> list[Path]:
    """The object of each unit, those that are not in the cache compiled now."""
    objects = [workshop.place(digest, ".o") for digest in digests]
    missing = {path: unit for path, unit in zip(objects, units, strict=True) if not path.exists()}
    if not missing:
        return objects
    if progress is not None:
        progress(0, len(missing))
    kept: dict[str, Path] = {}
    for text in dict.fromkeys(header for unit in missing.values() for header in unit.headers):
        kept[text] = workshop.keep(workshop.digest(text), ".hpp", text)
    first = Counter(unit.headers[0] for unit in missing.values() if unit.headers)
    # The longest first: the last one to end should be a short one. Units without headers need not wait for those.
    order = sorted(missing, key=lambda path: (bool(missing[path].headers), -len(missing[path].text)))
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        ready = {text: pool.submit(workshop.precompile, kept[text], count) for text, count in first.items()}

        def compile_one(path: Path) -> float:
            unit, began = missing[path], time.perf_counter()
            if unit.headers:
                ready[unit.headers[0]].result()
            included = "".join(f'#include "{kept[text].name}"\n' for text in unit.headers)
            source = workshop.keep(path.stem, ".cpp", included + unit.text)
            folders = dict.fromkeys(f"-I{kept[text].parent}" for text in unit.headers)
            _produce(path, [*workshop.compiler.command, *workshop.flags, *folders, "-c", str(source)], [], source)
            return time.perf_counter() - began

        jobs = {path: pool.submit(compile_one, path) for path in order}
        try:
            for done, job in enumerate(as_completed(jobs.values()), 1):
                job.result()  # raises what went wrong
                if progress is not None:
                    progress(done, len(missing))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for path, job in jobs.items():
        record("compile", job.result(), detail=missing[path].name)
    return objects


@dataclass(frozen=True)
class _Workshop:
    """A compiler with its flags, and the folders in which what it makes is kept."""

    compiler: Compiler
    flags: tuple[str, ...]

    def digest(self, *parts: str) -> str:
        """The digest of what this compiler makes of ``parts``."""
        return _digest(*self.compiler.command, self.compiler.version, *self.flags, "", *parts)

    def place(self, digest: str, suffix: str) -> Path:
        return cache_directory() / "cpu" / digest[:2] / f"{digest}{suffix}"

    def keep(self, digest: str, suffix: str, text: str) -> Path:
        """Write ``text`` where it is not yet."""
        path = self.place(digest, suffix)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
                file.write(text)
            os.replace(file.name, path)
        return path

    def precompile(self, header: Path, count: int) -> None:
        """Precompile ``header`` if that pays for ``count`` units. g++ takes ``X.gch`` where ``X`` is included first, and
        makes the same code with and without; what clang makes has to be asked for, and is not worth it."""
        made = header.with_name(header.name + ".gch")
        if count < PRECOMPILE_FROM or self.compiler.kind != "gcc" or made.exists():
            return
        with suppress(ToolchainError):  # it is only for speed; the unit says what is wrong
            _produce(made, [*self.compiler.command, *self.flags, "-x", "c++-header", str(header)], [], header)


def _digest(*parts: str) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


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
