"""One model, captured once: searched, built at any plan, judged on data the search never met, and timed side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from .. import driver
from ..compiler.capture.torch_export import capture
from ..compiler.plan import Plan
from ..compiler.sizes import resized
from ..compiler.target import find_target
from ..decide import Wish, decide
from ..passes.weights.store import WeightStore
from ..search.budget import CONFIDENCE, COVERAGE, Bar
from ..search.metrics import Scorer
from ..search.record import Record, record_of
from ..search.samples import Samples, load_samples
from ..search.trials import Judge
from ..search.units import Unit, find_units, plan_of
from ..search.verdict import Verdict
from ..search.workload import Workload
from ..trial import Variant
from .compare import Samples as Times
from .compare import interleave, others_share
from .machine import cores, pin
from .progress import Progress, say
from .subjects import Subject

#: Samples that weights are calibrated on when a plan is built outside a search; as many as a search at "standard" takes.
CALIBRATION = 64

Assignment = Mapping[str, str]


class Laboratory:
    """A subject, captured and prepared.

    Attributes:
        subject: what was captured.
        units: that precision is decided for, with all their candidates.
    """

    def __init__(self, subject: Subject) -> None:
        """Capture the model and read its data."""
        say(f"{subject.name}: capturing")
        self.subject = subject
        self._module, args, kwargs, dynamic_shapes = subject.make()
        self._target = find_target("cpu")
        self._captured = capture(self._module, args, kwargs, dynamic_shapes=dynamic_shapes)
        self._prepared = driver.prepare(self._captured.graph, self._target)
        self._given = subject.given_data()
        self._store = WeightStore()
        graph = self._prepared.graph
        self.units: list[Unit] = find_units(graph, self._target)
        samples = load_samples(self._given, graph).sample(CALIBRATION)
        self._calibration: list[Mapping[str, np.ndarray]] = [batch.inputs for batch in samples.batches]
        self._unseen: Samples = load_samples(subject.unseen_data(), graph)
        self._references: list[list[np.ndarray]] | None = None

    # -- searching -----------------------------------------------------------------------------------------------------
    def compile(
        self, budget: str, *, objective: str = "latency", effort: str | float = "standard", seed: int = 0,
        coverage: float = COVERAGE,
    ) -> driver.Artifact:  # fmt: skip
        """What ``planish.compile`` makes for this bar, capture left out.

        Args:
            coverage: of the promise. More of it takes more samples, so three of four are then judged by, not two.

        Raises:
            BudgetError: no plan meets it.
        """
        say(f"{self.subject.name}: searching for {budget}, {objective}, {effort}")
        given, judged = self._given, None
        if coverage != COVERAGE:
            judged = {name: [s for i, s in enumerate(part) if i % 4] for name, part in given.items()}
            given = {name: part[::4] for name, part in given.items()}
        wish = Wish(
            budget, given, judged, self.subject.score_function(), {}, Workload([self.subject.sizes]), objective, effort, seed,
            coverage=coverage, restart=True,
        )  # fmt: skip
        wish.check()
        return decide(
            wish, self._prepared.graph, self._captured.output_names, self._captured.examples, Plan(), self._target,
            self._captured.source, self._make, Progress(self.subject.name),
        )  # fmt: skip

    def search(
        self, budget: str, *, objective: str = "latency", effort: str | float = "standard", seed: int = 0
    ) -> Record:
        """The same; what was measured on the way."""
        record = record_of(self.compile(budget, objective=objective, effort=effort, seed=seed).report)
        assert record is not None
        return record

    # -- building ------------------------------------------------------------------------------------------------------
    def build(self, assignment: Assignment) -> Variant:
        """The model with each unit at its precision, loaded on one thread."""
        plan = plan_of(self.units, assignment)
        return Variant(plan, *self._make(plan, self._calibration, self._store), threads=1)

    def _make(
        self, plan: Plan, batches: list[Mapping[str, np.ndarray]], store: WeightStore
    ) -> tuple[driver.Built, driver.Artifact]:
        prepared = self._prepared
        built = driver.build(
            prepared.graph, plan, self._target, pipeline=prepared.rest, calibration=batches, store=store
        )
        built = replace(built, pipeline=prepared.pipeline)
        return built, driver.package(self._captured, built, plan, self._target, self._module, batches)

    # -- judging -------------------------------------------------------------------------------------------------------
    def judge(self, variant: Variant, bar: str | None = None) -> Verdict:
        """What the unseen samples say of a variant, by the first term of ``bar`` (None: the subject's yardstick)."""
        parsed = Bar.parse(bar or self.subject.yardstick)
        scorer = Scorer(parsed, self.subject.score_function(), self._captured.output_names)
        if self._references is None:
            plain = self.build({})
            self._references = [plain.outputs(batch.inputs) for batch in self._unseen.batches]
            plain.close()
        judge = Judge(parsed, scorer, self._unseen, self._references, COVERAGE, CONFIDENCE)
        return judge.verdicts(judge.scores(variant))[0]

    @property
    def unseen(self) -> int:
        """How many samples quality is judged on."""
        return len(self._unseen)

    # -- timing --------------------------------------------------------------------------------------------------------
    def clock(self, variants: Mapping[str, Variant], seconds: float) -> tuple[dict[str, Times], float]:
        """Milliseconds of calls, interleaved on one core; and the share of the core that other processes took."""
        graph = self._prepared.graph
        example = self._captured.examples or dict(self._unseen.batches[0].inputs)
        inputs = resized(graph.inputs, example, self.subject.sizes)
        calls: dict[str, Callable[[], object]] = {name: variant.bound(inputs) for name, variant in variants.items()}
        with pinned() as used:
            return others_share(used, lambda: interleave(calls, seconds))


@contextmanager
def pinned() -> Iterator[list[int]]:
    """One core for a while: compilers that run before and after may use all of them."""
    before, used = os.sched_getaffinity(0), cores(1)
    pin(used)
    try:
        yield used
    finally:
        os.sched_setaffinity(0, before)


def uniform(units: Sequence[Unit], precision: str) -> dict[str, str]:
    """Every unit at ``precision``; where that is not offered, attention in bf16 and the rest in float."""
    found = {}
    for unit in units:
        lower = "bf16" if unit.kind == "attention" and "bf16" in unit.candidates and precision != "f32" else "f32"
        found[unit.name] = precision if precision in unit.candidates else lower
    return found
