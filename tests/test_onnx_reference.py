"""docs/onnx-ops.md says what the importer's registry and ONNX's own node tests say."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import onnx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "onnx-ops.md"


@cache
def script() -> ModuleType:
    """docs/make_onnx_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("make_onnx_reference", ROOT / "docs" / "make_onnx_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _as_pinned() -> None:
    if f"onnx=={onnx.__version__}\n" not in (ROOT / "constraints.txt").read_text():
        pytest.skip("the page lists the operators of the onnx that constraints.txt pins")


def test_the_operators_are_up_to_date() -> None:
    written, mark, _ = PAGE.read_text().partition(script().OUTCOME)
    assert mark
    assert written == "\n".join(script().registry_part()) + "\n", "run make docs"


@pytest.mark.slow
def test_the_whole_page_is_up_to_date() -> None:
    assert PAGE.read_text() == script().text(), "run make docs"


def test_what_is_read_and_since_when() -> None:
    since = script().since
    assert since("Softmax") == 7
    assert since("Gelu") == 20
    assert since("HannWindow") == 17  # by its definition
    assert since("NonZero") is None
    assert since("StringConcat") is None
    assert "random numbers" in script().refusal("", "Bernoulli")
