"""From measured costs and losses to the cheapest assignment of precisions within a quality limit, and its explanation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.options import nearest
from ..compiler.precision import find_precision
from ..compiler.quantities import seconds as duration
from ..compiler.quantities import size
from .attribution import Decided
from .cost import Choice, CostTable
from .greedy import greedy
from .knapsack import Problem, changes, exact, restricted, undominated

Method = Literal["milp", "greedy"]
#: What may be minimised. ``effective bits`` is the cost of solvers that do not measure; it is here to be compared with.
OBJECTIVES = ("latency", "size", "latency then size", "effective bits")
#: What the second of two objectives may cost the first: less than anybody could measure.
TIE = {"latency then size": 5e-3, "size": 1e-3}
#: Limits that a front is drawn through, over the limit asked for: from a 64th to 64 times, by the root of two.
SCALES = tuple(2.0 ** (half / 2) for half in range(-12, 13))
_BITS = {"f32": 32.0, "bf16": 16.0, "f16": 16.0, "fp8": 8.0, "i8": 8.0, "i4": 4.0}
_SCALE_BITS = 16

Losses = Mapping[Choice, Mapping[str, Any]]
Pairs = Mapping[tuple[Choice, Choice], Mapping[str, float]]


@dataclass(frozen=True)
class Solution:
    """An assignment and what it costs.

    Attributes:
        assignment: unit -> precision.
        seconds, bytes: as the cost table predicts.
        loss: term -> sum of the losses, interactions included.
        limits: term -> what the sum may be.
        cost: what was minimised: seconds, bytes, or bits.
        optimal: proved best (for many units to 1e-4 of the cost).
        method: ``milp`` or ``greedy``.
        took: seconds that solving took.
        traded: unit -> what its next cheaper candidate would have saved, and what that would have cost, in words.
        dominated: (unit, precision) -> why it was no candidate worth a look, in words.
    """

    assignment: dict[str, str]
    seconds: float
    bytes: float
    loss: dict[str, float]
    limits: dict[str, float]
    cost: float
    optimal: bool
    method: str
    took: float = 0.0
    traded: dict[str, str] = field(default_factory=dict)
    dominated: dict[Choice, str] = field(default_factory=dict)

    def to_data(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "dominated": [[*choice, words] for choice, words in self.dominated.items()]}


@dataclass(frozen=True)
class _Model:
    """The problem, and what its numbers stand for."""

    problem: Problem
    choices: list[Choice]
    terms: list[str]

    def assignment(self, picks: Iterable[int]) -> dict[str, str]:
        return dict(self.choices[int(pick)] for pick in picks)


def solve(
    units: Sequence[Decided],
    costs: CostTable,
    losses: Losses,
    limits: Mapping[str, float],
    objective: str = "latency",
    *,
    pairs: Pairs | None = None,
    method: Method = "milp",
    time_limit: float = 5.0,
) -> Solution | None:
    """The assignment of least cost whose losses keep to the limits.

    Args:
        units: with their candidates; a pinned one has one.
        costs: what each costs; a candidate that was never timed is none.
        losses: (unit, precision) -> term -> loss, a number or one per sample (the mean counts). What is not there is 0 for the
            first candidate of a unit, and for others means that it was not tried: they are no candidates.
        limits: term -> what the sum of the losses may be; infinity: any.
        objective: one of :data:`OBJECTIVES`. With "latency then size" bytes are minimised among what is no more than 0.5 %
            slower than the fastest; with "size" seconds among what is no more than 0.1 % larger than the smallest.
        pairs: ((unit, precision), (unit, precision)) -> term -> loss beyond the sum of the two.
        method: ``milp`` (HiGHS; falls back to greedy where that fails or scipy is missing) or ``greedy``.
        time_limit: seconds for the solver; the best found until then is the answer, and is not ``optimal``.

    Returns:
        The solution; None if no assignment keeps to the limits (or none was found).

    Raises:
        UsageError: there is no such objective or method, or a unit has no candidate left.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"there is no objective {objective!r}", nearest(objective, OBJECTIVES))
    if method not in ("milp", "greedy"):
        raise UsageError(f"there is no solver {method!r}", nearest(method, ("milp", "greedy")))
    began = time.perf_counter()
    end = began + time_limit
    model = _model(units, costs, losses, limits, pairs or {})
    kinds = {"latency": ["seconds"], "size": ["bytes", "seconds"], "latency then size": ["seconds", "bytes"]}
    stages = [_costs_of(kind, units, costs, model) for kind in kinds.get(objective, ["bits"])]
    problem = replace(model.problem, cost=stages[0][0], pair_cost=stages[0][1])
    found, dominated = _best(problem, method, end)
    if found is None:
        return None
    for own, between in stages[1:]:
        best = problem.value(found[0])[0]
        room = best + TIE[objective] * (abs(best) + (costs.fixed_bytes if objective == "size" else costs.fixed_seconds))
        narrowed = Problem(
            problem.groups, own, np.vstack([problem.rows, problem.cost]), np.append(problem.limits, room),
            problem.pairs, between, np.vstack([problem.pair_rows, problem.pair_cost]),
        )  # fmt: skip
        second, dominated = _best(narrowed, method, end, found[0])
        if second is not None and narrowed.value(second[0])[0] <= narrowed.value(found[0])[0]:
            found = (second[0], found[1] and second[1], second[2])
    picks, optimal, used = found
    assignment = model.assignment(picks)
    seconds, weight = costs.predict(assignment)
    _, sums = model.problem.value(picks)
    return Solution(
        assignment, seconds, weight, dict(zip(model.terms, map(float, sums), strict=True)),
        {term: float(limits[term]) for term in model.terms}, problem.value(picks)[0], optimal, used,
        time.perf_counter() - began, _traded(units, model, problem, picks, objective),
        {model.choices[option]: f"{model.choices[by][1]} costs no more and loses no more" for option, by in dominated.items()},
    )  # fmt: skip


