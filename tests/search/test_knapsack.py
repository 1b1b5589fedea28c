"""The multiple-choice knapsack against trying everything."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from solver_cases import random_model, random_problem

from planish.search import solve as module
from planish.search.greedy import greedy
from planish.search.knapsack import Problem, changes, exact, restricted, undominated
from planish.search.solve import solve

PROBLEMS = st.builds(
    random_problem, st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(0, 8)
)


def brute_force(problem: Problem) -> float | None:
    """The least cost of all that fits."""
    costs = [
        cost
        for picks in product(*problem.groups)
        for cost, sums in [problem.value(np.array(picks))]
        if problem.feasible(sums)
    ]
    return min(costs, default=None)


@given(PROBLEMS)
@settings(max_examples=150)
def test_the_exact_solution_is_the_best_there_is(problem: Problem) -> None:
    picks, proved, hopeless = exact(problem, 10.0)
    best = brute_force(problem)
    assert proved != hopeless
    if best is None:
        assert hopeless
        return
    assert picks is not None
    cost, sums = problem.value(picks)
    assert problem.feasible(sums)
    assert cost == pytest.approx(best, abs=1e-6)


@given(PROBLEMS)
@settings(max_examples=150)
def test_greed_keeps_to_the_limits_and_is_never_better(problem: Problem) -> None:
    picks, best = greedy(problem), brute_force(problem)
    if best is None:
        assert picks is None
    elif picks is not None:
        cost, sums = problem.value(picks)
        assert problem.feasible(sums)
        assert cost >= best - 1e-9


def test_greed_is_often_best() -> None:
    problems = [random_problem(seed, 5, 4, 1, 0) for seed in range(60)]
    known = [(greedy(p), brute_force(p)) for p in problems]
    found = [p.value(g)[0] == pytest.approx(b) for p, (g, b) in zip(problems, known, strict=True) if g is not None]
    assert len(found) >= 0.9 * sum(b is not None for _, b in known)
    assert np.mean(found) > 0.85


@given(PROBLEMS)
@settings(max_examples=150)
def test_leaving_out_what_is_dominated_costs_nothing(problem: Problem) -> None:
    alive, by = undominated(problem)
    small, old = restricted(problem, alive)
    assert brute_force(small) == brute_force(problem)
    assert set(by) == set(np.flatnonzero(~alive))
    for option, other in by.items():
        assert any(option in group and other in group for group in problem.groups)
    picks = np.array([group[0] for group in small.groups])
    assert small.value(picks)[0] == pytest.approx(problem.value(old[picks])[0])
    np.testing.assert_allclose(small.value(picks)[1], problem.value(old[picks])[1])


def test_dominated_options_are_found() -> None:
    rows = np.array([[0.0, 2.0, 3.0, 2.0]])
    problem = Problem([np.arange(4)], np.array([5.0, 3.0, 4.0, 3.0]), rows, np.array([9.0]))
    assert undominated(problem)[1] == {2: 1, 3: 1}  # of equals the first stays
    paired = Problem(
        [np.arange(3), np.array([3])], np.array([5.0, 3.0, 4.0, 0.0]), np.array([[0.0, 2.0, 3.0, 0.0]]), np.array([9.0]),
        np.array([[2, 3]]), np.array([-2.0]), np.array([[0.0]]),
    )  # fmt: skip
    assert undominated(paired)[1] == {}  # together with option 3 option 2 is the cheapest


@given(PROBLEMS)
def test_changes_are_what_a_change_changes(problem: Problem) -> None:
    picks = np.array([group[-1] for group in problem.groups])
    cost, rows = changes(problem, picks)
    before = problem.value(picks)
    for number, group in enumerate(problem.groups):
        for option in group:
            other = picks.copy()
            other[number] = option
            after = problem.value(other)
            assert cost[option] == pytest.approx(after[0] - before[0])
            np.testing.assert_allclose(rows[:, option], after[1] - before[1], atol=1e-9)


def test_limits_of_any_magnitude_are_kept_exactly() -> None:
    for magnitude in (1e-9, 1e-3, 1e6):
        for seed in range(20):
            small = random_problem(seed, 4, 4, 2, 3)
            problem = Problem(
                small.groups, small.cost * 1e-6, small.rows * magnitude, small.limits * magnitude, small.pairs,
                small.pair_cost * 1e-6, small.pair_rows * magnitude,
            )  # fmt: skip
            picks, best = exact(problem, 10.0)[0], brute_force(problem)
            assert (picks is None) == (best is None)
            if picks is not None:
                assert problem.feasible(problem.value(picks)[1])
                assert problem.value(picks)[0] == pytest.approx(best, rel=1e-6)


def test_a_thousand_units_of_twelve_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    units, costs, losses = random_model(0, 1000)
    limits = {"t0": 5e-3}
    sizes = []
    plain = exact

    def counted(problem: Problem, time_limit: float) -> tuple[np.ndarray | None, bool, bool]:
        sizes.append((len(problem.groups), len(problem.cost)))
        return plain(problem, time_limit)

    monkeypatch.setattr(module, "exact", counted)
    best = solve(units, costs, losses, limits, time_limit=60)
    assert best is not None and best.optimal and best.method == "milp"
    assert best.loss["t0"] <= 5e-3
    assert sizes[0][0] == 1000 and sizes[0][1] < 5000  # most of the 12,000 are dominated
    other = solve(units, costs, losses, limits, method="greedy")
    assert other is not None and not other.optimal and other.method == "greedy"
    assert other.loss["t0"] <= 5e-3
    assert best.cost * (1 - 1e-4) <= other.cost <= 1.01 * best.cost
