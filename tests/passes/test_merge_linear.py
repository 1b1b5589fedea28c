"""Linears that share their input become one, where nothing keeps them apart; and what does."""

from __future__ import annotations

from typing import Any

import pytest
from graph_harness import B, S, Sketch, near

from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.merge_linear import MergeLinear
from planish.passes.precision import PRECISION

F32, F64, F16, BF16 = (DType(n) for n in ("f32", "f64", "f16", "bf16"))
ENV = {"b": 2, "s": 5}


def projections(g: Sketch, count: int = 3, dtype: DType = F32, biases: tuple[bool, ...] = (True, True, True)) -> list:
    """Linears of one input, each split into heads."""
    x = g.input(B, S, 8, dtype=dtype)
    found = []
    for i in range(count):
        bias = g.random(8, dtype=dtype) if biases[i] else None
        node = g.graph.insert("linear", [x, g.random(8, 8, dtype=dtype), bias], name=f"block.attention.{'qkv'[i]}")
        found.append(g("transpose", g("reshape", node.output, shape=(B, S, 2, 4)), perm=(0, 2, 1, 3)))
    return found


def merge(g: Sketch, context: PassContext | None = None) -> tuple[bool, list[str]]:
    """Whether the pass changed the graph (which still computes the same), and its notes."""
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    context = context or PassContext()
    result = MergeLinear().run(g.graph, context)
    verify(g.graph)
    for value, a, b in zip(g.graph.outputs, want, interpret(g.graph, inputs), strict=True):
        assert near(a, b, value.dtype) is None
    return result.changed, [str(n) for n in context.notes]


def linears(g: Sketch) -> list[Any]:
    return [n for n in g.graph.nodes if n.op == "linear"]


@pytest.mark.parametrize("dtype", [F32, F64, F16, BF16])
@pytest.mark.parametrize("biases", [(True, True, True), (True, False, True), (False, False, False)])
def test_query_key_and_value_become_one(biases: tuple[bool, ...], dtype: DType) -> None:
    g = Sketch()
    q, k, v = projections(g, dtype=dtype, biases=biases)
    g.output(g("attention", q, k, v, scale=0.5))
    changed, notes = merge(g)
    assert changed
    (node,) = linears(g)
    assert node.output.shape == (B, S, 24)
    assert node.name == "block.attention.q+k+v"
    assert node.sources == ("block.attention.q", "block.attention.k", "block.attention.v")
    assert any("1 groups" in n for n in notes)


def test_two_blocks_merge_each_for_itself() -> None:
    g = Sketch()
    g.output(*(g("attention", *projections(g), scale=0.5) for _ in range(2)))
    assert merge(g)[0]
    assert len(linears(g)) == 2


def test_cross_attention_merges_key_and_value() -> None:
    g = Sketch()
    (q,), (k, v) = projections(g, 1), projections(g, 2)
    g.output(g("attention", q, k, v, scale=0.5))
    assert merge(g)[0]
    assert sorted(n.output.shape[-1] for n in linears(g)) == [8, 16]


def test_different_precisions_block_and_the_report_says_so() -> None:
    g = Sketch()
    g.output(g("attention", *projections(g), scale=0.5))
    context = PassContext(data={PRECISION: {"block.attention.q": "bf16", "block.attention.v": "w8a8-dynamic"}})
    changed, notes = merge(g, context)
    assert not changed
    assert len(linears(g)) == 3
    (note,) = [n for n in notes if "stay apart" in n]
    for word in ("block.attention.q", "block.attention.k", "block.attention.v", "bf16", "f32", "w8a8-dynamic"):
        assert word in note


def test_equal_precisions_do_not_block() -> None:
    g = Sketch()
    g.output(g("attention", *projections(g), scale=0.5))
    names = dict.fromkeys([f"block.attention.{i}" for i in "qkv"], "w8a8-dynamic")
    assert merge(g, PassContext(data={PRECISION: names}))[0]


def test_a_result_with_an_epilogue_or_that_is_an_output_stays_alone() -> None:
    g = Sketch()
    x = g.input(B, 8)
    a, b, c, d = (g("linear", x, g.random(4, 8)) for _ in range(4))
    g.output(g("tanh", a), b, g("reshape", c, shape=(4 * B,)), g("reshape", d, shape=(B, 2, 2)))
    assert merge(g)[0]
    assert sorted(n.output.shape[-1] for n in linears(g)) == [4, 4, 8]


def test_run_time_weights_and_biases_stay_apart() -> None:
    g = Sketch()
    x, w = g.input(B, 8), g.input(4, 8)
    g.output(*(g("reshape", g("linear", x, v), shape=(4 * B,)) for v in (w, g.random(4, 8))))
    assert not merge(g)[0]
    g = Sketch()
    x, bias = g.input(B, 8), g.input(4)
    g.output(*(g("reshape", g("linear", x, g.random(4, 8), v), shape=(4 * B,)) for v in (bias, g.random(4))))
    changed, notes = merge(g)
    assert not changed
    assert any("bias is not constant" in n for n in notes)


def test_one_linear_is_no_group() -> None:
    g = Sketch()
    g.output(g("reshape", g("linear", g.input(B, 8), g.random(4, 8)), shape=(B * 4,)))
    assert not merge(g)[0]


def test_linears_before_and_behind_other_work() -> None:
    """The merged linear stands where the first was; what lies between must not have moved in front of what it reads."""
    g = Sketch()
    x = g.input(B, 8)
    first = g("reshape", g("linear", x, g.random(4, 8)), shape=(B, 2, 2))
    between = g("exp", first)
    late = g.random(4, 8)
    second = g("reshape", g("linear", x, late, g.random(4)), shape=(B, 2, 2))
    g.output(g("add", between, second), first)
    assert merge(g)[0]
