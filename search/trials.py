"""Trials: plans that were built whole, with their time and the quality of the artifact itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from ..compiler.target import LaunchCost
from .budget import Bar, Term, Verdict
from .margin import FAR, usage_of_each, usage_of_flips
from .metrics import Scorer
from .samples import Samples

Outputs = list[np.ndarray]


class Variant(Protocol):
    """A plan as it was built."""

    @property
    def bytes(self) -> int:
        """Size of the artifact."""

    @property
    def concurrency(self) -> int:
        """How many calls it serves at a time."""

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> Outputs:
        """The outputs for one batch, in the graph's order."""

    def close(self) -> None:
        """Give its memory back."""


@dataclass(frozen=True)
class Tools:
    """What a search is given from outside: it builds and measures nothing by itself.

    Attributes:
        build: a plan to a variant that runs; and whether its weights will be wanted again.
        clock: seconds of one call of each variant over the workload, timed in turns.
        costs: seconds of every launch: per variant, per point of the workload.
        improved: told of every variant that is better than the ones before, with what is known of it.
        progress: called with (what, done, total).
        tidy: gives memory that is not needed any more back to the system.
    """

    build: Callable[..., Any]
    clock: Callable[[Sequence[Any]], list[float]]
    costs: Callable[[Sequence[Any]], list[list[list[LaunchCost]]]]
    improved: Callable[[Any, dict[str, Any]], None] | None = None
    progress: Callable[[str, int, int], None] | None = None
    tidy: Callable[[], None] | None = None


@dataclass
class Trial:
    """One plan with what was measured of it.

    Attributes:
        id: number in the order of time; 0 is the model in float.
        label: for people.
        stage: ``uniform``, ``solve``, ``refine`` or ``final``.
        assignment: unit -> precision.
        seconds: of one call over the workload, on the scale of the float model's first timing.
        predicted: what the cost table said.
        bytes: size of the artifact.
        scores: term of the bar -> score per development sample.
        usage: term -> the loss that as good as no input exceeds, over the loss at the bar.
        at: seconds since the search began.
    """

    id: int
    label: str
    stage: str
    assignment: dict[str, str]
    seconds: float = 0.0
    predicted: float | None = None
    bytes: int = 0
    scores: dict[str, list[float]] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    at: float = 0.0

    @property
    def most_used(self) -> float:
        """The usage of the term that is nearest to its bar."""
        return max(self.usage.values(), default=FAR)

    @property
    def met(self) -> bool:
        """Whether it will likely be proved."""
        return self.most_used <= 1.0

    def kept(self) -> dict[str, Any]:
        """What the journal keeps."""
        return asdict(self)


def key_of(assignment: Mapping[str, str]) -> str:
    """A short name of an assignment, the same in every process."""
    text = json.dumps(sorted(assignment.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def outputs_of(variant: Variant, samples: Samples) -> list[Outputs]:
    """What ``variant`` gives, batch by batch, as many at a time as it serves."""
    if variant.concurrency < 2:
        return [variant.outputs(batch.inputs) for batch in samples.batches]
    with ThreadPoolExecutor(variant.concurrency) as pool:
        return list(pool.map(variant.outputs, (batch.inputs for batch in samples.batches)))


@dataclass(frozen=True)
class Judge:
    """Scores what a variant gives against the float model's outputs.

    Args:
        bar: what is asked.
        scorer: outputs to scores.
        samples: one split.
        references: the float model's outputs, batch by batch.
        coverage, confidence: of the statement.
    """

    bar: Bar
    scorer: Scorer
    samples: Samples
    references: Sequence[Outputs]
    coverage: float
    confidence: float

    def scores(self, variant: Variant | None) -> dict[str, np.ndarray]:
        """Term -> f64 ``[samples]`` in the order of ``samples.ids``; None is the float model itself."""
        outputs = self.references if variant is None else outputs_of(variant, self.samples)
        return self.scorer.all_scores(self.references, outputs, self.samples)

    def verdicts(self, scores: Mapping[str, np.ndarray]) -> list[Verdict]:
        """What the scores prove, term by term."""
        return self.scorer.verdicts(scores, self.samples, self.confidence, self.coverage)

    def usage(self, term: Term, scores: np.ndarray, verdict: Verdict, final: int) -> float:
        """How much of what the bar allows is used up, in the worst case that matters; up to 1 is good.

        Args:
            term: one of the bar's.
            scores: f64 ``[samples]``.
            verdict: of these scores.
            final: how many final samples there will be.
        """
        kind = term.kind
        share = term.share(self.coverage)
        limit = float(kind.loss(np.array([term.bound]))[0])
        if share is not None and kind.proxy is not None:  # it jumps: there is no tail to look at
            return usage_of_flips(verdict.misses, verdict.samples, final, share, self.confidence)
        if share is not None:
            return usage_of_each(kind.loss(scores), limit, final, share, self.confidence)
        if kind.proxy is not None or verdict.proven is None or limit <= 0:
            return 0.5 if verdict.holds else 2.0
        used = float(kind.loss(np.array([verdict.proven]))[0]) / limit
        return min(used, 1.0) if verdict.holds else max(used, 1.001)
