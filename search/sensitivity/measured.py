"""Sensitivity measured: each unit alone at each precision, everything else float, scored as the model will be scored.

The plain definition, and the yardstick of the others. (With the KL divergence of the outputs as the loss it is the sensitivity of
"ZeroQ", Cai et al. 2020, arXiv:2001.00281; here the loss is that of the user's own metric.) What makes it affordable is in
``replay``: the float run is shared, and a unit's candidates cost only what lies behind the unit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..executor import executor, spread
from .table import FLOAT, Choice, Job, Losses, Table

if TYPE_CHECKING:
    from .work import Context

#: Candidates of one task: enough that the float run it needs is cheap beside them, few enough that work spreads and
#: little is lost when the process is killed.
PER_TASK = 24


class Measured:
    """Every unit at every candidate, measured."""

    name: ClassVar[str] = "measured"

    def table(self, job: Job) -> Table:
        """The loss of every unit at every candidate on every sample.

        Raises:
            UsageError: a loss is negative or NaN.
        """
        began = time.monotonic()
        table = Table(method=self.name)
        add_float(job, table)
        assignments = [((u, p),) for u, p in job.choices()]
        losses, table.known, table.evaluations = measure_all(job, assignments, "measuring sensitivity")
        table.losses.update({a[0]: found for a, found in zip(assignments, losses, strict=True)})
        table.seconds = time.monotonic() - began
        return table


def add_float(job: Job, table: Table) -> None:
    """Float costs nothing."""
    from .work import Context

    terms = term_names(Context(job.graph, [], job.samples.batches, job.references, job.scorer))
    for unit in job.units:
        if FLOAT in unit.candidates:
            table.losses[unit.name, FLOAT] = {t: np.zeros(len(job.samples)) for t in terms}


def term_names(context: Context) -> list[str]:
    """The terms that the scorer knows."""
    reference = context.references[0]
    return [str(t) for t in context.scorer.losses(reference, reference, context.batches[0])]


def measure_all(job: Job, assignments: Sequence[tuple[Choice, ...]], what: str) -> tuple[list[Losses], int, int]:
    """The losses of every assignment, from the journal where it has them.

    Returns:
        The losses in order, how many came from the journal, and the nodes that were evaluated for the others.
    """
    from .work import Context, Task, keeping_threads, measure

    found: list[Losses | None] = [_read(job.known("measured", *_names(a))) for a in assignments]
    missing = [i for i, losses in enumerate(found) if losses is None]
    known = len(assignments) - len(missing)
    context = Context(job.graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
    order = {u.name: i for i, u in enumerate(job.units)}
    missing.sort(key=lambda i: (order[assignments[i][0][0]], i))
    parts = list(_parts(missing, assignments))
    done, evaluations = known, 0
    job.advance(what, done, len(assignments))
    if not parts:
        return [f for f in found if f is not None], known, 0

    def finished(number: int, result: Any) -> None:
        nonlocal done, evaluations
        for i, losses in zip(parts[number], result.losses, strict=True):
            found[i] = losses
            job.keep({t: loss.tolist() for t, loss in losses.items()}, "measured", *_names(assignments[i]))
        done += len(parts[number])
        evaluations += result.evaluations
        job.advance(what, done, len(assignments))

    def tasks(pool: Executor) -> Iterator[Task]:
        for part in parts:
            chosen = tuple(assignments[i] for i in part)
            here = isinstance(pool, ThreadPoolExecutor)
            yield Task(chosen, {} if here else _variants(context, chosen))

    with executor(None) if job.executor is None else nullcontext(job.executor) as pool, keeping_threads():
        spread(pool, measure, context, tasks(pool), done=finished)
    return [f for f in found if f is not None], known, evaluations


def _variants(context: Context, assignments: Iterable[tuple[Choice, ...]]) -> dict[str, Any]:
    """The quantised units of a task, for workers that lack the store."""
    from .replay import Replay
    from .variants import Sent, name_of, quantise

    made: dict[str, Any] = {}
    for unit, precision in dict.fromkeys(c for a in assignments for c in a):
        for nodes in Replay.pieces_of(context.graph, context.nodes(unit)):
            made[name_of(nodes, precision)] = Sent.of(quantise(context.graph, nodes, precision, context.store))
    return made


def _parts(missing: Sequence[int], assignments: Sequence[tuple[Choice, ...]]) -> Iterator[list[int]]:
    """Tasks: whole units, in order, until there is enough to do."""
    part: list[int] = []
    for i in missing:
        if len(part) >= PER_TASK and assignments[part[-1]][0][0] != assignments[i][0][0]:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _names(assignment: Iterable[Choice]) -> list[str]:
    return [f"{u}={p}" for u, p in assignment]


def _read(data: Any) -> Losses | None:
    return None if data is None else {str(t): np.asarray(v, np.float64) for t, v in data.items()}
