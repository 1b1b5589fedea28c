"""Casts move to where a value is made, through views, and no further."""

from __future__ import annotations

import numpy as np
import pytest
from graph_harness import B, S, Sketch

from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.hoist_casts import HoistCasts

F32, F64, F16, BF16, I32 = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i32"))
ENV = {"b": 2, "s": 3}


def hoisted(g: Sketch, changes: bool) -> list[str]:
    """The ops behind the pass, which keeps every bit."""
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    assert HoistCasts().run(g.graph, PassContext()).changed is changes
    verify(g.graph)
    for a, b in zip(want, interpret(g.graph, inputs), strict=True):
        np.testing.assert_array_equal(a, b)
    return [n.op for n in g.graph.nodes if n.op != "constant"]


def part(g: Sketch, x: Value, start: int, dtype: DType = BF16) -> Value:
    """A slice of ``x`` as heads, rounded at the end."""
    piece = g("slice", x, axis=2, start=start, end=start + 8)
    return g("cast", g("transpose", g("reshape", piece, shape=(B, S, 2, 4)), perm=(0, 2, 1, 3)), dtype=dtype)


def test_three_casts_behind_views_become_one_in_front() -> None:
    g = Sketch()
    x = g("tanh", g.input(B, S, 24))
    g.output(g("attention", *(part(g, x, i * 8) for i in range(3)), scale=0.5))
    ops = hoisted(g, True)
    assert ops[:2] == ["tanh", "cast"]
    assert ops.count("cast") == 1


def test_a_reader_that_wants_all_the_bits_keeps_them() -> None:
    g = Sketch()
    x = g("tanh", g.input(B, S, 24))
    g.output(part(g, x, 0), g("neg", g("slice", x, axis=2, start=8, end=16)))
    assert hoisted(g, False).count("cast") == 1


def test_different_types_stay_apart() -> None:
    g = Sketch()
    x = g("tanh", g.input(B, S, 24))
    g.output(g("neg", part(g, x, 0)), g("neg", part(g, x, 8, F16)))
    hoisted(g, False)


def test_a_view_that_is_an_output_stays() -> None:
    g = Sketch()
    view = g("reshape", g("tanh", g.input(B, S, 24)), shape=(B * S, 24))
    g.output(g("neg", g("cast", view, dtype=BF16)), view)
    hoisted(g, False)


@pytest.mark.parametrize("dtype", [F64, I32])
def test_only_narrower_floats_move(dtype: DType) -> None:
    g = Sketch()
    view = g("reshape", g("tanh", g.input(B, S, 24)), shape=(B * S, 24))
    g.output(g("neg", g("cast", view, dtype=dtype)))
    assert hoisted(g, False)[-2:] == ["cast", "neg"]


def test_a_cast_right_behind_its_value_is_where_it_belongs() -> None:
    g = Sketch()
    g.output(g("neg", g("cast", g("tanh", g.input(B, 4)), dtype=BF16)))
    assert hoisted(g, False) == ["tanh", "cast", "neg"]


def test_a_widening_cast_moves_behind_the_view() -> None:
    g = Sketch()
    wide = g("cast", g.input(B, S, 4, dtype=BF16), dtype=F32)
    g.output(g("neg", g("transpose", wide, perm=(1, 0, 2))))
    assert hoisted(g, True) == ["transpose", "cast", "neg"]
