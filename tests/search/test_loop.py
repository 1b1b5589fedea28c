"""The search on small networks whose plans are interpreted and whose time is a table: every plan can be tried by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.compiler.dims import symbol
from planish.compiler.errors import BudgetError
from planish.compiler.graph import Graph, Symbol
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.pipeline import Pipeline
from planish.compiler.plan import Plan
from planish.compiler.target import Capabilities, LaunchCost, Target
from planish.compiler.types import DType, TensorType
from planish.passes.precision import CALIBRATION, PLAN, WEIGHTS, ResolvePlan
from planish.passes.quantize import Quantize
from planish.passes.weights.store import WeightStore
from planish.search.budget import Bar
from planish.search.dataset import Dataset
from planish.search.effort import EFFORTS, Effort
from planish.search.journal import Journal
from planish.search.loop import Search
from planish.search.metrics import Scorer
from planish.search.request import Outcome, Request
from planish.search.samples import Splits, load_samples, split
from planish.search.trials import Judge, Tools
from planish.search.units import Unit, find_units

PRECISIONS = ("f32", "bf16", "w8a8-dynamic", "w4a8-g32")
SPEED = {"f32": 1.0, "bf16": 0.55, "w8a8-dynamic": 0.3, "w4a8-g32": 0.25}
BYTES = {"f32": 4.0, "bf16": 2.0, "w8a8-dynamic": 1.0, "w4a8-g32": 0.6}
TARGET = Target("cpu", "avx2")
QUICK = replace(EFFORTS["quick"], sensitivity="measured", leave_out=())


def network(depth: int = 3, width: int = 64) -> Graph:
    """Linears behind one another, with tanh between: the wider the weights, the more an error costs."""
    random = np.random.default_rng(3)
    g = Graph()
    g.symbols = {"b": Symbol("b", 1, 64)}
    x = g.add_input("x", TensorType(DType.f32, (symbol("b"), width)))
    for i in range(depth):
        w = (random.standard_normal((width, width)) * (1.2 + 0.4 * (i % 3)) / np.sqrt(width)).astype(np.float32)
        x = g.insert("linear", [x, g.add_constant(w, f"l{i}.weight")], name=f"l{i}").output
        x = g.insert("tanh", [x]).output
    g.outputs = [x]
    return g


def samples(count: int, seed: int = 0, width: int = 64) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32))


@dataclass
class Interpreted:
    """A plan that is interpreted."""

    graph: Graph
    bytes: int
    seen: list[str]
    concurrency: int = 1

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self.seen.append(inputs["x"].tobytes()[:64].hex())
        return interpret(self.graph, inputs)

    def close(self) -> None: ...


@dataclass
class Bench:
    """Builds by passes alone; what a plan takes is the sum of a table, and what was asked of it is recorded."""

    graph: Graph
    units: Sequence[Unit]
    batches: list[Mapping[str, np.ndarray]]
    speed: Mapping[str, float] = field(default_factory=lambda: SPEED)
    store: WeightStore = field(default_factory=WeightStore)
    plans: list[Plan] = field(default_factory=list)
    better: list[tuple[int, float]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def assignment(self, plan: Plan) -> dict[str, str]:
        return {u.name: plan.precision_for(u.sources[0]).name for u in self.units}

    def build(self, plan: Plan, again: bool = True) -> Interpreted:
        self.plans.append(plan)
        working = self.graph.copy()
        context = PassContext(target=TARGET, data={PLAN: plan, CALIBRATION: self.batches, WEIGHTS: self.store})
        Pipeline((ResolvePlan(), Quantize())).run(working, context)
        found = Interpreted(working, int(sum(BYTES[p] for p in self.assignment(plan).values()) * 1000), self.seen)
        found.assignment = self.assignment(plan)  # type: ignore[attr-defined]
        return found

    def seconds(self, assignment: Mapping[str, str]) -> float:
        return sum(self.speed[p] * (1 + 0.2 * i) for i, p in enumerate(assignment.values())) * 1e-3

    def clock(self, variants: Sequence[Any]) -> list[float]:
        return [self.seconds(v.assignment) for v in variants]

    def costs(self, variants: Sequence[Any]) -> list[list[list[LaunchCost]]]:
        return [
            [
                [
                    LaunchCost(u.name, u.name, u.sources, self.speed[p] * (1 + 0.2 * i) * 1e-3, weights=int(BYTES[p] * 1000),
                               precision=p, anchor=u.sources)
                    for i, (u, p) in enumerate(zip(self.units, v.assignment.values(), strict=True))
                ]
            ]
            for v in variants
        ]  # fmt: skip

    def improved(self, variant: Any, known: dict[str, Any]) -> None:
        self.better.append((known["chosen"].id, known["chosen"].seconds))


@pytest.fixture(autouse=True)
def _all_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target of these tests takes them all."""
    from planish.backends.cpu.backend import CpuBackend

    monkeypatch.setattr(CpuBackend, "capabilities", lambda self, target: Capabilities({"linear": PRECISIONS}))


