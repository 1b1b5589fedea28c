"""The measured cost against effective bits, and the exact solver against greed: ``python -m planish.bench.solvers``.

One search measures costs and losses. The same candidates and the same losses then go to three solvers under the same limits on
the added losses: the one that planish uses (measured seconds, mixed-integer programming), the same solver with effective bits
as the cost, and a greedy solver with measured seconds. Every plan they name is built, timed in turns with the others, and
judged on data that the search has not met.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ..compiler.errors import PlanishError
from ..search.budget import Bar
from ..search.cost import CostTable
from ..search.record import FLOAT, Record
from ..search.solve import solve
from ..search.units import Unit
from .laboratory import Laboratory
from .progress import say
from .report import Floor, Row, Table
from .subjects import Subject, chosen

#: Limits on the added losses, as shares of what the fastest plan of all loses.
LIMITS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7)
#: Name of a solver -> objective and method.
SOLVERS: dict[str, tuple[str, Literal["milp", "greedy"]]] = {
    "planish": ("latency", "milp"),
    "effective bits": ("effective bits", "milp"),
    "greedy": ("latency", "greedy"),
}
#: Plans whose times differ by less than this are as fast as each other.
NOISE = 0.01


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every model in turn."""
    return {"models": {s.name: measure_one(s, options) for s in chosen(options.only)}}


