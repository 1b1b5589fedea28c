"""Every model of the zoo, captured with a dynamic batch (and length), against eager PyTorch on other sizes."""

from __future__ import annotations

import pytest
import torch
import zoo
from capture.oracle import check
from zoo_runs import captured, flat, runs

from planish.compiler.capture.torch_export import Captured
from planish.compiler.interpret import interpret
from planish.compiler.tolerance import MODEL, relative_distance
from planish.compiler.types import DType
from planish.compiler.verify import verify

pytest.importorskip("transformers")


@pytest.mark.parametrize(("name", "attention"), zoo.VARIANTS)
def test_model(name: str, attention: str) -> None:
    model: Captured = captured(name, attention)
    verify(model.graph)
    wanted = {str(dim.__name__) for axes in zoo.MODELS[name].shapes.values() for dim in axes.values()}
    assert set(model.graph.symbols) == wanted
    for run in runs(name, attention):
        got = interpret(model.graph, run.inputs)
        assert len(got) == len(run.expected)
        for array, (key, expected) in zip(got, run.expected.items(), strict=True):
            assert relative_distance(expected, array) <= MODEL[DType.f32], f"{key} at {run.size}"


@pytest.mark.parametrize("name", [n for n, e in zoo.MODELS.items() if "sdpa" in e.attentions and e.layers])
def test_sdpa_is_captured_as_attention(name: str) -> None:
    ops = [n.op for n in captured(name, "sdpa").graph.nodes]
    assert ops.count("attention") == zoo.MODELS[name].layers


def test_sizes_can_stay_fixed() -> None:
    entry = zoo.MODELS["bert"]
    call = entry.call(2, 9)
    only_batch = check(entry.build("sdpa"), (), call, shapes={name: {0: zoo.BATCH} for name in call},
                       others=[((), entry.call(1, 9))])  # fmt: skip
    assert set(only_batch.graph.symbols) == {"batch"}
    assert not check(entry.build("sdpa"), (), call).graph.symbols


def test_flat_names_what_is_nested() -> None:
    x = torch.zeros(1)
    assert list(flat({"a": (x, None, [x]), "b": x})) == ["/a/0", "/a/2/0", "/b"]
