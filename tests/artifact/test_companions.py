"""The folder beside an artifact: whole or not there, and nobody else's files are touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.compiler.artifact.companions import beside, check_beside, folder_beside
from planish.compiler.errors import PlanishError, UsageError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (source / name).write_text(f"first {name}")
    return {path.name: path for path in source.iterdir()}


def test_its_name() -> None:
    assert folder_beside("a/model.planish") == Path("a/model.tokenizer")
    assert folder_beside("model.v2.planish") == Path("model.v2.tokenizer")
    assert folder_beside("model.bin") == Path("model.bin.tokenizer")


def test_it_is_written_and_replaced_whole(tmp_path: Path, files: dict[str, Path]) -> None:
    artifact = tmp_path / "out" / "m.planish"
    artifact.parent.mkdir()
    target = artifact.with_suffix(".tokenizer")
    with beside(artifact, files):
        assert not target.exists(), "only when the artifact is there"
    assert {p.name: p.read_text() for p in target.iterdir()} == {n: f"first {n}" for n in files}
    files["config.json"].write_text("second")
    (target / "special_tokens_map.json").write_text("of an earlier model")
    with beside(artifact, files):
        pass
    assert sorted(p.name for p in target.iterdir()) == ["config.json", "tokenizer.json"]
    assert (target / "config.json").read_text() == "second"
    assert sorted(p.name for p in artifact.parent.iterdir()) == ["m.tokenizer"], "nothing is left over"


def test_a_failure_leaves_what_was_there(tmp_path: Path, files: dict[str, Path]) -> None:
    artifact = tmp_path / "m.planish"
    with beside(artifact, files):
        pass
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RuntimeError), beside(artifact, {"config.json": files["config.json"]}):
        raise RuntimeError("the artifact cannot be written")
    with pytest.raises(PlanishError, match="cannot be written"), beside(artifact, {"x": tmp_path / "absent"}):
        raise AssertionError("not reached")
    assert sorted(tmp_path.rglob("*")) == before


def test_other_peoples_files_stay(tmp_path: Path, files: dict[str, Path]) -> None:
    artifact = tmp_path / "m.planish"
    folder = folder_beside(artifact)
    folder.mkdir()
    check_beside(artifact, files)  # an empty one is in nobody's way
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is in the way"):
        check_beside(artifact, files)
    with pytest.raises(UsageError, match="is in the way"), beside(artifact, files):
        pass
    assert (folder / "thesis.txt").read_text() == "years of work"
    check_beside(artifact, {})


def test_without_files_nothing_is_made(tmp_path: Path) -> None:
    with beside(tmp_path / "m.planish", {}):
        pass
    assert list(tmp_path.iterdir()) == []
