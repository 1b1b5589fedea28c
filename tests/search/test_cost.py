"""The cost table: whose a launch is, what a mixed plan costs, what trials teach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from solver_cases import Part

from planish.compiler.errors import UsageError
from planish.compiler.target import LaunchCost
from planish.search.cost import CostTable

CANDIDATES = ("f32", "bf16", "w8a8")
UNITS = [
    Part("qkv", CANDIDATES, 300, ("q", "k", "v")),
    Part("attention", ("f32", "bf16"), 0, ("attn",)),
    Part("out", CANDIDATES, 100, ("out",)),
    Part("up", CANDIDATES, 400, ("up",)),
]
FLOAT = {"qkv": "f32", "attention": "f32", "out": "f32", "up": "f32"}
BF16 = dict.fromkeys(FLOAT, "bf16")
W8A8 = {"qkv": "w8a8", "attention": "bf16", "out": "w8a8", "up": "w8a8"}


def launch(
    seconds: float, *sources: str, anchor: tuple[str, ...] = (), weights: int = 0, spread: float = 0.0
) -> LaunchCost:
    return LaunchCost("k", "digest", sources, seconds, weights=weights, spread=spread, anchor=anchor)


def build(linear: float, attention: float, norm: float, size: int) -> list[LaunchCost]:
    """One layer: a norm, the linears (seconds per 100 parameters), attention; epilogues carry other sources along."""
    return [
        launch(norm, "norm", weights=8),
        launch(3 * linear, "q", "k", "v", anchor=("q", "k", "v"), weights=300 * size),
        launch(attention, "attn", "out", anchor=("attn",)),
        launch(linear, "out", "norm2", "up", anchor=("out",), weights=100 * size),
        launch(4 * linear, "up", "next", anchor=("up",), weights=400 * size),
    ]


def table() -> CostTable:
    return CostTable(
        UNITS,
        [(FLOAT, [build(10, 5, 2, 4)]), (BF16, [build(6, 3, 2, 2)]), (W8A8, [build(3, 3, 4, 1)])],
    )


# -- whose a launch is -------------------------------------------------------------------------------------------------
def test_a_launch_counts_for_what_it_is_built_around() -> None:
    costs = table()
    seconds = costs.seconds
    assert {name: seconds[name, "f32"] for name in FLOAT} == {"qkv": 30, "attention": 5, "out": 10, "up": 40}
    assert {name: costs.bytes[name, "f32"] for name in FLOAT} == {"qkv": 1200, "attention": 0, "out": 400, "up": 1600}
    assert (costs.fixed_seconds, costs.fixed_bytes) == (2, 8)
    assert seconds["attention", "bf16"] == 3 and costs.bytes["up", "w8a8"] == 400


def test_uniform_plans_cost_what_was_measured() -> None:
    costs = table()
    assert costs.predict(FLOAT) == pytest.approx((87, 3208))
    assert costs.predict(BF16) == pytest.approx((48 + 5, 1608))
    assert costs.predict(W8A8) == pytest.approx((24 + 3 + 4, 808))


def test_what_a_build_takes_beyond_its_units_goes_to_those_that_changed() -> None:
    seconds = table().seconds
    # The norm takes 2 s more, in proportion to the linears' float seconds; attention, which only goes along, bears nothing.
    assert seconds["qkv", "w8a8"] == pytest.approx(9 + 2 * 30 / 80)
    assert seconds["out", "w8a8"] == pytest.approx(3 + 2 * 10 / 80)
    assert seconds["attention", "bf16"] == 3


def test_rows_of_several_units_are_shared_by_parameters() -> None:
    rows = [launch(8.0, "out", "up", weights=10), launch(1.0, "attn", "nobody"), launch(0.5)]
    costs = CostTable(UNITS, [(FLOAT, [rows])])
    seconds = costs.seconds
    assert (seconds["out", "f32"], seconds["up", "f32"]) == pytest.approx((1.6, 6.4))
    assert (costs.bytes["out", "f32"], costs.bytes["up", "f32"]) == (2, 8)
    assert seconds["attention", "f32"] == 1.0
    assert seconds["qkv", "f32"] == 0.0
    assert costs.fixed_seconds == 0.5


def test_points_of_a_workload_are_weighted() -> None:
    points = [build(10, 5, 2, 4), build(20, 10, 4, 4)]
    costs = CostTable(UNITS, [(FLOAT, points)], shares=[0.75, 0.25])
    # The weights are the same at every point.
    assert costs.predict(FLOAT) == pytest.approx((0.75 * 87 + 0.25 * 174, 3208))
    assert CostTable(UNITS, [(FLOAT, points)]).predict(FLOAT)[0] == pytest.approx(87 * 1.5)
    with pytest.raises(UsageError, match="at each of the 3 points"):
        CostTable(UNITS, [(FLOAT, points)], shares=[0.5, 0.25, 0.25])
    with pytest.raises(UsageError, match="nothing to learn costs from"):
        CostTable(UNITS, [])


def test_a_plan_that_was_never_timed() -> None:
    with pytest.raises(UsageError, match="attention was not timed in w8a8"):
        table().predict({**W8A8, "attention": "w8a8"})
    with pytest.raises(UsageError, match="the plan says nothing of up"):
        table().predict({k: v for k, v in W8A8.items() if k != "up"})


# -- never slower ------------------------------------------------------------------------------------------------------
def test_what_does_not_pay_is_told() -> None:
    keys = {("up.3", "f32"): 120e-6, ("up.3", "w4a16"): 131e-6, ("up.3", "w8a16"): 119.8e-6, ("up.3", "w8a8"): 60e-6}
    words = CostTable.of(keys, dict.fromkeys(keys, 1.0)).never_slower()
    assert words == {
        ("up.3", "w4a16"): "up.3 in w4a16 takes 131 us, f32 takes 120 us: stays float",
        ("up.3", "w8a16"): "up.3 in w8a16 takes 120 us, f32 takes 120 us, which is no gain beyond the noise of 0.6 us: "
        "stays float",
    }


def test_a_gain_has_to_be_beyond_the_noise() -> None:
    seconds = {("u", "f32"): 100.0, ("u", "w8a8"): 96.0}
    size = dict.fromkeys(seconds, 1.0)
    quiet = CostTable.of(seconds, size, spread={("u", "f32"): 1.0, ("u", "w8a8"): 1.0})
    noisy = CostTable.of(seconds, size, spread={("u", "f32"): 5.0, ("u", "w8a8"): 5.0})
    assert not quiet.never_slower()
    assert list(noisy.never_slower()) == [("u", "w8a8")]
    clear = CostTable.of({("u", "f32"): 100.0, ("u", "w8a8"): 60.0}, size, spread=dict.fromkeys(size, 40.0))
    assert not clear.never_slower()  # however busy the machine was
    measured = CostTable(
        UNITS[:1], [(FLOAT, [[launch(4.0, "q", anchor=("q",), spread=0.3), launch(1.0, "k", spread=0.4)]])]
    )
    assert measured.spread["qkv", "f32"] == pytest.approx(0.5)  # errors of launches add up as variances


def test_a_pinned_unit_has_no_float_to_compare_with() -> None:
    pinned = {**FLOAT, "up": "w8a8"}
    costs = CostTable(UNITS, [(pinned, [build(10, 5, 2, 4)])])
    assert costs.never_slower() == {}
    assert costs.floats["up"] == "w8a8"


# -- learning ----------------------------------------------------------------------------------------------------------
def chain(count: int = 16) -> tuple[CostTable, list[str]]:
    names = [f"u{i}" for i in range(count)]
    figures = {"f32": 100e-6, "bf16": 55e-6, "w8a8": 30e-6}
    seconds = {(n, p): s for n in names for p, s in figures.items()}
    return CostTable.of(seconds, dict.fromkeys(seconds, 1.0), fixed_seconds=50e-6), names


def truth(costs: CostTable, assignment: Mapping[str, str], names: list[str]) -> float:
    """Calls cost a little around the launches, u3 is slower in int8 than it was alone, and changes of precision cost."""
    precisions = [assignment[n] for n in names]
    switches = sum(p != q and "w8a8" in (p, q) for p, q in pairwise(precisions))
    own = costs._uncorrected(assignment)
    return 1.01 * own + 8e-6 * switches + (10e-6 if assignment["u3"] == "w8a8" else 0.0)


def test_predictions_get_better_with_every_few_trials() -> None:
    costs, names = chain()
    rng = np.random.default_rng(0)

    def plans(count: int) -> list[dict[str, str]]:
        return [dict(zip(names, rng.choice(["f32", "bf16", "w8a8"], len(names)), strict=True)) for _ in range(count)]

    unseen, errors = plans(200), []
    for _ in range(4):
        errors.append(float(np.mean([abs(costs.predict(a)[0] / truth(costs, a, names) - 1) for a in unseen])))
        for assignment in plans(8):
            costs.observe(assignment, truth(costs, assignment, names) * float(rng.normal(1, 0.003)))
    assert errors[1] < 0.5 * errors[0]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01
    pairs = costs.pairs()
    assert pairs[("u0", "f32"), ("u1", "w8a8")] > 3e-6
    assert abs(pairs.get((("u0", "f32"), ("u1", "bf16")), 0.0)) < 3e-6


def test_one_trial_moves_its_prediction_most_of_the_way() -> None:
    costs, names = chain()
    plan = dict.fromkeys(names, "w8a8")
    before = costs.predict(plan)[0]
    costs.observe(plan, 1.1 * before)
    assert 1.06 * before < costs.predict(plan)[0] < 1.1 * before
    plain = dict.fromkeys(names, "f32")
    assert costs.predict(plain)[0] == pytest.approx(costs._uncorrected(plain), rel=0.05)


def test_a_noisy_minute_is_put_on_the_scale_of_the_table() -> None:
    costs, names = chain()
    plan = dict.fromkeys(names, "w8a8")
    before, plain = costs.predict(plan)[0], costs.predict(dict.fromkeys(names, "f32"))[0]
    costs.observe(plan, 1.5 * before, float_seconds=1.5 * plain)
    assert costs.predict(plan)[0] == pytest.approx(before)


def test_no_trial_makes_a_unit_free() -> None:
    costs, names = chain(2)
    for _ in range(20):
        costs.observe(dict.fromkeys(names, "w8a8"), 1e-9)
    assert all(s > 0 for s in costs.seconds.values())
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="is no measured time"):
            costs.observe(dict.fromkeys(names, "w8a8"), wrong)


def test_as_data() -> None:
    costs = table()
    costs.observe(W8A8, 33.0)
    again = CostTable.from_data(json.loads(json.dumps(costs.to_data())))
    for plan in (FLOAT, BF16, W8A8, {**W8A8, "up": "f32"}):
        assert again.predict(plan) == costs.predict(plan)
    assert again.pairs() == costs.pairs() and again.never_slower() == costs.never_slower()
