"""QNN's execution provider, emulated on x86-64: a plugin beside ONNX Runtime that takes fixed shapes only."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import ep_environments
import numpy as np
import pytest
import torch

import planish
from planish.backends.onnx.probe import probe
from planish.backends.onnx.providers import find_provider
from planish.backends.onnx.table import shipped
from planish.compiler.errors import UsageError

QNN = find_provider("qnn")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="QNN is emulated on x86-64 only")

RUN = """
import json, sys
import numpy as np, planish
with planish.load(sys.argv[1], threads=1) as model:
    print(json.dumps({"output": model.flat({"x": np.load(sys.argv[2])})[0].tolist(), "assignment": model.assignment}))
"""


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 32)).eval()


def test_dynamic_shapes_are_refused_with_the_flag_that_fixes_them() -> None:
    batch = torch.export.Dim("batch", min=2, max=16)
    with pytest.raises(
        UsageError, match=r"QNNExecutionProvider takes fixed shapes only .* dynamic dims batch"
    ) as error:
        planish.compile(_model(), (torch.randn(4, 64),), dynamic_shapes=({0: batch},), target="onnx:qnn")
    assert "--dim batch=1" in str(error.value.hint)


class Named(torch.nn.Module):
    """A model whose input is called x."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _model()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.mark.parametrize(("precision", "tolerance"), [(None, 5e-3), ("w8a8", 0.05)])
def test_an_artifact_runs_on_the_emulated_npu(tmp_path: Path, precision: str | None, tolerance: float) -> None:
    ep_environments.environment("qnn")
    model = Named().eval()
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    planish.compile(model, (torch.from_numpy(x),), precision=precision, target="onnx:qnn").save(tmp_path / "m.planish")
    np.save(tmp_path / "x.npy", x)
    answer = json.loads(ep_environments.run("qnn", RUN, tmp_path / "m.planish", tmp_path / "x.npy").splitlines()[-1])
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    assert np.linalg.norm(np.array(answer["output"]) - expected) / np.linalg.norm(expected) < tolerance
    assert QNN.name in answer["assignment"].values()


@pytest.mark.parametrize(
    "precision",
    [
        None,
        pytest.param(
            "w8a8",
            marks=pytest.mark.xfail(
                strict=True,
                reason="QNN takes integers only where the result is quantised too; else weights are dequantised on the CPU",
            ),
        ),
    ],
)
def test_nothing_is_left_to_the_cpu(tmp_path: Path, precision: str | None) -> None:
    ep_environments.environment("qnn")
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    artifact = planish.compile(Named().eval(), (torch.from_numpy(x),), precision=precision, target="onnx:qnn")
    artifact.save(tmp_path / "m.planish")
    np.save(tmp_path / "x.npy", x)
    answer = json.loads(ep_environments.run("qnn", RUN, tmp_path / "m.planish", tmp_path / "x.npy").splitlines()[-1])
    assert answer["assignment"] and set(answer["assignment"].values()) == {QNN.name}


def test_what_qnn_takes_is_what_is_shipped() -> None:
    names = ["matmul", "gelu-20", "qdq-u8s8-linear", "matmul-nbits-4", "skip-layer-normalization"]
    found = probe(QNN, python=ep_environments.environment("qnn"), forms=names, dtypes=["f32"])
    known = shipped(QNN)
    if found.version != known.version:
        pytest.skip(f"the table is of {known.version} and this is {found.version}")
    assert {row.form: row.taken for row in found.rows} == {name: known.takes(name) for name in names}
    assert all(row.seconds is None for row in found.rows), "what an emulator takes says nothing of the hardware"
