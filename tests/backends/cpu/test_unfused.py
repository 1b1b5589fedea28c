"""The report of a graph: what runs apart from its neighbours, in which words, and how equal findings share a line."""

from __future__ import annotations

from functools import cache

import pytest
import zoo_runs
from graph_harness import B, S, Sketch

from planish.backends.cpu.backend import BACKEND
from planish.compiler.graph import Graph, Value
from planish.compiler.pass_protocol import Note, PassContext
from planish.compiler.plan import Plan
from planish.compiler.report import Group, Launches, Unfused, globbed, grouped, near_misses
from planish.compiler.target import find_target
from planish.compiler.types import DType
from planish.driver import preset
from planish.passes.precision import CALIBRATION, PLAN


def report(graph: Graph, precision: str | None = None) -> tuple[Launches, list[Group]]:
    """What the CPU says of a graph after all its passes; nothing is built."""
    target = find_target("cpu:avx2")
    context = PassContext(target=target, data={PLAN: Plan.of(precision), CALIBRATION: []})
    result = preset(target).run(graph, context)
    launches, found = BACKEND.explain(graph, BACKEND.lower(graph, target))
    return launches, grouped([*found, *near_misses(result.notes)])


def linear(g: Sketch, x: Value, out: int = 8) -> Value:
    return g("linear", x, g.random(out, x.shape[-1]), g.random(out))


def reasons(g: Sketch) -> dict[str, str]:
    """Ops that stand apart, and why."""
    return {group.what: group.reason for group in report(g.graph)[1]}


def test_what_fuses_is_not_told() -> None:
    g = Sketch()
    g.output(g("layer_norm", g("gelu", linear(g, g("relu", g.input(B, S, 8)))), g.random(8), g.random(8)))
    launches, found = report(g.graph)
    assert found == []
    assert launches == Launches(ops=4, launches=1, fused=1, apart=0, copies=0)


def test_a_view_between() -> None:
    g = Sketch()
    g.output(g("exp", g("transpose", linear(g, g.input(B, S, 8)), perm=(0, 2, 1))))
    assert reasons(g) == {"exp": "after linear: a transposition in between; makes an output of the model"}


def test_attention_takes_nothing_in() -> None:
    g = Sketch()
    q, k, v = (g.input(B, 2, S, 8) for _ in range(3))
    g.output(g("tanh", g("attention", g("relu", q), k, v, scale=0.5)))
    assert reasons(g) == {
        "relu": "reads an input of the model; before attention: it takes in no op in front",
        "tanh": "after attention: it takes in no op that follows; makes an output of the model",
    }


def test_several_readers() -> None:
    g = Sketch()
    x, rows = g("exp", g.input(B, S, 8)), g.input(B, S, 8)
    g.output(linear(g, x), g("attention", *(g("reshape", v, shape=(B, 1, S, 8)) for v in (x, rows, rows)), scale=1.0))
    assert reasons(g)["exp"] == "reads an input of the model; 2 kernels read it (linear, attention)"


def test_other_types_and_other_rows() -> None:
    g = Sketch()
    whole = g("cast", linear(g, g.input(B, 4)), dtype=DType.i64)
    g.output(g("reduce_sum", whole, axes=(0,), keepdim=True))
    told = reasons(g)
    assert told["cast"].startswith("after linear: it does not take in i64 numbers")
    assert "a transposition in between" in told["reduce_sum"]


def test_copies_say_why() -> None:
    g = Sketch()
    g.output(*(g("transpose", g.input(B, S), perm=(1, 0)) for _ in range(2)))
    launches, found = report(g.graph)
    assert launches.copies == launches.launches == 2
    (copies,) = found
    assert (copies.kind, copies.count) == ("copy", 2)
    assert copies.reason == "an output has to lie in order, and transpose alone moves nothing"


def test_full_kernels() -> None:
    g = Sketch()
    x = g.input(B, S)
    for _ in range(60):
        x = g("add", g("tanh", x), x)
    g.output(x)
    assert any("a kernel holds at most" in group.reason for group in report(g.graph)[1])


