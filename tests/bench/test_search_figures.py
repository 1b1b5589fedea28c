"""From raw figures of the search's benchmarks to comparisons and floors: by hand-made figures whose answers are known."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("rich")

from planish.bench import bars, endtoend, fronts, promise, report, search, solvers
from planish.bench.chart import Point, front, scatter


def _times(**milliseconds: float) -> dict[str, dict[str, list[float]]]:
    return {name: {"wall": [ms, ms * 2, ms], "cpu": [ms, ms, ms]} for name, ms in milliseconds.items()}


def _minimum(**least: float) -> dict[str, dict[str, float]]:
    return {name: {"min": value, "p1": value, "mean": value} for name, value in least.items()}


OWN = bars.own_name(0.99)


def test_a_bar_is_compared_with_the_fastest_peer_that_holds_it() -> None:
    speed = _times(fast=5.0, good=9.0, slow=20.0) | {OWN: _times(x=6.0)["x"]}
    quality = _minimum(fast=0.98, good=0.9901, slow=1.0) | {OWN: _minimum(x=0.992)["x"]}
    found = bars.beside_peers(0.99, speed, quality, "wall")
    assert found is not None
    assert found["peer"] == "good" and found["ratio"] == pytest.approx(1.5) and found["holds"]
    assert bars.beside_peers(0.99, _times(fast=5.0), quality, "wall") is None


def test_a_bar_that_our_own_minimum_misses_is_not_met() -> None:
    speed = _times(good=9.0) | {OWN: _times(x=3.0)["x"]}
    quality = _minimum(good=0.995) | {OWN: _minimum(x=0.9899)["x"]}
    beside = bars.beside_peers(0.99, speed, quality, "wall")
    (first, *_) = bars.floors({"bars": {"0.99": beside}})
    assert first.met is None and "0.98990" in first.what


def test_a_peer_is_compared_with_what_of_ours_is_no_worse() -> None:
    speed = _times(peer=9.0) | {"planish a": _times(x=3.0)["x"], "planish b": _times(x=6.0)["x"]}
    quality = _minimum(peer=0.995) | {"planish a": _minimum(x=0.99)["x"], "planish b": _minimum(x=0.996)["x"]}
    assert bars.beside_front(speed, quality, "wall") == {"peer": {"own": "planish b", "ratio": pytest.approx(1.5)}}


def _point(value: float, ms: float, size: float, uniform: bool) -> dict[str, object]:
    return {"value": value, "median_ms": ms, "bytes": size, "uniform": uniform}


def test_gains_are_over_uniform_precisions_that_are_no_better_and_that_nothing_uniform_beats() -> None:
    points = {
        "all f32": _point(0.0, 10, 40, True),
        "all bf16": _point(1e-5, 6, 20, True),
        "all bad": _point(1e-3, 7, 30, True),  # bf16 is faster, smaller and better
        "all int8": _point(1e-3, 3, 10, True),
        "mixed": _point(1e-5, 4, 16, False),
        "rough": _point(1e-2, 1, 1, False),  # nothing uniform is as bad
    }
    rounds = {name: [float(p["median_ms"])] * 3 for name, p in points.items()}  # type: ignore[arg-type]
    found = {(g["kind"], g["uniform"]): (g["plan"], g["ratio"]) for g in fronts.gains(points, rounds, upward=False)}
    assert found == {
        ("latency", "all bf16"): ("mixed", pytest.approx(1.5)),
        ("latency", "all int8"): ("mixed", pytest.approx(0.75)),
        ("size", "all bf16"): ("mixed", pytest.approx(1.25)),
        ("size", "all int8"): ("mixed", pytest.approx(0.625)),
    }
    best = fronts.best_gains(points, rounds, upward=False)
    assert [(g["kind"], g["uniform"], g["plan"], g["ratio"]) for g in best] == [
        ("latency", "all int8", "rough", 3.0),
        ("size", "all int8", "rough", 10.0),
    ]
    model = {"best": best, "perplexity": {"w8a8": 1.0005}}
    faster, smaller, perplexity = fronts.floors({"models": {"m": model}})
    assert faster.met and smaller.met and perplexity.met
    assert perplexity.measured == pytest.approx(0.05)


def test_solvers_are_compared_at_equal_limits_and_at_equal_quality() -> None:
    def cell(plan: str, ms: float, lost: float) -> dict[str, object]:
        return {"plan": plan, "median_ms": ms, "lost": lost}

    rows = [
        {"limit": 0.1, "solvers": {"planish": cell("a", 4, 0.01), "greedy": cell("b", 5, 0.005)}},
        {"limit": 0.2, "solvers": {"planish": cell("c", 2, 0.04), "greedy": cell("d", 3, 0.02)}},
        {"limit": 0.3, "solvers": {"planish": cell("e", 3, 0.05), "greedy": cell("f", 3, 0.5)}},
    ]
    rounds = {"a": [4.0, 8.0], "b": [5.0, 10.0], "c": [2.0, 4.0], "d": [3.0, 6.0], "e": [3.0, 6.0], "f": [3.0, 6.0]}
    assert solvers.at_equal_limits(rows, rounds) == {"greedy": [1.25, 1.5, 1.0]}
    # nothing of ours is as good as b; d lies half way between a and c, where ours takes the root of 4 * 2; e is no use
    assert solvers.at_equal_quality(rows) == {"greedy": [pytest.approx(3 / 8**0.5), pytest.approx(1.5)]}


def test_a_promise_is_kept_when_the_share_of_good_inputs_reaches_the_coverage() -> None:
    runs = [{"share": 0.99}, {"share": 0.9899}, {"failed": "no plan"}]
    assert promise.kept(runs) == (1, 2)
    (floor,) = promise.floors({"models": {"m": {"runs": runs}}})
    assert floor.measured == 0.5 and not floor.met


def test_memory_is_judged_by_the_greediest_run() -> None:
    runs = [
        {"effort": "quick", "cache": "empty", "compile_s": 46.0, "peak_mb": 500},
        {"effort": "quick", "cache": "warm", "compile_s": 20.0, "peak_mb": 900},
    ]
    quick, standard, memory = endtoend.floors({"runs": runs, "eager": {"peak_mb": 400}})
    assert (quick.met, standard.met, memory.met) == (False, None, False)


def test_a_front_holds_what_nothing_beats() -> None:
    points = [Point(1, 9, "ours", "a"), Point(2, 9, "ours", "b"), Point(3, 1, "ours", "c"), Point(3, 2, "ours", "d")]
    assert [p.name for p in front(points)] == ["a", "c"]


def test_a_plot_is_well_formed_and_shows_every_point() -> None:
    points = [Point(10.0, 0.0, "peer", "a < b"), Point(5.0, 1e-3, "ours", "bar"), Point(6.0, 1e-4, "trial", "some")]
    root = ElementTree.fromstring(scatter("a & b", "note", "ms", "loss", points))
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert len(circles) == 3 and "a < b" in texts and "bar" in texts and "some" not in texts
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= 860 and 0 <= float(circle.attrib["cy"]) <= 460


def test_the_two_measured_sections_leave_each_other_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "RESULTS.md"
    report.write_results(path, "first")
    report.write_results(path, "second", (search.BEGIN, search.END))
    report.write_results(path, "third")
    text = path.read_text()
    assert "first" not in text and text.index("third") < text.index(search.BEGIN) < text.index("second")


def test_parts_are_named_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert search.options_of(["fronts", "--quick"]).parts == ["fronts"]
    assert search.options_of([]).parts == list(search.PARTS)
    with pytest.raises(SystemExit):
        search.options_of(["backs"])
    assert "bars, fronts" in capsys.readouterr().err
