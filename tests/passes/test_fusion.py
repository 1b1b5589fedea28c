"""The mechanism of fusion: order, borders, results and names of a region."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from graph_harness import B, Sketch
from hypothesis import given
from hypothesis import strategies as st
from random_sketch import random_sketch

from planish.compiler.graph import Node, Value
from planish.compiler.interpret import interpret
from planish.compiler.verify import verify
from planish.passes.fusion import SOURCES, VIEWS, enclose, external, results, settle

ENV = {"b": 2, "s": 3}


def made(value: Value) -> Node:
    """The node whose result ``value`` is."""
    assert value.node is not None
    return value.node


def check(g: Sketch, members: list[Node], at: Node) -> Node:
    """Enclose ``members``; the numbers and the invariants hold."""
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    fused = enclose(g.graph, members, at)
    verify(g.graph)
    for a, b in zip(want, interpret(g.graph, inputs), strict=True):
        np.testing.assert_array_equal(a, b)
    return fused


def test_a_region_takes_what_it_reads_once_and_gives_what_others_read() -> None:
    g = Sketch()
    x, y = g.input(B, 4), g.input(B, 4)
    a = g("add", x, y)
    b = g("mul", a, x)
    c = g("tanh", b)
    g.output(c, g("exp", a))
    members = [made(v) for v in (a, b, c)]
    assert external(members) == [x, y]
    assert results(g.graph, members) == [a, c]
    fused = check(g, members, members[0])
    assert fused.inputs == [x, y]
    assert [v.name for v in fused.outputs] == [a.name, c.name]
    assert [n.op for n in g.graph.nodes] == ["fused", "exp"]


def test_an_output_of_the_graph_leaves_the_region() -> None:
    g = Sketch()
    a = g("neg", g.input(B))
    b = g("exp", a)
    g.output(a, b, b)
    fused = check(g, [made(a), made(b)], made(a))
    assert g.graph.outputs == [fused.outputs[0], fused.outputs[1], fused.outputs[1]]


def test_a_value_that_nobody_else_reads_stays_inside() -> None:
    g = Sketch()
    a = g("neg", g.input(B))
    b = g("exp", a)
    g.output(b)
    assert len(check(g, [made(a), made(b)], made(a)).outputs) == 1


def test_several_results_of_one_node_and_constants_from_outside() -> None:
    g = Sketch()
    normed = g("layer_norm", g.input(B, 4), g.random(4), g.random(4))
    q, scale = g.both("quantize_dynamic", normed)
    g.output(q, scale)
    fused = check(g, [made(normed), made(q)], made(normed))
    assert len(fused.inputs) == 3
    assert len(fused.outputs) == 2


def test_a_region_is_called_after_its_anchor_and_remembers_its_sources() -> None:
    g = Sketch()
    x = g.input(B, 4)
    y = g.graph.insert("linear", [x, g.random(4, 4)], name="block.dense", location="model.py:3").output
    z = g.graph.insert("gelu", [y], name="block.activation").output
    g.output(z)
    fused = check(g, [made(y), made(z)], made(y))
    assert fused.name == "block.dense"
    assert fused.location == "model.py:3"
    assert fused.sources == ("block.dense", "block.activation")


def test_settle_moves_views_to_what_they_view_and_sources_to_the_front() -> None:
    g = Sketch()
    x = g.input(B, 4)
    a, b = g("neg", x), g("exp", x)
    late = g("reshape", a, shape=(4 * B,))
    view = g("transpose", x, perm=(1, 0))
    number = g("full", value=2.0, shape=(), dtype=x.dtype)
    g.output(g("mul", late, number), b, view)
    at = settle(g.graph)
    verify(g.graph)
    assert [n.op for n in g.graph.nodes] == ["full", "transpose", "neg", "reshape", "exp", "mul"]
    assert [at[n] for n in g.graph.nodes] == list(range(6))


@given(st.integers(0, 10_000))
def test_settling_keeps_the_order_of_definitions(seed: int) -> None:
    g = random_sketch(seed)
    at = settle(g.graph)
    verify(g.graph)
    for node in g.graph.nodes:
        source = node.inputs[0].node if node.op in VIEWS and node.inputs[0] is not None else None
        if source is not None and source.op not in SOURCES:
            between = [n for n in g.graph.nodes if at[source] < at[n] < at[node]]
            assert all(n.op in VIEWS for n in between)


@pytest.mark.parametrize("seed", range(12))
def test_any_neighbours_can_become_one(seed: int) -> None:
    """Two nodes in a row without views between them, of random graphs."""
    g = random_sketch(seed)
    settle(g.graph)
    nodes = [n for n in g.graph.nodes if n.op not in SOURCES]
    for first, second in itertools.pairwise(nodes):
        if first._next is second and not {first.op, second.op} & VIEWS:
            check(g, [first, second], first)
            return
