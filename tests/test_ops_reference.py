"""docs/ops.md says what the vocabulary, the capture tables and the CPU backend are."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from planish.compiler.custom_ops import custom_op
from planish.compiler.ops import OPS

ROOT = Path(__file__).resolve().parent.parent


@cache
def script() -> ModuleType:
    """docs/make_ops_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("make_ops_reference", ROOT / "docs" / "make_ops_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_the_ops_is_up_to_date() -> None:
    if f"torch=={torch.__version__.split('+')[0]}\n" not in (ROOT / "constraints.txt").read_text():
        pytest.skip("the page lists the ops of the torch that constraints.txt pins")
    text = script().text()
    assert (ROOT / "docs" / "ops.md").read_text() == text, "run make docs"
    missing = [op for op in OPS if custom_op(op) is None and f"\n| `{op}` |" not in text]
    assert not missing


def test_what_capture_reads_an_op_from() -> None:
    sources = script().sources()
    assert {"sort", "argsort", "median"} <= set(sources["sort"])
    assert "relu" in sources["relu"] and "sort" not in sources["relu"]


def test_every_core_op_has_a_verdict() -> None:
    module = script()
    verdicts = {str(op): module.verdict(op) for op in module.core_ops()}
    assert verdicts["aten.topk.default"] == "captured"
    assert verdicts["aten.rand.default"] == "refused: it draws random numbers"
    assert verdicts["aten.nonzero.default"] == "refused: the size of its result depends on the data"
    assert verdicts["aten.grid_sampler_2d.default"] == "captured: torch writes it in simpler ones"
    assert "refused: there is no op for it" not in verdicts.values()
