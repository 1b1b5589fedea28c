"""Timing launches: whose figures they are, what is kept on disk, and what cannot be timed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit_harness import Builder, affine_program, build_unit, chain_program

from planish.backends.cpu import isa, measure, running, timings
from planish.backends.cpu.backend import BACKEND
from planish.backends.cpu.measure import launch_weights
from planish.backends.cpu.peaks import peaks
from planish.backends.cpu.running import Running
from planish.codegen.program import Program
from planish.codegen.specs import digest
from planish.compiler.capture.torch_export import capture
from planish.compiler.dims import symbol
from planish.compiler.errors import PlanishError, UsageError
from planish.compiler.target import LaunchCost, MeasureRequest, Target, find_target
from planish.driver import build, prepare
from planish.search.cost import CostTable
from planish.search.units import find_units, plan_of

PORTABLE = Target("cpu", "portable")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this file's own: what is built stays from test to test, timings are asked for by name."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANISH_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_timings(own_cache: Path) -> None:
    for path in (own_cache / timings.FOLDER).glob("*"):
        path.unlink()


def chain(n: int = 1000, **more: Any) -> MeasureRequest:
    program = chain_program(4)
    return MeasureRequest(program, build_unit(program).read_bytes(), {"x": np.ones(n, np.float32)}, **more)


def timed(*requests: MeasureRequest, **options: Any) -> list[list[LaunchCost]]:
    return BACKEND.measure(requests, PORTABLE, **{"seconds": 0.02, **options})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Requests per run."""
    found: list[int] = []
    plain = measure._run

    def counted(requests: list[MeasureRequest], seconds: float) -> list[np.ndarray]:
        found.append(len(requests))
        return plain(requests, seconds)

    monkeypatch.setattr(measure, "_run", counted)
    return found


# -- running -----------------------------------------------------------------------------------------------------------
def test_a_program_runs_as_in_an_artifact() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    program = affine_program()
    with Running(program, build_unit(program).read_bytes(), {"x": x}, {}, 1) as loaded:
        assert loaded.symbols == {"batch": 3, "seq": 4}
        np.testing.assert_array_equal(loaded.outputs["y"], 2 * x + 1)
        seconds = loaded.time()
        assert len(seconds) == 1
        assert seconds[0] > 0
    loaded.close()  # twice is no harm


