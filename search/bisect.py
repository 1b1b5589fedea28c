"""Where the error of a compiled model comes from: after which pass, in which unit, on which input, or in the kernels.

Everything is held against the float outputs of the graph as it was captured. Passes are watched by an instrument that runs the
graph after each of them; units are measured one at a time, and then one after the other with everything before them quantised;
and what is left between the last graph and the compiled model is the kernels'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.graph import Graph
from ..compiler.numeric_check import furthest, outputs, tolerance
from ..compiler.pass_protocol import Pass, PassResult
from ..compiler.pipeline import describe
from .metrics import Scorer
from .samples import Samples
from .sensitivity import Job
from .sensitivity.measured import measure_all
from .units import Unit

#: A loss below this is rounding, not an error.
NOTHING = 1e-9
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Step:
    """A pass that changed the graph.

    Attributes:
        distance: of the outputs from the captured graph's, relative, the worst batch and output.
        moved: of the outputs from those before the pass.
        allowed: the largest ``moved`` that rounding explains; infinite for a pass that changes numbers on purpose.
        losses: term -> mean loss after the pass.
        nodes: of the graph after the pass.
    """

    name: str
    lossy: bool
    distance: float
    moved: float
    allowed: float
    losses: dict[str, float]
    nodes: int

    @property
    def broke(self) -> bool:
        """Whether the pass changed numbers that it should not have changed."""
        return not self.moved <= self.allowed


class Trail:
    """An instrument that runs the graph after every pass that changed it and compares with what it was in the beginning.

    Args:
        samples: what it is run on.
        scorer: from outputs to losses.
        progress: called with (what, done, total).

    Attributes:
        references: outputs of the graph in the beginning, batch by batch.
        last: outputs after the last pass.
        allowed: what rounding explains between the last graph and its kernels.
    """

    def __init__(
        self, samples: Samples, scorer: Scorer, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        self.samples, self.scorer, self._progress = samples, scorer, progress
        self.references: list[Arrays] = []
        self.last: list[Arrays] = []
        self.steps: list[Step] = []
        self.allowed = 0.0

    def before(self, p: Pass, graph: Graph) -> None:
        if not self.references:
            self.references = self.last = self._run(graph)
            self.allowed = tolerance(graph)

    def after(self, p: Pass, graph: Graph, result: PassResult) -> None:
        if not result.changed:
            return
        if self._progress is not None:
            self._progress(f"running the graph after {p.name}", 0, 0)
        now, lossy = self._run(graph), bool(getattr(p, "lossy", False))
        self.allowed = tolerance(graph)
        self.steps.append(
            Step(
                describe(p), lossy, worst_distance(self.references, now), worst_distance(self.last, now),
                float("inf") if lossy else self.allowed, self.losses(now), len(graph),
            )
        )  # fmt: skip
        self.last = now

    def _run(self, graph: Graph) -> list[Arrays]:
        return [outputs(graph, batch.inputs) for batch in self.samples.batches]

    def losses(self, found: Sequence[Arrays]) -> dict[str, float]:
        """Term -> mean loss of these outputs."""
        return mean_losses(self.scorer, self.references, found, self.samples)


def worst_distance(a: Sequence[Arrays], b: Sequence[Arrays]) -> float:
    """The largest relative distance of any output on any batch."""
    return max((furthest(x, y)[0] for x, y in zip(a, b, strict=True)), default=0.0)


def mean_losses(
    scorer: Scorer, references: Sequence[Arrays], found: Sequence[Arrays], samples: Samples
) -> dict[str, float]:
    """Term -> mean loss over all samples."""
    parts: dict[str, list[np.ndarray]] = {}
    for reference, output, batch in zip(references, found, samples.batches, strict=True):
        for term, values in scorer.losses(reference, output, batch).items():
            parts.setdefault(term, []).append(values)
    return {term: float(np.mean(np.concatenate(values))) for term, values in parts.items()}


@dataclass(frozen=True)
class UnitError:
    """A unit at the precision that the plan gives it.

    Attributes:
        alone: term -> mean loss with everything else in float.
        together: term -> mean loss with every unit up to this one at its precision.
        added: term -> what this unit added to it.
    """

    name: str
    kind: str
    precision: str
    sources: tuple[str, ...]
    alone: dict[str, float]
    together: dict[str, float]
    added: dict[str, float]


def unit_errors(job: Job) -> list[UnitError]:
    """The units that are not float, in execution order.

    Args:
        job: its units have one candidate each, that of the plan.
    """
    choices = list(job.choices())
    if not choices:
        return []
    every = [(c,) for c in choices] + [tuple(choices[: i + 1]) for i in range(1, len(choices))]
    found, _, _ = measure_all(job, every, "measuring units")
    means = [{t: float(np.mean(v)) for t, v in losses.items()} for losses in found]
    alone, together = means[: len(choices)], [means[0], *means[len(choices) :]]
    units = {u.name: u for u in job.units}
    before = [dict.fromkeys(means[0], 0.0), *together]
    return [
        UnitError(
            name, units[name].kind, precision, units[name].sources, alone[i], together[i],
            {t: v - before[i][t] for t, v in together[i].items()},
        )
        for i, (name, precision) in enumerate(choices)
    ]  # fmt: skip


@dataclass(frozen=True)
class SampleError:
    """A sample with what the compiled model scores on it."""

    name: str
    slice: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Bisection:
    """Everything that was found.

    Attributes:
        term: the condition that the verdict goes by.
        steps: of the passes.
        units: in execution order.
        samples: all of them, the worst first.
        losses: term -> mean loss of the compiled model.
        kernels: distance of the compiled model from the last graph, and what rounding explains of it.
    """

    term: str
    steps: tuple[Step, ...]
    units: tuple[UnitError, ...]
    samples: tuple[SampleError, ...]
    losses: dict[str, float]
    kernels: tuple[float, float]

    @property
    def broken_pass(self) -> Step | None:
        """The first pass that changed numbers it should have left."""
        return next((s for s in self.steps if s.broke), None)

    @property
    def jump(self) -> Step | None:
        """The pass after which the loss rises most; None where it never does."""
        before, best = 0.0, (NOTHING, None)
        for step in self.steps:
            after = step.losses[self.term]
            best = max(best, (after - before, step), key=lambda item: item[0])  # type: ignore[assignment]
            before = after
        return best[1]

    @property
    def ranked(self) -> list[UnitError]:
        """The units, the one that loses most alone first."""
        return sorted(self.units, key=lambda u: -u.alone[self.term])

    def share(self, unit: UnitError) -> float:
        """The unit's part of what all units lose one by one."""
        total = sum(max(0.0, u.alone[self.term]) for u in self.units)
        return max(0.0, unit.alone[self.term]) / total if total else 0.0

    @property
    def guilty(self) -> UnitError | None:
        """The unit to look at first; None where no unit loses anything."""
        first = next(iter(self.ranked), None)
        return first if first is not None and first.alone[self.term] > NOTHING else None

    @property
    def verdict(self) -> str:
        """Where the error comes from, in one sentence."""
        wrong, (distance, allowed), guilty = self.broken_pass, self.kernels, self.guilty
        if wrong is not None:
            return (
                f"the pass {wrong.name} changed the numbers: the outputs moved by {wrong.moved:.2g} of their norm, "
                f"and {wrong.allowed:.0e} is explained by rounding"
            )
        if not distance <= allowed:
            return (
                f"the kernels do not compute what the last graph says: their outputs are {distance:.2g} of the norm away, "
                f"and {allowed:.0e} is explained by rounding"
            )
        if guilty is None or self.losses[self.term] <= NOTHING:
            return "nothing is lost: the outputs are those of the float model up to rounding"
        worst = self.samples[0] if self.samples else None
        where = (
            f"; the worst sample is {worst.name}" + (f" of the slice {worst.slice!r}" if worst.slice else "")
            if worst
            else ""
        )
        return (
            f"the error comes from precision, not from passes or kernels: {guilty.name} in {guilty.precision} alone loses "
            f"{guilty.alone[self.term]:.2g}, {self.share(guilty):.0%} of what the units lose one by one{where}"
        )

    @property
    def pins(self) -> tuple[str, ...]:
        """Source names that a plan would set to f32 to be rid of the largest error; empty where no unit is to blame."""
        clean = self.broken_pass is None and self.kernels[0] <= self.kernels[1]
        return self.guilty.sources if clean and self.guilty is not None and self.losses[self.term] > NOTHING else ()


def bisection(trail: Trail, units: Sequence[UnitError], compiled: Sequence[Arrays], term: str) -> Bisection:
    """Put together what was measured.

    Args:
        trail: it has watched the pipeline.
        units: from :func:`unit_errors`.
        compiled: outputs of the compiled model, batch by batch.
        term: the condition that the verdict goes by.
    """
    scores = trail.scorer.all_scores(trail.references, compiled, trail.samples)
    upward = next(t.upward for t in trail.scorer.bar.terms if str(t) == term)
    order = np.argsort(scores[term] if upward else -scores[term], kind="stable")
    samples = [
        SampleError(
            trail.samples.ids[i], trail.samples.slices[i], {t: float(values[i]) for t, values in scores.items()}
        )
        for i in order.tolist()
    ]
    return Bisection(
        term, tuple(trail.steps), tuple(units), tuple(samples), trail.losses(compiled),
        (worst_distance(trail.last, compiled), trail.allowed),
    )  # fmt: skip


def planned(units: Sequence[Unit]) -> list[Unit]:
    """The units that a plan has set to something else than float."""
    return [u for u in units if len(u.candidates) == 1 and u.candidates[0] != "f32"]
