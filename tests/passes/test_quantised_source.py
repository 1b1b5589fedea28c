"""What came quantised gets the form that targets know as int8, with the numbers it had; and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_harness import B, S, Sketch, near

from planish.compiler.graph import Node, Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.canonicalize import Canonicalize
from planish.passes.quantised_source import QuantisedSource

F32, F64, I8, U8, I16, I32, I4 = (DType(n) for n in ("f32", "f64", "i8", "u8", "i16", "i32", "i4"))
ENV = {"b": 2, "s": 5}


def source(g: Sketch) -> bool:
    """Whether the pass changed the graph, which still computes the same."""
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    changed = QuantisedSource().run(g.graph, PassContext()).changed
    verify(g.graph)
    for value, a, b in zip(g.graph.outputs, want, interpret(g.graph, inputs), strict=True):
        assert near(a, b, value.dtype) is None
    assert not QuantisedSource().run(g.graph, PassContext()).changed, "it is not a fixed point"
    return changed


def product(g: Sketch) -> tuple[Node, Node, Node]:
    """The only product, and the ``dequantize`` of its operands."""
    (found,) = (n for n in g.graph.nodes if n.op in ("linear", "conv", "matmul"))
    x, w = (v.node for v in found.operands[:2])
    assert x is not None and w is not None and x.op == w.op == "dequantize"
    return found, x, w


def usual(g: Sketch, w: Node) -> np.ndarray:
    """The integers of a weight in its usual form."""
    q, scale = w.operands
    array = g.graph.array(q)
    assert array is not None and q.dtype is I8 and array.min() > -128
    assert scale.shape == (array.shape[0], *(1 for _ in array.shape[1:]))
    return array


def activations(g: Sketch, dtype: DType = I8, channels: int = 16) -> Value:
    scale, zero = g.const(np.float32(0.05)), g.const(100 if dtype is U8 else 3, dtype)
    q = g("quantize", g.input(B, S, channels), scale, zero, dtype=dtype, division=True)
    return g("dequantize", q, scale, zero)


def test_nothing_to_do() -> None:
    g = Sketch()
    g.output(g("linear", g.input(B, 8), g.random(4, 8)))
    assert not source(g)


def whole(g: Sketch, *shape: int) -> Value:
    """A constant with all of symmetric int8."""
    return g.random(*shape, dtype=I8, low=-127, high=128)


WEIGHTS: dict[str, Callable[[Sketch], Value]] = {
    "one scale": lambda g: g("dequantize", whole(g, 16, 6), g.const(np.float32(0.1))),
    "scales of columns": lambda g: g("dequantize", whole(g, 16, 6), g.const(np.linspace(0.1, 1, 6))),
    "turned": lambda g: g(
        "transpose", g("dequantize", whole(g, 6, 16), g.const(np.linspace(0.1, 1, 6).reshape(6, 1))), perm=(1, 0)
    ),
    "u8 around the middle": lambda g: g(
        "dequantize", g.random(16, 6, dtype=U8, low=1, high=256), g.const(np.float32(0.1)), g.const(128, U8)
    ),
    "small u8": lambda g: g("dequantize", g.random(16, 6, dtype=U8, low=0, high=127), g.const(np.float32(0.1))),
    "zero points of columns": lambda g: g(
        "dequantize", g.random(16, 6, dtype=I8, low=-100, high=100), g.const(np.linspace(0.1, 1, 6)), g.const(np.arange(6), I8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WEIGHTS)
def test_a_product_with_a_constant_is_a_linear(what: str) -> None:
    g = Sketch()
    y = g("matmul", activations(g), WEIGHTS[what](g))
    g.output(g("add", y, g.random(6)))
    assert source(g)
    node, _, w = product(g)
    assert node.op == "linear" and node.inputs[2] is not None, "the bias is taken in"
    assert usual(g, w).shape == (6, 16)


def test_a_bias_stays_where_the_sum_without_it_is_wanted() -> None:
    g = Sketch()
    y = g("matmul", activations(g), WEIGHTS["one scale"](g))
    g.output(g("add", y, g.random(6)), y)
    source(g)
    assert len(product(g)[0].operands) == 2


MOVES: dict[str, Callable[[Sketch, Value], Value]] = {
    "itself": lambda g, q: q,
    "reshape": lambda g, q: g("reshape", q, shape=(B * S, 16)),
    "slice": lambda g, q: g("slice", q, axis=2, start=0, end=16),
    "concat": lambda g, q: g("slice", g("concat", q, q, axis=2), axis=2, start=8, end=24),
    "transposes": lambda g, q: g("transpose", g("transpose", q, perm=(1, 0, 2)), perm=(1, 0, 2)),
}


@pytest.mark.parametrize("move", MOVES)
def test_u8_activations_become_i8(move: str) -> None:
    g = Sketch()
    scale, zero = g.const(np.float32(0.05)), g.const(100, U8)
    q = MOVES[move](g, g("quantize", g.input(B, S, 16), scale, zero, dtype=U8, division=True))
    g.output(g("matmul", g("dequantize", q, scale, zero), WEIGHTS["one scale"](g)))
    assert source(g)
    _, x, _ = product(g)
    assert x.operands[0].dtype is I8 and g.graph.array(x.operands[2]) == 100 - 128
    assert not any(v.dtype is U8 for n in g.graph.nodes for v in n.outputs)


def test_a_u8_input_becomes_i8_for_a_product_alone() -> None:
    g = Sketch()
    scale, zero = g.const(np.float32(0.05)), g.const(100, U8)
    image = g.input(B, 16, dtype=U8, low=0, high=256)
    g.output(g("matmul", g("dequantize", image, scale, zero), WEIGHTS["one scale"](g)))
    assert source(g)
    assert product(g)[1].operands[0].dtype is I8
    g = Sketch()
    g.output(
        g("dequantize", g.input(B, 16, dtype=U8, low=0, high=256), scale := g.const(np.float32(0.05)), g.const(100, U8))
    )
    assert scale.use_count and not source(g)


def test_a_zero_point_found_at_run_time() -> None:
    g = Sketch()
    scale, zero = g.input(data=lambda rng, size: np.float32(0.03)), g.input(dtype=U8, low=0, high=256)
    q = g("quantize", g.input(B, S, 16), scale, zero, dtype=U8, division=True)
    g.output(
        g(
            "linear",
            g("dequantize", q, scale, zero),
            g("dequantize", g.random(4, 16, dtype=I8), g.const(np.ones((4, 1)))),
        )
    )
    assert source(g)
    _, x, _ = product(g)
    assert [v.dtype for v in x.operands] == [I8, F32, I8]


# -- products of integers -------------------------------------------------------------------------------------------------------
def integers(g: Sketch, weight: Any, zero: bool = True) -> Value:
    q = g("cast", g.input(B, S, 16, dtype=U8, low=0, high=256), dtype=I32)
    q = g("sub", q, g("cast", g.input(dtype=U8, low=0, high=256), dtype=I32)) if zero else q
    return g("cast", g("matmul", q, g.const(weight, I32)), dtype=F32)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("scales", ["one", "columns", "none", "run time alone", "another order"])
def test_products_of_integers(scales: str, zero: bool) -> None:
    g = Sketch()
    rng = np.random.default_rng(5)
    y = integers(g, rng.integers(-127, 128, (16, 6)), zero)
    x_scale = g.input(data=lambda rng, size: np.float32(0.03))
    w_scale = g.const(np.linspace(0.1, 1, 6) if scales == "columns" else np.float32(0.1))
    if scales == "run time alone":
        y = g("mul", y, x_scale)
    elif scales == "another order":
        y = g("mul", g("mul", w_scale, x_scale), y)
    elif scales != "none":
        y = g("mul", y, g("mul", x_scale, w_scale))
    g.output(y)
    assert source(g)
    node, x, w = product(g)
    assert node.op == "linear" and x.operands[0].dtype is I8 and len(x.operands) == 3
    usual(g, w)
    assert not any(n.op == "mul" for n in g.graph.nodes)


def test_integers_are_kept_where_they_are_wanted() -> None:
    g = Sketch()
    q = g("cast", g.input(B, 16, dtype=I8), dtype=I32)
    total = g("matmul", q, g.const(np.ones((16, 4)), I32))
    g.output(g("cast", total, dtype=F32), total)
    source(g)
    assert any(n.op == "matmul" and n.output.dtype is I32 for n in g.graph.nodes)


def test_factors_that_do_not_fit_stay_outside() -> None:
    """A factor for each row is none of the weight's."""
    g = Sketch()
    y = integers(g, np.random.default_rng(5).integers(-127, 128, (16, 6)))
    g.output(g("mul", y, g.input(B, S, 1)))
    assert source(g)
    assert [n.op for n in g.graph.nodes if n.op == "mul"] == ["mul"]


