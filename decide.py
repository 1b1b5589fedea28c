"""*Decide*: the plan of a model, found by searching; the part of the driver that hands building and measuring to the search."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .assembly import Artifact, Built, joined
from .compiler.artifact.provenance import hash_bytes
from .compiler.cache import cache_directory
from .compiler.errors import BudgetError, UsageError
from .compiler.graph import Graph
from .compiler.pass_protocol import Note
from .compiler.plan import Plan
from .compiler.sizes import sizes_of
from .compiler.target import Target
from .passes.weights.store import WeightStore
from .runtime.loader import why_not
from .runtime.machine import cpu_name
from .search.budget import CONFIDENCE, COVERAGE, Bar
from .search.calibration import calibrated_on, estimated_on
from .search.effort import find_effort
from .search.executor import executor as open_executor
from .search.journal import Journal
from .search.loop import Search
from .search.metrics import Scorer
from .search.request import Outcome, Request
from .search.samples import load_samples
from .search.splits import split
from .search.telling import interim, told
from .search.trials import Tools
from .search.units import find_units
from .search.workload import Workload
from .trial import Variant, Workbench, release_memory

OBJECTIVES = ("latency", "size", "latency then size")


@dataclass(frozen=True)
class Wish:
    """What ``planish.compile`` was asked to find.

    Attributes: see ``driver.compile``.
    """

    budget: str
    calibration: Any
    evaluation: Any = None
    score: Callable[..., Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    workload: Workload | None = None
    objective: str = "latency"
    effort: str | float = "standard"
    seed: int = 0
    coverage: float = COVERAGE
    confidence: float = CONFIDENCE
    executor: str | None = None
    journal: str | Path | None = None
    restart: bool = False
    improved: Callable[[Artifact], None] | None = None

    def check(self) -> None:
        """What can be said before any work is done.

        Raises:
            UsageError: a value makes no sense.
        """
        if self.objective not in OBJECTIVES:
            raise UsageError(f"there is no objective {self.objective!r}", f"it is one of {', '.join(OBJECTIVES)}")
        find_effort(self.effort)
        for name in ("coverage", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"the {name} is {getattr(self, name)}", "it is a share between 0 and 1, as 0.99")
        if self.calibration is None:
            raise UsageError("a budget needs data to be judged on", "give calibration=...: typical inputs of the model")


Make = Callable[[Plan, list[Mapping[str, np.ndarray]], WeightStore], tuple[Built, Artifact]]


@dataclass(frozen=True)
class Other:
    """A further target that a variant is built for, by the plan that was found on the first.

    Attributes:
        target: with its level filled in.
        make: as for the first (:func:`decide`).
    """

    target: Target
    make: Make


def decide(
    wish: Wish,
    graph: Graph,
    output_names: Sequence[str],
    example: Mapping[str, np.ndarray],
    pins: Plan,
    target: Target,
    source: str,
    make: Make,
    progress: Callable[[str, int, int], None] | None = None,
    others: Sequence[Other] = (),
) -> Artifact:
    """The cheapest artifact that is proved to meet the bar.

    Args:
        wish: what is asked for.
        graph: the decision graph.
        output_names: of the model's outputs, in order.
        example: arrays by input name; the workload's sizes are made from them.
        pins: what the user has decided already.
        target: with its level filled in.
        source: hash of the model.
        make: (plan, calibration batches, store) to what was built and the artifact of it.
        progress: called with (what, done, total).
        others: further targets; each gets a variant by the same plan, judged by the same bar on the same final samples where it
            runs on this machine. Nothing is chosen by what it scores, so each of these proofs stands for itself.

    Raises:
        UsageError: the data, the bar or the workload do not fit the model.
        BudgetError: no plan meets the bar, or the variant of another target misses it.
    """
    bar = Bar.parse(wish.budget, wish.metrics)
    scorer = Scorer(bar, wish.score, output_names)
    effort = find_effort(wish.effort)
    samples = load_samples(wish.calibration, graph, progress=progress)
    evaluation = None if wish.evaluation is None else load_samples(wish.evaluation, graph, progress=progress)
    splits = split(samples, evaluation, bar, wish.seed, confidence=wish.confidence, coverage=wish.coverage)
    example = example or dict(splits.calibration.batches[0].inputs)
    workload = wish.workload or Workload([{}])
    if not any(workload.dims):  # threads alone were asked for
        workload = Workload([sizes_of(graph.inputs, example)], workload.threads)
    workload.check(graph.symbols)
    store = WeightStore(effort.weights)
    units = find_units(graph, target, pins)
    calibrated = calibrated_on(splits.calibration, graph, units, effort.calibration, wish.seed)
    estimated = estimated_on(splits.calibration, calibrated, effort.samples, wish.seed)
    batches: list[Mapping[str, np.ndarray]] = [batch.inputs for batch in calibrated.batches]
    request = Request(
        graph, units, pins, bar, scorer, splits, wish.objective, effort, workload.weights, wish.coverage, wish.confidence,
        wish.seed, batches, estimated,
    )  # fmt: skip
    words: dict[str, Any] = {
        "workload": workload.to_data(),
        "machine": {"cpu": cpu_name(), "target": str(target)},
        "score": scorer.words,
    }
    bench = Workbench(
        lambda plan, again: make(plan, batches, store if again else WeightStore()), graph, target, workload, example
    )

    def improved(variant: Variant, known: dict[str, Any]) -> None:
        if wish.improved is not None:
            record = interim(request, known["trials"], known["chosen"], **words)
            wish.improved(_with_record(variant.artifact, record))

    key = hash_bytes(
        source.encode(), str(bar).encode(), splits.sha256.encode(), str(target).encode(), repr(workload.to_data()).encode(),
        repr((wish.objective, wish.seed, wish.coverage, wish.confidence, scorer.words, pins.to_data())).encode(),
        platform.node().encode(),
    )  # fmt: skip
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(wish.journal or cache_directory() / "search" / f"{key[:24]}.sqlite", key))
        if wish.restart:
            journal.clear()
        resumed = 0 if wish.restart else journal.resumed
        if progress is not None and resumed:
            progress(f"going on with {resumed} measurements of an earlier run", 0, 0)
        executor = stack.enter_context(open_executor(wish.executor))
        tools = Tools(bench.build, bench.clock, bench.costs, improved, progress, release_memory)
        outcome = Search(request, tools, store, journal, executor).run()
        notes = [Note(text, by="data") for text in (*samples.notes, *splits.notes)]
        if journal.note:
            notes.append(Note(journal.note, "warning", by="journal"))
    try:
        artifact = _with_record(outcome.variant.artifact, {**told(request, outcome, **words), "resumed": resumed})
        _add_kernels(artifact, bench, outcome.variant)
        further = []
        for other in others:
            if progress is not None:
                progress(f"building and proving the variant for {other.target}", 0, 0)
            built, variant = other.make(outcome.variant.plan, batches, store)
            further.append(variant)
            record = _judged(other, built, variant, outcome, bench, workload.threads)
            artifact.report["search"].setdefault("variants", []).append(record)
        artifact = joined([artifact, *further])
        artifact.report["notes"] = [*notes, *artifact.report["notes"]]
    finally:
        outcome.variant.close()
    return artifact


def _judged(
    other: Other, built: Built, artifact: Artifact, outcome: Outcome, bench: Workbench, threads: int
) -> dict[str, Any]:
    """What is known of another target's variant: its proof and its time beside the first's, or why it has none.

    Raises:
        BudgetError: it misses the bar.
        RunError: it does not run although all that it needs is here.
    """
    (unit,) = artifact.manifest["units"]
    told: dict[str, Any] = {"unit": unit["name"], "target": str(other.target), "proof": []}
    if reason := why_not(unit):
        return {**told, "why_not": f"it needs {reason}"}
    assert outcome.judge is not None
    variant = Variant(outcome.variant.plan, built, artifact, threads)
    try:
        verdicts = outcome.judge.verdicts(outcome.judge.scores(variant))
        missed = next((v for v in verdicts if not v.holds), None)
        if missed is not None:
            raise BudgetError(
                f"the plan that was found meets the bar, but not as {other.target} computes it: {missed.sentence}",
                f"leave {other.target} out, or name it first so that the search runs on it",
            )
        first, own = bench.clock([outcome.variant, variant])
        seconds = own * outcome.chosen.seconds / first
        return {**told, "why_not": None, "seconds": seconds, "bytes": variant.bytes,
                "proof": [v.to_data() for v in verdicts]}  # fmt: skip
    finally:
        variant.release()


def _with_record(artifact: Artifact, record: dict[str, Any]) -> Artifact:
    """``artifact`` with the search's record in its report."""
    artifact.report["search"] = record
    report = artifact.package.report
    assert isinstance(report, dict)
    report["search"] = record
    return artifact


def _add_kernels(artifact: Artifact, bench: Workbench, variant: Variant) -> None:
    """What each launch takes at the first point of the workload, beside the least that this machine could take."""
    ((costs, *_),) = bench.costs([variant])
    kernels = [
        {
            "label": c.label, "sources": list(c.sources), "precision": c.precision, "seconds": c.seconds, "bytes": c.bytes,
            "flops": c.flops, "limit_seconds": c.limit,
        }
        for c in costs
    ]  # fmt: skip
    artifact.report["kernels"] = kernels
    assert isinstance(artifact.package.report, dict)
    artifact.package.report["kernels"] = kernels
