"""Whole models of the zoo as ONNX models: beside eager PyTorch, at sizes they were not captured with."""

from __future__ import annotations

import pytest
import zoo
from onnx_harness import Session
from zoo_runs import captured, runs

from planish.compiler.instruments import Verify
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


def test_recurrent_layers_are_operators() -> None:
    """The product with the input weights, which the IR has apart, goes back into LSTM and GRU."""
    for name, operator in (("lstm", "LSTM"), ("gru", "GRU")):
        graph = captured(name, zoo.MODELS[name].attentions[0]).graph.copy()
        presets.default().run(graph, PassContext(target=find_target("onnx:cpu"), data={PLAN: Plan()}))
        kinds = [n.op_type for n in Session(graph).model.graph.node]
        assert operator in kinds and "Scan" not in kinds