def search(
    bar: str = "cosine >= 0.999 each",
    *,
    pins: Plan | None = None,
    objective: str = "latency",
    effort: Effort = QUICK,
    journal: Path | None = None,
    data: Any = None,
    speed: Mapping[str, float] = SPEED,
) -> tuple[Search, Bench, Splits]:
    graph = network()
    pins = pins or Plan()
    units = find_units(graph, Capabilities({"linear": PRECISIONS}), pins)
    parsed = Bar.parse(bar)
    splits = split(load_samples(samples(1000) if data is None else data, graph), None, parsed, seed=1)
    bench = Bench(graph, units, [b.inputs for b in splits.calibration.sample(32).batches], speed)
    request = Request(
        graph, units, pins, parsed, Scorer(parsed), splits, objective, effort, [1.0], 0.99, 0.95, 1, bench.batches,
        splits.calibration.sample(effort.samples),
    )  # fmt: skip
    tools = Tools(bench.build, bench.clock, bench.costs, bench.improved)
    return Search(request, tools, bench.store, Journal(journal, "key")), bench, splits


def cheapest(bench: Bench, splits: Splits, bar: str) -> float:
    """The seconds of the cheapest plan that meets the bar on the final samples, of all there are."""
    parsed = Bar.parse(bar)
    reference = [interpret(bench.graph, b.inputs) for b in splits.final.batches]
    judge = Judge(parsed, Scorer(parsed), splits.final, reference, 0.99, 0.95)
    best = np.inf
    for choice in itertools.product(PRECISIONS, repeat=len(bench.units)):
        assignment = {u.name: p for u, p in zip(bench.units, choice, strict=True)}
        seconds = bench.seconds(assignment)
        if seconds >= best:
            continue
        plan = Plan.of({n: p for n, p in assignment.items() if p != "f32"})
        if all(v.holds for v in judge.verdicts(judge.scores(bench.build(plan)))):
            best = seconds
    return float(best)


def chosen(outcome: Outcome) -> dict[str, str]:
    return outcome.chosen.assignment


@pytest.mark.parametrize("bar", ["cosine >= 0.9997 each", "relative-error <= 0.01 mean"])
def test_the_plan_is_mixed_proved_and_near_the_best_of_all(bar: str) -> None:
    effort = replace(QUICK, trials=8, refinements=8, pairs=4)
    found, bench, splits = search(bar, effort=effort)
    outcome = found.run()
    assert all(v.holds for v in outcome.proof) and outcome.chosen.id != 0
    assert len(set(chosen(outcome).values())) > 1
    uniform = [t.seconds for t in outcome.trials if t.stage == "uniform" and t.met]
    assert bench.seconds(chosen(outcome)) < min(uniform)
    assert bench.seconds(chosen(outcome)) <= cheapest(bench, splits, bar) * 1.15