def test_equal_findings_share_a_line() -> None:
    found = [
        Unfused("rule", "attention", "kept", "layer.0.a", None),
        *(Unfused("kernel", "mul", "why", f"layer.{i}.attention.mul", f"model.py:{7}") for i in (0, 1, 2)),
        Unfused("kernel", "mul", "why", "head.mul"),
        Unfused("kernel", "mul", "another reason", "layer.1.mul"),
    ]
    first, second, last = grouped(found)
    assert first.as_dict() == {
        "kind": "kernel", "what": "mul", "reason": "why", "count": 4, "where": ["layer.0..2.attention.mul", "head.mul"],
        "location": "model.py:7",
    }  # fmt: skip
    assert (second.reason, last.kind) == ("another reason", "rule")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a.0.b", "a.1.b"], ("a.0..1.b",)),
        (["a.0.b", "a.2.b"], ("a.*.b",)),
        (["a.3.b"], ("a.3.b",)),
        (["a.0.b.1", "a.1.b.1"], ("a.*.b.*",)),
        (["a.0.b.1"], ("a.0.b.1",)),
        (["", "x"], ("x",)),
    ],
)
def test_names_are_globbed(names: list[str], shown: tuple[str, ...]) -> None:
    assert globbed(names) == shown


def test_near_misses_are_findings() -> None:
    notes = [
        Note("found 2 times", by="recognize"),
        *(Note("a softmax stays apart", "miss", f"layer.{i}.softmax", "attention") for i in (0, 1)),
        *(Note(f"layer.{i}.q, layer.{i}.k stay apart", "miss", by="merge-linear") for i in (0, 1)),
    ]
    first, second = grouped(near_misses(notes))
    assert (first.what, first.count, first.where) == ("attention", 2, ("layer.0..1.softmax",))
    assert (second.what, second.count, second.reason) == ("merge-linear", 2, "layer.*.q, layer.*.k stay apart")


# -- the models of the issue ----------------------------------------------------------------------------------------------
@cache
def of_model(name: str, precision: str | None = None) -> tuple[Launches, tuple[Group, ...]]:
    attention = "eager" if "eager" in zoo_runs.zoo.MODELS[name].attentions else "sdpa"
    launches, found = report(zoo_runs.captured(name, attention).graph.copy(), precision)
    return launches, tuple(found)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5-encoder", "deberta"])
def test_models(name: str) -> None:
    """Every finding has a reason and a place, layers share lines, and the counts agree with the findings."""
    launches, found = of_model(name)
    assert launches.fused >= 3 * 2  # two layers: attention's output and both linears of the feed-forward
    assert launches.ops > launches.launches - launches.copies
    assert sum(g.count for g in found if g.kind == "kernel") == launches.apart
    assert sum(g.count for g in found if g.kind == "copy") == launches.copies
    assert all(g.reason and g.where for g in found if g.kind != "rule")
    per_layer = [g for g in found if any(".0..1." in place or ".*." in place for place in g.where)]
    assert all(g.count >= 2 for g in per_layer)
    assert len(found) <= 16


def test_the_layers_of_bert_hold_nothing_apart() -> None:
    assert not [g for g in of_model("bert")[1] if any("layer." in place for place in g.where)]


def test_linears_that_stay_apart_by_the_plan_are_told() -> None:
    plan = Plan.of({"*.query": "bf16", "*": "f32"})
    target = find_target("cpu:avx2")
    graph = zoo_runs.captured("bert", "sdpa").graph.copy()
    result = preset(target).run(graph, PassContext(target=target, data={PLAN: plan, CALIBRATION: []}))
    (found,) = [g for g in grouped(near_misses(result.notes)) if g.what == "merge-linear"]
    assert found.count == 2
    assert "encoder.layer.*.attention.self.query" in found.reason
    assert "the plan gives them different precisions (bf16, f32)" in found.reason