def _best(
    problem: Problem, method: str, end: float, start: np.ndarray | None = None
) -> tuple[tuple[np.ndarray, bool, str] | None, dict[int, int]]:
    """Picks, whether they are proved best, and the method that found them; greed goes on from ``start``."""
    alive, dominated = undominated(problem)
    small, old = restricted(problem, alive)
    left = max(end - time.perf_counter(), 0.1)
    picks, proved, used = None, False, method
    if method == "milp":
        try:
            picks, proved, hopeless = exact(small, left)
        except ImportError:
            picks, hopeless = None, False
        if hopeless:
            return None, dominated
    if not proved:
        known = start is not None and alive[start].all()
        other = greedy(small, left, np.searchsorted(old, start) if known and start is not None else None)
        if other is not None and (picks is None or small.value(other)[0] < small.value(picks)[0]):
            picks, used = other, "greedy"
    return (None if picks is None else (old[picks], proved, used)), dominated


# -- the numbers -------------------------------------------------------------------------------------------------------
def _model(
    units: Sequence[Decided], costs: CostTable, losses: Losses, limits: Mapping[str, float], pairs: Pairs
) -> _Model:
    terms = [term for term, limit in limits.items() if limit < np.inf]
    known = costs.seconds
    choices: list[Choice] = []
    rows: list[list[float]] = []
    groups = []
    for unit in units:
        first = len(choices)
        for position, precision in enumerate(unit.candidates):
            choice = (unit.name, precision)
            given = losses.get(choice)
            if choice not in known or (given is None and position > 0):
                continue
            own = [float(np.mean(given.get(term, 0.0))) if given is not None else 0.0 for term in terms]
            if not np.all(np.isfinite(own)):
                continue  # this unit at this precision gave NaN or infinity
            choices.append(choice)
            rows.append(own)
        if len(choices) == first:
            raise UsageError(
                f"{unit.name} has no candidate whose cost and loss are known", f"it has {', '.join(unit.candidates)}"
            )
        groups.append(np.arange(first, len(choices)))
    number = {choice: i for i, choice in enumerate(choices)}
    both: dict[tuple[int, int], np.ndarray] = {}
    for (a, b), extra in [*pairs.items(), *((key, {}) for key in costs.pairs())]:
        if a in number and b in number and a[0] != b[0]:
            key = (min(number[a], number[b]), max(number[a], number[b]))
            values = np.array([float(extra.get(term, 0.0)) for term in terms])
            both[key] = both.get(key, 0.0) + np.where(np.isfinite(values), values, 0.0)
    table = np.array(rows, np.float64).reshape(len(choices), len(terms)).T
    problem = Problem(
        groups, np.zeros(len(choices)), table, np.array([float(limits[term]) for term in terms]),
        np.array(list(both), np.int64).reshape(-1, 2), np.zeros(len(both)),
        np.array(list(both.values()), np.float64).reshape(len(both), len(terms)).T,
    )  # fmt: skip
    return _Model(problem, choices, terms)


