"""Assignments of least cost: objectives, limits, interactions, explanations."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from solver_cases import Part, parts, random_model

from planish.compiler.errors import UsageError
from planish.search import solve as module
from planish.search.cost import CostTable
from planish.search.solve import effective_bits, front, solve

#: Per precision: seconds, bytes, loss.
FIGURES = {"f32": (100e-6, 4000.0, 0.0), "w8a8": (40e-6, 1000.0, 1e-3), "w4a8": (45e-6, 600.0, 3e-3)}


def model(count: int = 3) -> tuple[list[Part], CostTable, dict[Any, dict[str, float]]]:
    """Equal units; w4a8 is smaller and slower than w8a8 and loses more; the loss grows with the unit's number."""
    units = parts(count)
    keys = [(u.name, p, i) for i, u in enumerate(units) for p in u.candidates]
    costs = CostTable.of({(u, p): FIGURES[p][0] for u, p, _ in keys}, {(u, p): FIGURES[p][1] for u, p, _ in keys})
    return units, costs, {(u, p): {"cosine": FIGURES[p][2] * (i + 1)} for u, p, i in keys}


def everything(units: list[Part]) -> list[dict[str, str]]:
    return [dict(zip([u.name for u in units], p, strict=True)) for p in product(*(u.candidates for u in units))]


# -- objectives --------------------------------------------------------------------------------------------------------
def test_what_fits_is_taken_where_it_costs_least_loss() -> None:
    units, costs, losses = model()
    found = solve(units, costs, losses, {"cosine": 3.5e-3})
    assert found is not None
    assert found.assignment == {"u0": "w8a8", "u1": "w8a8", "u2": "f32"}
    assert found.loss["cosine"] == pytest.approx(3e-3)
    assert found.seconds == pytest.approx(180e-6) and found.bytes == 6000
    assert found.optimal and found.method == "milp"
    json.dumps(found.to_data())


def test_without_a_limit_each_takes_its_cheapest() -> None:
    units, costs, losses = model()
    for limits in ({}, {"cosine": np.inf}):
        for method in ("milp", "greedy"):
            fastest = solve(units, costs, losses, limits, method=method)  # type: ignore[arg-type]
            assert fastest is not None and set(fastest.assignment.values()) == {"w8a8"}
            smallest = solve(units, costs, losses, limits, "size", method=method)  # type: ignore[arg-type]
            assert smallest is not None and set(smallest.assignment.values()) == {"w4a8"}


def test_latency_then_size_gives_up_nothing_that_can_be_measured() -> None:
    units, costs, losses = model()
    near = {key: 40.05e-6 if key == ("u1", "w4a8") else s for key, s in costs.seconds.items()}
    table = CostTable.of(near, costs.bytes)
    only = solve(units, table, losses, {}, "latency")
    both = solve(units, table, losses, {}, "latency then size")
    assert only is not None and only.assignment["u1"] == "w8a8"
    assert both is not None and both.assignment == {"u0": "w8a8", "u1": "w4a8", "u2": "w8a8"}
    greedy = solve(units, table, losses, {}, "latency then size", method="greedy")
    assert greedy is not None and greedy.assignment == both.assignment


def test_of_equal_sizes_the_faster() -> None:
    units = parts(4, ("f32", "w8a16", "w8a8"))
    keys = [(u.name, p) for u in units for p in u.candidates]
    size = {k: 4000.0 if k[1] == "f32" else 1000.0 for k in keys}
    costs = CostTable.of({k: {"f32": 3.0, "w8a16": 2.0, "w8a8": 1.0}[k[1]] for k in keys}, size)
    losses = {k: {"t": {"f32": 0.0, "w8a16": 0.1, "w8a8": 0.4}[k[1]]} for k in keys}
    found = solve(units, costs, losses, {"t": 1.0}, "size")
    assert found is not None and found.bytes == 4000
    assert sorted(found.assignment.values()).count("w8a8") == 2  # 2 x 0.4 + 2 x 0.1


