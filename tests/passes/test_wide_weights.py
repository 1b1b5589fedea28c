"""Weights with zero points that take all of their range: int8 without any, with the numbers they had."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_harness import B, S, Sketch, near

from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.wide_weights import CentreWeights

I8, U8 = DType.i8, DType.u8
ENV = {"b": 2, "s": 5}


def centre(g: Sketch) -> bool:
    """Whether the pass changed the graph, which still computes the same."""
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    changed = CentreWeights().run(g.graph, PassContext()).changed
    verify(g.graph)
    for value, a, b in zip(g.graph.outputs, want, interpret(g.graph, inputs), strict=True):
        assert near(a, b, value.dtype) is None
    return changed


def usual(g: Sketch) -> list[str]:
    """The products, all of whose weights are int8 without -128 and without a zero point."""
    found = [n for n in g.graph.nodes if n.op in ("linear", "conv")]
    for node in found:
        made = node.operands[1].node
        assert made is not None and made.op == "dequantize" and len(made.operands) == 2
        array = g.graph.array(made.operands[0])
        assert array is not None and made.operands[0].dtype is I8 and array.min() > -128
    return [n.op for n in found]


def activations(g: Sketch, channels: int = 16) -> Value:
    scale, zero = g.const(np.float32(0.05)), g.const(3, I8)
    return g("dequantize", g("quantize", g.input(B, S, channels), scale, zero, division=True), scale, zero)


def wide(groups: int = 1, low: int = 0, high: int = 256, extremes: bool = False) -> Callable[[Sketch, bool], None]:
    def write(g: Sketch, convolve: bool) -> None:
        rng = np.random.default_rng(3)
        shape = (8, 8 // groups, 3, 3) if convolve else (8, 16)
        q = rng.integers(low, high, shape)
        q[:, 0], q[:, -1] = (low, high - 1) if extremes else (q[:, 0], q[:, -1])
        scale = g.const(np.linspace(0.1, 1, 8).reshape(8, *(1 for _ in shape[1:])))
        w = g("dequantize", g.const(q, U8), scale, g.const(100, U8))
        if convolve:
            s, z = g.const(np.float32(0.05)), g.const(3, I8)
            x = g("dequantize", g("quantize", g.input(B, 8, 6, S), s, z, division=True), s, z)
            g.output(g("conv", x, w, g.random(8), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=groups))
        else:
            g.output(g("linear", activations(g), w, g.random(8)))

    return write


@pytest.mark.parametrize("convolve", [False, True])
@pytest.mark.parametrize(("high", "extremes"), [(250, False), (250, True), (256, True)])
def test_weights_that_take_all_of_u8(high: int, extremes: bool, convolve: bool) -> None:
    g = Sketch()
    wide(high=high, extremes=extremes)(g, convolve)
    assert centre(g)
    found = usual(g)
    sums = [n for n in g.graph.nodes if n.op == "reduce_sum"]
    halves = high == 256
    assert len(found) == (2 if halves or convolve else 1) and len(sums) == (0 if halves or convolve else 1)


def test_a_lone_channel_has_a_sum_of_its_own() -> None:
    g = Sketch()
    wide(groups=8, high=250)(g, True)
    assert centre(g)
    assert [n.inputs[1].shape[0] for n in g.graph.nodes if n.op == "conv"] == [8, 8]  # type: ignore[union-attr]


def test_int8_weights_that_hold_the_least_number() -> None:
    g = Sketch()
    array = np.random.default_rng(1).integers(-120, 100, (8, 16))
    array[3, 5] = -128
    g.output(g("linear", activations(g), g("dequantize", g.const(array, I8), g.const(np.full((8, 1), 0.1)))))
    assert centre(g)
    assert usual(g) == ["linear"]


def test_a_convolution_of_a_range_found_at_run_time_is_left_alone() -> None:
    """There is no kernel for it; two products of floats would be worse than one."""
    g = Sketch()
    q = np.random.default_rng(3).integers(0, 256, (8, 4, 3, 3))
    w = g("dequantize", g.const(q, U8), g.const(np.full((8, 1, 1, 1), 0.1)), g.const(100, U8))
    x = g("dequantize", g.input(B, 4, 6, S, dtype=I8), g.input())
    g.output(g("conv", x, w, stride=(1, 1), padding=(1, 1), dilation=(1, 1)))
    assert not centre(g)


def test_floats_are_left_alone() -> None:
    g = Sketch()
    w = g("dequantize", g.random(8, 16, dtype=U8, low=0, high=256), g.const(np.full((8, 1), 0.1)), g.const(100, U8))
    g.output(g("linear", g.input(B, 16), w))
    assert not centre(g)
