"""The knapsack by greed: steps of the best ratio, then exchanges. A fallback, and what the exact solver is compared with.

Reference: Kellerer, Pferschy, Pisinger, "Knapsack Problems", Springer 2004, 11.2 (the greedy algorithm on the increments of the
groups' options), with a local search over single and double changes.
"""

from __future__ import annotations

import time

import numpy as np

from .knapsack import SLACK, Problem, changes

#: Rounds of exchanges at most.
ROUNDS = 200


def greedy(problem: Problem, time_limit: float = 5.0, start: np.ndarray | None = None) -> np.ndarray | None:
    """Picks, i64 [groups], that hold every limit; None if none were found (there may be some).

    Args:
        problem: as for the exact solver.
        time_limit: seconds after which exchanges end.
        start: picks to go on from; None: the safest.
    """
    end = time.monotonic() + time_limit
    state = _State(problem, start)
    if not state.repair():
        return None
    while state.step(_by_ratio):
        pass
    for _ in range(ROUNDS):
        if time.monotonic() > end or not (state.step(_by_cost) or state.exchange(end)):
            break
    return state.picks


def _by_ratio(saved: np.ndarray, used: np.ndarray) -> np.ndarray:
    return saved / np.maximum(used, 1e-12)


def _by_cost(saved: np.ndarray, used: np.ndarray) -> np.ndarray:
    return saved


class _State:
    """Picks, with what every single change would do."""

    def __init__(self, problem: Problem, start: np.ndarray | None) -> None:
        self.problem = problem
        self.group_of = np.empty(len(problem.cost), np.int64)
        for number, group in enumerate(problem.groups):
            self.group_of[group] = number
        self.limits = problem.limits / problem.scale
        # The safest start: in each group the option that uses least of the row it uses most.
        used = problem.rows / problem.scale[:, None]
        worst = used.max(axis=0, initial=-np.inf) if len(self.limits) else problem.cost
        safest = np.array([group[np.lexsort((problem.cost[group], worst[group]))[0]] for group in problem.groups])
        self.picks = safest if start is None else start.copy()
        self._refresh()

    def _refresh(self) -> None:
        self.cost, sums = self.problem.value(self.picks)
        self.sums = sums / self.problem.scale
        self.cost_change, row_change = changes(self.problem, self.picks)
        self.row_change = row_change / self.problem.scale[:, None]

    def _set(self, *options: int) -> None:
        for option in options:
            self.picks[self.group_of[option]] = option
        self._refresh()

    def _over(self, sums: np.ndarray) -> np.ndarray:
        """How far sums f64 [rows, ...] are beyond the limits, added up."""
        room = self.limits.reshape(-1, *[1] * (sums.ndim - 1))
        return np.maximum(sums - room, 0.0).sum(axis=0)

    def _fits(self, sums: np.ndarray) -> np.ndarray:
        room = self.limits.reshape(-1, *[1] * (sums.ndim - 1))
        return np.all(sums <= room + SLACK, axis=0)

    def repair(self) -> bool:
        """Change one pick at a time until every limit holds."""
        for _ in range(4 * len(self.picks)):
            if self._fits(self.sums):
                return True
            over = self._over(self.sums[:, None] + self.row_change)
            best = int(np.argmin(over))
            if over[best] >= self._over(self.sums) - 1e-15:
                return False
            self._set(best)
        return bool(self._fits(self.sums))

    def step(self, order: object) -> bool:
        """Make the best change that saves and fits."""
        assert callable(order)
        saves = self.cost_change < -1e-12 * max(abs(self.cost), 1e-300)
        fits = self._fits(self.sums[:, None] + self.row_change)
        chosen = np.flatnonzero(saves & fits)
        if not len(chosen):
            return False
        used = self.row_change[:, chosen].max(axis=0, initial=0.0)
        self._set(int(chosen[np.argmax(order(-self.cost_change[chosen], used))]))
        return True

    def exchange(self, end: float) -> bool:
        """Make one change that saves but does not fit, and another in a second group that makes room."""
        saving = np.flatnonzero(self.cost_change < 0)
        for option in saving[np.argsort(self.cost_change[saving])]:
            if time.monotonic() > end:
                return False
            left = self.limits - self.sums - self.row_change[:, option]
            total = self.cost_change[option] + self.cost_change
            able = (total < -1e-12 * max(abs(self.cost), 1e-300)) & (self.group_of != self.group_of[option])
            able &= np.all(self.row_change <= left[:, None] + SLACK, axis=0)
            able[self.picks] = False
            for other in np.flatnonzero(able)[np.argsort(total[able])][:8]:
                before, cost = self.picks.copy(), self.cost
                self._set(int(option), int(other))  # the two may interact: what counts is what comes out
                if self.cost < cost - 1e-12 * max(abs(cost), 1e-300) and self._fits(self.sums):
                    return True
                self.picks = before
                self._refresh()
        return False
