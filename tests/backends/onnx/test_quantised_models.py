"""Whole models in int8 through ONNX Runtime: the real MiniLM keeps its quality, a ResNet runs on integers throughout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_forms import operators
from onnx_harness import Session

import planish
from planish import driver
from planish.backends.onnx.providers import find_provider
from planish.backends.onnx.table import shipped
from planish.compiler.capture.torch_export import capture
from planish.compiler.interpret import interpret
from planish.compiler.plan import Plan
from planish.compiler.target import find_target
from planish.compiler.tolerance import MODEL, relative_distance
from planish.compiler.types import DType

EXAMPLES = Path(planish.__file__).parent / "examples"
TAKES = shipped(find_provider("cpu")).pays


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def built(example: Any, precision: str, calibration: list[dict[str, np.ndarray]]) -> tuple[driver.Built, Session]:
    """A model behind all passes, and a session of what it is emitted as with the shipped table."""
    module, args, kwargs, dynamic_shapes = example
    captured = capture(module, args, kwargs, dynamic_shapes=dynamic_shapes)
    found = driver.build(captured.graph, Plan.of(precision), find_target("onnx:cpu"), calibration=calibration)
    return found, Session(found.graph, opset=23, takes=TAKES)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


@pytest.mark.slow
def test_minilm_in_dynamic_int8() -> None:
    """Better than ONNX Runtime's own dynamic int8, whose least cosine is 0.988, in the operators that are fast."""
    import torch
    from minilm import model
    from sentences import sentences, tokenised

    example = model()
    known = [tokenised([s]) for s in sentences(200, seed=5, name="calibration")]
    found, session = built(example, "w8a8-dynamic", known)
    assert any(n.kind == "change" and "one scale" in n.text for n in found.notes)
    names = operators(session)
    assert names.count("com.microsoft:MatMulIntegerToFloat") == 36
    assert names.count("Attention") == 6
    assert "MatMul" not in names
    least = 1.0
    for text in sentences(100):
        inputs = tokenised([text])
        (got,) = session(inputs)
        with torch.no_grad():
            want = example[0](**{k: torch.from_numpy(v) for k, v in inputs.items()}).last_hidden_state.numpy()
        least = min(least, cosine(got[0].mean(0), want[0].mean(0)))
    assert least > 0.988
    batch = tokenised(sentences(3, seed=1))  # of different lengths, so there is padding
    (want,), (got,) = interpret(found.graph, batch), session(batch)
    for a, b, mask in zip(want, got, batch["attention_mask"].astype(bool), strict=True):
        # where a value lies between two steps, float rounding decides, and six layers make more of it
        assert cosine(a[mask].mean(0), b[mask].mean(0)) > 0.99


@pytest.mark.slow
def test_resnet_in_static_int8() -> None:
    import torch
    from resnet import ResNet, images

    torch.manual_seed(0)
    network = ResNet((1, 1, 1, 1), 10)
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(images(4, 1, 64)))
    network.eval().requires_grad_(False)
    batch = torch.export.Dim("batch", min=1, max=8)
    example = network, (), {"images": torch.from_numpy(images(2, 2, 64))}, {"images": {0: batch}}
    found, session = built(example, "w8a8", [{"images": images(2, seed, 64)} for seed in range(10, 16)])
    assert any("stored in eight bits" in n.text for n in found.notes)
    assert operators(session).count("QuantizeLinear") >= operators(session).count("Conv")
    for size in (1, 3):
        inputs = {"images": images(size, 50, 64)}
        (want,), (got,) = interpret(found.graph, inputs), session(inputs)
        assert relative_distance(want, got) < MODEL[DType.i8] / 2
        with torch.no_grad():
            exact = network(torch.from_numpy(inputs["images"])).numpy()
        assert min(cosine(a, b) for a, b in zip(got, exact, strict=True)) > 0.97