def measure_one(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """Measure once, solve, build, time and judge."""
    laboratory = Laboratory(subject)
    bar = subject.bars[len(subject.bars) // 2]
    try:
        record = laboratory.search(bar, effort=options.effort, seed=options.seed)
    except PlanishError as error:
        say(f"{subject.name}: {error}")
        return {"failed": str(error), "rows": []}
    problem = Problem(laboratory.units, record)
    limits = LIMITS[1:8:2] if options.quick else LIMITS
    solved = {share: {name: problem.solve(share, *how) for name, how in SOLVERS.items()} for share in limits}
    plans: list[dict[str, str]] = []
    for by_solver in solved.values():
        plans += [a for a in by_solver.values() if a is not None and a not in plans]
    variants = {}
    values = {}
    try:
        for number, assignment in enumerate(plans):
            say(f"{subject.name}: building and judging plan {number + 1} of {len(plans)}")
            variants[str(number)] = laboratory.build(assignment)
            values[str(number)] = laboratory.judge(variants[str(number)]).value
        say(f"{subject.name}: timing {len(plans)} plans in turns")
        times, others = laboratory.clock(variants, max(options.seconds, 0.8 * len(plans)))
    finally:
        for variant in variants.values():
            variant.close()
    (term,) = Bar.parse(subject.yardstick).terms
    rows = []
    for share, by_solver in solved.items():
        cells: dict[str, Any] = {}
        for name, found in by_solver.items():
            if found is None:
                continue
            key = str(plans.index(found))
            cells[name] = {
                "plan": key, "median_ms": statistics.median(times[key]["wall"]), "value": values[key],
                "lost": float(term.kind.loss(np.array([values[key]]))[0]), "added": problem.share_of(found),
            }  # fmt: skip
        rows.append({"limit": share, "solvers": cells})
    rounds = {key: t["wall"] for key, t in times.items()}
    return {
        "bar": bar, "metric": f"{term.metric} {term.statistic}", "samples": laboratory.unseen, "others": others,
        "sizes": dict(subject.sizes), "plans": len(plans), "rows": rows,
        "limits": at_equal_limits(rows, rounds),
        "quality": at_equal_quality(rows),
    }  # fmt: skip


class Problem:
    """What a search measured, ready to be solved again.

    Attributes:
        units: with the candidates that were both timed and judged; what does not pay against float is none for anybody.
    """

    def __init__(self, units: Sequence[Unit], record: Record) -> None:
        """``units`` as found in the model, ``record`` of a search on them."""
        known = {unit.name: unit for unit in record.units}
        self.units: list[Unit] = []
        seconds, sizes = {}, {}
        self._losses: dict[tuple[str, str], dict[str, float]] = {}
        for unit in units:
            kept = []
            for candidate in known[unit.name].candidates:
                lost = {term: loss for term, loss in candidate.loss.items() if loss is not None}
                usable = candidate.seconds is not None and candidate.bytes is not None and candidate.why_not is None
                if not usable or (candidate.precision != FLOAT and not lost):
                    continue
                key = (unit.name, candidate.precision)
                seconds[key], sizes[key] = float(candidate.seconds or 0.0), float(candidate.bytes or 0.0)
                self._losses[key] = lost
                kept.append(candidate.precision)
            self.units.append(replace(unit, candidates=tuple(kept)))
        fixed = (record.float_model.seconds or 0.0) - sum(seconds[u.name, u.candidates[0]] for u in self.units)
        self._costs = CostTable.of(seconds, sizes, fixed_seconds=fixed)
        for trial in record.trials:  # what boundaries between neighbours cost is in no unit's figure
            if trial.seconds and all((u, p) in seconds for u, p in trial.assignment.items()):
                self._costs.observe(trial.assignment, trial.seconds)
        self._pairs = {
            ((p["units"][0], p["precisions"][0]), (p["units"][1], p["precisions"][1])): dict(p["correction"])
            for p in record.sensitivity.pairs
        }
        self._terms = list(record.terms)
        fastest = solve(self.units, self._costs, self._losses, {}, "latency")
        assert fastest is not None
        self._most = {term: self._added(fastest.assignment, term) for term in self._terms}

    def solve(self, share: float, objective: str, method: Literal["milp", "greedy"]) -> dict[str, str] | None:
        """The cheapest plan whose added losses stay below this share of the fastest plan's."""
        limits = {term: share * most for term, most in self._most.items()}
        found = solve(self.units, self._costs, self._losses, limits, objective, pairs=self._pairs, method=method)
        return None if found is None else found.assignment

    def share_of(self, assignment: Mapping[str, str]) -> float:
        """The added losses of a plan over those of the fastest: of the term that is nearest its limit."""
        return max((self._added(assignment, t) / most for t, most in self._most.items() if most > 0), default=0.0)

    def _added(self, assignment: Mapping[str, str], term: str) -> float:
        total = sum(self._losses[choice].get(term, 0.0) for choice in assignment.items())
        for (first, second), correction in self._pairs.items():
            if assignment[first[0]] == first[1] and assignment[second[0]] == second[1]:
                total += correction.get(term, 0.0)
        return total


def _ratio(rounds: Mapping[str, Sequence[float]], base: str, other: str) -> float:
    """How many times faster ``other`` is: the median of the ratios within rounds."""
    return statistics.median(b / o for b, o in zip(rounds[base], rounds[other], strict=True))


def at_equal_limits(rows: Sequence[Mapping[str, Any]], rounds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Rival -> how many times faster our plan is than the rival's under the same limit, limit by limit."""
    found: dict[str, list[float]] = {}
    for row in rows:
        own = row["solvers"].get("planish")
        for name, rival in row["solvers"].items():
            if own is not None and name != "planish":
                found.setdefault(name, []).append(_ratio(rounds, rival["plan"], own["plan"]))
    return found


def at_equal_quality(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Rival -> for each of its plans how many times faster ours is at the same loss on unseen data.

    Ours is read off the line through our plans that nothing of ours beats, logarithms of milliseconds over logarithms of
    losses, as one reads rates off two curves of a codec (Bjontegaard, "Calculation of average PSNR differences between
    RD-curves", VCEG-M33, 2001). A plan that is better than all of ours has no counterpart; one that is worse than all, our
    fastest.
    """
    own = [row["solvers"]["planish"] for row in rows if "planish" in row["solvers"]]
    curve: list[Mapping[str, Any]] = []
    for point in sorted((p for p in own if p["lost"] > 0), key=lambda p: (p["lost"], p["median_ms"])):
        if not curve or point["median_ms"] < curve[-1]["median_ms"]:
            curve.append(point)
    found: dict[str, list[float]] = {}
    if not curve:
        return found
    losses, times = (np.log([point[key] for point in curve]) for key in ("lost", "median_ms"))
    for row in rows:
        for name, rival in row["solvers"].items():
            if name != "planish" and rival["lost"] >= curve[0]["lost"]:
                equal = float(np.exp(np.interp(np.log(rival["lost"]), losses, times)))
                found.setdefault(name, []).append(rival["median_ms"] / equal)
    return found


def floors(figures: Mapping[str, Any]) -> list[Floor]:
    """At equal held-out quality never slower than greed beyond the noise, and faster than effective bits."""
    found = []
    for name, model in figures["models"].items():
        for rival, least in (("effective bits", 1.0 + NOISE), ("greedy", 1.0 - NOISE)):
            ratios = model.get("quality", {}).get(rival)
            measured = statistics.geometric_mean(ratios) if ratios else None
            found.append(
                Floor(f"{name}: measured cost, exact, beside {rival}, equal quality", least, True, measured, "×")
            )
    return found


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """Summary, then limit by limit."""
    rows: list[Row] = []
    for name, model in figures["models"].items():
        for rival in list(SOLVERS)[1:]:
            ratios, limited = model.get("quality", {}).get(rival), model.get("limits", {}).get(rival)
            if ratios and limited:
                faster = sum(r > 1 + NOISE for r in limited)
                slower = sum(r < 1 - NOISE for r in limited)
                counts = f"{faster} / {len(limited) - faster - slower} / {slower}"
                rows.append(
                    [
                        name, rival, f"{statistics.geometric_mean(limited):.3f}×", f"{max(limited):.2f}×", counts,
                        f"{statistics.geometric_mean(ratios):.3f}×", f"{max(ratios):.2f}×",
                    ]
                )  # fmt: skip
    summary = Table(
        "Measured cost and exact solver beside effective bits and greed",
        ["", "beside", "same limits: mean", "most", "faster / as fast / slower", "same quality: mean", "most"],
        rows,
        "How many times faster the artifact is (geometric mean, and the most). Same limits: on the added losses, which all "
        "solvers are given; same quality: our fastest plan that is no worse on unseen data than the rival's plan.",
    )
    return [summary, *(_table(name, model) for name, model in figures["models"].items() if model["rows"])]


def _table(name: str, model: Mapping[str, Any]) -> Table:
    rows = []
    for row in model["rows"]:
        cells = [f"{row['limit']:g}"]
        for solver in SOLVERS:
            found = row["solvers"].get(solver)
            cells += [f"{found['median_ms']:.4g}", f"{found['value']:.6g}"] if found else ["", ""]
        rows.append(cells)
    header = ["limit", *(word for solver in SOLVERS for word in (f"{solver} (ms)", model["metric"]))]
    sizes = ", ".join(f"{dim} {size}" for dim, size in model["sizes"].items())
    note = (
        f"{sizes}; limit: of the added losses, as a share of those of the fastest plan; quality on {model['samples']} unseen "
        f"samples; costs and losses of one search for {model['bar']}."
    )
    if model["others"] > 0.01:
        note += f" Other processes took {100 * model['others']:.0f} % of the core's time."
    return Table(f"{name}: solvers", header, rows, note)


def charts(figures: Mapping[str, Any]) -> dict[str, str]:
    """None."""
    return {}


def arguments(parser: Any) -> None:
    """No options of its own."""


if __name__ == "__main__":
    from .search import main

    sys.exit(main(["solvers", *sys.argv[1:]]))
