"""What a search has measured, kept on disk as it goes: an interrupted search goes on where it was.

SQLite in WAL mode: a record is either there or not, whenever the process is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..compiler.errors import PlanishError, UsageError

#: Of the tables; a journal of another version is put aside.
VERSION = 1
#: Seconds to wait for another process that is writing.
PATIENCE = 10.0

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE records (
  number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL, data TEXT NOT NULL, UNIQUE (kind, key)
);
"""


def digest_of(parts: Mapping[str, Any]) -> str:
    """A journal's key: hex digest of everything that decides what a search measures (model, data, bar, target, seed, ...).

    Raises:
        TypeError: a part is no JSON.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Journal:
    """Records of one search by kind and key, in the order they were put; a context manager.

    Args:
        path: the file, made if there is none; None: a journal in memory, forgotten at the end.
        key: digest of everything that decides the search. A file with another key is of another search and is put aside.

    Attributes:
        note: what became of a file that could not be used, in words; None where all was well.
        resumed: how many records an earlier run left.

    Raises:
        UsageError: another process is at this search, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, key: str) -> None:
        self.path = None if path is None else Path(path)
        self.note: str | None = None
        self._lock: int | None = None
        self._turn = threading.Lock()  # an executor's threads may put records
        if self.path is None:
            self._database = self._connect(":memory:")
            self._create(key)
        else:
            self._open(self.path, key)
        self.resumed = self._database.execute("SELECT count(*) FROM records").fetchone()[0]

    def _open(self, path: Path, key: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._take(path)
            reason = self._unusable(path, key)
            if reason is not None:
                self.note = f"{reason}; it was moved to {_put_aside(path)} and the search starts afresh"
            self._database = self._connect(path)
            if reason is not None or not self._tables():
                self._create(key)
        except (OSError, sqlite3.Error) as error:
            self._release()
            raise UsageError(
                f"the journal {path} cannot be written: {getattr(error, 'strerror', None) or error}",
                "choose a folder that can be written",
            ) from error
        except BaseException:
            self._release()
            raise

    # -- records -----------------------------------------------------------------------------------------------------
    def put(self, kind: str, key: str, data: Any) -> None:
        """Keep ``data`` (JSON; NaN and infinity are allowed); when this returns, it survives the end of the process.

        Raises:
            TypeError: ``data`` is no JSON.
            PlanishError: the disk is full or gone.
        """
        text = json.dumps(data)
        try:
            with self._turn, self._database:
                self._database.execute(
                    "INSERT INTO records (kind, key, data) VALUES (?, ?, ?) "
                    "ON CONFLICT (kind, key) DO UPDATE SET data = excluded.data",
                    (kind, key, text),
                )
        except sqlite3.Error as error:
            raise PlanishError(f"the journal {self.path} cannot be written: {error}", "is the disk full?") from error

    def get(self, kind: str, key: str) -> Any:
        """What was put; None if nothing was."""
        with self._turn:
            row = self._database.execute("SELECT data FROM records WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return None if row is None else json.loads(row[0])

    def all(self, kind: str) -> Iterator[tuple[str, Any]]:
        """Key and data of every record of a kind, in the order they were first put."""
        rows = self._database.execute(
            "SELECT key, data FROM records WHERE kind = ? ORDER BY number", (kind,)
        ).fetchall()
        return ((key, json.loads(data)) for key, data in rows)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The trials of the search so far, in order."""
        return [data for _, data in self.all("trial")]

    def reader(self, kind: str) -> Callable[[str], Any]:
        """``get`` of one kind."""
        return lambda key: self.get(kind, key)

    def writer(self, kind: str) -> Callable[[str, Any], None]:
        """``put`` of one kind."""
        return lambda key, data: self.put(kind, key, data)

    def clear(self) -> None:
        """Forget every record."""
        with self._turn, self._database:
            self._database.execute("DELETE FROM records")

    def close(self) -> None:
        """Let another process have it."""
        self._database.close()
        self._release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the file ----------------------------------------------------------------------------------------------------
    def _connect(self, path: str | Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        # In WAL mode NORMAL survives the death of the process, though not a power cut; then the last records are lost.
        database.execute("PRAGMA synchronous = NORMAL")
        return database

    def _tables(self) -> bool:
        return bool(self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'records'").fetchone())

    def _create(self, key: str) -> None:
        meta = f"INSERT INTO meta VALUES ('version', '{VERSION}'), ('key', '{_quoted(key)}');"
        self._database.executescript(f"BEGIN IMMEDIATE; {_TABLES} {meta} COMMIT;")

    def _unusable(self, path: Path, key: str) -> str | None:
        """Why the file that is there cannot be gone on with; None if it can, or there is none."""
        if not path.exists() or path.stat().st_size == 0:
            return None
        try:
            database = sqlite3.connect(path, timeout=PATIENCE)
            try:
                if database.execute("PRAGMA quick_check").fetchone() != ("ok",):
                    return f"the journal {path} is damaged"
                if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                    return None  # killed before the tables were made
                meta = dict(database.execute("SELECT name, value FROM meta"))
                for (text,) in database.execute("SELECT data FROM records"):
                    json.loads(text)
            finally:
                database.close()
        except (sqlite3.DatabaseError, ValueError):
            return f"the journal {path} is damaged"
        if meta.get("version") != str(VERSION):
            return f"the journal {path} was written by another version of planish"
        return None if meta.get("key") == key else f"the journal {path} is of another search"

    def _take(self, path: Path) -> None:
        """One search at a time: a second process would do the same work again."""
        import fcntl

        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            raise UsageError(
                f"another process{f' ({holder})' if holder else ''} is at the search that {path} keeps",
                "wait for it, or give this one another journal",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _release(self) -> None:
        # The file stays: were it deleted, two processes could each hold a lock on a file of that name.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _put_aside(path: Path) -> Path:
    """Move a journal, with what SQLite keeps beside it, to a name that is free."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.{stamp}")
    number = 1
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.{stamp}-{number}"), number + 1
    for suffix in ("-wal", "-shm", ""):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            os.replace(beside, aside.with_name(aside.name + suffix))
    return aside
