"""Canonical form: what each simplification makes of a graph, that it keeps the numbers, and where it must not fire."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_harness import B, S, Sketch, near
from hypothesis import given
from hypothesis import strategies as st
from random_sketch import random_sketch

from planish.compiler.dims import Dim
from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.structure import difference
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.canonicalize import Canonicalize, hoist_constants, merge_equal
from planish.passes.fold import Fold

F32, F64, BF16, I64, I32, I8, U8, BOOL = (DType(n) for n in ("f32", "f64", "bf16", "i64", "i32", "i8", "u8", "bool"))
ENV = {"b": 3, "s": 5}
Write = Callable[[Sketch], Value]


def canonical(write: Write, passes: tuple = (Canonicalize(),)) -> tuple[list[str], Sketch]:
    """The ops behind canonicalisation (constants left out), checked against the graph before it."""
    g = Sketch()
    g.input(B), g.input(S)
    g.output(write(g))
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    for p in passes:
        p.run(g.graph, PassContext())
    verify(g.graph)
    for value, a, b in zip(g.graph.outputs, want, interpret(g.graph, inputs), strict=True):
        assert near(a, b, value.dtype) is None
    again = Canonicalize().run(g.graph, PassContext())
    assert not again.changed, "canonicalising twice changes something"
    return [n.op for n in g.graph.nodes if n.op != "constant"], g


VANISH: dict[str, Write] = {
    "reshape to itself": lambda g: g("neg", g("reshape", g.input(B, 4), shape=(B, 4))),
    "reshape there and back": lambda g: g(
        "neg", g("reshape", g("reshape", g.input(B, 4), shape=(4 * B,)), shape=(B, 4))
    ),
    "transpose there and back": lambda g: g(
        "neg", g("transpose", g("transpose", g.input(B, 4), perm=(1, 0)), perm=(1, 0))
    ),
    "expand to itself": lambda g: g("neg", g("expand", g.input(B, 4), shape=(B, 4))),
    "expand of an operand": lambda g: g("add", g("expand", g.input(1, 4), shape=(B, 4)), g.input(B, 4)),
    "whole slice": lambda g: g("neg", g("slice", g.input(B, S), axis=1, start=0, end=S)),
    "cast to itself": lambda g: g("neg", g("cast", g.input(B), dtype=F32)),
    "cast there and back": lambda g: g("neg", g("cast", g("cast", g.input(B, dtype=BF16), dtype=F32), dtype=BF16)),
    "pad by nothing": lambda g: g("neg", g("pad", g.input(B), low=(0,), high=(0,))),
    "concat of one": lambda g: g("neg", g("concat", g.input(B, 3), axis=1)),
    "concat with nothing": lambda g: g("neg", g("concat", g.input(B, 3), g.input(B, 0), axis=1)),
    "part of a concat": lambda g: g(
        "neg", g("slice", g("concat", g.input(B, 3), g.input(B, 2), axis=1), axis=1, start=3, end=5)
    ),
    "times one": lambda g: g("neg", g("mul", g.input(B), g.const(1.0))),
    "plus zero": lambda g: g("neg", g("add", g.const(np.zeros(3)), g.input(B, 3))),
    "minus zero": lambda g: g("neg", g("sub", g.input(B), g.const(0.0))),
    "over one": lambda g: g("neg", g("div", g.input(B), g.const(1.0))),
    "to the first power": lambda g: g("neg", g("pow", g.input(B), g.const(1.0))),
    "negated twice": lambda g: g("neg", g("neg", g("neg", g.input(B)))),
    "where true": lambda g: g("neg", g("where", g.const(np.array(True)), g.input(B), g.input(B))),
    "where of equal": lambda g: (lambda x: g("neg", g("where", g.input(B, dtype=BOOL), x, x)))(g.input(B)),
    "maximum with itself": lambda g: (lambda x: g("neg", g("maximum", x, x)))(g.input(B)),
    "slice of an expand": lambda g: g(
        "neg", g("slice", g("expand", g.input(1, 4), shape=(3, 4)), axis=0, start=1, end=2)
    ),
}


@pytest.mark.parametrize("what", VANISH)
def test_vanishes(what: str) -> None:
    """Only the op that reads it is left."""
    ops, _ = canonical(VANISH[what])
    assert len(ops) == 1
    assert ops[0] in ("neg", "add")


def rows_and_columns(g: Sketch, step: Dim) -> Value:
    """i * step + j over B rows and S columns."""
    rows = g("mul", g("reshape", g("arange", end=B), shape=(B, 1)), g("full", value=step, shape=(1,), dtype=I64))
    return g("add", g("reshape", g("arange", end=S), shape=(1, S)), rows)


BECOMES: dict[str, tuple[Write, list[str]]] = {
    "transpose of ones": (lambda g: g("transpose", g.input(B, 1), perm=(1, 0)), ["reshape"]),
    "two slices": (
        lambda g: g("slice", g("slice", g.input(9), axis=0, start=2, end=8), axis=0, start=1, end=3),
        ["slice"],
    ),
    "two transposes": (
        lambda g: g("transpose", g("transpose", g.input(B, S, 2), perm=(2, 0, 1)), perm=(1, 0, 2)),
        ["transpose"],
    ),
    "two expands": (lambda g: g("expand", g("expand", g.input(1, 1), shape=(1, S)), shape=(B, S)), ["expand"]),
    "gather by a range": (lambda g: g("gather", g.input(B, 2 * S), g("arange", end=S), axis=1), ["slice"]),
    "gather by a grid": (lambda g: g("gather", g.input(B * S, 2), rows_and_columns(g, S), axis=0), ["reshape"]),
    "gather by a grid whose rows are reshaped": (
        lambda g: g(
            "gather",
            g.input(B * 7, 2),
            g(
                "add",
                g.const(np.arange(7).reshape(1, 7)),
                g("reshape", g("mul", g("arange", end=B), g.const(np.int64(7))), shape=(B, 1)),
            ),
            axis=0,
        ),
        ["reshape"],
    ),
    "wrapping ids that are not negative": (
        lambda g: (
            lambda ids: g("where", g("lt", ids, g.const(np.int64(0))), g("add", ids, g.const(np.int64(5))), ids)
        )(g("clamp", g.input(B, dtype=I64), min=0, max=4)),
        ["clamp"],
    ),
    "gather by the first rows of a grid": (
        lambda g: g("gather", g.input(B * S + 4, 2), rows_and_columns(g, S), axis=0),
        ["slice", "reshape"],
    ),
    "gather of one": (lambda g: g("gather", g.input(B, 4), g.const(np.array(2)), axis=1), ["slice", "reshape"]),
    "embedding of positions": (
        lambda g: g("embedding", g.random(512, 3), g("reshape", g("arange", end=S), shape=(1, S))),
        ["slice", "reshape"],
    ),
    "known comparison": (lambda g: g("lt", g("arange", end=S), g.const(np.array([1000]))), ["full"]),
    "dims add up": (lambda g: g("add", g("full", value=S, shape=(), dtype=I64), g.const(np.int64(2))), ["full"]),
    "cast of a fill": (lambda g: g("cast", g("full", value=0.1, shape=(B,), dtype=BF16), dtype=F32), ["full"]),
    "comparison of casts": (lambda g: g("cast", g("cast", g.input(B, dtype=I8), dtype=I64), dtype=F32), ["cast"]),
    "reshape of an expand": (
        lambda g: g("reshape", g("expand", g.input(4), shape=(B, 4)), shape=(B, 1, 4)),
        ["reshape", "expand"],
    ),
}


@pytest.mark.parametrize("what", BECOMES)
def test_becomes(what: str) -> None:
    write, want = BECOMES[what]
    ops, _ = canonical(write)
    assert ops == want


#: Near misses: nothing may go, because something would change.
STAYS: dict[str, tuple[Write, str]] = {
    "narrowing cast and back": (lambda g: g("cast", g("cast", g.input(B), dtype=BF16), dtype=F32), "cast"),
    "wrapping cast and back": (
        lambda g: g("cast", g("cast", g.input(B, dtype=I64, high=900), dtype=I8), dtype=I64),
        "cast",
    ),
    "integer to float and back": (lambda g: g("cast", g("cast", g.input(B, dtype=I64), dtype=F32), dtype=I64), "cast"),
    "one over x": (lambda g: g("div", g.const(1.0), g.input(B)), "div"),
    "zero minus x": (lambda g: g("sub", g.const(0.0), g.input(B)), "sub"),
    "x times zero": (lambda g: g("mul", g.input(B), g.const(0.0)), "mul"),
    "x minus x": (lambda g: (lambda x: g("sub", x, x))(g.input(B)), "sub"),
    "power of one": (lambda g: g("pow", g.const(1.0), g.input(B)), "pow"),
    "integer xor with itself": (
        lambda g: (lambda x: g("bitwise_and", x, g.const(np.int64(1))))(g.input(B, dtype=I64)),
        "bitwise_and",
    ),
    "part across a concat": (
        lambda g: g("slice", g("concat", g.input(B, 3), g.input(B, 2), axis=1), axis=1, start=2, end=5),
        "concat",
    ),
    "strided slices": (
        lambda g: g("slice", g("slice", g.input(9), axis=0, start=0, end=9, step=2), axis=0, start=1, end=3),
        "slice",
    ),
    "wrapping ids that may be negative": (
        lambda g: (
            lambda ids: g("where", g("lt", ids, g.const(np.int64(0))), g("add", ids, g.const(np.int64(5))), ids)
        )(g("clamp", g.input(B, dtype=I64), min=-1, max=4)),
        "where",
    ),
    "gather by a grid with gaps": (
        lambda g: g("gather", g.input(B * (S + 1), 2), rows_and_columns(g, S + 1), axis=0),
        "gather",
    ),
    "gather by a grid beyond the end": (lambda g: g("gather", g.input(40), rows_and_columns(g, S), axis=0), "gather"),
    "gather beyond the range": (
        lambda g: g("gather", g.input(4, B), g.input(2, dtype=I64, low=0, high=4), axis=0),
        "gather",
    ),
    "gather by repeated ids": (
        lambda g: g(
            "gather", g.input(4), g("expand", g("slice", g("arange", end=S), axis=0, end=1), shape=(3,)), axis=0
        ),
        "gather",
    ),
    "comparison that depends": (lambda g: g("lt", g("arange", end=S), g.const(np.array([2]))), "lt"),
    "where by a mask": (lambda g: g("where", g.input(B, dtype=BOOL), g.input(B), g.input(B)), "where"),
    "all ones of a mask": (lambda g: g("logical_and", g.input(B, dtype=BOOL), g.input(B, dtype=BOOL)), "logical_and"),
}


@pytest.mark.parametrize("what", STAYS)
def test_stays(what: str) -> None:
    write, op = STAYS[what]
    ops, _ = canonical(write)
    assert op in ops


def test_attention_masks() -> None:
    def heads(g: Sketch) -> list[Value]:
        return [g.input(B, 2, S, 4) for _ in range(3)]

    ops, _ = canonical(
        lambda g: g("attention", *heads(g), g("full", value=True, shape=(B, 1, S, S), dtype=BOOL), scale=0.5)
    )
    assert ops == ["attention"]
    ops, _ = canonical(
        lambda g: g("attention", *heads(g), g("full", value=0.0, shape=(1, 1, 1, S), dtype=F32), scale=0.5)
    )
    assert ops == ["attention"]
    ops, g = canonical(
        lambda g: g("attention", *heads(g), g("expand", g.input(B, 1, 1, S), shape=(B, 1, S, S)), scale=0.5)
    )
    assert ops == ["attention"]
    (node,) = (n for n in g.graph.nodes if n.op == "attention")
    assert node.inputs[3] is not None
    assert node.inputs[3].shape == (B, 1, 1, S)


def test_dead_code_goes_and_inputs_stay() -> None:
    g = Sketch()
    x = g.input(B)
    g.input(S)
    g("exp", g("add", x, g.const(2.0)))
    g.output(g("neg", x))
    result = Canonicalize().run(g.graph, PassContext())
    assert result.changed
    assert [n.op for n in g.graph.nodes] == ["neg"]
    assert len(g.graph.inputs) == 2
    assert not g.graph.constants


def test_equal_computations_are_done_once() -> None:
    g = Sketch()
    x = g.input(B)
    a, b = (g("mul", g("exp", x), g.const(2.0)) for _ in range(2))
    g.output(a, b, g("mul", g("exp", x), g.const(3.0)))
    Canonicalize().run(g.graph, PassContext())
    assert g.graph.outputs[0] is g.graph.outputs[1]
    assert g.graph.outputs[2] is not g.graph.outputs[0]
    assert [n.op for n in g.graph.nodes if n.op != "constant"] == ["exp", "mul", "mul"]


def test_equal_looking_attributes_of_different_types_are_not_equal() -> None:
    g = Sketch()
    x = g.input(B, dtype=I64)
    one, true = (g("full", value=v, shape=(), dtype=I64) for v in (1, True))
    g.output(g("add", x, one), g("add", x, true), g("clamp", x, min=1), g("clamp", x, min=1.0))
    assert merge_equal(g.graph) == 0


def test_constants_of_equal_bytes_and_different_types_are_not_equal() -> None:
    g = Sketch()
    zero, other = g.const(np.zeros(4), DType.i32), g.const(np.zeros(4), F32)
    flat, square = g.const(np.ones(4)), g.const(np.ones((2, 2)))
    g.output(zero, other, flat, square, g.const(np.ones(4)))
    assert merge_equal(g.graph) == 1


def test_large_constants_are_equal_only_if_they_are_one() -> None:
    g = Sketch()
    array = np.ones(5000, np.float32)
    g.output(g.const(array), g.const(array), g.const(array.copy()))
    assert merge_equal(g.graph) == 1


def test_constants_move_to_the_front() -> None:
    g = Sketch()
    y = g("neg", g.input(B))
    g.output(g("add", g("exp", y), g.const(2.0)))
    hoist_constants(g.graph)
    assert [n.op for n in g.graph.nodes] == ["constant", "neg", "exp", "add"]
    verify(g.graph)


def test_merged_nodes_keep_both_names() -> None:
    g = Sketch()
    x = g.input(B)
    a = g.graph.insert("exp", [x], name="first").output
    b = g.graph.insert("exp", [x], name="second").output
    g.output(g("add", a, b))
    Canonicalize().run(g.graph, PassContext())
    assert next(n.sources for n in g.graph.nodes if n.op == "exp") == ("first", "second")


@given(st.integers(0, 10_000))
def test_random_graphs_keep_their_numbers_and_settle(seed: int) -> None:
    g = random_sketch(seed)
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    for p in (Canonicalize(), Fold(), Canonicalize()):
        p.run(g.graph, PassContext())
        verify(g.graph)
    for value, a, b, rough in zip(g.graph.outputs, want, interpret(g.graph, inputs), g.rough or [], strict=True):
        assert near(a, b, value.dtype, 4.0, rough, 1.0) is None
    before = g.graph.copy()
    Canonicalize().run(g.graph, PassContext())
    assert difference(before, g.graph) is None
