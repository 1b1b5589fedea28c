"""Seconds of kernels that were timed on this machine, kept on disk from one search to the next."""

from __future__ import annotations

import hashlib
import json
import platform
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from ... import codegen
from ...codegen.program import Launch
from ...codegen.specs import digest
from ...compiler.dims import evaluate
from . import isa, toolchain

T = TypeVar("T")

#: Subfolder of the cache.
FOLDER = "timings"
#: Of the file and of how is measured; other figures are not comparable.
VERSION = 1
#: Lines of ``/proc/cpuinfo`` that tell one kind of CPU from another.
_IDENTITY = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "cache size",
    "flags",
    "CPU part",
    "Features",
)


@dataclass(frozen=True)
class Timing:
    """What was measured of one kernel at given sizes.

    Attributes:
        seconds: of a call that nothing disturbs.
        spread: its standard error.
    """

    seconds: float
    spread: float


def timing_key(launch: Launch, symbols: Mapping[str, int], threads: int, level: str) -> str:
    """Everything that decides how long a kernel takes: its code and how that is compiled, its sizes, threads and the CPU."""
    sizes = [evaluate(dim, symbols) for dim in launch.dims]
    compiler = toolchain.find_compiler()
    parts = [
        VERSION, cpu_kind(), level, threads, digest(launch.spec), sizes, _generator(), compiler.command, compiler.version,
        isa.compiler_flags(level),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@cache
def _generator() -> str:
    """Digest of what turns specs into code: a spec alone does not tell that its template became better."""
    found = hashlib.sha256()
    root = Path(codegen.__file__).parent
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".j2", ".h", ".hpp")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


@cache
def cpu_kind() -> str:
    """The kind of CPU. Not the machine's name: a container has a new one every time."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.machine()
    lines = (line.partition(":") for line in first.splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines if name.strip() in _IDENTITY}
    return hashlib.sha256(json.dumps([platform.machine(), found], sort_keys=True).encode()).hexdigest()


class Timings:
    """The file of timings. A file that cannot be read or written is as good as an empty one: measuring takes seconds."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (toolchain.cache_directory() / FOLDER if folder is None else folder) / f"v{VERSION}.sqlite"

    def get(self, keys: Sequence[str]) -> dict[str, Timing]:
        """The timings that are known of ``keys``."""
        wanted = list(dict.fromkeys(keys))

        def read(database: sqlite3.Connection) -> dict[str, Timing]:
            found = {}
            for start in range(0, len(wanted), 500):  # SQLite takes so many parameters at once
                part = wanted[start : start + 500]
                query = f"SELECT key, seconds, spread FROM timings WHERE key IN ({', '.join('?' * len(part))})"
                for key, seconds, spread in database.execute(query, part):
                    found[key] = Timing(float(seconds), float(spread))
            return found

        return (self._do(read) if self.path.exists() else None) or {}

    def put(self, timings: Mapping[str, Timing]) -> None:
        """Keep ``timings``, all or none; they replace what was known."""
        rows = [(key, t.seconds, t.spread) for key, t in timings.items()]

        def write(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO timings (key, seconds, spread) VALUES (?, ?, ?)", rows)

        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._do(write)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """``work`` in a transaction; None where the file does not allow it."""
        try:
            with closing(sqlite3.connect(self.path, timeout=10)) as database, database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS timings (key TEXT PRIMARY KEY, seconds REAL NOT NULL, spread REAL NOT NULL)"
                )
                return work(database)
        except sqlite3.OperationalError:  # locked for long, another table of that name, or nothing can be written there
            return None
        except sqlite3.DatabaseError:  # it is no database
            with suppress(OSError):
                self.path.unlink()
            return None
