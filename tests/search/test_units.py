"""What decides together, and what it may choose from."""

from __future__ import annotations

import numpy as np
import pytest

from planish.compiler.dims import symbol
from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph, Symbol, Value
from planish.compiler.plan import Plan
from planish.compiler.target import Capabilities
from planish.compiler.types import DType, TensorType, float_to_bf16
from planish.search.units import Unit, find_units, nodes_of, plan_of

ALL = ("f32", "bf16", "w8a8-dynamic", "w8a8", "w8a16", "w4a16", "w4a8")
RICH = Capabilities(
    {"linear": ALL, "conv": ("f32", "w8a8"), "attention": ("bf16", "f32"), "embedding": ("f32", "bf16")}
)
B = symbol("b")


def graph() -> Graph:
    g = Graph()
    g.symbols = {"b": Symbol("b", 1, 64)}
    return g


def weight(g: Graph, n: int, k: int, name: str = "w") -> Value:
    return g.add_constant(np.random.default_rng(n * k).standard_normal((n, k)).astype(np.float32), name)


def linear(g: Graph, x: Value, n: int, name: str, sources: tuple[str, ...] = ()) -> Value:
    inputs = [x, weight(g, n, int(x.shape[-1]), f"{name}.weight")]
    return g.insert("linear", inputs, name=name, sources=sources).output


def by_name(units: list[Unit]) -> dict[str, Unit]:
    return {u.name: u for u in units}


def test_linears_that_read_one_value_decide_together_through_views_too() -> None:
    g = graph()
    x = g.add_input("x", TensorType(DType.f32, (B, 4, 128)))
    gate, up = linear(g, x, 64, "mlp.gate"), linear(g, x, 64, "mlp.up")
    flat = g.insert("reshape", [x], {"shape": (B * 4, 128)}).output
    side = linear(g, flat, 32, "side")
    down = linear(g, g.insert("mul", [gate, up]).output, 128, "mlp.down")
    g.outputs = [down, side]
    units = find_units(g, RICH)
    assert [u.sources for u in units] == [("mlp.gate", "mlp.up", "side"), ("mlp.down",)]
    assert units[0].name == "mlp.gate+mlp.up+side" and units[0].parameters == 128 * (64 + 64 + 32)
    assert [n.name for n in nodes_of(g, units[0])] == ["mlp.gate", "mlp.up", "side"]


def test_merged_linears_keep_their_source_names_in_the_plan() -> None:
    g = graph()
    x = g.add_input("x", TensorType(DType.f32, (B, 128)))
    g.outputs = [linear(g, x, 384, "self.query+key+value", ("self.query", "self.key", "self.value"))]
    (unit,) = find_units(g, RICH)
    assert unit.name == "self.query+key+value"
    plan = plan_of([unit], {unit.name: "w8a8-dynamic"})
    assert [r.pattern for r in plan.rules] == ["self.query", "self.key", "self.value"]
    assert plan_of([unit], {unit.name: "f32"}).rules == () == plan_of([unit], {}).rules


def test_candidates_are_what_the_target_lists_and_the_layer_allows() -> None:
    g = graph()
    x = g.add_input("x", TensorType(DType.f32, (B, 96)))
    g.outputs = [linear(g, x, 128, "odd"), linear(g, g.insert("relu", [x]).output, 8, "even")]
    units = by_name(find_units(g, RICH))
    assert units["odd"].candidates == ("f32", "bf16", "w8a8-dynamic", "w8a8", "w8a16")
    assert units["odd"].refused["w4a16"] == "groups of 128 do not divide its 96 input channels"
    only = find_units(g, Capabilities({"linear": ("bf16", "f32")}))
    assert {u.candidates for u in only} == {("f32", "bf16")} and not any(u.refused for u in only)


def test_a_weight_computed_at_run_time_and_a_narrow_layer_have_less_choice() -> None:
    g = graph()
    x, w = g.add_input("x", TensorType(DType.f32, (B, 128))), g.add_input("w", TensorType(DType.f32, (8, 128)))
    b = g.add_input("b", TensorType(DType.bf16, (B, 128)))
    table = g.add_constant(float_to_bf16(np.ones((8, 128), np.float32)), "t", DType.bf16)
    g.outputs = [
        g.insert("linear", [x, w], name="free").output, g.insert("linear", [b, table], name="narrow").output,
    ]  # fmt: skip
    units = by_name(find_units(g, RICH))
    assert units["free"].candidates == ("f32", "bf16")
    assert units["free"].refused["w8a8"] == "its weight is computed at run time"
    assert units["narrow"].candidates == ("f32",) and units["narrow"].refused["bf16"] == "it computes in bf16 already"