def _costs_of(kind: str, units: Sequence[Decided], costs: CostTable, model: _Model) -> tuple[np.ndarray, np.ndarray]:
    """What each option costs, and what each pair costs beyond its two."""
    none = np.zeros(len(model.problem.pairs))
    if kind == "bytes":
        return np.array([costs.bytes[choice] for choice in model.choices]), none
    if kind == "bits":
        parameters = {unit.name: unit.parameters for unit in units}
        return np.array([parameters[name] * effective_bits(p) for name, p in model.choices]), none
    seconds, between = costs.seconds, costs.pairs()
    for i, (a, b) in enumerate(model.problem.pairs):
        first, second = model.choices[a], model.choices[b]
        none[i] = between.get((first, second), 0.0) + between.get((second, first), 0.0)
    return np.array([seconds[choice] for choice in model.choices]), none


def effective_bits(precision: str) -> float:
    """Bits per weight of a named precision, the scales of groups included: ``w4a16`` has 4.125.

    Raises:
        UsageError: there is no such precision.
    """
    scheme = find_precision(precision).weight
    return _BITS[scheme.dtype] + (_SCALE_BITS / scheme.group_size if scheme.group_size else 0.0)


# -- words -------------------------------------------------------------------------------------------------------------
def _traded(
    units: Sequence[Decided], model: _Model, problem: Problem, picks: np.ndarray, objective: str
) -> dict[str, str]:
    """For each unit: the cheaper candidate that would have cost least loss, what it saves, and what it takes of what is
    allowed."""
    show: Callable[[float], str] = {"size": size, "effective bits": "{:.3g} bits".format}.get(objective, duration)
    limits = problem.limits
    cost, sums = problem.value(picks)
    cost_change, row_change = changes(problem, picks)
    worst = np.max(row_change / problem.scale[:, None], axis=0, initial=-np.inf)
    found: dict[str, str] = {}
    for unit, group in zip(units, problem.groups, strict=True):
        offers = [option for option in map(int, group) if cost_change[option] < -1e-9 * abs(cost)]
        if not offers:
            found[unit.name] = "none of its candidates is cheaper" if len(group) > 1 else "it has one candidate"
            continue
        option = min(offers, key=lambda offer: (worst[offer], cost_change[offer]))
        more = row_change[:, option]
        saves = f"{model.choices[option][1]} would save {show(-float(cost_change[option]))}"
        if not len(limits):
            found[unit.name] = saves
            continue
        # Of several terms the one that forbids it most.
        row = int(np.argmax((sums + more - limits) / problem.scale))
        left = limits[row] - sums[row]
        name = f" for {model.terms[row]}" if len(model.terms) > 1 else ""
        share = f"costs {more[row]:.3g} of the {limits[row]:.3g} allowed{name}, of which {max(left, 0.0):.3g} is left"
        found[unit.name] = f"{saves} but {share}" if more[row] > left else f"{saves} and {share}"
    return found


# -- the front ---------------------------------------------------------------------------------------------------------
def front(
    units: Sequence[Decided],
    costs: CostTable,
    losses: Losses,
    limits: Mapping[str, float],
    objective: str = "latency",
    *,
    pairs: Pairs | None = None,
    scales: Sequence[float] = SCALES,
    time_limit: float = 1.0,
) -> list[Solution]:
    """The lower convex front of (loss, cost): what is to be had for other limits.

    Args:
        limits: at scale 1; the loss of a solution is its largest share of these.
        scales: factors by which the limits are tightened and loosened.
        time_limit: seconds for each.

    Returns:
        The solutions on the front by rising loss and falling cost.

    Raises:
        UsageError: as :func:`solve`.
    """
    points: list[tuple[float, Solution]] = []
    for scale in sorted(scales):
        scaled = {term: limit * scale for term, limit in limits.items()}
        found = solve(units, costs, losses, scaled, objective, pairs=pairs, time_limit=time_limit)
        if found is not None:
            share = max((found.loss[t] / limits[t] for t in found.loss if limits[t] > 0), default=0.0)
            points.append((share, found))
    hull: list[tuple[float, Solution]] = []
    for share, found in sorted(points, key=lambda point: (point[0], point[1].cost)):
        if hull and found.cost >= hull[-1][1].cost:
            continue  # more loss for no less cost
        while len(hull) >= 2 and _above(hull[-2], hull[-1], (share, found)):
            hull.pop()
        hull.append((share, found))
    return [found for _, found in hull]


def _above(a: tuple[float, Solution], b: tuple[float, Solution], c: tuple[float, Solution]) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b[1].cost - a[1].cost) * (c[0] - a[0]) >= (c[1].cost - a[1].cost) * (b[0] - a[0])
