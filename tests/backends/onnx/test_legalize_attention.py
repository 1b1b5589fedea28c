"""Attention in two products and norms in parts: factors go to who multiplies already, int8 scores stay symmetric, rows that see
nothing are zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_harness import B, S, Sketch
from onnx_harness import Session, difference

from planish.backends.onnx.forms import FORMS
from planish.backends.onnx.legalize import LegalizeOnnx
from planish.backends.onnx.precisions import precisions
from planish.backends.onnx.table import Row, Table
from planish.compiler.graph import Graph, Node, Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.target import Target
from planish.compiler.tolerance import relative_distance
from planish.compiler.types import DType
from planish.compiler.verify import verify

SIZES = ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 2, "s": 33})
HEADS, WIDTH = 2, 8
K = HEADS * WIDTH


def table(*forms: str, slow: str = "") -> Table:
    """A provider that takes these forms and gains by them, and loses by ``slow``."""
    assert {*forms} <= set(FORMS)
    rows = [Row(f, "f32", True, 1.0, 2.0, "probed") for f in forms]
    rows += [Row(slow, "f32", True, 1.0, 0.5, "probed")] if slow else []
    return Table("CPUExecutionProvider", "test", "test", tuple(rows))


def legal(graph: Graph, known: Table, provider: str = "") -> PassContext:
    context = PassContext(target=Target("onnx", "CPUExecutionProvider"))
    LegalizeOnnx(table=known, provider=provider).run(graph, context)
    graph.sweep()
    verify(graph)
    return context


def nodes(graph: Graph, op: str) -> list[Node]:
    return [n for n in graph.nodes if n.op == op]


def apart(g: Sketch, x: Value) -> Value:
    return g("transpose", g("reshape", x, shape=(B, S, HEADS, WIDTH)), perm=(0, 2, 1, 3))


def together(g: Sketch, x: Value) -> Value:
    return g("reshape", g("transpose", x, perm=(0, 2, 1, 3)), shape=(B, S, K))


def rounded(g: Sketch, x: Value, step: float) -> Value:
    scale = g.const(np.float32(step))
    return g("dequantize", g("quantize", x, scale), scale)


def weight(g: Sketch, kind: str) -> Value:
    if kind == "float":
        return g.random(K, K)
    return g("dequantize", g.random(K, K, dtype=DType.i8, low=-100, high=100), g.const(np.full((K, 1), 0.01)))


def attention(g: Sketch, *operands: Value | None, **attrs: Any) -> Value:
    given = {"causal": False, "causal_offset": 0, "scale": 0.35, "empty_row": "zero", **attrs}
    return g("attention", *operands, **given)


def close(a: Graph, b: Graph, sketch: Sketch, most: float = 2e-6) -> None:
    """Both give the same, relative to its norm; where values are rounded in between, one may be a step away now and then."""
    for env in SIZES:
        inputs = sketch.inputs(env)
        for want, got in zip(interpret(a, inputs), interpret(b, inputs), strict=True):
            assert relative_distance(want, got) <= most


def runs(graph: Graph, sketch: Sketch, most: float) -> None:
    """ONNX Runtime gives what the interpreter gives. (Its own rewrites make invalid models of int8 in front of views.)"""
    session = Session(graph, optimize=False)
    for env in SIZES:
        inputs = sketch.inputs(env)
        for want, got in zip(interpret(graph, inputs), session(inputs), strict=True):
            assert relative_distance(want, got) <= most


@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("scores", [False, True])
def test_the_factor_of_the_scores_goes_into_the_queries(kind: str, scores: bool) -> None:
    g = Sketch()
    x = g.input(B, S, K)
    q, k, v = (g("linear", x, weight(g, kind), g.random(K)) for _ in range(3))
    if scores:
        q, k = rounded(g, q, 0.125), rounded(g, k, 0.1)
    g.output(together(g, attention(g, apart(g, q), apart(g, k), apart(g, v))))
    graph = g.graph.copy()
    legal(graph, table("attention-int8-scores"))
    (node,) = nodes(graph, "attention")
    assert node.attrs["scale"] == 1.0
    close(g.graph, graph, g, 1e-2 if scores else 2e-6)
    runs(graph, g, 1e-2 if scores else 2e-6)
    if scores:
        steps = [graph.array(n.operands[1]) for n in nodes(graph, "quantize")]
        assert sorted(round(float(s), 6) for s in steps) == [round(0.125 * 0.35, 6), 0.1]  # type: ignore[arg-type]


@pytest.mark.parametrize("why", ["taken whole", "a bias at run time", "read elsewhere", "no linear"])
def test_the_factor_stays_where_it_has_no_better_place(why: str) -> None:
    g = Sketch()
    x = g.input(B, S, K)
    q = x if why == "no linear" else g("linear", x, g.random(K, K), g.input(K) if "bias" in why else g.random(K))
    g.output(together(g, attention(g, apart(g, q), apart(g, g("relu", x)), apart(g, x))))
    if why == "read elsewhere":
        g.output(*g.graph.outputs, q)
    before = g.graph.copy()
    legal(g.graph, table(*(["attention-23"] if why == "taken whole" else [])))
    (node,) = nodes(g.graph, "attention")
    assert node.attrs["scale"] == 0.35
    close(before, g.graph, g)


def test_int8_scores_stay_symmetric_where_other_inputs_become_uint8() -> None:
    g = Sketch()
    x = g.input(B, S, K)
    linear = g("linear", rounded(g, x, 0.05), weight(g, "int8"), None)
    g.output(together(g, attention(g, apart(g, rounded(g, linear, 0.1)), apart(g, rounded(g, x, 0.1)), apart(g, x))))
    legal(g.graph, table("attention-int8-scores", "qdq-u8s8-linear"))
    assert [n.attrs["dtype"] for n in nodes(g.graph, "quantize")].count(DType.u8) == 1
    for n in nodes(g.graph, "quantize"):
        zero = g.graph.array(n.operands[2])
        assert zero is not None and int(zero) == (128 if n.attrs["dtype"] is DType.u8 else 0)
    session = Session(g.graph, takes=lambda form, dtype: form == "qdq-u8s8-linear", optimize=False)
    for env in SIZES:
        assert difference(session, g, env, slack=20.0) is None


@pytest.mark.parametrize(
    ("forms", "offered"),
    [
        (("attention-int8-scores",), ("f32", "w8a8")),
        (("attention-int8-scores", "attention-23"), ("f32",)),
        ((), ("f32",)),
    ],
)
def test_attention_in_int8_is_offered_where_it_pays(forms: tuple[str, ...], offered: tuple[str, ...]) -> None:
    assert precisions(table("matmul", *forms))["attention"] == offered
    assert precisions(table("matmul", slow="attention-int8-scores"))["attention"] == ("f32",)


def test_merged_linears_are_parted_where_slices_are_copied() -> None:
    for provider, parts in (("OpenVINOExecutionProvider", 3), ("CPUExecutionProvider", 1)):
        g = Sketch()
        y = g("linear", g.input(B, S, K), g.random(3 * K, K), g.random(3 * K))
        g.output(*(g("relu", g("slice", y, axis=2, start=i * K, end=i * K + K)) for i in range(3)))
        legal(g.graph, table("matmul"), provider)
        assert len(nodes(g.graph, "linear")) == parts


# -- rows that see nothing --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(B, 1, 1, S), (B, 1, S, S), (B, HEADS, S, S), (S, S), (1, S), (HEADS, 1, S)])
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_rows_that_see_nothing_are_zeros(shape: tuple[Any, ...], joined: bool, causal: bool) -> None:
    g = Sketch()

    def some(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        seen = rng.random(size) < 0.5
        seen[..., :1, :] &= False  # at least one row sees nothing
        return seen

    q, k, v = (apart(g, g.input(B, S, K)) for _ in range(3))
    mask = g.input(*shape, dtype=DType.bool, data=some)
    y = attention(g, q, k, v, mask, causal=causal)
    g.output(together(g, y) if joined else y)
    session = Session(g.graph)
    for env in SIZES:
        assert difference(session, g, env) is None
        (got,) = session(g.inputs(env))
        rows = got.reshape(-1, K if joined else WIDTH)
        assert (np.abs(rows).max(axis=1) == 0).any()


def test_heads_that_others_read_apart_are_there_too() -> None:
    g = Sketch()
    q, k, v = (apart(g, g.input(B, S, K)) for _ in range(3))
    y = attention(g, q, k, v, g.input(B, 1, 1, S, dtype=DType.bool))
    g.output(together(g, y), y)
    session = Session(g.graph)
    for env in SIZES:
        assert difference(session, g, env) is None


# -- norms ------------------------------------------------------------------------------------------------------------------
def normed(bias: bool = True, plain_reader: bool = False) -> Sketch:
    """A norm that is smoothed and rounded for one linear, and added to the result of another."""
    g = Sketch()
    x = g.input(B, S, K)
    norm = g("layer_norm", x, g.random(K), g.random(K), axes=1, eps=1e-5)
    smooth = g("sub", g("mul", norm, g.const(np.linspace(0.5, 2, K))), g.const(np.linspace(-1, 1, K)))
    wide = g("relu", g("linear", rounded(g, smooth, 0.03), weight(g, "int8"), g.random(K)))
    narrow = g("linear", wide, g.random(K, K), g.random(K) if bias else None)
    total = g("add", narrow, norm)
    g.output(g("layer_norm", total, g.random(K), None, axes=1, eps=1e-5), *([g("neg", norm)] if plain_reader else []))
    return g


@pytest.mark.parametrize("bias", [True, False])
def test_weight_and_bias_of_a_norm_go_to_its_readers(bias: bool) -> None:
    g = normed(bias)
    graph = g.graph.copy()
    legal(graph, table())
    inner, last = nodes(graph, "layer_norm")
    assert inner.inputs[1:3] == [None, None] and last.inputs[1] is not None, "the last one has no reader to take them"
    assert len(nodes(graph, "mul")) == len(nodes(graph, "sub")) + 1
    close(g.graph, graph, g, 1e-2)
    runs(graph, g, 1e-2)


@pytest.mark.parametrize("why", ["whole", "plain reader"])
def test_a_norm_keeps_what_a_reader_has_no_place_for(why: str) -> None:
    g = normed(plain_reader=why == "plain reader")
    legal(g.graph, table(*(["layer-normalization"] if why == "whole" else [])))
    assert nodes(g.graph, "layer_norm")[0].inputs[1] is not None