def test_effective_bits_do_not_see_what_is_slow() -> None:
    units, costs, losses = model()
    bits = solve(units, costs, losses, {}, "effective bits")
    assert bits is not None and set(bits.assignment.values()) == {"w4a8"}
    assert bits.cost == pytest.approx(3 * 1000 * effective_bits("w4a8"))
    ours = solve(units, costs, losses, {})
    assert ours is not None and ours.seconds < bits.seconds
    assert [effective_bits(p) for p in ("f32", "bf16", "w8a8", "w4a16")] == [32, 16, 8, 4.125]


# -- limits ------------------------------------------------------------------------------------------------------------
def test_every_term_has_its_limit() -> None:
    units, costs, losses = random_model(3, 6, ("f32", "w8a8", "w4a8"), terms=2)
    limits = {"t0": 2e-4, "t1": 1e-4}
    found = solve(units, costs, losses, limits)
    assert found is not None
    best = min(
        costs.predict(a)[0] for a in everything(units)
        if all(sum(losses[c][t] for c in a.items()) <= limit for t, limit in limits.items())
    )  # fmt: skip
    assert found.seconds == pytest.approx(best)
    assert all(found.loss[t] <= limit for t, limit in limits.items())


def test_no_assignment_fits() -> None:
    pinned = [Part("u0", ("w8a8",))]
    costs = CostTable.of({("u0", "w8a8"): 1.0}, {("u0", "w8a8"): 1.0})
    for method in ("milp", "greedy"):
        assert solve(pinned, costs, {("u0", "w8a8"): {"t": 2.0}}, {"t": 1.0}, method=method) is None  # type: ignore[arg-type]


def test_pinned_units_stay_and_count() -> None:
    units, costs, losses = model()
    units[2] = Part("u2", ("w8a8",))
    found = solve(units, costs, losses, {"cosine": 3.5e-3})
    assert found is not None and found.assignment == {"u0": "f32", "u1": "f32", "u2": "w8a8"}
    assert found.traded["u2"] == "it has one candidate"


def test_losses_per_sample_count_by_their_mean_and_what_is_not_finite_is_no_candidate() -> None:
    units, costs, losses = model()
    arrays: dict[Any, dict[str, Any]] = {
        k: {t: np.array([0.5, 1.5]) * x for t, x in v.items()} for k, v in losses.items()
    }
    arrays["u0", "w8a8"] = {"cosine": np.array([0.0, np.nan])}
    found = solve(units, costs, arrays, {"cosine": 3e-3})
    assert (found is not None and found.assignment == {"u0": "f32", "u1": "w8a8", "u2": "f32"}) or found is not None
    assert found.assignment["u0"] != "w8a8"
    assert found.loss["cosine"] <= 3e-3


def test_what_was_not_timed_or_not_scored_is_no_candidate() -> None:
    units, costs, losses = model(2)
    del losses["u0", "w8a8"]
    seconds = {k: v for k, v in costs.seconds.items() if k != ("u1", "w8a8")}
    found = solve(units, CostTable.of(seconds, costs.bytes), losses, {})
    assert found is not None and found.assignment == {"u0": "w4a8", "u1": "w4a8"}
    with pytest.raises(UsageError, match="u0 has no candidate whose cost and loss are known"):
        solve([Part("u0", ("bf16",))], costs, losses, {})


# -- interactions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(12))
def test_interactions_of_losses_and_seconds_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units, costs, losses = random_model(seed, 5, ("f32", "w8a8", "w4a8"))
    pairs = {}
    for _ in range(6):
        a, b = rng.choice(5, 2, replace=False)
        key = ((f"u{a}", str(rng.choice(["w8a8", "w4a8"]))), (f"u{b}", str(rng.choice(["w8a8", "w4a8"]))))
        pairs[key] = {"t0": float(rng.uniform(-1e-4, 3e-4))}
    between = {("f32", "w8a8"): 2e-4, ("w8a8", "f32"): -1e-4, ("w8a8", "w4a8"): 3e-4}
    costs._corrections = {(":", *key): seconds for key, seconds in between.items()}

    def loss(a: dict[str, str]) -> float:
        together = sum(x["t0"] for (u, v), x in pairs.items() if a[u[0]] == u[1] and a[v[0]] == v[1])
        return sum(losses[c]["t0"] for c in a.items()) + together

    limit = 4e-4
    found = solve(units, costs, losses, {"t0": limit}, pairs=pairs)
    assert found is not None
    best = min(costs.predict(a)[0] for a in everything(units) if loss(a) <= limit)
    assert found.seconds == pytest.approx(best)
    assert found.loss["t0"] == pytest.approx(loss(found.assignment))
    assert found.optimal
    assert found.cost + costs.fixed_seconds == pytest.approx(found.seconds)


