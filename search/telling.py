"""What a search leaves in the artifact: ``report["search"]`` as plain data (read back through ``search/record.py``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..compiler.quantities import seconds as duration
from .loop import FLOAT
from .record import VERSION
from .request import Outcome, Request
from .samples import Samples
from .trials import Trial
from .units import Unit

#: Samples that are named as the worst.
WORST = 10


def told(
    request: Request, outcome: Outcome, *, workload: Mapping[str, Any], machine: Mapping[str, str], score: str | None
) -> dict[str, Any]:
    """The whole story of a finished search.

    Args:
        request: what was asked for.
        outcome: what came of it.
        workload: ``dims``, ``weights`` and ``threads``.
        machine: ``cpu`` and ``target``.
        score: the name of the function that maps outputs to what is compared; None: the outputs as they are.
    """
    base = outcome.trials[0]
    return {
        **interim(request, outcome.trials, outcome.chosen, workload=workload, machine=machine, score=score),
        "units": [_unit(unit, request, outcome) for unit in request.units],
        "float": {"seconds": base.seconds, "bytes": base.bytes},
        "proof": [
            {
                "term": str(v.term), "holds": v.holds, "value": _number(v.value), "samples": v.samples, "misses": v.misses,
                "proven": _number(v.proven), "confidence": request.confidence,
                "by_slice": {s: _number(x) for s, x in v.by_slice.items()}, "sentence": v.sentence,
            }
            for v in outcome.proof
        ],
        "worst": worst(request, request.splits.final, outcome.final),
        "never_slower": list(outcome.dropped),
        "sensitivity": {
            "method": outcome.table.method if outcome.table else "",
            "seconds": outcome.table.seconds if outcome.table else 0.0,
            "pairs": [
                {"units": [a[0], b[0]], "precisions": [a[1], b[1]], "correction": dict(terms)}
                for (a, b), terms in (outcome.table.pairs.items() if outcome.table else ())
            ],
        },
        "phases": dict(outcome.phases),
        "complete": True,
    }  # fmt: skip


def interim(
    request: Request,
    trials: Sequence[Trial],
    chosen: Trial,
    *,
    workload: Mapping[str, Any],
    machine: Mapping[str, str],
    score: str | None,
) -> dict[str, Any]:
    """What is known while the search goes on: for the artifacts written on the way, which nothing has been proved of yet."""
    splits = request.splits
    return {
        "version": VERSION,
        "asked": {
            "budget": str(request.bar), "objective": request.objective, "effort": request.effort.name,
            "seed": request.seed, "pins": request.pins.to_data(),
        },
        "scored": {
            "metrics": [t.metric for t in request.bar.terms], "score": score or "the outputs as they are",
            "against": request.scorer.against,
        },
        "data": {
            name: _split(part)
            for name, part in (("calibration", splits.calibration), ("development", splits.development), ("final", splits.final))
        },
        "workload": dict(workload), "confidence": {"confidence": request.confidence, "coverage": request.coverage},
        "machine": dict(machine), "units": [],
        "trials": [
            {
                "id": t.id, "label": t.label, "stage": t.stage, "assignment": t.assignment, "seconds": t.seconds,
                "predicted": t.predicted, "bytes": t.bytes, "quality": {k: _number(v) for k, v in t.quality.items()},
                "met": t.met, "at": t.at,
            }
            for t in trials
        ],
        "chosen": chosen.id, "float": {"seconds": trials[0].seconds, "bytes": trials[0].bytes}, "complete": False,
    }  # fmt: skip


def worst(request: Request, samples: Samples, scores: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The samples that fared worst, each term's in turn, worst first."""
    orders = []
    for term in request.bar.terms:
        values = np.asarray(scores[str(term)])
        orders.append(np.argsort(values if term.upward else -values, kind="stable"))
    found: dict[int, None] = {}
    for rank in range(len(samples)):
        for order in orders:
            found.setdefault(int(order[rank]))
        if len(found) >= WORST:
            break
    return [
        {
            "sample": samples.ids[i], "slice": samples.slices[i],
            "scores": {t: _number(float(np.asarray(s)[i])) for t, s in scores.items()},
        }
        for i in list(found)[:WORST]
    ]  # fmt: skip


def _unit(unit: Unit, request: Request, outcome: Outcome) -> dict[str, Any]:
    chosen = outcome.chosen.assignment[unit.name]
    tried = next(u for u in outcome.units if u.name == unit.name)
    costs, table = outcome.costs, outcome.table
    entries = []
    for precision in (*unit.candidates, *unit.refused):
        why = unit.refused.get(precision)
        if why is None and precision not in tried.candidates:
            why = outcome.pointless.get((unit.name, precision))
            why = why or next((w for w in outcome.dropped if w.startswith(f"{unit.name} in {precision} ")), None)
            why = why or f"not tried at this effort ({request.effort.name})"
        loss = table.losses.get((unit.name, precision), {}) if table else {}
        entries.append(
            {
                "precision": precision,
                "seconds": costs.seconds.get((unit.name, precision)) if costs else None,
                "bytes": costs.bytes.get((unit.name, precision)) if costs else None,
                "loss": {t: _number(float(np.mean(v))) for t, v in loss.items()},
                "why_not": why,
            }
        )
    return {
        "name": unit.name, "kind": unit.kind, "sources": list(unit.sources), "parameters": unit.parameters, "chosen": chosen,
        "reason": _reason(unit, tried, chosen, outcome), "held_back": _held_back(unit, outcome), "candidates": entries,
    }  # fmt: skip


def _reason(unit: Unit, tried: Unit, chosen: str, outcome: Outcome) -> str:
    if len(unit.candidates) == 1:
        return (
            f"{chosen}: pinned"
            if any("pinned" in w for w in unit.refused.values())
            else f"{chosen}: nothing else is offered"
        )
    costs = outcome.costs
    seconds = costs.seconds.get((unit.name, chosen)) if costs else None
    base = costs.seconds.get((unit.name, FLOAT)) if costs else None
    speed = f"{duration(seconds)} against {duration(base)} in float" if seconds and base else "its cost"
    if chosen == FLOAT:
        if tuple(tried.candidates) == (FLOAT,):
            return "float: nothing else pays"
        return "float: what is cheaper would use up too much of the bar here"
    return f"{chosen}: {speed}"


def _held_back(unit: Unit, outcome: Outcome) -> str | None:
    return None if outcome.solution is None else outcome.solution.traded.get(unit.name)


def _split(samples: Samples) -> dict[str, Any]:
    return {"samples": len(samples), "slices": samples.counts, "sha256": samples.sha256}


def _number(value: float | None) -> float | None:
    """A number that JSON holds."""
    return None if value is None or not math.isfinite(value) else float(value)
