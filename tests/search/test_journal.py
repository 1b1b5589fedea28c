"""The journal: what was put is there again, whatever happened in between."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from planish.compiler.errors import UsageError
from planish.search.journal import Journal, digest_of


def test_records_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "search.journal"
    with Journal(path, "key") as journal:
        assert (journal.note, journal.resumed) == (None, 0)
        journal.put("trial", "b", {"seconds": 0.5, "nan": float("nan"), "worst": float("inf")})
        journal.put("trial", "a", {"seconds": 1.5})
        journal.put("trial", "b", {"seconds": 0.25})
        journal.put("loss", "b", [1, 2, None])
    with Journal(path, "key") as journal:
        assert (journal.note, journal.resumed) == (None, 3)
        assert list(journal.all("trial")) == [("b", {"seconds": 0.25}), ("a", {"seconds": 1.5})]
        assert journal.trials == [{"seconds": 0.25}, {"seconds": 1.5}]
        assert journal.get("loss", "b") == [1, 2, None]
        assert journal.get("loss", "a") is None
        journal.clear()
        assert list(journal.all("trial")) == []


def test_readers_and_writers_of_one_kind() -> None:
    with Journal(None, "key") as journal:
        read, write = journal.reader("loss"), journal.writer("loss")
        write("unit", {"t": [0.5]})
        assert read("unit") == {"t": [0.5]}
        assert read("other") is None
        assert journal.get("trial", "unit") is None


def test_what_is_no_json_is_not_put() -> None:
    with Journal(None, "key") as journal:
        with pytest.raises(TypeError):
            journal.put("trial", "a", {"x": object()})
        assert journal.get("trial", "a") is None


def test_threads_may_put(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", "key") as journal, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: journal.put("loss", str(i), i), range(200)))
        assert sorted(data for _, data in journal.all("loss")) == list(range(200))


def test_the_key_is_of_everything_that_decides() -> None:
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


# -- files that cannot be gone on with ---------------------------------------------------------------------------------
def test_another_search(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, "it's one") as journal:
        journal.put("trial", "a", 1)
    with Journal(path, "another") as journal:
        assert journal.note is not None and "is of another search; it was moved to" in journal.note
        assert journal.resumed == 0
        aside = Path(journal.note.split("moved to ")[1].split(" and ")[0])
    with Journal(aside, "it's one") as journal:  # nothing is lost
        assert journal.get("trial", "a") == 1


def test_another_version(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path, "key").close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = '99' WHERE name = 'version'")
    database.close()
    with Journal(path, "key") as journal:
        assert journal.note is not None and "was written by another version of planish" in journal.note
    assert Journal(path, "key").note is None


@pytest.mark.parametrize("damage", ["text", "half", "a page", "no tables", "no json"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "j"
    with Journal(path, "key") as journal:
        for i in range(200):
            journal.put("trial", str(i), "x" * 500)
    data = path.read_bytes()
    match damage:
        case "text":
            path.write_text("no database at all\n" * 50)
        case "half":
            path.write_bytes(data[: len(data) // 2])
        case "a page":
            path.write_bytes(data[:4096] + b"\xa5" * 8192 + data[12288:])
        case "no tables":
            path.unlink()
            sqlite3.connect(path).executescript("CREATE TABLE other (x);")
        case "no json":
            sqlite3.connect(path).executescript("UPDATE records SET data = '{' WHERE key = '7';")
    with Journal(path, "key") as journal:
        assert journal.note is not None and f"{path} is damaged; it was moved to" in journal.note
        journal.put("trial", "a", 1)
    assert (
        len([p for p in tmp_path.iterdir() if p.name.startswith("j.2") and p.suffix[-4:] not in ("-wal", "-shm")]) == 1
    )
    with Journal(path, "key") as journal:
        assert journal.note is None and journal.resumed == 1


def test_an_empty_file_is_a_fresh_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.touch()
    with Journal(path, "key") as journal:
        assert journal.note is None
        journal.put("trial", "a", 1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", "key")


# -- other processes ---------------------------------------------------------------------------------------------------
CHILD = """
import sys
from planish.search.journal import Journal
journal = Journal(sys.argv[1], "key")
for number in range(10**9):
    journal.put("trial", str(number), {"seconds": number, "scores": [0.5] * 2000})
    print(number, flush=True)
"""


def child(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("after", [0, 1, 40])
def test_a_killed_process_loses_nothing_that_it_put(tmp_path: Path, after: int) -> None:
    path = tmp_path / "j"
    with child(path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= after:
                break
        os.kill(process.pid, signal.SIGKILL)
        told = [after, *(int(line) for line in process.stdout if line.endswith("\n"))]
    with Journal(path, "key") as journal:
        assert journal.note is None
        assert journal.resumed >= told[-1] + 1
        assert [data["seconds"] for data in journal.trials] == list(range(journal.resumed))


def test_a_second_process_is_told_plainly(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with child(path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UsageError, match=rf"another process \({process.pid}\) is at the search that .*/j keeps"):
            Journal(path, "key")
        os.kill(process.pid, signal.SIGKILL)
    Journal(path, "key").close()
