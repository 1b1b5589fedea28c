"""The example package of ops: found through its entry point or named on the command line, and gone from the artifact."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from planish.cli import main
from planish.cli.source import load_source
from planish.compiler.custom_ops import registered_ops

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "custom_op"
MODEL = f"{EXAMPLE}/model.py:model"
KERNELS = EXAMPLE / "planish_example_op" / "kernels.py"

#: Runs an artifact where neither torch nor the plugin can be imported.
ALONE = """
import sys
for name in ("torch", "planish_example_op"):
    sys.modules[name] = None
import numpy, planish
x = numpy.load(sys.argv[2])["x"]
with planish.load(sys.argv[1]) as model:
    numpy.save(sys.argv[3], model(x))
"""


def installed() -> bool:
    """Whether `make test` has installed the example into this environment."""
    return any(p.value == "planish_example_op.kernels" for p in importlib.metadata.entry_points(group="planish.ops"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The example as its README compiles it; by its entry point where it is installed."""
    folder = tmp_path_factory.mktemp("op")
    path, out = folder / "mega.planish", io.StringIO()
    arguments = ["compile", MODEL, "-o", str(path), "--check-each-pass", "--no-measure", "--json"]
    arguments += [] if installed() else ["--ops", str(KERNELS)]
    with contextlib.redirect_stdout(out):
        assert main(arguments) == 0
    return path, json.loads(out.getvalue())


def test_each_kind_of_kernel_is_where_it_belongs(compiled: tuple[Path, dict]) -> None:
    manifest = compiled[1]["manifest"]
    assert {name: v for name, v in manifest["ops"].items() if name.startswith("example.")} == {
        "example.ema": 1, "example.rotary": 1, "example.soft_cap": 1,
    }  # fmt: skip
    launches = {launch["label"]: launch["kernel"] for launch in manifest["units"][0]["launches"]}
    assert launches["example.ema"] == "CustomSpec"
    assert [label for label in launches if "." in label] == ["example.ema"]
    assert any(label.endswith("linear+div+tanh+mul") for label in launches), launches  # the cap is part of the linear


def test_the_artifact_runs_without_torch_and_without_the_plugin(compiled: tuple[Path, dict], tmp_path: Path) -> None:
    model = load_source(MODEL).model
    x = torch.randn(3, 77, 64, generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "in.npz", x=x.numpy())
    command = [sys.executable, "-c", ALONE, str(compiled[0]), str(tmp_path / "in.npz"), str(tmp_path / "out.npy")]
    subprocess.run(command, check=True)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=2e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.5


def test_inspect_and_verify_show_it(compiled: tuple[Path, dict], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(compiled[0])]) == 0
    shown = capsys.readouterr().out
    assert "example.ema 1, example.rotary 1, example.soft_cap 1" in shown
    arguments = ["verify", str(compiled[0]), "--against", MODEL, "--min-cosine", "0.99999"]
    assert main(arguments) == 0


@pytest.mark.skipif(not installed(), reason="pip install --no-deps examples/custom_op; make test does it")
def test_the_plugin_is_found() -> None:
    found = {name: op.module for name, op in registered_ops().items() if name.startswith("example::")}
    assert found == dict.fromkeys(
        ["example::ema", "example::rotary", "example::soft_cap"], "planish_example_op.kernels"
    )


def test_ops_that_nobody_registered_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(UNKNOWN)
    assert main(["compile", f"{tmp_path}/net.py:model", "-o", str(tmp_path / "x.planish")]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "unknown_lib.twice at net.py:12; unknown_lib.half at net.py:12" in told
    assert "unknown_lib::half, unknown_lib::twice are custom ops" in told
    assert "planish.register_op(" in told
    assert "examples/custom_op" in told


def test_a_file_that_registers_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(UNKNOWN)
    (tmp_path / "nothing.py").write_text("import planish\n")
    model = ["compile", f"{tmp_path}/net.py:model", "-o", str(tmp_path / "x.planish")]
    for ops, message in [
        (f"{tmp_path}/nothing.py", "registers no op"),
        (f"{tmp_path}/gone.py", "there is no file"),
        ("no_such_module", "there is no module 'no_such_module'"),
    ]:
        assert main([*model, "--ops", ops]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


UNKNOWN = """\
import torch
@torch.library.custom_op("unknown_lib::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2
@torch.library.custom_op("unknown_lib::half", mutates_args=())
def half(x: torch.Tensor) -> torch.Tensor:
    return x / 2
for op in (twice, half):
    op.register_fake(torch.empty_like)
class Net(torch.nn.Module):
    def forward(self, x):
        return twice(x) + half(x) * 3
def model(): return Net(), (torch.randn(4, 6),)
"""
