"""What the documents say about the program is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    """A script of the folder docs as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_the_command_line_is_up_to_date() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == script("make_cli_reference").text(), "run make docs"


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/quality.md",
        "docs/artifact.md",
        "docs/huggingface.md",
        "docs/onnx.md",
        "docs/search.md",
    ],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()) if "://" not in link]
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/quality.md",
        "docs/artifact.md",
        "docs/huggingface.md",
        "docs/onnx.md",
        "docs/search.md",
        "examples/custom_pass/README.md",
    ],
)
def test_commands_in_the_documents_exist(page: str) -> None:
    from planish.cli.app import app

    known = {command.name for command in app.registered_commands}
    used = set(re.findall(r"^ {4}planish (\w+)", (ROOT / page).read_text(), re.MULTILINE))
    assert used <= known


def test_the_picture_shows_every_contender() -> None:
    figures = {
        "cpu": "a CPU",
        "date": "2026-01-01",
        "speed": {"1 x 128": {"planish f32": {"median_ms": 20.0}, "peer <x>": {"median_ms": 30.0}}},
        "quality": {"planish f32": {"sentences": 300, "min": 0.99991}},
    }
    text = script("make_result_picture").picture(figures)
    assert text.index("peer &lt;x&gt;") < text.index("planish f32")  # the slowest first
    assert "20.0 ms · 0.9999" in text
    assert "300 sentences" in text
