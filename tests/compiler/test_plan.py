"""Plans: where they are read from, how shorthands expand, which rule decides, and what a user is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph
from planish.compiler.plan import PRECISIONS, Plan, Precision, Rule, Scheme, find_precision
from planish.compiler.precision import kind_of_node
from planish.compiler.target import Capabilities
from planish.compiler.types import DType, TensorType

WITH_BF16 = Capabilities({"linear": ("f32", "bf16", "w8a8-dynamic"), "attention": ("f32", "bf16"), "rest": ("f32",)})
WITHOUT = Capabilities({"linear": ("f32", "bf16", "w8a8-dynamic"), "attention": ("f32",), "rest": ("f32",)})


def model() -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.f32, (1, 2, 4, 4)))
    for layer in range(2):
        w = graph.add_constant(np.eye(4, dtype=np.float32), f"w{layer}")
        x = graph.insert("linear", [x, w], name=f"encoder.layer.{layer}.dense").output
        x = graph.insert("attention", [x, x, x], {"scale": 1.0}, name=f"encoder.layer.{layer}.self").output
        x = graph.insert("layer_norm", [x], name=f"encoder.layer.{layer}.norm").output
    graph.outputs = [x]
    return graph


def by_name(plan: Plan, capabilities: Capabilities = WITH_BF16) -> dict[str, str]:
    return plan.resolve(model(), capabilities).by_source()


# -- precisions -----------------------------------------------------------------------------------------------------------
def test_named_precisions_are_as_the_numbers_contract_says() -> None:
    p = find_precision("w8a8-dynamic")
    assert p.weight == Scheme("i8", "channel") and p.activation == Scheme("i8", "row", dynamic=True)
    assert (p.accumulator, p.output) == (DType.i32, DType.f32)
    assert PRECISIONS["bf16"].weight.is_float and PRECISIONS["bf16"].accumulator is DType.f32
    assert set(PRECISIONS) == {
        *("f32", "bf16", "f16", "fp8", "w8a8", "w8a8-dynamic", "w8a16"),
        *("w4a16", "w4a16-g64", "w4a16-g32", "w4a8", "w4a8-g64", "w4a8-g32"),
    }
    assert PRECISIONS["w4a16"].weight == Scheme("i4", "group", 128) and PRECISIONS["w4a16"].activation == Scheme("bf16")
    assert PRECISIONS["w4a8-g32"].weight.group_size == 32 and PRECISIONS["w4a8-g32"].activation == p.activation
    assert all(name == p.name for name, p in PRECISIONS.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int8", "the precision 'int8' does not say what becomes of the activations (did you mean 'w8a8-dynamic'?)"),
        ("INT4", "the precision 'INT4' does not say what becomes of the activations (did you mean 'w4a16'?)"),
        ("float32", "there is no precision 'float32' (did you mean 'f32'?)"),
        ("bfloat16", "there is no precision 'bfloat16' (did you mean 'bf16'?)"),
        ("w8a8-dynamc", "there is no precision 'w8a8-dynamc' (did you mean 'w8a8-dynamic'?)"),
        (
            "?",
            "there is no precision '?' (there is bf16, f16, f32, fp8, w4a16, w4a16-g32, w4a16-g64, "
            "w4a8, w4a8-g32, w4a8-g64, w8a16, w8a8, w8a8-dynamic)",
        ),
    ],
)
def test_unknown_precisions(name: str, message: str) -> None:
    for attempt in (lambda: Plan.of(name), lambda: Plan.of({"*": name}), lambda: Plan.of_arguments([f"*={name}"])):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert str(caught.value) == message


# -- reading --------------------------------------------------------------------------------------------------------------
def test_what_a_plan_is_read_from(tmp_path: Path) -> None:
    both = Plan((Rule("encoder.*", PRECISIONS["bf16"]), Rule("*", PRECISIONS["w8a8-dynamic"])))
    file = tmp_path / "plan.toml"
    file.write_text(both.to_toml())
    assert Plan.of({"encoder.*": "bf16", "*": "w8a8-dynamic"}) == both
    assert Plan.of(file) == Plan.of(str(file)) == Plan.of(both) == both
    assert Plan.of_arguments(["w8a8-dynamic", "encoder.*=bf16"]) == both
    assert Plan.of(json.loads(json.dumps(both.to_data()))) == both
    assert Plan.of(None) == Plan() == Plan.of_arguments([])
    assert Plan.of("bf16") == Plan.of(PRECISIONS["bf16"]) == Plan((Rule("*", PRECISIONS["bf16"]),))
    assert [str(p) for p in (both, Plan(), Plan.of("bf16"))] == ["encoder.*=bf16, *=w8a8-dynamic", "f32", "bf16"]


@given(
    st.lists(
        st.builds(
            Rule,
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.sampled_from(list(PRECISIONS.values()))
            | st.builds(
                Precision,
                st.text(st.characters(exclude_categories=["Cs", "Cc"])),
                st.builds(Scheme, st.just("i4"), st.just("group"), st.integers(0, 512), st.booleans(), st.booleans()),
                st.just(Scheme("f16")),
                st.sampled_from(DType),
                st.sampled_from(DType),
            ),
        ),
        max_size=4,
    ).map(tuple)
)
def test_toml_round_trip(rules: tuple[Rule, ...]) -> None:
    assert Plan.from_toml(Plan(rules).to_toml()) == Plan(rules)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version = ", "it is no TOML: "),
        ("version = 2", "it has version 2, only 1 is understood"),
        ("rule = []", "it has version None, only 1 is understood"),
        ("version = 1\nrules = 3", "it holds rules, version (it holds version and [[rule]] entries)"),
        ("version = 1\n[[rule]]\nmatch = '*'", "rule 1 must have exactly `match` and `precision`"),
        ("version = 1\n[[rule]]\nmatch = '*'\nprecision = 3", "3 is no precision"),
        ("version = 1\n[[rule]]\nmatch = '*'\nprecision = 'int8'", "did you mean 'w8a8-dynamic'?"),
        (
            "version = 1\n[[rule]]\nmatch = '*'\nprecision = { name = 'mine' }",
            "is incomplete or has a wrong entry: 'weight'",
        ),
    ],
)
def test_wrong_plan_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        Plan.read(file)
    assert str(caught.value).startswith(f"the plan {file}: ") and message in str(caught.value)


def test_plan_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the plan .*no\.toml cannot be read: No such file"):
        Plan.of(str(tmp_path / "no.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="it is no text"):
        Plan.of(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "3 is no precision"),
        ({3: "bf16"}, "3 is no pattern of source names"),
        ({"*": 3}, "3 is no precision"),
        ([{"match": "*"}], "rule 1 must have exactly `match` and `precision`"),
        (["bf16"], "rule 1 must have exactly `match` and `precision`"),
    ],
)
def test_what_is_no_plan(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Plan.of(given)
    assert message in str(caught.value)


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="--precision is given twice without a pattern"):
        Plan.of_arguments(["bf16", "f32"])
    with pytest.raises(UsageError, match="--precision '=bf16' has no pattern"):
        Plan.of_arguments(["=bf16"])


# -- deciding -------------------------------------------------------------------------------------------------------------
def test_a_shorthand_expands_by_kind_of_op() -> None:
    names = by_name(Plan.of("w8a8-dynamic"))
    assert names["encoder.layer.0.dense"] == "w8a8-dynamic"
    assert names["encoder.layer.0.self"] == "bf16" and "encoder.layer.0.norm" not in names
    assert by_name(Plan.of("w8a8-dynamic"), WITHOUT)["encoder.layer.0.self"] == "f32"
    assert set(by_name(Plan()).values()) == set(by_name(Plan.of("f32")).values()) == {"f32"}


def test_the_expansion_is_recorded() -> None:
    resolution = Plan.of({"encoder.layer.0.*": "bf16", "*": "w8a8-dynamic"}).resolve(model(), WITHOUT)
    assert resolution.expansion == {
        "encoder.layer.0.*": {"linear": "bf16", "conv": "bf16", "attention": "f32", "embedding": "f32", "rest": "f32"},
        "*": {"linear": "w8a8-dynamic", "conv": "f32", "attention": "f32", "embedding": "f32", "rest": "f32"},
    }
    assert resolution.conflicts == ()
    assert {n.name: p.name for n, p in resolution.precisions.items() if n.op == "layer_norm"} == {
        "encoder.layer.0.norm": "f32",
        "encoder.layer.1.norm": "f32",
    }


def test_the_first_match_wins() -> None:
    names = by_name(Plan.of({"*.1.dense": "f32", "encoder.*": "bf16", "*": "w8a8-dynamic"}))
    assert (names["encoder.layer.0.dense"], names["encoder.layer.1.dense"]) == ("bf16", "f32")
    names = by_name(Plan.of({"encoder.layer.[1-9].*": "bf16"}))
    assert (names["encoder.layer.0.dense"], names["encoder.layer.1.dense"]) == ("f32", "bf16")


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("encoder.layr.0.*", "did you mean 'encoder.layer.0.*'?"),
        ("encoder.layer.0", "did you mean 'encoder.layer.0.*'?"),
        ("layer.0.*", "did you mean '*.layer.0.*'?"),
        ("encoder.layer.0.dens", "did you mean 'encoder.layer.0.dense'?"),
        ("zzzz", "names of the model are encoder.layer.0.dense, encoder.layer.0.self, encoder.layer.0.norm, ..."),
    ],
)
def test_a_pattern_that_matches_nothing(pattern: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        by_name(Plan.of({pattern: "bf16", "*": "f32"}))
    assert str(caught.value) == f"the pattern {pattern!r} matches no part of the model ({hint})"


@pytest.mark.parametrize("name", ["w4a16", "w4a8", "w8a16", "fp8", "f16", "w8a8"])
def test_precisions_the_target_lacks(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        by_name(Plan.of(name))
    assert str(caught.value) == f"the target has no kernel for a linear in {name} (it has f32, bf16, w8a8-dynamic)"


def test_linears_of_different_precision_do_not_agree() -> None:
    graph = model()
    linears = [n for n in graph.nodes if n.op == "linear"]
    plan = Plan.of({"*.1.dense": "bf16", "*": "w8a8-dynamic"})
    assert (
        plan.agree(linears) == "the plan wants w8a8-dynamic for encoder.layer.0.dense, bf16 for encoder.layer.1.dense"
    )
    assert Plan.of("bf16").agree(linears) is None


def test_a_node_of_conflicting_sources_is_reported() -> None:
    graph = model()
    node = next(n for n in graph.nodes if n.op == "linear")
    node.sources = (node.name, "encoder.layer.0.extra")
    resolution = Plan.of({"*.extra": "bf16", "*": "w8a8-dynamic"}).resolve(graph, WITH_BF16)
    assert resolution.precisions[node].name == "w8a8-dynamic"
    (conflict,) = resolution.conflicts
    assert "w8a8-dynamic for encoder.layer.0.dense, bf16 for encoder.layer.0.extra" in conflict


# -- convolutions, embeddings, methods ------------------------------------------------------------------------------------
WITH_ALL = Capabilities({
    "linear": ("f32", "bf16", "w8a8-dynamic", "w8a8", "w8a16", "w4a16-g32"),
    "conv": ("f32", "w8a8"),
    "attention": ("bf16", "f32"),
    "embedding": ("f32", "bf16", "w8a16"),
    "rest": ("f32",),
})  # fmt: skip


def mixed() -> Graph:
    """An embedding, a lookup that is none, a convolution, and a linear and an attention of one module."""
    graph = Graph()
    ids = graph.add_input("ids", TensorType(DType.i64, (4,)))
    image = graph.add_input("image", TensorType(DType.f32, (1, 3, 8, 8)))
    table = graph.add_constant(np.zeros((10, 4), np.float32), "table")
    words = graph.insert("embedding", [table, ids], name="words").output
    graph.insert("gather", [table, ids], {"axis": 0}, name="places")
    graph.insert("gather", [table, ids], {"axis": 1}, name="columns")
    graph.insert("gather", [words, ids], {"axis": 0}, name="picked")
    kernel = graph.add_constant(np.zeros((5, 3, 3, 3), np.float32), "kernel")
    attrs = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    graph.insert("conv", [image, kernel], attrs, name="stem")
    weight = graph.add_constant(np.eye(4, dtype=np.float32), "w")
    x = graph.insert("linear", [words, weight], name="block").output
    four = graph.insert("reshape", [x], {"shape": (1, 1, 4, 4)}, name="block").output
    graph.outputs = [graph.insert("attention", [four, four, four], {"scale": 1.0}, name="block").output]
    return graph


def by_node(plan: Plan, capabilities: Capabilities = WITH_ALL) -> dict[str, str]:
    found = plan.resolve(mixed(), capabilities).precisions
    return {f"{n.name}:{n.op}": p.name for n, p in found.items() if n.op != "reshape"}


def test_kinds_of_nodes() -> None:
    kinds = {f"{n.name}:{n.op}": kind_of_node(n) for n in mixed().nodes if n.op not in ("constant", "reshape")}
    assert kinds == {
        "words:embedding": "embedding", "places:gather": "embedding", "columns:gather": "rest", "picked:gather": "rest",
        "stem:conv": "conv", "block:linear": "linear", "block:attention": "attention",
    }  # fmt: skip


def test_convolutions_take_a_shorthand_where_the_target_has_it() -> None:
    assert by_node(Plan.of("w8a8"))["stem:conv"] == "w8a8"
    assert by_node(Plan.of("w8a8-dynamic"))["stem:conv"] == "f32"
    silent = Capabilities({"linear": ("f32", "bf16", "w8a8-dynamic")})
    assert by_node(Plan.of("bf16"), silent)["stem:conv"] == "bf16"
    assert by_node(Plan.of("w8a8-dynamic"), silent)["stem:conv"] == "f32"


def test_only_an_exact_name_decides_an_embedding() -> None:
    for wildcard in ({"*": "w8a16"}, {"word*": "w8a16"}, {"[w]ords": "w8a16"}, {"word?": "w8a16"}):
        assert by_node(Plan.of(wildcard))["words:embedding"] == "f32"
    names = by_node(Plan.of({"words": "w8a16", "places": "bf16", "*": "w8a8-dynamic"}))
    assert (names["words:embedding"], names["places:gather"], names["block:linear"]) == (
        "w8a16",
        "bf16",
        "w8a8-dynamic",
    )
    assert Rule("a[*]b[[]", PRECISIONS["f32"]).is_exact and Rule("a[*]b[[]", PRECISIONS["f32"]).matches("a*b[")


def test_a_linear_and_an_attention_of_one_name() -> None:
    names = by_node(Plan.of({"block": "w8a8-dynamic"}))
    assert (names["block:linear"], names["block:attention"]) == ("w8a8-dynamic", "bf16")


def test_what_is_asked_for_by_name_and_not_there_is_said() -> None:
    resolution = Plan.of({"stem": "w8a8-dynamic", "words": "w4a16-g32"}).resolve(mixed(), WITH_ALL)
    assert resolution.unmet == (
        "words is computed in f32: there is no embedding in w4a16-g32 on this target",
        "stem is computed in f32: there is no conv in w8a8-dynamic on this target",
    )
    assert Plan.of({"s*": "w8a8-dynamic"}).resolve(mixed(), WITH_ALL).unmet == ()
    bare = Capabilities({"linear": ("f32",), "embedding": ("f32", "w8a16")})
    assert by_node(Plan.of({"words": "w8a16"}), bare)["words:embedding"] == "w8a16"
    with pytest.raises(UsageError, match="no kernel for a linear in w8a16"):
        by_node(Plan.of({"block": "w8a16"}), bare)


def test_a_merged_node_is_what_its_sources_ask_for() -> None:
    graph = model()
    node = next(n for n in graph.nodes if n.op == "linear")
    node.name, node.sources = "encoder.layer.0.q+k", ("encoder.layer.0.q", "encoder.layer.0.k")
    plan = Plan.of({"encoder.layer.0.q": "bf16", "encoder.layer.0.k": "bf16", "*": "w8a8-dynamic"})
    resolution = plan.resolve(graph, WITH_BF16)
    assert resolution.precisions[node].name == "bf16" and not resolution.conflicts
    apart = Plan.of({"encoder.layer.0.q": "bf16", "*": "w8a8-dynamic"}).resolve(graph, WITH_BF16)
    assert apart.precisions[node].name == "bf16" and len(apart.conflicts) == 1


def test_methods_of_a_rule_are_written_and_read() -> None:
    plan = Plan((Rule("stem", PRECISIONS["w8a8"], "gptq", "mse"), Rule("*", PRECISIONS["w8a8"], observer="minmax")))
    assert Plan.from_toml(plan.to_toml()) == plan == Plan.of(json.loads(json.dumps(plan.to_data())))
    assert plan.to_toml() == (
        'version = 1\n\n[[rule]]\nmatch = "stem"\nprecision = "w8a8"\nweights = "gptq"\nobserver = "mse"\n'
        '\n[[rule]]\nmatch = "*"\nprecision = "w8a8"\nobserver = "minmax"\n'
    )
    assert Plan.from_toml("# a comment\n" + plan.to_toml()) == plan
    for text, message in (
        ("wieghts = 'gptq'", "rule 1 has an unknown key 'wieghts' (did you mean 'weights'?)"),
        ("weights = 3", "rule 1 has weights = 3 (weights is the name of a method, as text)"),
    ):
        with pytest.raises(UsageError) as caught:
            Plan.from_toml(f"version = 1\n[[rule]]\nmatch = '*'\nprecision = 'w8a8'\n{text}")
        assert str(caught.value) == message
