"""Imports point one way (docs/design/0001), function-level imports included, and each outside library has its place."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Room -> the rooms it sees besides itself; every room sees ``errors``.
SEES = {
    "errors": set[str](),
    "compiler": set[str](),
    "passes": {"compiler"},
    "search": {"compiler", "passes"},
    "codegen": {"compiler"},
    "backends": {"compiler", "passes", "codegen", "runtime"},  # measuring kernels runs them
    "runtime": set[str](),
    "assembly": {"compiler", "passes", "backends", "runtime"},
    "trial": {"compiler", "search", "codegen", "backends", "runtime"},
    "decide": {"compiler", "passes", "search", "runtime", "assembly", "trial"},
    "driver": {"compiler", "passes", "search", "codegen", "backends", "runtime", "trial", "decide", "assembly"},
    "testing": {"compiler", "passes", "driver"},
    "cli": {"compiler", "passes", "search", "codegen", "backends", "runtime", "trial", "decide", "assembly", "driver"},
}

#: Library -> the places that may import it, as prefixes of module paths. A library not named here is free for every room
#: but the runtime.
PLACES = {
    "torch": (
        "compiler/capture/",
        "compiler/reference",
        "compiler/interpret",
        "passes/weights/",
        "search/",
        "driver",
        "testing",
        "cli/",
    ),
    "onnx": ("compiler/capture/onnx/", "backends/onnx/"),
    "onnxruntime": ("backends/onnx/", "runtime/onnx"),
    "google": ("compiler/capture/onnx/", "backends/onnx/"),
    "jinja2": ("codegen/", "search/report/"),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "transformers": ("compiler/capture/",),
    "huggingface_hub": ("compiler/capture/",),
}

RUNTIME_MAY_IMPORT = {"numpy", *sys.stdlib_module_names}


def imports(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every import of a module, wherever it stands: its line, and its target as a dotted absolute name.

    ``import_module("literal", __package__)`` counts as well; what stands under ``if TYPE_CHECKING`` does not.
    """
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            if node.level and not node.module:  # from .. import passes: each name is a module
                yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, stem
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                name = node.args[0].value
                dots = len(name) - len(name.lstrip("."))
                base = package[: len(package) - (dots - 1)] if dots else ()
                yield node.lineno, ".".join([*base, name.lstrip(".")])


def violations(module: str, source: str) -> list[str]:
    """What is wrong with the imports of ``module`` (a path below the root without ``.py``, ``passes/fold``)."""
    parts = tuple(module.split("/"))
    room, package = parts[0], ("planish", *parts[:-1])
    wrong = []
    for line, target in imports(source, package):
        top, *rest = target.split(".")
        where = f"{module}.py:{line} imports {target}"
        if top == "planish":
            other = rest[0] if rest else ""
            if other in SEES and other not in (room, "errors", *SEES[room]):
                wrong.append(f"{where}: {room} does not see {other}")
        elif room == "runtime" and top not in RUNTIME_MAY_IMPORT and not module.startswith(PLACES.get(top, ("-",))):
            wrong.append(f"{where}: the runtime needs numpy and the standard library only")
        elif top in PLACES and not module.startswith(PLACES[top]):
            wrong.append(f"{where}: {top} is imported only in {', '.join(PLACES[top]) or 'no room'}")
    return wrong


def modules() -> list[str]:
    """Every module of the rooms, as a path below the root without ``.py``."""
    found = [ROOT / f"{room}.py" for room in SEES if (ROOT / f"{room}.py").exists()]
    for room in SEES:
        found += sorted((ROOT / room).rglob("*.py"))
    return [path.relative_to(ROOT).with_suffix("").as_posix() for path in found]


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    wrong = violations(module, (ROOT / f"{module}.py").read_text())
    assert not wrong, "\n".join(wrong)


def test_rooms_are_found() -> None:
    assert {m.split("/")[0] for m in modules()} >= {"compiler", "passes", "codegen", "backends", "runtime", "cli"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("compiler/graph", "from ..passes import fold"),
        ("compiler/graph", "from .. import driver"),
        ("compiler/graph", "def f():\n    from ..backends.cpu import lower"),
        ("passes/fold", "from ..codegen.specs import LinearSpec"),
        ("codegen/render", "from planish.backends import cpu"),
        ("codegen/render", "import importlib\nimportlib.import_module('..backends', __package__)"),
        ("backends/cpu/lower", "import planish.driver"),
        ("runtime/model", "from ..compiler.errors import PlanishError"),
        ("runtime/model", "def f():\n    import torch"),
        ("runtime/model", "import jinja2"),
        ("runtime/model", "import onnxruntime"),
        ("driver", "import onnxruntime"),
        ("passes/fold", "import torch"),
        ("passes/fold", "from jinja2 import Template"),
        ("compiler/text", "import rich.table"),
        ("search/loop", "from ..driver import build"),
        ("driver", "from .cli import main"),
        ("errors", "from .compiler.graph import Graph"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("compiler/capture/torch_export", "import torch\nfrom ..graph import Graph"),
        ("compiler/reference", "import torch.nn.functional as F"),
        ("passes/fold", "from ..compiler.graph import Graph\nfrom .canonicalize import Canonicalize"),
        ("passes/fold", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("backends/cpu/lower", "from ...codegen.specs import LinearSpec\nfrom ...compiler import dims"),
        ("runtime/model", "import numpy as np\nimport ctypes\nfrom ..errors import PlanishError"),
        ("cli/compile", "import typer\nfrom ..driver import compile"),
        ("runtime/onnx_session", "import importlib\nimportlib.import_module('onnxruntime')"),
        ("backends/onnx/probe", "import onnx\nimport onnxruntime"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert not violations(module, source)
