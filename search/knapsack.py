"""The multiple-choice knapsack behind the choice of precisions: one option per group, least cost, several limits.

Numbers only; ``solve.py`` says what they mean. Options may interact in pairs: two that are both picked add to the cost and to
the rows beyond what each adds alone.

Reference: Kellerer, Pferschy, Pisinger, "Knapsack Problems", Springer 2004, chapter 11; solved as a mixed-integer program by
HiGHS (Huangfu and Hall, "Parallelizing the dual revised simplex method", 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

#: How far a sum may be beyond its limit, relative to the limit: rounding.
SLACK = 1e-9
#: Groups up to which the optimum is proved exactly; beyond, to this share of the cost.
EXACT_GROUPS, GAP = 200, 1e-4


@dataclass
class Problem:
    """Options in groups.

    Attributes:
        groups: numbers of the options of each group; every option is in one.
        cost: f64 [options].
        rows: f64 [rows, options]; what each option adds to the sum of each row.
        limits: f64 [rows]; no sum may exceed its limit.
        pairs: i64 [pairs, 2]; options of different groups that interact.
        pair_cost: f64 [pairs].
        pair_rows: f64 [rows, pairs].
    """

    groups: list[np.ndarray]
    cost: np.ndarray
    rows: np.ndarray
    limits: np.ndarray
    pairs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    pair_cost: np.ndarray = field(default_factory=lambda: np.zeros(0))
    pair_rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        if not len(self.pairs):
            self.pair_rows = np.zeros((len(self.limits), 0))
        # Sums are compared after division, so that a limit of 1e-4 is as exact as one of 1e+4.
        self.scale = np.where(self.limits > 0, self.limits, 1.0)

    def picked(self, picks: Sequence[int] | np.ndarray) -> np.ndarray:
        """f64 [options], 1 for what is picked."""
        x = np.zeros(len(self.cost))
        x[np.asarray(picks, np.int64)] = 1.0
        return x

    def value(self, picks: Sequence[int] | np.ndarray) -> tuple[float, np.ndarray]:
        """Cost, and the sum of each row."""
        x = self.picked(picks)
        both = x[self.pairs[:, 0]] * x[self.pairs[:, 1]]
        return float(self.cost @ x + self.pair_cost @ both), self.rows @ x + self.pair_rows @ both

    def excess(self, sums: np.ndarray) -> float:
        """The most that a sum is beyond its limit, relative to the limit; at most 0 where all hold."""
        return float(np.max((sums - self.limits) / self.scale, initial=-np.inf))

    def feasible(self, sums: np.ndarray) -> bool:
        """Whether every sum is within its limit, but for rounding."""
        return self.excess(sums) <= SLACK


def changes(problem: Problem, picks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What picking an option instead of its group's own changes: the cost, f64 [options], and the sums, f64 [rows, options]."""
    group_of = np.empty(len(problem.cost), np.int64)
    for number, group in enumerate(problem.groups):
        group_of[group] = number
    x = problem.picked(picks)
    cost, rows = problem.cost.copy(), problem.rows.copy()
    for side in (0, 1):
        own, other = problem.pairs[:, side], problem.pairs[:, 1 - side]
        np.add.at(cost, own, problem.pair_cost * x[other])
        for row, between in zip(rows, problem.pair_rows, strict=True):
            np.add.at(row, own, between * x[other])
    now = np.asarray(picks)[group_of]
    return cost - cost[now], rows - rows[:, now]


def undominated(problem: Problem) -> tuple[np.ndarray, dict[int, int]]:
    """Which options can be in a best solution at all.

    An option is dominated by another of its group that costs no more and adds no more to any row, whatever else is picked:
    interactions count at their worst for the one and at their best for the other.

    Returns:
        bool [options], and dominated option -> one that dominates it.
    """
    cost_low, cost_high = _bounds(problem, problem.cost, problem.pair_cost)
    bounds = [_bounds(problem, row, pairs) for row, pairs in zip(problem.rows, problem.pair_rows, strict=True)]
    lows, highs = [cost_low, *(low for low, _ in bounds)], [cost_high, *(high for _, high in bounds)]
    low, high = np.array(lows), np.array(highs)
    alive = np.ones(len(problem.cost), bool)
    by: dict[int, int] = {}
    for group in problem.groups:
        # better[a, b]: a is no worse than b in anything
        better = np.all(high[:, group][:, :, None] <= low[:, group][:, None, :], axis=0)
        np.fill_diagonal(better, False)
        for b, option in enumerate(group):
            for a in np.flatnonzero(better[:, b]):
                # Of two that are equal the first stays.
                if alive[group[a]] and (a < b or not better[b, a]):
                    alive[option] = False
                    by[int(option)] = int(group[a])
                    break
    return alive, by


