"""Folding: what is computed at compile time, and what is left for the run."""

from __future__ import annotations

import numpy as np
import pytest
from graph_harness import B, S, Sketch

from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.fold import Fold

F32, F64, BF16, I64, BOOL = (DType(n) for n in ("f32", "f64", "bf16", "i64", "bool"))
ENV = {"b": 2, "s": 3}


def folded(g: Sketch, **options: int) -> list[str]:
    """The ops that are left (constants not counted), with the numbers as before."""
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    Fold(**options).run(g.graph, PassContext())
    verify(g.graph)
    for a, b in zip(want, interpret(g.graph, inputs), strict=True):
        np.testing.assert_array_equal(a, b)
    return [n.op for n in g.graph.nodes if n.op != "constant"]


def test_a_chain_of_constants_becomes_one() -> None:
    g = Sketch()
    scale = g("rsqrt", g("add", g.const(np.linspace(1, 2, 4)), g("full", value=1e-5, shape=(), dtype=F32)))
    g.output(g("mul", g.input(B, 4), scale))
    assert folded(g) == ["mul"]
    assert len(g.graph.constants) == 1


def test_several_outputs_fold() -> None:
    g = Sketch()
    g.output(*g.both("quantize_dynamic", g.random(3, 5)))
    assert folded(g) == []


@pytest.mark.parametrize("dtype", [F64, BF16, I64, BOOL])
def test_element_types_survive(dtype: DType) -> None:
    g = Sketch()
    x = g.random(2, 3, dtype=dtype)
    g.output(g("transpose", x, perm=(1, 0)), g("cast", x, dtype=F32), g("concat", x, x, axis=0))
    assert folded(g) == []
    assert g.graph.outputs[0].dtype is dtype


def test_what_depends_on_an_input_or_a_symbol_is_left() -> None:
    g = Sketch()
    g.input(B), g.input(S)
    one = g.const(np.int64(1))
    g.output(
        g("add", g.input(B, dtype=I64), one), g("add", g("full", value=S, shape=(), dtype=I64), one),
        g("expand", g.const(np.ones((1, 3))), shape=(B, 3)), g("add", g("arange", end=S), one),
    )  # fmt: skip
    assert folded(g) == ["add", "full", "add", "expand", "arange", "add"]


def test_views_of_generated_values_stay_symbolic() -> None:
    """Facts read through them; a table of numbers would say less."""
    g = Sketch()
    run = g("arange", end=6)
    g.output(g("reshape", run, shape=(2, 3)), g("add", run, g.const(np.int64(1))))
    assert folded(g) == ["arange", "reshape"]


def test_a_broadcast_is_not_blown_up() -> None:
    g = Sketch()
    g.output(
        g("expand", g.const(np.ones((1, 8))), shape=(1000, 8)), g("expand", g.const(np.ones((1, 8))), shape=(2, 8))
    )
    assert folded(g, max_bytes=1000) == ["expand"]


def test_nobody_reads_it_nobody_computes_it() -> None:
    g = Sketch()
    g("neg", g.random(3))
    g.output(g("exp", g.input(B)))
    result = Fold().run(g.graph, PassContext())
    assert not result.changed
    assert [n.op for n in g.graph.nodes] == ["exp"]


def test_constants_are_not_written_to() -> None:
    """A folded view may share its source's memory; the source must read as before."""
    g = Sketch()
    x = g.random(2, 3)
    g.output(g("reshape", x, shape=(3, 2)), g("neg", x), x)
    assert folded(g) == []
