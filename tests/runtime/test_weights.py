"""Weights in memory: mapped, or in huge pages with the tables in between mapped; the same bytes either way."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from unit_harness import Builder, package, save, unit_part

import planish
from planish.codegen.program import Launch, Program, Ref
from planish.codegen.specs import LinearSpec, MatmulSpec, Operand, RowProgram, Step
from planish.codegen.unit import describe
from planish.compiler.dims import symbol
from planish.runtime import weights
from planish.runtime.archive import Archive, Mapping
from planish.runtime.model import Model
from planish.runtime.weights import HUGE_PAGE, HugePages

RNG = np.random.default_rng(7)


def large_program() -> Program:
    """Weights in the order small, table, streamed, table, small; the last is read."""
    b = Builder(n=(1, 8))
    n = symbol("n")
    x, y = b.input("x", (n,)), b.output("y", (n,))
    for name, size in (("small", 100), ("table", 1_500_000), ("streamed", 3_000_001), ("table2", 1_200_000)):
        b.weight(name, RNG.integers(0, 255, size, dtype=np.uint8))
    b.launch("affine", [x, b.weight("w", np.array([2, 1], np.float32)), y], [n])
    return b.program


def saved(tmp_path: Path, program: Program, gathered: tuple[str, ...] = ("table", "table2")) -> Path:
    description = describe(program)
    for entry in description["weights"]:
        entry["gathered"] = entry["name"] in gathered
    return save(tmp_path, program, units=[unit_part(program, description=description)])


def in_memory(model: Model) -> bytes:
    return ctypes.string_at(model._weights.address, model._weights.size)


@pytest.mark.parametrize("gathered", [("table", "table2"), (), ("table",), ("small", "table2")])
def test_huge_pages_hold_what_the_file_holds(tmp_path: Path, gathered: tuple[str, ...]) -> None:
    program = large_program()
    path = saved(tmp_path, program, gathered)
    with planish.load(path, share_weights=True) as shared, planish.load(path) as model:
        assert isinstance(shared._weights, Mapping)
        if weights.huge_pages_available():
            assert isinstance(model._weights, HugePages)
            assert model._weights.address % HUGE_PAGE == 0
        assert in_memory(model) == in_memory(shared)
        for entry, array in zip(model.manifest["units"][0]["weights"]["index"], program.weights, strict=True):
            assert in_memory(model)[entry["offset"] : entry["offset"] + entry["bytes"]] == array.tobytes()
        np.testing.assert_array_equal(model(np.ones(3, np.float32))["y"], [3, 3, 3])


@pytest.mark.skipif(not weights.huge_pages_available(), reason="this kernel gives no huge pages")
def test_tables_stay_mapped_from_the_file_and_all_goes_with_the_model(tmp_path: Path) -> None:
    path = saved(tmp_path, large_program())

    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum(str(path) in line for line in maps)

    with planish.load(path):
        assert mapped() == 2
    assert mapped() == 0


def test_without_huge_pages_and_with_little_to_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with planish.load(saved(tmp_path, large_program(), ("table", "table2", "streamed"))) as model:
        assert isinstance(model._weights, Mapping)
    path = saved(tmp_path, large_program())
    monkeypatch.setattr(weights, "huge_pages_available", lambda: False)
    with planish.load(path) as model:
        assert isinstance(model._weights, Mapping)


def test_where_a_copy_cannot_be_had_the_file_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(HugePages, "_map", refuse)
    with planish.load(saved(tmp_path, large_program())) as model:
        assert isinstance(model._weights, Mapping)
        np.testing.assert_array_equal(model(np.ones(3, np.float32))["y"], [3, 3, 3])


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    archive = Archive(saved(tmp_path, large_program()))
    start, size = archive.extent("weights.bin")
    with pytest.raises(OSError, match="the file ends before its weights do"):
        HugePages(archive.descriptor, start, size + (1 << 22), [])
    archive.close()


def test_the_kernel_says_whether_it_gives_huge_pages(tmp_path: Path) -> None:
    assert not weights.huge_pages_available(tmp_path)
    folder = tmp_path / "sys/kernel/mm/transparent_hugepage"
    folder.mkdir(parents=True)
    for text, answer in (
        ("always [madvise] never", True),
        ("[always] madvise never", True),
        ("always madvise [never]", False),
    ):
        (folder / "enabled").write_text(text)
        assert weights.huge_pages_available(tmp_path) is answer


def test_what_is_only_looked_up_is_told_apart() -> None:
    """A weight is gathered when every kernel that reads it does so through an index."""
    b = Builder(n=(1, 8))
    x, y = b.input("x", (4,)), b.output("y", (4,))
    table, both, dense, epilogue, tile = (
        b.weight(n, np.zeros(4, np.float32)) for n in ("table", "both", "dense", "epi", "tile")
    )
    rows = RowProgram(
        (Operand("i64", "broadcast"), Operand("f32", index=0), Operand("f32")), (Step("load", "a", (1,)),)
    )
    product = LinearSpec("w8a8", RowProgram((Operand("f32"),), ()), row=rows)
    batched = MatmulSpec("f32", 1, rows)
    for spec, pointers in (
        (rows, [x, table, dense]),
        (rows, [x, both, y]),
        (product, [x, None, both, dense, dense, y, x, epilogue, dense]),
        (batched, [x, x, y, x, tile, dense]),
    ):
        refs = tuple(Ref(p) for p in pointers)
        b.program.launches.append(Launch(spec, refs, (), "launch"))
    gathered = {entry["name"] for entry in describe(b.program)["weights"] if entry["gathered"]}
    assert gathered == {"table", "epi", "tile"}


def test_fewer_weights_than_the_code_reads(tmp_path: Path) -> None:
    made = package(large_program())
    entry = dict(made.manifest["units"][0])
    entry["weights"] = {**entry["weights"], "bytes": 1 << 30}
    path = tmp_path / "x.planish"
    made.save(path)
    archive = Archive(path)
    with pytest.raises(planish.ArtifactError, match="has fewer weights than its code reads"):
        weights.load_weights(archive, entry)
    archive.close()
