"""Interactions: what two units lose together beyond the sum of what each loses alone.

An additive score misses that errors cancel or add up when one unit feeds the other, or both write to one residual stream: the
cross terms of the quadratic loss, which CLADO (Deng et al. 2023, arXiv:2307.05657) puts in its objective. Measuring all pairs
costs the square of the units, so only those worth it are: neighbours in the dataflow, and pairs among the largest losses.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ...compiler.graph import Graph, Node, Value
from ..units import Unit, nodes_of
from .measured import measure_all
from .table import FLOAT, Choice, Job, Table

#: Candidates of a unit that are tried in pairs: the largest finite losses of its cheapest precisions matter most.
PER_UNIT = 2


def pairwise(
    job: Job, table: Table, pairs: int | Sequence[tuple[Choice, Choice]] = 16, *,
    precisions: Mapping[str, Sequence[str]] | None = None,
) -> Table:  # fmt: skip
    """Measure pairs and store their interactions in ``table.pairs``.

    Args:
        job: what the table was made for; losses of single units that a gradient method estimated are measured where a pair
            needs them, so that the difference is one of measurements.
        table: changed in place.
        pairs: which, or how many of those worth measuring (:func:`worth_measuring`).
        precisions: unit -> the candidates that come into question (those that pay); None: all.

    Returns:
        ``table``.

    Raises:
        UsageError: a loss is negative or NaN.
    """
    began = time.monotonic()
    chosen = worth_measuring(job, table, pairs, precisions) if isinstance(pairs, int) else list(pairs)
    order = {u.name: i for i, u in enumerate(job.units)}
    chosen = [tuple(sorted(pair, key=lambda c: order[c[0]])) for pair in chosen]  # type: ignore[misc]
    singles = list(dict.fromkeys(c for pair in chosen for c in pair))
    alone: dict[Choice, dict[str, np.ndarray]] = {}
    if table.method == "measured":
        alone = {c: table.losses[c] for c in singles}
    elif singles:
        found, _, count = measure_all(job, [(c,) for c in singles], "measuring units of pairs")
        alone = dict(zip(singles, found, strict=True))
        table.evaluations += count
    joint, _, count = measure_all(job, [tuple(pair) for pair in chosen], "measuring pairs")
    table.evaluations += count
    for (a, b), losses in zip(chosen, joint, strict=True):
        extra = {t: float(np.mean(loss) - np.mean(alone[a][t]) - np.mean(alone[b][t])) for t, loss in losses.items()}
        table.pairs[a, b] = {t: v if np.isfinite(v) else 0.0 for t, v in extra.items()}
    table.seconds += time.monotonic() - began
    return table


def worth_measuring(
    job: Job, table: Table, count: int, precisions: Mapping[str, Sequence[str]] | None = None
) -> list[tuple[Choice, Choice]]:
    """At most ``count`` pairs of choices, those first whose interaction can be largest.

    The interaction of two errors in a quadratic loss is at most twice the geometric mean of their losses
    (Cauchy-Schwarz); it is likely to come near that where one unit reads what the other wrote. So pairs are ordered by
    that bound, neighbours counted in full and others at a quarter.
    """
    near = neighbours(job.graph, job.units)
    picked: dict[str, list[Choice]] = {}
    for unit in job.units:
        allowed = set(unit.candidates if precisions is None else precisions.get(unit.name, unit.candidates)) - {FLOAT}
        candidates = [(unit.name, p) for p in allowed if np.isfinite(_loss(table, (unit.name, p)))]
        picked[unit.name] = sorted(candidates, key=lambda c: (-_loss(table, c), c))[:PER_UNIT]
    scored: list[tuple[float, tuple[Choice, Choice]]] = []
    names = [u.name for u in job.units]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            weight = 1.0 if (first, second) in near else 0.25
            scored += [
                (weight * 2 * (_loss(table, a) * _loss(table, b)) ** 0.5, (a, b))
                for a in picked[first] for b in picked[second]
            ]  # fmt: skip
    scored = [s for s in scored if s[0] > 0]
    return [pair for _, pair in sorted(scored, key=lambda s: (-s[0], s[1]))[:count]]


def neighbours(graph: Graph, units: Iterable[Unit]) -> set[tuple[str, str]]:
    """Pairs of units, in execution order, of which the second reads what the first wrote with no other unit between.

    A residual stream carries what every unit before it wrote; of those only the last ones count, which no other of them reads.
    """
    owner: dict[Node, str] = {n: u.name for u in units for n in nodes_of(graph, u)}
    writers: dict[Value, frozenset[str]] = {}
    before: dict[str, set[str]] = defaultdict(set)
    found: set[tuple[str, str]] = set()
    for node in graph.nodes:
        behind: frozenset[str] = frozenset().union(*(writers.get(v, frozenset()) for v in node.operands))
        behind = frozenset(w for w in behind if not any(w in before[x] for x in behind))
        if node in owner:
            name = owner[node]
            found.update((w, name) for w in behind if w != name)
            before[name].update(behind - {name}, *(before[w] for w in behind if w != name))
            behind = frozenset({name})
        for value in node.outputs:
            writers[value] = behind
    return found


def _loss(table: Table, choice: Choice) -> float:
    """The loss of a choice: of its terms the largest, each relative to the largest of the table."""
    scales = _scales(table)
    return max((v / scales[t] for t, v in table.mean(*choice).items()), default=0.0)


def _scales(table: Table) -> dict[str, float]:
    found: dict[str, float] = {}
    for losses in table.losses.values():
        for term, loss in losses.items():
            mean = float(np.mean(loss))
            if np.isfinite(mean):
                found[term] = max(found.get(term, 0.0), mean)
    return {t: v or 1.0 for t, v in found.items()}
