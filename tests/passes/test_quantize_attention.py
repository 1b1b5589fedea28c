"""The scores of attention as a product of int8: where queries and keys are rounded, over which range, and what that costs."""

from __future__ import annotations

import numpy as np
import pytest
from graph_harness import Sketch

from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph, Node, Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.precision import PRECISIONS, expand
from planish.compiler.target import Capabilities
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.calibrate import calibrate
from planish.passes.precision import CALIBRATION, CHOICES, Choice
from planish.passes.quantize import Quantize, quantized, requests_of
from planish.passes.weights.store import WeightStore

HEADS, WIDTH = 2, 8


def heads_apart(g: Sketch, x: Value) -> Value:
    return g("transpose", g("reshape", x, shape=(3, 7, HEADS, WIDTH)), perm=(0, 2, 1, 3))


def attended(shared: bool = False) -> Sketch:
    """Attention on what linears make; ``shared``: with queries that are the keys."""
    g = Sketch()
    x = g.input(3, 7, 16)
    q, k, v = (heads_apart(g, g("linear", x, g.random(HEADS * WIDTH, 16), g.random(HEADS * WIDTH))) for _ in range(3))
    g.output(g("attention", k if shared else q, k, v, causal=False, causal_offset=0, scale=0.2, empty_row="nan"))
    return g


def attention_of(graph: Graph) -> Node:
    (node,) = [n for n in graph.nodes if n.op == "attention"]
    return node


def low(graph: Graph, data: list[dict[str, np.ndarray]], precision: str = "w8a8") -> PassContext:
    node = attention_of(graph)
    context = PassContext(data={CHOICES: {("attention", node.name): Choice(precision)}, CALIBRATION: data})
    Quantize().run(graph, context)
    verify(graph)
    return context


def test_queries_and_keys_are_rounded_where_they_are_made() -> None:
    g = attended()
    data = [g.inputs({}, seed) for seed in range(4)]
    made = [interpret(ends(g.graph), inputs) for inputs in data]
    graph = g.graph.copy()
    context = low(graph, data)
    for operand, name in ((0, "queries"), (1, "keys")):
        value = attention_of(graph).operands[operand]
        chain = []
        while value.node is not None and value.node.op != "linear":
            chain.append(value.node.op)
            value = value.node.operands[0]
        assert chain == ["transpose", "reshape", "dequantize", "quantize"]
        (quantize,) = value.users
        step = graph.array(quantize.operands[1])
        furthest = max(np.abs(m[operand]).max() for m in made)
        assert len(quantize.operands) == 2 and step is not None
        np.testing.assert_allclose(step, furthest / 127, rtol=1e-6)
        assert any(name in note.text and "minmax" in note.text for note in context.notes)
    assert attention_of(graph).operands[2].node.op == "transpose"  # type: ignore[union-attr]
    for inputs in data:
        (want,), (got,) = interpret(g.graph, inputs), interpret(graph, inputs)
        assert 0 < np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)


def ends(graph: Graph) -> Graph:
    """The same with queries and keys as outputs."""
    twin = graph.copy()
    twin.outputs = attention_of(twin).operands[:2]
    return twin


def test_a_unit_alone_is_what_the_model_has() -> None:
    g = attended()
    data = [g.inputs({}, seed) for seed in range(3)]
    node, precision, store = attention_of(g.graph), PRECISIONS["w8a8"], WeightStore()
    requests = requests_of([node], precision)
    assert [r.operand for r in requests] == [0, 1]
    calibrate(g.graph, requests, data, store, None)
    alone = quantized(g.graph, [node], precision, store=store)
    assert [n.op for n in alone.nodes].count("dequantize") == 2
    whole = g.graph.copy()
    low(whole, data)
    twin = g.graph.copy()
    twin.outputs = attention_of(twin).operands
    for inputs in data:
        operands = interpret(twin, inputs)
        given = {v.name: a for v, a in zip(alone.inputs, operands, strict=True)}
        np.testing.assert_allclose(interpret(alone, given)[0], interpret(whole, inputs)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["w8a8-dynamic", "w4a8", "w8a16"])
def test_other_integers_are_for_linears(precision: str) -> None:
    g = attended()
    context = low(g.graph, [g.inputs({})], precision)
    assert any(note.kind == "miss" and "w8a8" in note.text for note in context.notes)
    assert "quantize" not in {n.op for n in g.graph.nodes}


def test_one_tensor_that_is_both_stays_float() -> None:
    g = attended(shared=True)
    context = low(g.graph, [g.inputs({})])
    assert any(note.kind == "miss" and "not three tensors" in note.text for note in context.notes)


def test_a_range_needs_data() -> None:
    g = attended()
    with pytest.raises(UsageError, match="needs example data"):
        low(g.graph, [])


@pytest.mark.parametrize(
    ("offered", "found"),
    [(("f32", "w8a8"), "w8a8"), (("bf16", "f32"), "bf16"), (("f32",), "f32"), (("bf16", "w8a8"), "w8a8")],
)
def test_a_shorthand_covers_attention_where_it_can(offered: tuple[str, ...], found: str) -> None:
    capabilities = Capabilities({"linear": ("f32", "bf16", "w8a8"), "attention": offered})
    assert expand(PRECISIONS["w8a8"], capabilities)["attention"].name == found


def test_views_that_others_read_are_left_alone() -> None:
    g = Sketch()
    x = g.input(3, 7, HEADS * WIDTH)
    q, k, v = (heads_apart(g, y) for y in (x, g("relu", x), g("neg", x)))
    g.output(g("attention", q, k, v, causal=False, causal_offset=0, scale=0.2, empty_row="nan"), q)
    data = [g.inputs({})]
    (_, want) = interpret(g.graph, data[0])
    low(g.graph, data)
    np.testing.assert_array_equal(interpret(g.graph, data[0])[1], want)
    assert attention_of(g.graph).operands[0].node.op == "dequantize"  # type: ignore[union-attr]
    assert attention_of(g.graph).operands[0].dtype is DType.f32
