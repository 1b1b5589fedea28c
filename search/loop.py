"""The search: from a bar to the cheapest plan that meets it, measured all the way and proved at the end.

1. *Float*: the model in float32 is built and timed; its outputs are what the bar compares with. It is the first artifact.
2. *Cost*: the model is built once per precision and every kernel timed; what does not pay against float is dropped.
3. *Loss*: how much each unit at each precision costs in quality (``search/sensitivity``).
4. *Solve*: a multiple-choice knapsack for a limit on the added losses; the plan is built, and time and quality of the artifact
   itself say whether the limit was too strict or too loose. A few rounds find it.
5. *Refine*: single changes to the best plan, each built and measured.
6. *Prove*: a short list of plans, ordered before the final samples are looked at from the safest to the cheapest, is tested on
   them in that order; the last that passes before the first that fails is the result. Testing in a fixed sequence spends
   no confidence on the number of plans (Angelopoulos et al., "Learn then test", arXiv:2110.01052).

Everything measured goes to the journal, so an interrupted search goes on where it was.
"""

from __future__ import annotations

import glob
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..compiler.errors import BudgetError
from ..compiler.plan import Plan, Rule, find_precision
from ..passes.weights.store import WeightStore
from .budget import Verdict, fixed_sequence
from .cost import CostTable
from .dominance import pointless
from .effort import candidates
from .forecast import Forecast
from .journal import Journal
from .margin import FAR
from .proof import in_order, infeasible
from .request import Outcome, Request
from .sensitivity import METHODS, Job, Table, pairwise
from .sensitivity.variants import calibrate_units
from .solve import Solution, solve
from .trials import Judge, Outputs, Tools, Trial, Variant, key_of, outputs_of
from .units import Unit, plan_of

FLOAT = "f32"
#: Rounds of the solver end when the limit is known to this factor.
CLOSE_ENOUGH = 1.04
#: A refinement has to be this much cheaper than what it refines.
WORTH = 0.995