def test_an_int32_sum_that_could_overflow_is_no_candidate() -> None:
    g = graph()
    x = g.add_input("x", TensorType(DType.f32, (B, 133_152)))
    g.outputs = [linear(g, x, 1, "deep")]
    (unit,) = find_units(g, RICH)
    assert "w8a8" in unit.refused and "int32" in unit.refused["w8a8-dynamic"] and "w8a16" in unit.candidates


def test_embeddings_convolutions_and_attention_are_units_and_a_tied_table_says_so() -> None:
    g = graph()
    ids = g.add_input("ids", TensorType(DType.i64, (B, 4)))
    table = weight(g, 50, 128, "table")
    first = g.insert("embedding", [table, ids], name="tokens").output
    again = g.insert("gather", [table, ids], {"axis": 0}, name="again").output
    x = g.insert("add", [first, again]).output
    image = g.insert("reshape", [x], {"shape": (B, 4, 8, 16)}).output
    g.insert("gather", [weight(g, 3, 4, "columns"), ids], {"axis": 1}, name="no rows")  # not a lookup of rows
    conv = g.insert(
        "conv", [image, g.add_constant(np.ones((4, 4, 1, 1), np.float32), "k")],
        {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}, name="patch",
    ).output  # fmt: skip
    attended = g.insert("attention", [conv, conv, conv], {"scale": 1.0}, name="self").output
    back = g.insert("reshape", [attended], {"shape": (B, 4, 128)}).output
    g.outputs = [g.insert("linear", [back, table], name="head").output]
    units = by_name(find_units(g, RICH))
    assert {u.name: u.kind for u in units.values()} == {
        "tokens+again": "embedding", "patch": "conv", "self": "attention", "head": "linear",
    }  # fmt: skip
    assert units["tokens+again"].tied == ("head",) and units["head"].tied == ("tokens+again",)
    assert units["tokens+again"].candidates == ("f32", "bf16") and units["patch"].candidates == ("f32", "w8a8")
    assert units["self"].candidates == ("f32", "bf16") and units["self"].parameters == 0


def test_pins_leave_one_candidate_and_stay_in_front_of_the_plan() -> None:
    g = graph()
    ids = g.add_input("ids", TensorType(DType.i64, (B,)))
    x = g.insert("embedding", [weight(g, 9, 128, "table"), ids], name="tokens").output
    a = linear(g, x, 128, "layer.0.a")
    g.outputs = [linear(g, a, 128, "layer.1.a"), linear(g, a, 64, "layer.1.b")]
    pins = Plan.of({"layer.1.b": "f32", "layer.0.*": "bf16", "*.never": "bf16"})
    units = find_units(g, RICH, pins)
    assert [(u.name, u.candidates) for u in units] == [
        ("tokens", ("f32", "bf16")), ("layer.0.a", ("bf16",)), ("layer.1.a", units[2].candidates), ("layer.1.b", ("f32",)),
    ]  # fmt: skip
    assert len(units[2].candidates) == len(ALL) and units[1].refused["f32"] == "pinned to bf16"
    plan = plan_of(units, {"layer.0.a": "bf16", "layer.1.a": "w8a8"}, pins)
    assert plan.rules[:3] == pins.rules
    assert {s: plan.precision_for(s).name for u in units for s in u.sources} == {
        "tokens": "f32", "layer.0.a": "bf16", "layer.1.a": "w8a8", "layer.1.b": "f32",
    }  # fmt: skip


def test_a_wildcard_pins_no_embedding_and_an_exact_name_does() -> None:
    g = graph()
    ids = g.add_input("ids", TensorType(DType.i64, (B,)))
    x = g.insert("embedding", [weight(g, 9, 128, "table"), ids], name="tokens").output
    g.outputs = [linear(g, x, 128, "a")]
    assert find_units(g, RICH, Plan.of("w8a8-dynamic"))[0].candidates == ("f32", "bf16")
    assert find_units(g, RICH, Plan.of({"tokens": "bf16"}))[0].candidates == ("bf16",)


def test_misuse_is_one_sentence() -> None:
    g = graph()
    x = g.add_input("x", TensorType(DType.f32, (B, 96)))
    g.outputs = [linear(g, x, 8, "odd")]
    with pytest.raises(UsageError, match="odd cannot be w4a16: groups of 128"):
        find_units(g, RICH, Plan.of({"odd": "w4a16"}))
    units = find_units(g, RICH)
    with pytest.raises(UsageError, match="no decision unit 'even'"):
        plan_of(units, {"even": "f32"})
    with pytest.raises(UsageError, match="odd cannot be w4a16: groups of 128"):
        plan_of(units, {"odd": "w4a16"})