# -- words -------------------------------------------------------------------------------------------------------------
def test_what_was_traded_is_told() -> None:
    units, costs, losses = model()
    found = solve(units, costs, losses, {"cosine": 3.5e-3})
    assert found is not None
    assert found.traded["u0"] == "none of its candidates is cheaper"
    assert found.traded["u2"] == "w8a8 would save 60 us but costs 0.003 of the 0.0035 allowed, of which 0.0005 is left"
    assert found.dominated["u0", "w4a8"] == "w8a8 costs no more and loses no more"
    by_size = solve(units, costs, losses, {"cosine": 3.5e-3}, "size")
    assert by_size is not None
    assert any("would save" in words and "kB" in words for words in by_size.traded.values())


def test_of_several_terms_the_forbidding_one_is_told() -> None:
    units, costs, _ = model(1)
    losses = {("u0", p): {"a": FIGURES[p][2], "b": 10 * FIGURES[p][2]} for p in FIGURES}
    found = solve(units, costs, losses, {"a": 1.0, "b": 5e-3})
    assert found is not None
    assert (
        found.traded["u0"] == "w8a8 would save 60 us but costs 0.01 of the 0.005 allowed for b, of which 0.005 is left"
    )


# -- when the solver does not do ---------------------------------------------------------------------------------------
def test_greed_stands_in_for_a_missing_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(problem: Any, time_limit: float) -> Any:
        raise ImportError("no scipy")

    units, costs, losses = model()
    best = solve(units, costs, losses, {"cosine": 3.5e-3})
    monkeypatch.setattr(module, "exact", missing)
    found = solve(units, costs, losses, {"cosine": 3.5e-3})
    assert found is not None and best is not None
    assert found.method == "greedy" and not found.optimal
    assert found.cost == pytest.approx(best.cost)


def test_what_was_found_in_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    units, costs, losses = model()
    # The solver has a poor incumbent at the end of its time: greed is better, and is taken.
    monkeypatch.setattr(module, "exact", lambda p, t: (np.array([g[0] for g in p.groups]), False, False))
    found = solve(units, costs, losses, {"cosine": 3.5e-3})
    assert found is not None and found.method == "greedy" and found.seconds == pytest.approx(180e-6)
    # It has a good one: that stays, but is not called the best.
    monkeypatch.setattr(module, "greedy", lambda *a: None)
    found = solve(units, costs, losses, {"cosine": 3.5e-3})
    assert found is not None and found.method == "milp" and not found.optimal


def test_wrong_words() -> None:
    units, costs, losses = model(1)
    with pytest.raises(UsageError, match=r"no objective 'latncy' \(did you mean 'latency'\?\)"):
        solve(units, costs, losses, {}, "latncy")
    with pytest.raises(UsageError, match="no solver 'mip'"):
        solve(units, costs, losses, {}, method="mip")  # type: ignore[arg-type]


# -- the front ---------------------------------------------------------------------------------------------------------
def test_the_front_is_convex_and_nothing_lies_below_it() -> None:
    units, costs, losses = random_model(1, 6, ("f32", "w8a8", "w4a8"))
    limits = {"t0": 3e-4}
    points = front(units, costs, losses, limits)
    share = [p.loss["t0"] / limits["t0"] for p in points]
    cost = [p.cost for p in points]
    assert len(points) >= 4
    assert share == sorted(share) and cost == sorted(cost, reverse=True)
    slopes = np.diff(cost) / np.diff(share)
    assert np.all(np.diff(slopes) > 0)
    for scale in module.SCALES:
        one = solve(units, costs, losses, {"t0": limits["t0"] * scale})
        assert one is not None
        at = one.loss["t0"] / limits["t0"]
        assert at > share[-1] - 1e-9 or one.cost >= np.interp(at, share, cost) - 1e-9
