"""int8 and int4 as imported models have them, by their kernels: beside the interpreter, at several sizes."""

from __future__ import annotations

import numpy as np
import pytest
from case_table import LOWER, Table
from graph_harness import B, S, Sketch

from planish.backends.cpu import isa
from planish.compiler.graph import Value
from planish.compiler.types import DType

I8, U8, I4 = DType.i8, DType.u8, DType.i4
TABLE = Table()


def weight(g: Sketch, *shape: int) -> Value:
    scales = np.linspace(0.01, 0.02, shape[0]).reshape(shape[0], *(1 for _ in shape[1:]))
    return g("dequantize", g.random(*shape, dtype=I8, low=-127, high=128), g.const(scales))


@TABLE.each(i8=I8, u8=U8)
def one_range_found_at_run_time(g: Sketch, dtype: DType) -> list[Value]:
    """As DynamicQuantizeLinear gives it."""
    scale = g.input(data=lambda rng, shape: np.asarray(0.01 + rng.random() / 50, np.float32))
    zero = g.input(dtype=dtype, low=-20 if dtype is I8 else 90, high=40 if dtype is I8 else 160)
    q = g("quantize", g.input(B, S, 24), scale, zero, dtype=dtype, division=True)
    x = g("dequantize", q, scale, zero)
    return [g("linear", x, weight(g, 40, 24), g.random(40)), g("relu", g("linear", x, weight(g, 7, 24)))]


@TABLE.case
def only_the_scale_is_found(g: Sketch) -> Value:
    scale = g.input(1, data=lambda rng, shape: np.array([0.02], np.float32))
    x = g("dequantize", g.input(B, S, 24, dtype=I8, low=-128, high=128), scale)
    return g("linear", x, weight(g, 40, 24), g.random(40))


@TABLE.each(alone=False, zeros=True)
def four_bits_and_floats(g: Sketch, zeros: bool) -> list[Value]:
    """x in f32, as MatMulNBits has it."""
    scale = [g.const(np.linspace(0.01, 0.02, 40).reshape(20, 2))]
    scale += [g.random(20, 2, dtype=I8, low=-8, high=8)] if zeros else []
    w = g("dequantize", g.random(20, 64, dtype=I4, low=-8, high=8), *scale)
    x = g.input(B, S, 64)
    return [g("linear", x, w, g.random(20)), g("relu", g("linear", g("gelu", x), w))]


@TABLE.case
def heads_that_are_quantised(g: Sketch) -> Value:
    """The result of a product of run-time tensors, stored in int8 in the order, and in the form, of the linear that reads it."""
    scale, zero = g.const(np.float32(0.053)), g.const(3, I8)
    q = g("quantize", g("matmul", g.input(B, 3, S, S), g.input(B, 3, S, 8)), scale, zero, division=True)
    joined = g("reshape", g("transpose", q, perm=(0, 2, 1, 3)), shape=(B, S, 24))
    return g("linear", g("dequantize", joined, scale, zero), weight(g, 40, 24))


@TABLE.each(part=250, whole=256)
def weights_of_all_of_u8(g: Sketch, high: int) -> Value:
    q = np.random.default_rng(3).integers(0, high, (40, 24))
    q[:, 0], q[:, 1] = 0, high - 1
    w = g("dequantize", g.const(q, U8), g.const(np.linspace(0.01, 0.02, 40).reshape(40, 1)), g.const(100, U8))
    x = g("dequantize", g.input(B, S, 24, dtype=U8, low=0, high=256), g.const(np.float32(0.02)), g.const(120, U8))
    return g("linear", x, w, g.random(40))


@TABLE.case
def a_table_of_u8(g: Sketch) -> Value:
    table = g("dequantize", g.random(30, 24, dtype=U8, low=0, high=256), g.const(np.float32(0.02)), g.const(120, U8))
    return g("layer_norm", g("embedding", table, g.input(B, S, dtype=DType.i64, low=0, high=30)), axes=1, eps=1e-5)


@TABLE.case
def integers_at_run_time(g: Sketch) -> Value:
    a = g("cast", g.input(B, 3, S, 8, dtype=U8, low=0, high=256), dtype=DType.i32)
    b = g("cast", g.input(B, 3, 8, S, dtype=I8, low=-128, high=128), dtype=DType.i32)
    return g("matmul", a, b)


@pytest.mark.parametrize("name", TABLE.sketches)
def test_as_interpreted(name: str) -> None:
    TABLE.check(name, isa.detect(), slack=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_lower_levels(level: str) -> None:
    TABLE.check_all(level, slack=3.0)


@pytest.mark.parametrize(
    ("name", "count"),
    [("one_range_found_at_run_time_u8", 2), ("four_bits_and_floats_zeros", 2), ("heads_that_are_quantised", 1),
     ("weights_of_all_of_u8_part", 1), ("weights_of_all_of_u8_whole", 2)],
)  # fmt: skip
def test_it_runs_on_integers(name: str, count: int) -> None:
    graph = TABLE.compiled(isa.detect()).graphs[name]
    found = [
        n for node in graph.nodes for n in (node, *(m for r in node.regions for m in r.nodes)) if n.op == "qlinear"
    ]
    assert len(found) == count
