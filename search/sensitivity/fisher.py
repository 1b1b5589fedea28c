"""Sensitivity from gradients: a few backward passes for the whole model instead of a run for every candidate.

The loss of a candidate is taken to second order in the error ``e`` that it makes at its unit's outputs: ``1/2 e^T (J^T H J) e``,
``J`` the Jacobian of the compared outputs and ``H`` the curvature of the loss there (``curvature``). The matrix is the Fisher
information, or generalised Gauss-Newton matrix, of the unit's outputs; it is never formed: ``E (v^T J e)^2`` over random ``v`` of
covariance ``H`` is the same number, and ``v^T J`` comes from a backward pass. In the manner of "optimal brain damage" (LeCun,
Denker, Solla 1989) and of BRECQ (Li et al. 2021, arXiv:2102.05426), which weighs errors of activations by the Fisher
information; here with the true error of each candidate and with its correlations inside a unit.

A few candidates are measured as well and set the scale of each term, which a second-order formula gets wrong for a metric whose
loss is not known in closed form.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import ClassVar

import numpy as np

from ..executor import executor, spread
from .measured import add_float, measure_all
from .table import Choice, Job, Losses, Table

#: Backward passes for each thing that is compared.
DIRECTIONS = 4
#: Tasks at a time: each holds weights and activations of its own, and a second would save a second.
WORKERS = 1
#: Candidates that are measured to set the scale.
ANCHORS = 3


class Fisher:
    """Second order by projections of the error."""

    name: ClassVar[str] = "fisher"
    second_order: ClassVar[str] = "projection"

    def table(self, job: Job) -> Table:
        """The estimated loss of every unit at every candidate on every sample.

        The work stays in this process whatever the executor is: to send the weights of every candidate would take longer.

        Raises:
            UsageError: a loss of a measured candidate is negative or NaN.
        """
        began = time.monotonic()
        table = Table(method=self.name)
        add_float(job, table)
        choices = list(job.choices())
        found = [_read(job.known(self.name, *c)) for c in choices]
        if all(f is not None for f in found):
            table.known = len(choices)
            estimated = {c: f for c, f in zip(choices, found, strict=True) if f is not None}
        else:
            estimated = self._estimate(job, choices)
            table.evaluations = self._scale(job, estimated)
            for choice, losses in estimated.items():
                job.keep({t: loss.tolist() for t, loss in losses.items()}, self.name, *choice)
        table.losses.update(estimated)
        table.seconds = time.monotonic() - began
        return table

    def _estimate(self, job: Job, choices: Sequence[Choice]) -> dict[Choice, Losses]:
        from .gradients import Passes, estimate
        from .work import Context, keeping_threads

        context = Context(job.graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
        here = job.executor if isinstance(job.executor, ThreadPoolExecutor) else None
        tasks = [Passes(part, DIRECTIONS, job.seed, self.second_order) for part in _parts(context.batches, WORKERS)]
        done = 0
        job.advance("estimating sensitivity", 0, len(context.batches))

        def finished(number: int, result: object) -> None:
            nonlocal done
            done += len(tasks[number].batches)
            job.advance("estimating sensitivity", done, len(context.batches))

        with executor(None) if here is None else nullcontext(here) as pool, keeping_threads():
            parts = spread(pool, estimate, context, tasks, done=finished)
        by_batch = {b: found for task, part in zip(tasks, parts, strict=True)
                    for b, found in zip(task.batches, part, strict=True)}  # fmt: skip
        order = [by_batch[b] for b in range(len(context.batches))]
        return {
            choice: {term: np.concatenate([found[choice][term] for found in order]) for term in order[0][choice]}
            for choice in choices
        }

    def _scale(self, job: Job, estimated: dict[Choice, Losses]) -> int:
        """Measure a few candidates and scale each term by how much more, or less, they lose than was estimated."""
        anchors = _anchors(estimated, job.seed)
        measured, _, evaluations = measure_all(job, [(a,) for a in anchors], "measuring the scale")
        for term in {t for losses in estimated.values() for t in losses}:
            ratios = []
            for anchor, losses in zip(anchors, measured, strict=True):
                guess, truth = float(estimated[anchor][term].mean()), float(losses[term].mean())
                if guess > 0 and 0 < truth < np.inf:
                    ratios.append(truth / guess)
            if ratios:
                factor = float(np.exp(np.median(np.log(ratios))))
                for losses in estimated.values():
                    losses[term] = losses[term] * factor
        return evaluations


def _parts(batches: Sequence[object], workers: int) -> list[tuple[int, ...]]:
    """Batches in tasks, one per worker: every task makes the weights of all candidates anew. What comes out for a batch does
    not depend on its task."""
    count = max(1, min(len(batches), workers))
    return [tuple(range(i, len(batches), count)) for i in range(count)]


def _anchors(estimated: dict[Choice, Losses], seed: int) -> list[Choice]:
    """Candidates to measure: of units spread over the model, the one whose estimate is the middle of the unit's."""
    by_unit: dict[str, list[Choice]] = {}
    for choice in estimated:
        by_unit.setdefault(choice[0], []).append(choice)
    usable = [c for c in by_unit.values() if any(_size(estimated[x]) > 0 for x in c)]
    count = min(ANCHORS, len(usable))
    spread_out = [usable[(2 * i + 1) * len(usable) // (2 * count)] for i in range(count)]
    return [sorted(c, key=lambda x: _size(estimated[x]))[len(c) // 2] for c in spread_out]


def _size(losses: Losses) -> float:
    return float(sum(loss.mean() for loss in losses.values()))


def _read(data: object) -> Losses | None:
    from .measured import _read

    return _read(data)