def _bounds(problem: Problem, own: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that each option may add. The sums over all partners are crude but safe bounds."""
    low, high = own.astype(np.float64).copy(), own.astype(np.float64).copy()
    for side in (0, 1):
        np.add.at(low, problem.pairs[:, side], np.minimum(pairs, 0.0))
        np.add.at(high, problem.pairs[:, side], np.maximum(pairs, 0.0))
    return low, high


def restricted(problem: Problem, alive: np.ndarray) -> tuple[Problem, np.ndarray]:
    """The problem without the options that are not ``alive``, and the old number of each new option."""
    kept = np.flatnonzero(alive)
    number = np.full(len(alive), -1)
    number[kept] = np.arange(len(kept))
    both = alive[problem.pairs].all(axis=1) if len(problem.pairs) else np.zeros(0, bool)
    return (
        Problem(
            [number[group[alive[group]]] for group in problem.groups], problem.cost[kept], problem.rows[:, kept],
            problem.limits, number[problem.pairs[both]].reshape(-1, 2), problem.pair_cost[both],
            problem.pair_rows[:, both],
        ),
        kept,
    )  # fmt: skip


def exact(problem: Problem, time_limit: float) -> tuple[np.ndarray | None, bool, bool]:
    """Solve by branch and bound.

    Args:
        problem: without dominated options it is faster.
        time_limit: seconds; what was found until then counts.

    Returns:
        The picks, i64 [groups] (None: nothing was found); whether they are proved best; whether it is proved that there is
        no solution.

    Raises:
        ImportError: there is no scipy.
    """
    # The solver allows a sum to be 1e-6 beyond its (scaled) limit. Rarely that matters; then it gets less room.
    for room in (0.0, 2e-6):
        picks, proved, hopeless = _milp(problem, time_limit, room)
        if picks is None or problem.feasible(problem.value(picks)[1]):
            return picks, proved, hopeless and room == 0.0
    return None, False, False


def _milp(problem: Problem, time_limit: float, room: float) -> tuple[np.ndarray | None, bool, bool]:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array, hstack, vstack

    options, pairs = len(problem.cost), len(problem.pairs)
    whole = float(np.abs(problem.cost).max(initial=0.0)) or 1.0
    member = np.concatenate([np.full(len(g), i) for i, g in enumerate(problem.groups)])
    columns = np.concatenate(problem.groups)
    one_each = coo_array((np.ones(len(columns)), (member, columns)), shape=(len(problem.groups), options + pairs))
    constraints = [LinearConstraint(one_each.tocsr(), 1.0, 1.0)]
    if len(problem.limits):
        matrix = np.hstack([problem.rows, problem.pair_rows]) / problem.scale[:, None]
        constraints.append(LinearConstraint(coo_array(matrix).tocsr(), -np.inf, problem.limits / problem.scale - room))
    if pairs:
        # z stands for the product of two binaries: z >= x + y - 1, z <= x, z <= y (McCormick); then z may be continuous.
        rows = np.arange(pairs)
        first, second = (
            coo_array((np.ones(pairs), (rows, problem.pairs[:, side])), shape=(pairs, options)) for side in (0, 1)
        )
        z = coo_array((np.ones(pairs), (rows, rows)), shape=(pairs, pairs))
        constraints.append(LinearConstraint(hstack([first + second, -z]).tocsr(), -np.inf, 1.0))
        below = vstack([hstack([-first, z]), hstack([-second, z])])
        constraints.append(LinearConstraint(below.tocsr(), -np.inf, 0.0))
    result = milp(
        np.concatenate([problem.cost, problem.pair_cost]) / whole,
        integrality=np.concatenate([np.ones(options), np.zeros(pairs)]),
        bounds=Bounds(0.0, 1.0),
        constraints=constraints,
        options={"time_limit": time_limit, "mip_rel_gap": 0.0 if len(problem.groups) <= EXACT_GROUPS else GAP},
    )
    if result.x is None:
        return None, False, result.status == 2
    x = result.x[:options]
    return np.array([group[np.argmax(x[group])] for group in problem.groups]), result.status == 0, False