@pytest.mark.parametrize("rows", [8, 3000], ids=["a small table", "a table that is mapped from a file"])
def test_weights_are_where_the_program_looks_for_them(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.random.default_rng(0).normal(size=(rows, 128)).astype(np.float32)
    b = Builder(n=(1, 64))
    ids, out = b.input("ids", (symbol("n"),), dtype=_i64()), b.output("y", (symbol("n"), 128))
    before = b.weight("before", np.array([2, 1], np.float32))
    b.launch("embed", [ids, b.weight("table", table), out], [symbol("n"), rows, 128])
    after = b.weight("after", np.array([3, 4], np.float32))
    b.launch("affine", [out, before, out], [symbol("n") * 128])
    b.launch("affine", [out, after, out], [symbol("n") * 128])
    plain = running.describe

    def described(program: Program) -> dict[str, Any]:  # hand-written kernels do not say what they only look up
        found = plain(program)
        return {**found, "weights": [{**w, "gathered": w["name"] == "table"} for w in found["weights"]]}

    monkeypatch.setattr(running, "describe", described)
    picked = np.array([0, rows - 1, rows // 2, 1])
    with Running(b.program, build_unit(b.program).read_bytes(), {"ids": picked}, {}, 1) as loaded:
        expected = 3 * (2 * table[picked] + 1) + 4
        np.testing.assert_allclose(loaded.outputs["y"], expected, rtol=1e-6)


def _i64() -> Any:
    from planish.compiler.types import DType

    return DType.i64


def test_several_threads() -> None:
    b = Builder()
    b.launch("workers", [b.output("y", (1,), _i64())], [])
    with Running(b.program, build_unit(b.program).read_bytes(), {}, {}, 2) as loaded:
        loaded.run()
        assert loaded.outputs["y"][0] in (1, 2)


def test_states_are_given_room() -> None:
    b = Builder()
    b.launch("count", [b.state("s", (1,)), b.output("y", (1,), _i64())], [])
    with Running(b.program, build_unit(b.program).read_bytes(), {}, {}, 1) as loaded:
        loaded.run()
        assert loaded.outputs["y"][0] >= 2


# -- figures -----------------------------------------------------------------------------------------------------------
def test_every_launch_has_its_figures() -> None:
    request = chain()
    (launches,) = timed(request)
    program = request.unit
    assert [c.label for c in launches] == [launch.label for launch in program.launches]
    assert [c.kernel for c in launches] == [digest(launch.spec) for launch in program.launches]
    assert all(c.seconds > 0 and np.isfinite(c.spread) for c in launches)
    assert len({c.seconds for c in launches if c.kernel == launches[0].kernel}) == 1  # one kernel, equal sizes
    assert sum(c.weights for c in launches) == 8
    assert peaks("portable", 1).seconds(1e9, 0, "w4a8-g64") == peaks("portable", 1).seconds(1e9, 0, "w8a8")


def test_a_larger_size_is_another_figure(runs: list[int]) -> None:
    small, large = timed(chain(10), chain(5000))
    assert small[0].seconds != large[0].seconds
    assert runs == [2]


def test_what_several_launches_read_is_divided() -> None:
    b = Builder()
    out = b.output("y", (1,))
    shared, own = b.weight("shared", np.zeros(7, np.uint8)), b.weight("own", np.zeros(5, np.uint8))
    b.launch("nothing", [shared, out], [])
    b.launch("nothing", [shared, shared, own], [])
    b.launch("nothing", [out], [])
    assert launch_weights(b.program) == [4, 3 + 5, 0]


def test_a_launch_says_what_it_is_built_around() -> None:
    class Toy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(50, 64)
            self.norm = torch.nn.LayerNorm(64)
            self.up, self.down = torch.nn.Linear(64, 128), torch.nn.Linear(128, 64)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.table(ids))
            return x + self.down(torch.nn.functional.gelu(self.up(x)))

    graph = capture(Toy(), (torch.arange(24).reshape(3, 8),)).graph
    target = find_target(PORTABLE)
    units = find_units(prepare(graph, target).graph, target)
    assert {u.name for u in units} == {"table", "up", "down"}
    ids = {"ids": np.arange(24).reshape(3, 8)}
    assignments, requests = [], []
    for precision in ("f32", "w8a8-dynamic"):
        assignments.append(
            {u.name: precision if precision in u.candidates and u.kind == "linear" else "f32" for u in units}
        )
        built = build(graph, plan_of(units, assignments[-1]), target)
        requests.append(MeasureRequest(built.program, built.binary, ids))
    found = BACKEND.measure(requests, target, seconds=0.05)
    for launches, request in zip(found, requests, strict=True):
        assert {name for c in launches for name in c.anchor} == {"table", "up", "down"}
        assert all(set(c.anchor) <= set(c.sources) for c in launches)
        packed = sum(b.bytes for b in request.unit.buffers if b.kind == "weight")
        assert sum(c.weights for c in launches) == packed
        assert all(c.limit > 0 for c in launches if c.flops)
    costs = CostTable(units, [(a, [launches]) for a, launches in zip(assignments, found, strict=True)])
    for assignment, launches in zip(assignments, found, strict=True):
        seconds, size = costs.predict(assignment)
        assert seconds == pytest.approx(sum(c.seconds for c in launches))
        assert size == pytest.approx(sum(c.weights for c in launches))
    assert costs.bytes["up", "w8a8-dynamic"] < 0.5 * costs.bytes["up", "f32"]


# -- the cache ---------------------------------------------------------------------------------------------------------
def test_what_is_known_is_not_run_again(runs: list[int]) -> None:
    first = timed(chain(10), chain(20))
    assert timed(chain(20), chain(10)) == first[::-1]
    assert runs == [2]
    timed(chain(10), fresh=True)
    assert runs == [2, 1]
    timed(chain(10), chain(30))  # one is new: what is compared is measured together
    assert runs == [2, 1, 2]


def test_threads_and_the_code_of_kernels_are_part_of_the_key(runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    timed(chain())
    timed(chain(threads=2))
    assert runs == [1, 1]
    monkeypatch.setattr(timings, "_generator", lambda: "templates changed")
    timed(chain())
    assert runs == [1, 1, 1]
    monkeypatch.setattr(timings, "cpu_kind", lambda: "another machine")
    timed(chain())
    assert runs == [1, 1, 1, 1]


def test_a_damaged_file_is_measured_anew(own_cache: Path, runs: list[int]) -> None:
    timed(chain())
    (path,) = (own_cache / timings.FOLDER).glob("*.sqlite")
    path.write_bytes(b"this is no database " * 100)
    timed(chain())
    timed(chain())  # the damaged file is gone by now, or was replaced
    timed(chain())
    assert len(runs) <= 3
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM timings").fetchone()[0] == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(own_cache: Path, runs: list[int]) -> None:
    if (own_cache / timings.FOLDER).exists():
        (own_cache / timings.FOLDER).rmdir()
    (own_cache / timings.FOLDER).write_text("a file where the folder should be")
    try:
        assert timed(chain())
        assert timed(chain())
        assert runs == [1, 1]
    finally:
        (own_cache / timings.FOLDER).unlink()


def test_a_figure_survives_the_process(own_cache: Path) -> None:
    key = timings.timing_key(chain().unit.launches[0], {"n": 1000}, 1, "portable")
    timings.Timings().put({key: timings.Timing(1.5, 0.25)})
    assert timings.Timings().get([key, "other", key]) == {key: timings.Timing(1.5, 0.25)}
    assert timings.Timings().get([str(i) for i in range(2000)]) == {}


# -- fairness ----------------------------------------------------------------------------------------------------------
def test_groups_hold_the_first_program_and_keep_to_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {10: 40, 11: 30, 12: 30, 13: 90, 14: 5}
    programs: Any = list(sizes)
    monkeypatch.setattr(measure, "weight_bytes", sizes.__getitem__)
    assert list(measure._groups(programs, 100)) == [[0, 1, 2], [0, 3], [0, 4]]
    assert list(measure._groups([10, 10, 10, 10], 50)) == [[0, 1, 2, 3]]  # type: ignore[list-item]


def test_groups_are_put_on_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [chain(10), chain(20), chain(30)]
    slow = iter([1.0, 2.0])  # in the second group the machine is half as fast

    def run(group: list[MeasureRequest], seconds: float) -> list[np.ndarray]:
        factor = next(slow)
        return [np.full((5, 5), factor * len(r.inputs["x"])) for r in group]

    monkeypatch.setattr(measure, "_run", run)
    monkeypatch.setattr(measure, "_groups", lambda programs, memory: iter([[0, 1], [0, 2]]))
    first, second, third = timed(*requests)
    assert [costs[0].seconds for costs in (first, second, third)] == [10, 20, 30]


def test_the_caller_stays_on_its_cores() -> None:
    before = os.sched_getaffinity(0)
    timed(chain(), fresh=True)
    assert os.sched_getaffinity(0) == before


def test_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    found = [measure.undisturbed(rng.normal(10, 2, 101)) for _ in range(600)]
    actual = np.std([m.seconds for m in found])
    assert np.mean([m.spread for m in found]) == pytest.approx(actual, rel=0.15)


def test_what_disturbs_every_second_call_does_not_count() -> None:
    rng = np.random.default_rng(0)
    quiet = 10 + rng.exponential(0.05, 60)
    busy = quiet + np.where(rng.random(60) < 0.5, rng.exponential(8.0, 60), 0.0)
    assert measure.undisturbed(busy).seconds == pytest.approx(measure.undisturbed(quiet).seconds, rel=0.005)
    assert np.median(busy) > 1.005 * np.median(quiet)


# -- bad input ---------------------------------------------------------------------------------------------------------
def test_what_cannot_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    request = chain()
    bad = MeasureRequest(request.unit, request.binary, {})
    with pytest.raises(UsageError, match="there is no input x to time"):
        timed(bad)
    with pytest.raises(UsageError, match=r"x to time the program on is float64\[4\] and has to be float32\[4\]"):
        timed(MeasureRequest(request.unit, request.binary, {"x": np.ones(4)}))
    with pytest.raises(UsageError, match="n is 6000 and has to be 1 to 5000"):
        timed(chain(6000))
    monkeypatch.setattr(isa, "missing_flags", lambda level: [] if level == "portable" else ["avx512_bf16"])
    with pytest.raises(UsageError, match=r"cpu:avx512-bf16 cannot be timed here: this CPU lacks avx512_bf16") as raised:
        BACKEND.measure([request], Target("cpu", "avx512-bf16"))
    assert raised.value.hint == "search on a machine that has it, or for cpu:portable"


def test_an_index_out_of_range_is_told() -> None:
    b = Builder()
    ids, out = b.input("ids", (2,), _i64()), b.output("y", (2, 4))
    b.launch("embed", [ids, b.weight("table", np.zeros((3, 4), np.float32)), out], [2, 3, 4])
    binary = build_unit(b.program).read_bytes()
    with pytest.raises(PlanishError, match="an index is out of range"):
        timed(MeasureRequest(b.program, binary, {"ids": np.array([0, 7])}))
