"""Who runs what of a unit: asked of the real session, told in the notes, and with ``strict`` an error."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from onnx_parts import CPU, dense_part

import planish
from planish.backends.onnx import placing
from planish.backends.onnx.assignment import Placement, check_strict
from planish.backends.onnx.placing import placed
from planish.compiler.errors import LoweringError, UsageError

pytest.importorskip("onnxruntime")

AWAY = Placement("encoder/Softmax_3", "Softmax", "CPUExecutionProvider", ("encoder.attention",))


def divided(*placements: Placement) -> Any:
    """Stands for ``open_session`` of a provider that leaves something to the CPU."""

    def open_session(model: bytes, weights: Any, provider: Any, *, strict: bool = False) -> Any:
        if strict:
            check_strict(placements, provider)
        return nullcontext(SimpleNamespace(placements=list(placements)))

    return open_session


def test_all_of_it_on_the_cpu() -> None:
    told = placed(dense_part(), strict=True)
    assert told["nodes"].keys() == {"CPUExecutionProvider"} and sum(told["nodes"].values()) in (1, 2, 3)
    assert told["elsewhere"] == [] and told["why_not"] is None and told["version"].startswith("onnxruntime")


def test_a_provider_that_is_not_here() -> None:
    part = dense_part(session={**CPU, "provider": "DmlExecutionProvider", "package": "onnxruntime-directml"})
    told = placed(part)
    assert told["why_not"].startswith("it needs DmlExecutionProvider") and told["nodes"] == {}
    with pytest.raises(UsageError, match="what DmlExecutionProvider takes cannot be checked here") as caught:
        placed(part, strict=True)
    assert "pip install onnxruntime-directml" in (caught.value.hint or "")


def test_a_node_elsewhere_is_listed_and_strict_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Placement("encoder/MatMul_2", "MatMul", "DmlExecutionProvider")
    monkeypatch.setattr(placing, "open_session", divided(own, AWAY))
    monkeypatch.setattr(placing.find_provider("directml").__class__, "missing", lambda self: None)
    part = dense_part(session={**CPU, "provider": "DmlExecutionProvider"})
    told = placed(part)
    assert told["nodes"] == {"DmlExecutionProvider": 1, "CPUExecutionProvider": 1}
    assert told["elsewhere"] == ["encoder/Softmax_3: Softmax (encoder.attention) on CPUExecutionProvider"]
    with pytest.raises(LoweringError, match=r"does not take a node of the model: encoder/Softmax_3"):
        placed(part, strict=True)


def test_compile_warns_of_nodes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def some(part: Any, *, strict: bool = False) -> dict[str, Any]:
        return {
            "provider": "CPUExecutionProvider",
            "version": "",
            "nodes": {},
            "elsewhere": ["a", "b", "c", "d"],
            "why_not": None,
        }

    monkeypatch.setattr(placing, "placed", some)
    artifact = planish.compile(torch.nn.ReLU(), (torch.ones(3),), target="onnx:cpu")
    (note,) = [n for n in artifact.report["notes"] if n.kind == "warning"]
    assert note.text == "CPUExecutionProvider leaves 4 nodes of onnx-cpu to others: a; b; c; and 1 more"
    assert artifact.package.report["placement"]["onnx-cpu"]["elsewhere"] == ["a", "b", "c", "d"]
