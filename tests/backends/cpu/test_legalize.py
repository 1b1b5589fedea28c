"""What each op without a kernel becomes, and that nothing else is left."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_harness import B, S, Sketch, near
from hypothesis import given
from hypothesis import strategies as st
from random_sketch import random_sketch

from planish.backends.cpu.channels_last import ChannelsLast
from planish.backends.cpu.fuse import reduces_rows
from planish.backends.cpu.legalize import Legalize
from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.ops import SCANS, is_elementwise
from planish.compiler.pass_protocol import PassContext
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.canonicalize import Canonicalize

F32, F64, F16, BF16, I64, I8, BOOL = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i64", "i8", "bool"))
ENV = {"b": 2, "s": 7}
KERNELS = frozenset({
    "linear", "qlinear", "matmul", "attention", "embedding", "gather", "take_along", "reshape", "transpose", "expand", "slice",
    "concat", "pad", "constant", "full", "arange", "quantize_dynamic", "quantize", "dequantize", "conv", "max_pool", "avg_pool",
    "fold", "group_stats", *SCANS,
})  # fmt: skip


def legalise(g: Sketch) -> None:
    """Both passes of the slot."""
    ChannelsLast().run(g.graph, PassContext())
    Legalize().run(g.graph, PassContext())


def legal(write: Callable[[Sketch], Value]) -> list[str]:
    """The ops behind legalisation (constants left out), with the numbers as before."""
    g = Sketch()
    g.input(B), g.input(S)
    g.output(write(g))
    inputs = g.inputs(ENV)
    want = interpret(g.graph, inputs)
    legalise(g)
    verify(g.graph)
    (value,) = g.graph.outputs
    assert near(want[0], interpret(g.graph, inputs)[0], value.dtype) is None
    Canonicalize().run(g.graph, PassContext())
    return [n.op for n in g.graph.nodes if n.op not in ("constant", "full")]


SQUARE = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
BECOMES: dict[str, tuple[Callable[[Sketch], Value], list[str]]] = {
    "row reduction": (lambda g: g("reduce_sum", g.input(B, S), axes=(-1,), keepdim=True), ["reduce_sum"]),
    "row reduction without its axis": (lambda g: g("reduce_sum", g.input(B, S), axes=(1,)), ["reduce_sum", "reshape"]),
    "column reduction": (lambda g: g("reduce_max", g.input(B, S, 3), axes=(1,)), ["transpose", "reduce_max", "reshape"]),
    "softmax down columns": (lambda g: g("softmax", g.input(B, S), axis=0), ["transpose", "softmax", "transpose"]),
    "norm of two axes": (lambda g: g("layer_norm", g.input(B, 3, 4), None, None, axes=2), ["reshape", "layer_norm", "reshape"]),
    "constant matrix": (lambda g: g("matmul", g.input(B, S, 4), g.random(4, 5)), ["linear"]),
    "run-time weight": (lambda g: g("linear", g.input(B, 4), g.input(5, 4)), ["transpose", "matmul"]),
    "pointwise convolution": (
        lambda g: g("conv", g.input(B, 4, 3, S), g.random(5, 4, 1, 1), None, **SQUARE), ["transpose", "linear", "transpose"]
    ),
    "depthwise convolution": (
        lambda g: g("conv", g.input(B, 4, 5, S), g.random(4, 1, 3, 3), g.random(4), **SQUARE, groups=4),
        ["transpose", "conv", "transpose"],
    ),
    "run-time filters": (
        lambda g: g("conv", g.input(B, 3, 4), g.input(5, 3, 1), None, stride=(1,), padding=(0,), dilation=(1,)),
        ["transpose", "reshape", "reshape", "transpose", "matmul", "reshape", "transpose"],
    ),
    "cropping": (lambda g: g("pad", g.input(B, S), low=(0, -1), high=(0, -2)), ["slice"]),
    "half product": (
        lambda g: g("matmul", g.input(B, S, 4, dtype=F16), g.input(B, 4, S, dtype=F16)), ["cast", "cast", "matmul", "cast"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BECOMES)
def test_becomes(what: str) -> None:
    write, want = BECOMES[what]
    assert legal(write) == want


def test_integer_linears_run_on_the_integers() -> None:
    def write(g: Sketch) -> Value:
        q, scale = g.both("quantize_dynamic", g.input(B, S, 8))
        w = g("dequantize", g.random(5, 8, dtype=I8), g.const(np.linspace(0.1, 1, 5).reshape(5, 1)))
        return g("linear", g("dequantize", q, scale), w, g.random(5))

    assert legal(write) == ["quantize_dynamic", "qlinear"]


@pytest.mark.parametrize("zero_point", [True, False])
def test_one_scale_for_the_whole_tensor_is_one_number(zero_point: bool) -> None:
    def write(g: Sketch) -> Value:
        scale = g.const(np.float32(0.05)) if zero_point else g.const(np.full((1, 1), 0.05))
        x = g("dequantize", g.input(B, 8, dtype=I8), scale, *([g.const(1, I8)] if zero_point else []))
        return g("linear", x, g("dequantize", g.random(5, 8, dtype=I8), g.const(np.ones((5, 1)))))

    assert legal(write) == ["qlinear"]


def test_other_qdq_stays_float() -> None:
    """A scale for each input, or a zero point of the weight, is not what the int8 kernel computes."""

    def write(g: Sketch) -> Value:
        q, one, each = g.input(B, 8, dtype=I8), g.const(np.float32(0.05)), g.const(np.ones((5, 1)))
        w = g("dequantize", g.random(5, 8, dtype=I8), each)
        shifted = g("dequantize", g.random(5, 8, dtype=I8), each, g.const(1, I8))
        columns = g("dequantize", q, g.const(np.linspace(1, 2, 8)))
        return g("add", g("linear", columns, w), g("linear", g("dequantize", q, one), shifted))

    assert "qlinear" not in legal(write)


def test_a_range_found_at_run_time_is_taken_off_afterwards() -> None:
    """One scale and one zero point for all of x, neither of them known: int8 sums of q, less the zero point times the columns."""

    def write(g: Sketch) -> Value:
        x = g("dequantize", g.input(B, 8, dtype=I8), g.input(), g.input(dtype=I8))
        return g("linear", x, g("dequantize", g.random(5, 8, dtype=I8), g.const(np.ones((5, 1)))), g.random(5))

    assert legal(write) == ["cast", "mul", "qlinear", "sub", "mul", "add"]


def test_names_survive() -> None:
    g = Sketch()
    node = g.graph.insert(
        "group_norm",
        [g.input(B, 4, S), g.random(4), g.random(4)],
        {"groups": 2},
        name="body.norm",
        location="model.py:7",
    )
    g.output(node.output)
    Legalize().run(g.graph, PassContext())
    assert {(n.name, n.location) for n in g.graph.nodes if n.op != "constant"} == {("body.norm", "model.py:7")}


@given(st.integers(0, 10_000))
def test_only_ops_with_a_kernel_are_left(seed: int) -> None:
    g = random_sketch(seed)
    legalise(g)
    verify(g.graph)
    for node in g.graph.nodes:
        assert node.op in KERNELS or is_elementwise(node) or reduces_rows(node), node
        assert node.attrs.get("channels_last", True), node
    assert not Legalize().run(g.graph, PassContext()).changed
