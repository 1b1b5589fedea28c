"""Environments of execution providers that cannot be in the one that the tests run in (``make eps``)."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_PROVIDERS = {"openvino": "OpenVINOExecutionProvider", "qnn": "QNNExecutionProvider"}


def environment(name: str) -> Path:
    """Folder of the environment of ``openvino`` or ``qnn``.

    Skips the test where the provider does not work there, unless the variable ``PLANISH_REQUIRE_EPS`` names it: then the test
    fails."""
    reason = _broken(name)
    if reason:
        if name in os.environ.get("PLANISH_REQUIRE_EPS", "").split(","):
            pytest.fail(f"the environment of {name} is required: {reason}")
        pytest.skip(f"{reason} (make eps)")
    return ROOT / ".ep-venvs" / name


def python(name: str) -> Path:
    """The interpreter of an environment."""
    return environment(name) / "bin" / "python"


def site_packages(name: str) -> Path:
    """Its packages; put in front of this interpreter's they take the place of its ``onnxruntime``."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = environment(name) / "lib" / version / "site-packages"
    if not found.is_dir():
        pytest.skip(f"the environment of {name} is of another Python")
    return found


def run(name: str, script: str, *arguments: str | Path, torch: bool = False) -> str:
    """What a script prints that sees planish, with the environment's ONNX Runtime.

    Args:
        name: the environment.
        script: Python text.
        arguments: of it.
        torch: run it with this interpreter's packages behind the environment's; else with the environment's alone.
    """
    ahead = [str(site_packages(name)), str(ROOT / ".types")] if torch else [str(ROOT / ".types")]
    done = subprocess.run(
        [sys.executable if torch else str(python(name)), "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(ahead)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@cache
def _broken(name: str) -> str:
    """Why the provider does not work in its environment; empty if it does."""
    path = ROOT / ".ep-venvs" / name / "bin" / "python"
    if not path.exists():
        return f"there is no environment of {name}"
    if not (ROOT / ".types" / "planish").exists():
        return "there is no link .types/planish (make check)"
    script = (
        "import importlib.util, onnxruntime as o\n"
        f"assert {_PROVIDERS[name]!r} in o.get_available_providers() or importlib.util.find_spec('onnxruntime_{name}')"
    )  # fmt: skip
    done = subprocess.run([str(path), "-c", script], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{_PROVIDERS[name]} does not work: {done.stderr.strip()[-200:]}"