def test_integer_convolution() -> None:
    g = Sketch()
    q = g("cast", g.input(B, 3, 8, S, dtype=U8, low=0, high=256), dtype=I32)
    x = g("cast", g("sub", q, g.const(100, I32)), dtype=F64)
    w = g.const(np.random.default_rng(5).integers(-127, 128, (4, 3, 3, 3)).astype(np.float64))
    w = g.const(g.graph.array(w).astype(np.float64), F64)  # type: ignore[union-attr]
    y = g("conv", x, w, stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    y = g("cast", g("cast", y, dtype=I32), dtype=F32)
    g.output(g("mul", y, g("mul", g.const(np.float32(0.05)), g.input(data=lambda rng, size: np.float32(0.03)))))
    assert source(g)
    node, _, held = product(g)
    assert node.op == "conv" and node.output.dtype is F32
    usual(g, held)


# -- tables, and steps taken twice ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("op", ["embedding", "gather"])
@pytest.mark.parametrize("each", [True, False])
def test_tables_are_looked_up_as_integers(op: str, each: bool) -> None:
    g = Sketch()
    scale = g.const(np.linspace(0.1, 1, 20).reshape(20, 1) if each else np.float32(0.1))
    table = g("dequantize", g.random(20, 8, dtype=U8, low=0, high=256), scale, g.const(100, U8))
    attrs = {"axis": 0} if op == "gather" else {}
    g.output(g(op, table, g.input(B, S, dtype=DType.i64, low=0, high=20), **attrs))
    assert source(g)
    looked_up = [n.output.dtype for n in g.graph.nodes if n.op == op]
    assert sorted(looked_up) == sorted([I8, F32] if each else [I8])


@pytest.mark.parametrize(("again", "stays"), [(0.05, True), (0.06, False)])
def test_steps_taken_twice(again: float, stays: bool) -> None:
    g = Sketch()
    zero = g.const(3, I8)
    x = g("dequantize", g("quantize", g.input(B, S, 8), g.const(np.float32(0.05)), zero, division=True),
          g.const(np.float32(0.05)), zero)  # fmt: skip
    moved = g("transpose", g("reshape", x, shape=(B, S, 2, 4)), perm=(0, 2, 1, 3))
    g.output(
        g(
            "dequantize",
            g("quantize", moved, g.const(np.float32(again)), zero, division=True),
            g.const(np.float32(again)),
            zero,
        )
    )
    assert source(g) == stays
    Canonicalize().run(g.graph, PassContext())
    assert [n.op for n in g.graph.nodes].count("quantize") == (1 if stays else 2)


def test_four_bits_with_zero_points_that_fit() -> None:
    g = Sketch()
    q = g.const(np.random.default_rng(2).integers(-4, 5, (8, 64)), I4)
    w = g("dequantize", q, g.const(np.full((8, 2), 0.1)), g.const(np.tile([2, -2], (8, 1)), I8))
    g.output(g("linear", g.input(B, 64), w))
    assert source(g)
    (linear,) = (n for n in g.graph.nodes if n.op == "linear")
    made = linear.operands[1].node
    assert made is not None and len(made.operands) == 2 and made.operands[0].dtype is I4