class Search:
    """One search; :meth:`run` does it.

    Args:
        request: what is asked for.
        tools: how to build and measure.
        store: where quantised weights are kept between builds.
        journal: where what was measured is kept between runs.
        executor: runs the estimation of losses; None: this process.
    """

    def __init__(
        self, request: Request, tools: Tools, store: WeightStore, journal: Journal, executor: Any = None
    ) -> None:
        self.request, self.tools, self.store, self.journal, self.executor = request, tools, store, journal, executor
        self.units = [self._tried(unit) for unit in request.units]
        self.trials: list[Trial] = []
        self.phases: dict[str, float] = {}
        self.dropped: list[str] = []
        self.pointless: dict[tuple[str, str], str] = {}
        self.costs: CostTable | None = None
        self.table: Table | None = None
        self.losses: dict[tuple[str, str], dict[str, float]] = {}
        self.pairs: dict[tuple[tuple[str, str], tuple[str, str]], dict[str, float]] = {}
        self.began = time.monotonic()
        self._phase_began = self.began
        self._forecast = Forecast(request.effort.seconds)
        self._open: dict[int, Variant] = {}
        self._solutions: dict[int, Solution] = {}

    def run(self) -> Outcome:
        """Search, and prove what was found.

        Raises:
            BudgetError: no plan meets the bar; says the best reached.
        """
        try:
            self._float()
            self._measure_costs()
            self._estimate_losses()
            self._narrow()
            self._refine()
            return self._prove()
        finally:
            for variant in self._open.values():
                variant.close()

    # -- float -------------------------------------------------------------------------------------------------------
    def _float(self) -> None:
        self._say("building the float model")
        self.float = self.tools.build(Plan())
        (seconds,) = self.tools.clock([self.float])
        kept = self.journal.get("trial", FLOAT)  # times stay on the scale on which the first run measured them
        self.float_seconds = seconds if kept is None else float(kept["seconds"])
        self._say("scoring the float model")
        request, splits = self.request, self.request.splits
        self.development = Judge(
            request.bar,
            request.scorer,
            splits.development,
            self._outputs(splits.development),
            request.coverage,
            request.confidence,
        )
        base = Trial(
            0, FLOAT, "uniform", {u.name: FLOAT for u in self.units}, self.float_seconds, None, self.float.bytes
        )
        self._judge(base, None)
        self.trials.append(base)
        self.journal.put("trial", FLOAT, base.kept())
        missed = [
            v for v in self.development.verdicts({t: np.array(s) for t, s in base.scores.items()}) if not v.observed
        ]
        if missed:
            raise BudgetError(
                f"the float model itself misses the bar: {missed[0].sentence}",
                "ask for less, or improve the model first",
            )
        self._open[0] = self.float
        if all(FLOAT in u.candidates for u in self.units) and self.tools.improved is not None:
            self.tools.improved(self.float, {"chosen": base, "trials": [base]})
        self._ended("float")

    def _outputs(self, samples: Any) -> list[Outputs]:
        return outputs_of(self.float, samples)

    # -- cost --------------------------------------------------------------------------------------------------------
    def _measure_costs(self) -> None:
        """Build the model once per precision, time every kernel, and drop what does not pay.

        One variant at a time is in memory beside the float model, and timed in turns with it.
        """
        precisions = [p for p in dict.fromkeys(p for u in self.units for p in u.candidates) if p != FLOAT]
        floats = {u.name: FLOAT for u in self.units}
        uniform: dict[str, dict[str, str]] = {}
        for precision in precisions:
            assignment = {u.name: _uniform(u, precision) for u in self.units}
            if assignment != floats and assignment not in uniform.values():
                uniform[precision] = assignment
        key = key_of({u.name: ",".join(u.candidates) for u in self.units})
        kept = self.journal.get("costs", key)
        known = {p: self.journal.get("trial", key_of(a)) for p, a in uniform.items()}
        if kept is not None and all(known[p] for p, a in uniform.items() if not any(map(_takes_long, a.values()))):
            self.costs = CostTable.from_data(kept)
            for precision, assignment in uniform.items():
                if known[precision]:
                    self._recall(self._new_trial(assignment, "uniform", precision), known[precision])
        else:
            self._build_uniform(floats, uniform)
            assert self.costs is not None
            self.journal.put("costs", key, self.costs.to_data())
        if self.request.objective != "size":
            slower = self.costs.never_slower()
            self.dropped = list(slower.values())
            self.units = [_without(u, {p for (name, p) in slower if name == u.name}) for u in self.units]
        self.pointless = pointless(self.units, self.costs, self.request.objective)
        self.units = [_without(u, {p for (name, p) in self.pointless if name == u.name}) for u in self.units]
        self._forget_dropped()
        self._build_kept(uniform)
        self._ended("cost")

    def _build_uniform(self, floats: dict[str, str], uniform: Mapping[str, dict[str, str]]) -> None:
        """Time the kernels of every precision. Weights whose making takes long are made plainly: their bytes do not matter
        to a kernel's time, and most of these precisions will be dropped. Such a variant's quality means nothing, so it is no
        trial; :meth:`_build_kept` makes one of those that stay."""
        self._expect(uniform=len(uniform), kept=sum(any(map(_takes_long, a.values())) for a in uniform.values()))
        builds = [(floats, self.tools.costs([self.float])[0])]
        timed: list[tuple[dict[str, str], float]] = []
        for number, (precision, assignment) in enumerate(uniform.items()):
            self._say(f"building the model in {precision} to time its kernels", number, len(uniform), step="uniform")
            slow = [p for p in set(assignment.values()) if _takes_long(p)]
            variant = self.tools.build(self._plan(assignment, plainly=slow), not slow)
            builds.append((assignment, self.tools.costs([variant])[0]))
            beside, own = self.tools.clock([self.float, variant])
            timed.append((assignment, own * self.float_seconds / beside))
            if slow:
                variant.close()
                continue
            trial = self._new_trial(assignment, "uniform", precision)
            trial.seconds, trial.bytes = timed[-1][1], variant.bytes
            self._judge(trial, variant)
            self._keep(trial, variant)
        self.costs = CostTable(self.units, builds, self.request.shares)
        self.costs.observe(floats, self.float_seconds)
        for assignment, seconds in timed:
            self.costs.observe(assignment, seconds)

    def _forget_dropped(self) -> None:
        """Let go of weights in precisions that no unit will take."""
        kept = {find_precision(p) for u in self.units for p in u.candidates}
        self.store.keep(lambda key: not (isinstance(key, tuple) and key[0] == "recipe") or key[2] in kept)

    def _build_kept(self, uniform: Mapping[str, dict[str, str]]) -> None:
        """Trials of the precisions that are slow to make and were not dropped: for the report, and for what comes after."""
        assert self.costs is not None
        kept = {p for u in self.units for p in u.candidates}
        wanted = [(p, a) for p, a in uniform.items() if p in kept and _takes_long(p) and self._known(a) is None]
        self._expect(kept=len(wanted))
        for number, (precision, assignment) in enumerate(wanted):
            if not self._late():
                seconds = self.costs.predict(assignment)[0]
                self._try(assignment, "uniform", number, len(wanted), seconds, label=precision)

    # -- loss --------------------------------------------------------------------------------------------------------
    def _estimate_losses(self) -> None:
        request, effort = self.request, self.request.effort
        chosen = request.estimated
        self._say("running the float model on calibration samples", step="losses")
        job = Job(
            request.graph, self.units, chosen, self._outputs(chosen), request.scorer, self.store, self.tools.progress,
            self.executor, request.seed, self.journal.reader("loss"), self.journal.writer("loss"),
        )  # fmt: skip
        calibrate_units(request.graph, self.units, request.batches, self.store, self.tools.progress)
        self._tidy()  # losses take more memory than anything else: what builds left goes before them, too
        self.table = METHODS[effort.sensitivity]().table(job)
        if effort.pairs:
            pairwise(job, self.table, effort.pairs)
        self.losses = {
            key: {t: float(np.mean(v)) for t, v in terms.items()} for key, terms in self.table.losses.items()
        }
        self.pairs = dict(self.table.pairs)
        self._tidy()
        self._ended("sensitivity")

    # -- solve -------------------------------------------------------------------------------------------------------
    def _narrow(self) -> None:
        """Find the limit on the added losses whose plan just meets the bar."""
        allowed = self._allowances()
        most = max((self._greatest(t) / allowed[t] for t in allowed if allowed[t] > 0), default=1.0)
        low, high, scale = 0.0, math.inf, self._first_guess(allowed)
        for number in range(self.request.effort.trials):
            if self._late() or (low and high / low < CLOSE_ENOUGH):
                break
            solution = self._solve({t: allowed[t] * scale for t in allowed})
            if solution is None:
                low, scale = scale, scale * 2
                continue
            known = self._known(solution.assignment)
            if known is None:
                known = self._try(solution.assignment, "solve", number, self.request.effort.trials, solution.seconds)
            self._solutions[known.id] = solution
            used = known.most_used
            if known.met:
                low = max(low, scale)
                if scale >= most:
                    break  # nothing is left to give up
                scale = min(scale / max(used, 0.2), math.sqrt(low * high) if high < math.inf else math.inf, most * 1.01)
                scale = max(scale, low * CLOSE_ENOUGH)
            else:
                high = min(high, scale)
                scale = scale / min(used, 5.0) * 0.97
                scale = max(scale, math.sqrt(low * high)) if low else scale

    def _allowances(self) -> dict[str, float]:
        """Term -> the loss at the bar; where the loss is another metric's, the loss of the cheapest plan."""
        found: dict[str, float] = {}
        for term in self.request.bar.terms:
            if term.kind.proxy is None:
                found[str(term)] = max(float(term.kind.loss(np.array([term.bound]))[0]), 0.0)
            else:
                found[str(term)] = self._greatest(str(term))
        return found

    def _greatest(self, term: str) -> float:
        """The added loss of the plan that gives up all there is to give up."""
        return sum(max(self.losses.get((u.name, p), {}).get(term, 0.0) for p in u.candidates) for u in self.units)

    def _first_guess(self, allowed: Mapping[str, float]) -> float:
        """A limit from the uniform trials: how much more of the bar they use up than their added losses say."""
        return 1.0 / max((self._usage_per_loss(term, limit) for term, limit in allowed.items()), default=2.5)

    def _added(self, assignment: Mapping[str, str], term: str) -> float:
        total = sum(self.losses.get((u, p), {}).get(term, 0.0) for u, p in assignment.items())
        for (first, second), correction in self.pairs.items():
            if assignment.get(first[0]) == first[1] and assignment.get(second[0]) == second[1]:
                total += correction.get(term, 0.0)
        return total

    def _solve(self, limits: Mapping[str, float]) -> Solution | None:
        assert self.costs is not None
        return solve(self.units, self.costs, self.losses, limits, self.request.objective, pairs=self.pairs)

    # -- refine ------------------------------------------------------------------------------------------------------
    def _refine(self) -> None:
        """Change one unit of the best plan at a time, the most promising first."""
        self._forecast.expect("trial", self.request.effort.refinements)
        tried = 0
        best = self._best()
        if best is None or self.costs is None:
            return
        refused: set[tuple[str, str]] = set()
        while tried < self.request.effort.refinements and not self._late():
            step = self._promising(best, refused)
            if step is None:
                break
            unit, precision = step
            refused.add(step)
            assignment = {**best.assignment, unit: precision}
            if self._known(assignment) is not None:
                continue
            tried += 1
            cost = self.costs.predict(assignment)[0]
            trial = self._try(assignment, "refine", tried - 1, self.request.effort.refinements, cost, rival=best)
            if trial.met and self._price(trial) < self._price(best) * WORTH:
                if best.id in self._solutions:
                    self._solutions[trial.id] = self._solutions[best.id]
                best = trial
        self._ended("search")

    def _promising(self, best: Trial, refused: set[tuple[str, str]]) -> tuple[str, str] | None:
        """The change that saves most per loss among those that the bar may still allow."""
        assert self.costs is not None
        allowed = self._allowances()
        seconds, size = self.costs.predict(best.assignment)
        found: list[tuple[float, tuple[str, str]]] = []
        for unit in self.units:
            for precision in unit.candidates:
                step = (unit.name, precision)
                if precision == best.assignment[unit.name] or step in refused:
                    continue
                changed = {**best.assignment, unit.name: precision}
                after = self.costs.predict(changed)
                saved = (size - after[1]) / size if self.request.objective == "size" else (seconds - after[0]) / seconds
                if saved <= 1 - WORTH:
                    continue
                worse = self._expected_usage(changed, best, allowed)
                if worse <= 1.1:
                    found.append((saved / max(worse - best.most_used, 1e-3), step))
        return max(found)[1] if found else None

    def _expected_usage(self, assignment: Mapping[str, str], near: Trial, allowed: Mapping[str, float]) -> float:
        """What a plan will use of the bar, from the added losses and what trials, first of all the one ``near`` it, used."""
        worst = 0.0
        for term, limit in allowed.items():
            added, known = self._added(assignment, term), self._added(near.assignment, term)
            if known > 0 and 0 < near.usage[term] < FAR:
                worst = max(worst, near.usage[term] * added / known)
            else:
                worst = max(worst, self._usage_per_loss(term, limit) * added / limit if limit > 0 else FAR)
        return worst

    def _usage_per_loss(self, term: str, limit: float) -> float:
        """How much more of the bar the trials used than their added losses say: the median of the trials."""
        ratios = [
            t.usage[term] * limit / added for t in self.trials[1:]
            if (added := self._added(t.assignment, term)) > 0 and limit > 0 and 0 < t.usage.get(term, 0.0) < FAR
        ]  # fmt: skip
        return float(np.median(ratios)) if ratios else 2.5

    # -- trials ------------------------------------------------------------------------------------------------------
    def _try(
        self,
        assignment: dict[str, str],
        stage: str,
        number: int,
        total: int,
        predicted: float,
        rival: Trial | None = None,
        label: str | None = None,
    ) -> Trial:
        trial = self._new_trial(assignment, stage, label or _mix(self.units, assignment))
        trial.predicted = predicted
        kept = self.journal.get("trial", key_of(assignment))
        if kept is not None:
            if self.costs is not None:
                self.costs.observe(assignment, float(kept["seconds"]))
            return self._recall(trial, kept)
        self._say(
            f"building and measuring a plan: {trial.label}",
            number,
            total,
            step="kept" if stage == "uniform" else "trial",
        )
        variant = self.tools.build(self._plan(assignment))
        others = [v for i in dict.fromkeys((0, rival.id if rival else 0)) if (v := self._open.get(i)) is not None]
        seconds = self.tools.clock([*others, variant])
        trial.seconds, trial.bytes = seconds[-1] * self.float_seconds / seconds[0], variant.bytes
        if rival is not None and len(others) > 1:  # on the scale on which the rival was measured
            trial.seconds = seconds[-1] / seconds[1] * rival.seconds
        self._judge(trial, variant)
        if self.costs is not None:
            self.costs.observe(assignment, trial.seconds)
        self._keep(trial, variant)
        return trial

    def _new_trial(self, assignment: dict[str, str], stage: str, label: str) -> Trial:
        return Trial(len(self.trials), label, stage, dict(assignment))

    def _recall(self, trial: Trial, kept: Mapping[str, Any]) -> Trial:
        """A trial that an earlier run made."""
        for name in ("seconds", "bytes", "scores", "usage", "quality"):
            setattr(trial, name, kept[name])
        self.trials.append(trial)
        return trial

    def _judge(self, trial: Trial, variant: Variant | None) -> None:
        scores = self.development.scores(variant)
        verdicts = self.development.verdicts(scores)
        final = len(self.request.splits.final)
        trial.scores = {t: [float(x) for x in s] for t, s in scores.items()}
        for term, verdict in zip(self.request.bar.terms, verdicts, strict=True):
            trial.usage[str(term)] = self.development.usage(term, scores[str(term)], verdict, final)
            trial.quality[str(term)] = verdict.value
        trial.at = time.monotonic() - self.began

    def _keep(self, trial: Trial, variant: Variant) -> None:
        """Remember a trial; keep the best ones loaded, close the others; tell of a better one."""
        before = self._best()
        self.trials.append(trial)
        self.journal.put("trial", key_of(trial.assignment), trial.kept())
        self._open[trial.id] = variant
        best = self._best()
        if (
            best is trial
            and (before is None or self._price(trial) < self._price(before))
            and self.tools.improved is not None
        ):
            self.tools.improved(variant, {"chosen": trial, "trials": list(self.trials)})
        wanted = {0} | ({best.id} if best is not None else set())
        for number in [n for n in self._open if n not in wanted]:
            self._open.pop(number).close()

    def _best(self) -> Trial | None:
        """The cheapest trial that will likely be proved."""
        good = [t for t in self.trials if t.met and self._allowed(t)]
        return min(good, key=self._price) if good else None

    def _allowed(self, trial: Trial) -> bool:
        return all(trial.assignment[u.name] in u.candidates or trial.id == 0 for u in self.request.units) and (
            trial.id != 0 or all(FLOAT in u.candidates for u in self.request.units)
        )

    def _price(self, trial: Trial) -> float:
        return float(trial.bytes) if self.request.objective == "size" else trial.seconds

    def _known(self, assignment: Mapping[str, str]) -> Trial | None:
        return next((t for t in self.trials if t.assignment == assignment), None)

    def _plan(self, assignment: Mapping[str, str], plainly: Sequence[str] = ()) -> Plan:
        """The plan of an assignment, with the methods of this effort where no pin names one; weights of the precisions
        ``plainly`` are rounded to nearest."""
        pinned = set(self.request.pins.rules)
        kinds = {glob.escape(source): unit.kind for unit in self.request.units for source in unit.sources}

        def method(rule: Rule) -> str | None:
            kind = kinds.get(rule.pattern, "linear")
            if rule.precision.name in plainly and kind == "linear":
                return "rtn"
            return self.store.method(rule.precision.name, kind)

        plan = plan_of(self.request.units, assignment, self.request.pins)
        return Plan(tuple(r if r in pinned else replace(r, weights=method(r)) for r in plan.rules))

    def _tried(self, unit: Unit) -> Unit:
        effort, objective = self.request.effort, self.request.objective
        return _with(unit, candidates(unit.candidates, effort, objective, len(unit.candidates) == 1))

    # -- proof -------------------------------------------------------------------------------------------------------
    def _prove(self) -> Outcome:
        allowed = [t for t in self.trials if self._allowed(t)]
        sequence = in_order(allowed, self._best(), self._price)
        if not sequence:
            raise infeasible(self.request, allowed, None)
        self._forecast.expect("trial", 0)
        self._forecast.expect("proof", len(sequence) + 1)
        final = self.request.splits.final
        self._say("scoring the float model on the final samples", step="proof")
        judge = Judge(
            self.request.bar,
            self.request.scorer,
            final,
            self._outputs(final),
            self.request.coverage,
            self.request.confidence,
        )
        results: list[tuple[Trial, Variant, dict[str, np.ndarray], list[Verdict]]] = []
        for number, trial in enumerate(sequence):
            self._say(f"proving on the final samples: {trial.label}", number, len(sequence), step="proof")
            self._tidy()
            variant = self._open.get(trial.id) or self.tools.build(self._plan(trial.assignment))
            self._open[trial.id] = variant
            self._tidy()
            scores = judge.scores(variant if trial.id else None)
            results.append((trial, variant, scores, judge.verdicts(scores)))
            if not all(v.holds for v in results[-1][3]):
                break
            for proved, *_ in results[:-1]:  # what is cheaper holds, too: but for float they are not needed any more
                if proved.id and proved.id in self._open:
                    self._open.pop(proved.id).close()
        at = fixed_sequence([r[3] for r in results])
        if at is None:
            raise infeasible(self.request, allowed, results[0][3])
        chosen, variant, scores, verdicts = results[at]
        if self.request.objective != "size" and chosen.id != 0:
            chosen, variant, scores, verdicts = self._never_slower(results[: at + 1])
        self._open.pop(chosen.id, None)
        self._ended("proof")
        return Outcome(
            variant, chosen, verdicts, scores, self.trials, list(self.units), self.costs, self.table,
            self._solutions.get(chosen.id), self.dropped, self.pointless, self.phases, judge,
        )  # fmt: skip

    def _never_slower(self, results: Sequence[Any]) -> Any:
        """The result, or the float model where that turns out to be as fast."""
        chosen, variant, _, _ = results[-1]
        float_seconds, own = self.tools.clock([self.float, variant])
        chosen.seconds = own * self.float_seconds / float_seconds
        if own <= float_seconds * 1.01 or results[0][0].id != 0:
            return results[-1]
        self.dropped.append(
            f"the plan found takes {own * 1e3:.3g} ms a call and float {float_seconds * 1e3:.3g} ms: the model stays float"
        )
        return results[0]

    def _tidy(self) -> None:
        if self.tools.tidy is not None:
            self.tools.tidy()

    # -- progress ----------------------------------------------------------------------------------------------------
    def _say(self, what: str, done: int = 0, total: int = 0, step: str = "") -> None:
        self._forecast.begin(step)
        if self.tools.progress is not None:
            self.tools.progress(what + self._forecast.words(), done, total)

    def _ended(self, phase: str) -> None:
        now = time.monotonic()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._phase_began
        self._phase_began = now

    def _expect(self, **counts: int) -> None:
        """Say how many steps of some kinds will come; of the trials that the effort allows, about half are needed."""
        trials = (self.request.effort.trials + self.request.effort.refinements + 1) // 2
        for kind, count in {"losses": 1, "trial": trials, "proof": 4, **counts}.items():
            self._forecast.expect(kind, count)

    def _late(self) -> bool:
        limit = self.request.effort.seconds
        return limit is not None and time.monotonic() - self.began > 0.8 * limit


