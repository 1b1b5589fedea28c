"""Whole models of the zoo as ONNX models: beside eager PyTorch, at sizes they were not captured with."""

from __future__ import annotations

import pytest
import zoo
from graph_harness import B, S, Sketch
from onnx_harness import Session, difference
from zoo_runs import captured, runs

from planish.compiler.graph import Symbol
from planish.compiler.instruments import Verify
from planish.compiler.ops_recurrent import GATES
from planish.compiler.pass_protocol import PassContext
from planish.compiler.plan import Plan
from planish.compiler.target import find_target
from planish.compiler.tolerance import MODEL, relative_distance
from planish.compiler.types import DType
from planish.passes import presets
from planish.passes.precision import PLAN

pytest.importorskip("transformers")

#: A model of every kind in the quick suite; the rest is slow.
QUICK = ("bert", "llama", "cnn", "lstm", "gru", "vae")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in zoo.MODELS])
def test_model(name: str) -> None:
    attention = zoo.MODELS[name].attentions[0]
    source = captured(name, attention)
    graph = source.graph.copy()
    context = PassContext(target=find_target("onnx:cpu"), data={PLAN: Plan()})
    presets.default().run(graph, context, [Verify()])
    session = Session(graph)
    assert [o.name for o in session.session.get_outputs()] == source.output_names
    assert {i.name for i in session.session.get_inputs()} == {v.name for v in graph.inputs}
    for run in runs(name, attention):
        results = session({v.name: run.inputs[v.name] for v in graph.inputs})
        for wanted, got in zip(run.expected.values(), results, strict=True):
            assert wanted.shape == got.shape
            assert relative_distance(wanted, got) <= MODEL[DType.f32], f"{name} at {run.size}"


@pytest.mark.parametrize("form", ["operator", "slice", "exchanged", "scan"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_recurrent_layer(cell: str, reverse: bool, form: str) -> None:
    """Every cell, with the product of the input weights in front in the forms that passes leave it in."""
    sketch = Sketch()
    sketch.graph.symbols = {name: Symbol(name, 1, 64) for name in "bs"}
    rows = 8 * GATES[cell]
    outputs = 2 * rows if form == "slice" else rows
    x = sketch.input(B, S, 5) if form == "exchanged" else sketch.input(S, B, 5)
    gates = sketch("linear", x, sketch.random(outputs, 5), sketch.random(outputs))
    if form == "slice":
        gates = sketch("slice", gates, axis=-1, start=rows, end=2 * rows)
    if form == "exchanged":
        gates = sketch("transpose", gates, perm=(1, 0, 2))
    if form == "scan":
        gates = sketch("neg", gates)
    states = [sketch.input(B, 8) for _ in range(2 if cell == "lstm" else 1)]
    extra = [None, sketch.random(8)] if cell == "gru" else []
    sketch.output(*sketch.both("recurrent", gates, sketch.random(rows, 8), *states, *extra, cell=cell, reverse=reverse))
    session = Session(sketch.graph)
    kinds = {n.op_type for n in session.model.graph.node}
    assert ("Scan" in kinds) == (form == "scan")
    assert ("MatMul" in kinds) == (form == "scan")  # the linear in front is gone
    for env in ({"b": 3, "s": 5}, {"b": 1, "s": 1}):
        assert difference(session, sketch, env, slack=4.0) is None


def test_recurrent_layers_are_operators() -> None:
    """The product with the input weights, which the IR has apart, goes back into LSTM and GRU."""
    for name, operator in (("lstm", "LSTM"), ("gru", "GRU")):
        graph = captured(name, zoo.MODELS[name].attentions[0]).graph.copy()
        presets.default().run(graph, PassContext(target=find_target("onnx:cpu"), data={PLAN: Plan()}))
        kinds = [n.op_type for n in Session(graph).model.graph.node]
        assert operator in kinds and "Scan" not in kinds
