"""Batch norms fold into the weights in front of them, and stay where they must."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_harness import B, S, Sketch, near

from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.verify import verify
from planish.passes.fold_norm import FoldNorm

ONE = {"stride": (1,), "padding": (1,), "dilation": (1,)}


def norm(g: Sketch, x: Value, affine: bool = True) -> Value:
    channels = int(x.shape[1])  # type: ignore[call-overload]
    mean, var = g.random(channels), g.const(np.linspace(0.1, 3, channels))
    weights = [g.random(channels), g.random(channels)] if affine else [None, None]
    return g("batch_norm", x, *weights, mean, var, eps=1e-3)


def conv(g: Sketch, bias: bool = True) -> Value:
    return g("conv", g.input(B, 4, S), g.random(6, 2, 3), g.random(6) if bias else None, **ONE, groups=2)


def transposed(g: Sketch) -> Value:
    attrs = {**ONE, "stride": (2,), "output_padding": (1,), "groups": 2}
    return g("conv_transpose", g.input(B, 4, S), g.random(4, 3, 3), g.random(6), **attrs)


def linear(g: Sketch, *shape: object) -> Value:
    return g("linear", g.input(*(shape or (B, 4))), g.random(6, 4), None)  # type: ignore[arg-type]


def folded(write: Callable[[Sketch], Value | list[Value]]) -> bool:
    """Whether the pass folded the norm away; the numbers are the same either way."""
    g = Sketch()
    outputs = write(g)
    g.output(*(outputs if isinstance(outputs, list) else [outputs]))
    inputs = g.inputs({"b": 3, "s": 6})
    want = interpret(g.graph, inputs)
    changed = FoldNorm().run(g.graph, PassContext()).changed
    verify(g.graph)
    for value, a, b in zip(g.graph.outputs, want, interpret(g.graph, inputs), strict=True):
        assert near(a, b, value.dtype, slack=3) is None
    assert changed == (not any(n.op == "batch_norm" for n in g.graph.nodes))
    return changed


FOLDS: dict[str, Callable[[Sketch], Value | list[Value]]] = {
    "convolution": lambda g: norm(g, conv(g)),
    "without a bias": lambda g: norm(g, conv(g, bias=False)),
    "without weights of its own": lambda g: norm(g, conv(g), affine=False),
    "transposed convolution in groups": lambda g: norm(g, transposed(g)),
    "linear": lambda g: norm(g, linear(g)),
}
STAYS: dict[str, Callable[[Sketch], Value | list[Value]]] = {
    "nothing in front": lambda g: norm(g, g.input(B, 4, S)),
    "another reader": lambda g: [norm(g, x := conv(g)), g("relu", x)],
    "an output": lambda g: [norm(g, x := conv(g)), x],
    "filters of run time": lambda g: norm(g, g("conv", g.input(B, 4, S), g.input(6, 4, 3), None, **ONE)),
    "a linear over other axes": lambda g: norm(g, linear(g, B, 5, 4)),
}


@pytest.mark.parametrize("what", FOLDS)
def test_folds(what: str) -> None:
    assert folded(FOLDS[what])


@pytest.mark.parametrize("what", STAYS)
def test_stays(what: str) -> None:
    assert not folded(STAYS[what])