def test_artifacts_only_get_better_and_the_float_model_is_the_first() -> None:
    found, bench, _ = search("cosine >= 0.9997 each", effort=replace(QUICK, trials=8, refinements=4))
    outcome = found.run()
    numbers, seconds = zip(*bench.better, strict=True)
    assert numbers[0] == 0 and len(seconds) > 2
    assert all(a > b for a, b in itertools.pairwise(seconds))
    assert outcome.chosen.seconds <= seconds[0]


def test_the_final_samples_are_looked_at_after_the_search() -> None:
    found, bench, splits = search()
    final = {b.inputs["x"].tobytes()[:64].hex() for b in splits.final.batches}
    held = [b.inputs["x"].tobytes()[:64].hex() for b in splits.development.batches]
    found.run()
    first = next(i for i, key in enumerate(bench.seen) if key in final)
    assert first > max(i for i, key in enumerate(bench.seen) if key in held)


def test_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    class Killed(Exception): ...

    effort = replace(QUICK, trials=6, refinements=4)
    found, bench, _ = search("cosine >= 0.9997 each", effort=effort, journal=tmp_path / "j.sqlite")
    build, count = bench.build, itertools.count()

    def dying(plan: Plan, again: bool = True) -> Interpreted:
        if next(count) == len(PRECISIONS) + 1:  # the second plan of the solver
            raise Killed
        return build(plan)

    found.tools = replace(found.tools, build=dying)
    with pytest.raises(Killed):
        found.run()
    found.journal.close()
    again, bench, _ = search("cosine >= 0.9997 each", effort=effort, journal=tmp_path / "j.sqlite")
    outcome = again.run()
    again.journal.close()
    whole, plain, _ = search("cosine >= 0.9997 each", effort=effort)
    expected = whole.run()
    assert chosen(outcome) == chosen(expected)
    assert again.table is not None and again.table.known > 0, "losses came from the journal"
    assert len(bench.plans) < len(plain.plans)


def test_what_is_slower_in_low_precision_stays_float() -> None:
    slow = {**SPEED, "bf16": 1.2, "w8a8-dynamic": 1.4, "w4a8-g32": 2.0}
    found, _, _ = search("cosine >= 0.5 each", speed=slow)
    outcome = found.run()
    assert set(chosen(outcome).values()) == {"f32"} and outcome.chosen.id == 0
    assert any("stays float" in words for words in outcome.dropped)


def test_size_is_another_objective() -> None:
    slow = {**SPEED, "w4a8-g32": 2.0}
    found, _, _ = search("cosine >= 0.7 each", speed=slow, objective="size")
    assert "w4a8-g32" in chosen(found.run()).values()
    found, _, _ = search("cosine >= 0.7 each", speed=slow)
    assert "w4a8-g32" not in chosen(found.run()).values()


def test_pins_hold_and_may_make_a_bar_infeasible() -> None:
    pins = Plan.of({"l1": "w4a8-g32"})
    found, _, _ = search("cosine >= 0.8 each", pins=pins)
    outcome = found.run()
    assert chosen(outcome)["l1"] == "w4a8-g32"
    found, _, _ = search("cosine >= 0.99999 each", pins=pins)
    with pytest.raises(
        BudgetError, match=r"no plan meets cosine >= 0\.99999 each; the best reached is cosine 0\.9\d+ each"
    ) as error:
        found.run()
    assert error.value.exit_code == 3


def test_a_bar_that_the_float_model_misses() -> None:
    rows = np.stack(samples(1000))
    labels = np.zeros(1000, np.int64)
    data = Dataset([{"x": r, "y": y} for r, y in zip(rows, labels, strict=True)], label="y")
    found, bench, _ = search("accuracy >= 0.9 mean", data=data)
    with pytest.raises(BudgetError, match="the float model itself misses the bar"):
        found.run()
    assert len(bench.plans) == 1, "nothing was searched for"


def test_the_clock_ends_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = search("cosine >= 0.9997 each", effort=replace(QUICK, trials=8, refinements=8, seconds=1e-9))
    outcome = found.run()
    assert {t.stage for t in outcome.trials} == {"uniform"} and all(v.holds for v in outcome.proof)
