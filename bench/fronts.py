"""Mixed plans beside uniform precisions, on held-out data: ``python -m planish.bench.fronts``.

Every bar of a model is searched for latency and for size. The trials that look best are built again, together with every
uniform precision, judged on data that no search has met, and timed in turns. A mixed plan is compared with the best uniform
precision that is no worse there; and a uniform precision that no other one beats with the best mixed plan that is no worse.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..compiler.errors import PlanishError
from ..search.budget import Bar
from ..search.record import Record, bound_of
from .chart import Point, scatter
from .laboratory import Laboratory, uniform
from .progress import say
from .report import Floor, Row, Table
from .subjects import TOPICS, Subject, chosen

OBJECTIVES = ("latency", "size")
#: A mixed plan has to be this much faster, and one this much smaller.
FASTER, SMALLER = 1.05, 1.10
#: What int8 may add to the perplexity of a language model.
PERPLEXITY = 0.001
INT8 = ("w8a8-dynamic", "w8a8")
#: Mixed plans of one model that are built again, at most: all are timed in turns, and every one lengthens the turn.
MOST = 24


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every model in turn."""
    return {"models": {s.name: measure_one(s, options) for s in chosen(options.only)}}


def measure_one(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Search, build again, judge and time."""
    laboratory = Laboratory(subject)
    records: dict[str, Record] = {}
    failed: dict[str, str] = {}
    bars = subject.bars[:1] if options.quick else subject.bars
    for bar in bars:
        for objective in OBJECTIVES:
            name = f"{bar}, {objective}"
            try:
                records[name] = laboratory.search(bar, objective=objective, effort=options.effort, seed=options.seed)
            except PlanishError as error:
                failed[name] = str(error)
                say(f"{subject.name}: {error}")
    offered = dict.fromkeys(p for unit in laboratory.units for p in unit.candidates)
    plans: dict[str, dict[str, str]] = {}
    for precision in offered:
        assignment = uniform(laboratory.units, precision)
        if assignment not in plans.values():
            plans[f"all {precision}"] = assignment
    uniforms = list(plans)
    for name, assignment in promising(records, MOST).items():
        if assignment not in plans.values():
            plans[name] = assignment
    points: dict[str, dict[str, Any]] = {}
    perplexity: dict[str, float] = {}
    variants = {}
    try:
        for number, (name, assignment) in enumerate(plans.items()):
            say(f"{subject.name}: building and judging {name} ({number + 1} of {len(plans)})")
            try:
                variant = laboratory.build(assignment)
                verdict = laboratory.judge(variant)
            except PlanishError as error:
                failed[name] = str(error)
                continue
            variants[name] = variant
            if subject is TOPICS and name.removeprefix("all ") in INT8:
                perplexity[name.removeprefix("all ")] = laboratory.judge(
                    variant, "perplexity-ratio <= 1.001 mean"
                ).value
            points[name] = {
                "value": verdict.value, "bytes": variant.bytes, "uniform": name in uniforms, "mix": mix(assignment),
            }  # fmt: skip
        say(f"{subject.name}: timing {len(variants)} plans in turns")
        times, others = laboratory.clock(variants, max(options.seconds, 0.8 * len(variants)))
    finally:
        for variant in variants.values():
            variant.close()
    for name, point in points.items():
        point["median_ms"], point["rounds"] = statistics.median(times[name]["wall"]), len(times[name]["wall"])
    (term,) = Bar.parse(subject.yardstick).terms
    return {
        "bars": list(bars), "metric": f"{term.metric} {term.statistic}", "upward": term.upward, "samples": laboratory.unseen,
        "sizes": dict(subject.sizes), "others": others, "points": points, "failed": failed, "perplexity": perplexity,
        "best": best_gains(points, {name: t["wall"] for name, t in times.items()}, term.upward),
        "gains": gains(points, {name: t["wall"] for name, t in times.items()}, term.upward),
    }  # fmt: skip


def promising(records: Mapping[str, Record], most: int) -> dict[str, dict[str, str]]:
    """The plans of the searches' trials that differ and look best: those nearest the fronts of latency and of size."""
    found: dict[str, tuple[float, dict[str, str], str]] = {}
    for name, record in records.items():
        trials = [t for t in record.trials if t.seconds and t.bytes and t.quality]
        bound = bound_of(record.terms[0])
        upward = bound is None or bound.upward
        for trial in trials:
            if trial.stage == "uniform":
                continue
            value = next(iter(trial.quality.values()))
            if value is None:
                continue
            # how much faster or smaller another trial of no worse quality is: 1 on the front
            behind = []
            for cost in ("seconds", "bytes"):
                own = getattr(trial, cost)
                rivals = [
                    getattr(t, cost) for t in trials
                    if (v := next(iter(t.quality.values()))) is not None and (v >= value if upward else v <= value)
                ]  # fmt: skip
                behind.append(own / min(rivals))
            chosen = trial.id == record.chosen
            key = json.dumps(sorted(trial.assignment.items()))
            rank = min(behind) - (1 if chosen else 0)
            label = f"{name}, {'chosen' if chosen else f'trial {trial.id}'}"
            if key not in found or rank < found[key][0]:
                found[key] = (rank, dict(trial.assignment), label)
    best = sorted(found.values(), key=lambda entry: entry[0])[:most]
    return {label: assignment for _, assignment, label in best}


def mix(assignment: Mapping[str, str]) -> str:
    """A plan in words, the most frequent precision first."""
    counts: dict[str, int] = {}
    for precision in assignment.values():
        counts[precision] = counts.get(precision, 0) + 1
    return ", ".join(f"{n} {p}" for p, n in sorted(counts.items(), key=lambda item: -item[1]))


def gains(
    points: Mapping[str, Mapping[str, Any]], rounds: Mapping[str, Sequence[float]], upward: bool
) -> list[dict[str, Any]]:
    """For each uniform precision that no other one beats, the fastest (smallest) mixed plan that is no worse than it.

    Args:
        points: name -> ``value``, ``bytes``, ``median_ms``, ``uniform``.
        rounds: name -> milliseconds of each round, in the same order for all.
        upward: whether a larger value is the better one.

    Returns:
        ``kind`` (latency or size), ``uniform``, ``plan``, and ``ratio``: the cost of the one over that of the other.
    """

    def no_worse(name: str, other: str) -> bool:
        sign = 1 if upward else -1
        return bool(sign * points[name]["value"] >= sign * points[other]["value"])

    uniforms = [name for name, point in points.items() if point["uniform"]]
    found = []
    for kind, cost in (("latency", "median_ms"), ("size", "bytes")):
        for uniform_name in uniforms:
            own = points[uniform_name][cost]
            if any(no_worse(u, uniform_name) and points[u][cost] < own for u in uniforms):
                continue
            rivals = [n for n, p in points.items() if not p["uniform"] and no_worse(n, uniform_name)]
            if not rivals:
                continue
            plan = min(rivals, key=lambda name: points[name][cost])
            if kind == "latency":
                ratio = statistics.median(b / o for b, o in zip(rounds[uniform_name], rounds[plan], strict=True))
            else:
                ratio = own / points[plan]["bytes"]
            found.append({"kind": kind, "uniform": uniform_name, "plan": plan, "ratio": ratio})
    return found


def best_gains(
    points: Mapping[str, Mapping[str, Any]], rounds: Mapping[str, Sequence[float]], upward: bool
) -> list[dict[str, Any]]:
    """The mixed plan that gains most over the best uniform precision of equal or better quality, for latency and for size:
    over what somebody would have to take who wants as much and may choose one precision. Float does not count as one.

    Arguments and result as of :func:`gains`.
    """
    sign = 1 if upward else -1
    found: dict[str, dict[str, Any]] = {}
    for name in (n for n, p in points.items() if not p["uniform"]):
        rivals = [
            n for n, p in points.items()
            if p["uniform"] and n != "all f32" and sign * p["value"] >= sign * points[name]["value"]
        ]  # fmt: skip
        for kind, cost in (("latency", "median_ms"), ("size", "bytes")) if rivals else ():
            rival = min(rivals, key=lambda n: points[n][cost])
            ratio = points[rival][cost] / points[name][cost]
            if kind == "latency":
                ratio = statistics.median(b / o for b, o in zip(rounds[rival], rounds[name], strict=True))
            if kind not in found or ratio > found[kind]["ratio"]:
                found[kind] = {"kind": kind, "uniform": rival, "plan": name, "ratio": ratio}
    return list(found.values())


def floors(figures: Mapping[str, Any]) -> list[Floor]:
    """For each model one mixed plan that is faster and one that is smaller; for a language model its int8 perplexity."""
    found = []
    for name, model in figures["models"].items():
        for kind, least, word in (("latency", FASTER, "faster"), ("size", SMALLER, "smaller")):
            most = max((gain["ratio"] for gain in model["best"] if gain["kind"] == kind), default=None)
            what = f"{name}: a mixed plan is {word} than the best uniform precision of its quality"
            found.append(Floor(what, least, True, most, "×"))
        for precision, value in model["perplexity"].items():
            found.append(
                Floor(f"{name}: {precision} adds to the perplexity", 100 * PERPLEXITY, False, 100 * (value - 1), " %")
            )
    return found


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """The best gains of each model; then its plans, those that another plan beats in everything left out."""
    rows: list[Row] = []
    for name, model in figures["models"].items():
        for gain in [*model["best"], *model["gains"]]:
            kind, plan, rival = gain["kind"], model["points"][gain["plan"]], model["points"][gain["uniform"]]
            rows.append(
                [
                    name, kind, plan["mix"], gain["uniform"].removeprefix("all "), _cost(kind, plan), _cost(kind, rival),
                    f"{gain['ratio']:.2f}×", _value(plan["value"]), _value(rival["value"]),
                ]
            )  # fmt: skip
    header = ["", "for", "mixed plan", "uniform precision", "mixed", "uniform", "gain", "quality, mixed", "uniform"]
    note = (
        "First the mixed plan that gains most over the best uniform precision below float of equal or better quality; then, for "
        "each uniform precision that no other one beats, the fastest (smallest) mixed plan that is no worse: on data that no "
        "search has met, by the metric named below. Times: medians of interleaved rounds on one core; sizes: weights and code."
    )
    return [Table("Mixed plans beside uniform precisions", header, rows, note)] + [
        _front_table(name, model) for name, model in figures["models"].items()
    ]


def _cost(kind: str, point: Mapping[str, Any]) -> str:
    return f"{point['median_ms']:.3g} ms" if kind == "latency" else f"{point['bytes'] / 1e6:.3g} MB"


def _value(value: float) -> str:
    return f"{value:.6g}"


def _front_table(name: str, model: Mapping[str, Any]) -> Table:
    upward = model["upward"]
    points = model["points"]
    shown = []
    for own, point in points.items():
        beaten = any(
            p["median_ms"] <= point["median_ms"] and p["bytes"] <= point["bytes"]
            and (p["value"] >= point["value"] if upward else p["value"] <= point["value"])
            for other, p in points.items() if other != own
        )  # fmt: skip
        if point["uniform"] or not beaten:
            shown.append((point["median_ms"], own, point))
    rows = [
        [
            own if point["uniform"] else f"**{point['mix']}**", f"{ms:.4g}", f"{point['bytes'] / 1e6:.3g}",
            _value(point["value"]),
        ]
        for ms, own, point in sorted(shown, key=lambda entry: entry[0])
    ]  # fmt: skip
    sizes = ", ".join(f"{dim} {size}" for dim, size in model["sizes"].items())
    note = f"{sizes}; {model['samples']} unseen samples; found for {'; '.join(model['bars'])}."
    if model["others"] > 0.01:
        note += f" Other processes took {100 * model['others']:.0f} % of the core's time."
    if model["failed"]:
        note += " Left out: " + "; ".join(f"{n}: {why}" for n, why in model["failed"].items()) + "."
    return Table(f"{name}: the front", ["plan", "ms", "MB", model["metric"]], rows, note)


def charts(figures: Mapping[str, Any]) -> dict[str, str]:
    """For each model quality against latency, and against size."""
    found = {}
    for name, model in figures["models"].items():
        if not model["points"]:
            continue
        metric, _, statistic = model["metric"].partition(" ")
        bounded = model["upward"] and max(p["value"] for p in model["points"].values()) <= 1 + 1e-6
        y_name = f"1 − {metric}" if bounded else metric
        sizes = ", ".join(f"{dim} {size}" for dim, size in model["sizes"].items())
        note = (
            "orange: planish (rings: one precision for the whole model); "
            f"{statistic} of {model['samples']} unseen samples; {sizes}"
        )
        for cost, x_name, of in (
            ("latency", "ms", lambda p: p["median_ms"]),
            ("size", "MB", lambda p: p["bytes"] / 1e6),
        ):
            points = [
                Point(of(p), 1 - p["value"] if bounded else p["value"], "uniform" if p["uniform"] else "ours",
                      plan.removeprefix("all ") if p["uniform"] else "")
                for plan, p in model["points"].items() if np.isfinite(p["value"])
            ]  # fmt: skip
            slug = "-".join(name.lower().split())
            found[f"{slug}-{cost}"] = scatter(f"{name}: quality against {cost}", note, x_name, y_name, points)
    return found


def arguments(parser: Any) -> None:
    """No options of its own."""


if __name__ == "__main__":
    from .search import main

    sys.exit(main(["fronts", *sys.argv[1:]]))
