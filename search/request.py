"""What a search is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..compiler.graph import Graph
from ..compiler.plan import Plan
from .budget import Bar, Verdict
from .cost import CostTable
from .effort import Effort
from .metrics import Scorer
from .samples import Samples, Splits
from .sensitivity import Table
from .solve import Solution
from .trials import Judge, Trial
from .units import Unit


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        graph: the decision graph: the pipeline run up to, not including, ``quantize``.
        units: what can be decided, with the candidates on the target.
        pins: rules of the user; they hold whatever the search finds.
        objective: ``latency``, ``size`` or ``latency then size``.
        shares: weight of every point of the workload, summing to 1.
        coverage, confidence: of the promise.
        batches: what the builds calibrate on.
        estimated: what losses are estimated on.
    """

    graph: Graph
    units: Sequence[Unit]
    pins: Plan
    bar: Bar
    scorer: Scorer
    splits: Splits
    objective: str
    effort: Effort
    shares: Sequence[float]
    coverage: float
    confidence: float
    seed: int
    batches: Sequence[Mapping[str, np.ndarray]]
    estimated: Samples


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        variant: the plan that was proved, built.
        chosen: its trial.
        proof: verdicts on the final samples.
        final: term -> scores of the final samples.
        trials: all of them.
        units: with the candidates that were tried.
        costs, table: what the solver stood on.
        solution: the solver's last word on the way to the chosen plan; None where it was not asked.
        dropped: words about what stays float because it does not pay.
        pointless: (unit, precision) -> why it was not tried: something finer costs no more.
        phases: seconds of each.
        judge: of the final samples; builds of the plan for other targets are judged by it.
    """

    variant: Any
    chosen: Trial
    proof: list[Verdict]
    final: dict[str, np.ndarray]
    trials: list[Trial]
    units: list[Unit]
    costs: CostTable | None = None
    table: Table | None = None
    solution: Solution | None = None
    dropped: list[str] = field(default_factory=list)
    pointless: dict[tuple[str, str], str] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    judge: Judge | None = None