def _uniform(unit: Unit, precision: str) -> str:
    """What a unit does in a model of one precision: attention is bf16 below float where it can be."""
    if precision in unit.candidates:
        return precision
    if unit.kind == "attention" and "bf16" in unit.candidates:
        return "bf16"
    return FLOAT if FLOAT in unit.candidates else unit.candidates[0]


def _takes_long(precision: str) -> bool:
    """Whether weights of this precision take long to make: they are fitted to the data one by
    one, and where low precision is for speed alone they are not wanted in the end."""
    found = find_precision(precision)
    return not found.weight.is_float and (found.weight.dtype == "i4" or found.activation.is_float)


def _mix(units: Sequence[Unit], assignment: Mapping[str, str]) -> str:
    """An assignment in words: "12 w8a8, 6 bf16, 1 f32"."""
    counts: dict[str, int] = {}
    for unit in units:
        counts[assignment[unit.name]] = counts.get(assignment[unit.name], 0) + 1
    return ", ".join(f"{n} {p}" for p, n in sorted(counts.items(), key=lambda item: -item[1]))


def _with(unit: Unit, kept: Sequence[str]) -> Unit:
    return replace(unit, candidates=tuple(kept))


def _without(unit: Unit, dropped: set[str]) -> Unit:
    kept = [p for p in unit.candidates if p not in dropped]
    return _with(unit, kept or unit.candidates[:1])
