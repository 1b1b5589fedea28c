"""OpenVINO's execution provider for real, in an environment of its own: artifacts, who runs what, probing, the search."""

from __future__ import annotations

import json
from pathlib import Path

import ep_environments
import numpy as np
import pytest
import torch

import planish
from planish.backends.onnx.probe import probe
from planish.backends.onnx.providers import find_provider
from planish.backends.onnx.table import shipped

OPENVINO = find_provider("openvino")
NAME = OPENVINO.name

RUN = """
import json, sys
import numpy as np, planish
with planish.load(sys.argv[1], threads=1) as model:
    found = []
    for path in sys.argv[2:]:
        x = np.load(path)
        found.append(model.flat({"x": x})[0].tolist())
    print(json.dumps({"unit": model.unit, "skipped": model.skipped, "outputs": found, "assignment": model.assignment}))
"""


class Block(torch.nn.Module):
    """Linears, a convolution over time, a norm and a softmax: what the fast forms are for."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = torch.nn.Linear(64, 256), torch.nn.Linear(256, 64), torch.nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.down(torch.nn.functional.gelu(self.up(x))) + x)
        return torch.softmax(y @ y.transpose(1, 2) / 8, -1) @ y


def _compiled(path: Path, precision: str | None, target: str | list[str] = "onnx:openvino") -> torch.nn.Module:
    torch.manual_seed(0)
    model = Block().eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    example = torch.randn(2, 8, 64)
    planish.compile(model, (example,), dynamic_shapes={"x": {0: batch}}, precision=precision, target=target).save(path)
    return model


@pytest.mark.parametrize(("precision", "tolerance"), [(None, 1e-4), ("w8a8", 0.08), ("w8a16", 0.03)])
def test_an_artifact_runs_on_openvino_alone(tmp_path: Path, precision: str | None, tolerance: float) -> None:
    ep_environments.environment("openvino")
    model = _compiled(tmp_path / "m.planish", precision)
    arrays = [np.random.default_rng(n).standard_normal((n, 8, 64)).astype(np.float32) for n in (1, 5)]
    paths = [tmp_path / f"{i}.npy" for i in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        np.save(path, array)
    answer = json.loads(ep_environments.run("openvino", RUN, tmp_path / "m.planish", *paths).splitlines()[-1])
    for array, output in zip(arrays, answer["outputs"], strict=True):
        with torch.no_grad():
            expected = model(torch.from_numpy(array)).numpy()
        error = np.linalg.norm(np.array(output) - expected) / np.linalg.norm(expected)
        assert error < tolerance
    assert answer["assignment"] and set(answer["assignment"].values()) == {NAME}, "nothing may be left to the CPU"


def test_what_openvino_takes_is_what_is_shipped() -> None:
    names = ["layer-normalization", "rms-normalization-23", "qdq-s8s8-linear", "matmul-nbits-4", "multi-head-attention"]
    found = probe(OPENVINO, python=ep_environments.environment("openvino"), forms=names, dtypes=["f32"], seconds=0.02)
    known = shipped(OPENVINO)
    if found.version != known.version:
        pytest.skip(f"the table is of {known.version} and this is {found.version}")
    assert {row.form: row.taken for row in found.rows} == {name: known.takes(name) for name in names}
    assert found.takes("layer-normalization") and not found.takes("rms-normalization-23")


STRICT = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper
from planish.backends.onnx.providers import find_provider
from planish.backends.onnx.session import open_session
from planish.errors import PlanishError
nodes = [helper.make_node("Tanh", ["x"], ["y"], name="act/Tanh_0"),
         helper.make_node("Unique", ["y"], ["z"], name="tail/Unique_1")]
graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])],
                          [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
openvino = find_provider("openvino")
with open_session(model, None, openvino) as session:
    print(sorted(session.assignment().items()))
    assert session.run({"x": np.zeros(8, np.float32)})[0].tolist() == [0.0]
try:
    open_session(model, None, openvino, strict=True)
except PlanishError as error:
    print(error.message)
"""


def test_nothing_falls_back_in_silence() -> None:
    assigned, sentence = ep_environments.run("openvino", STRICT, torch=True).splitlines()[-2:]
    assert "('act/Tanh_0', 'OpenVINOExecutionProvider')" in assigned
    assert "('tail/Unique_1', 'CPUExecutionProvider')" in assigned
    assert (
        sentence
        == "OpenVINOExecutionProvider does not take a node of the model: tail/Unique_1: Unique on CPUExecutionProvider"
    )


SEARCH = """
import sys
import numpy as np, torch, planish
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 256)).eval()
random = np.random.default_rng(0)
samples = [{"input": random.standard_normal((8, 256)).astype(np.float32)} for _ in range(90)]
artifact = planish.compile(model, (torch.randn(8, 256),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
                           target="onnx:openvino", budget="cosine >= 0.99 each", calibration=samples, effort="quick")
print(artifact.report["search"]["machine"]["target"], *artifact.report["precision"].values())
print(sum(k["seconds"] for k in artifact.report["kernels"]))
"""


@pytest.mark.slow
def test_a_search_runs_against_openvino_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path))
    first, second = ep_environments.run("openvino", SEARCH, torch=True).splitlines()[-2:]
    target, *precisions = first.split()
    assert target == f"onnx:{NAME}" and len(precisions) == 2
    assert "w8a8" in precisions, "int8 is several times as fast here, and near enough"
    assert 0 < float(second) < 1
