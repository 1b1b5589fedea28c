"""The example plugin: found through its entry point, named on the command line, right by the oracle."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

from planish.cli import main
from planish.cli.extra import load_pass
from planish.compiler.errors import UsageError
from planish.compiler.pipeline import Placed

FILE = Path(__file__).resolve().parents[2] / "examples" / "custom_pass" / "planish_example_pass" / "__init__.py"

MODEL = """
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        return x * torch.tanh(torch.log(torch.exp(x) + 1.0)) + torch.relu(x)
def model(): return Net(), (torch.linspace(-5, 5, 24).reshape(4, 6),)
"""


def installed() -> bool:
    """Whether `make test` has installed the example into this environment."""
    return any(point.name == "form-mish" for point in importlib.metadata.entry_points(group="planish.passes"))


needs_plugin = pytest.mark.skipif(
    not installed(), reason="pip install --no-deps examples/custom_pass; make test does it"
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(MODEL)
    return f"{tmp_path}/net.py:model"


@needs_plugin
def test_the_plugin_is_listed_with_its_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes", "--json"]) == 0
    found = {p["name"]: p for p in json.loads(capsys.readouterr().out)["passes"]}
    assert found["form-mish"]["from"] == found["count-ops"]["from"] == "planish_example_pass"
    assert found["count-ops"]["options"] == [{"name": "top", "type": "an integer", "default": "3"}]


@pytest.mark.parametrize("name", [pytest.param("form-mish", marks=needs_plugin), f"{FILE}:FormMish"])
def test_the_rule_fires_and_keeps_the_numbers(
    name: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, dump = tmp_path / "net.planish", tmp_path / "dump"
    arguments = ["compile", model, "-o", str(path), "--pass", name, "--check-each-pass", "--dump", str(dump), "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert "form-mish" in found["manifest"]["pipeline"]
    assert "mish" in found["manifest"]["ops"] or any(
        "mish" in launch["label"] for launch in found["manifest"]["units"][0]["launches"]
    )
    assert found["measured"]["cosine"] > 0.99999
    (text,) = [p.read_text() for p in dump.glob("*form-mish*")]
    assert "mish(" in text
    assert "tanh(" not in text


def test_the_pass_with_an_option_writes_into_the_report(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{FILE}:CountOps{{top=1}}@after=fold"
    assert main(["compile", model, "-o", str(tmp_path / "x.planish"), "--pass", name, "--no-measure", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any("count-ops" in str(note) and "nodes: " in str(note) for note in found["report"]["notes"])


def test_check_rule_agrees() -> None:
    from planish.testing import check_rule

    rule = load_pass(f"{FILE}:FormMish", "cpu")
    x = torch.linspace(-5, 5, 24).reshape(4, 6)
    check_rule(type(rule), lambda x: x * torch.tanh(torch.log(torch.exp(x) + 1.0)), (x,), fires=1)
    check_rule(type(rule), lambda x: x * torch.tanh(torch.log(torch.exp(x) + 2.0)), (x,), fires=0)


def test_places() -> None:
    placed = load_pass(f"{FILE}:CountOps@before=fuse", "cpu")
    assert isinstance(placed, Placed)
    assert (placed.where, placed.anchor, placed.p.name) == ("before", "fuse", "count-ops")
    with pytest.raises(UsageError, match="no option 'tops'"):
        load_pass(f"{FILE}:CountOps{{tops=1}}", "cpu")
