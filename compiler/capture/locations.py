"""Where an operation comes from: the module path it is named after and the line of the model's source."""

from __future__ import annotations

import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..graph import Graph, Node

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_STANDARD = (sysconfig.get_paths()["stdlib"] + os.sep, sysconfig.get_paths()["platstdlib"] + os.sep)
_TORCH = str(Path(torch.__file__).resolve().parent) + os.sep

#: The ops a module is made for, most telling first: the one that takes the module's own name.
_MAIN = (
    ("attention",),
    ("linear", "conv", "matmul", "embedding"),
    ("layer_norm", "rms_norm", "group_norm", "batch_norm"),
    ("softmax", "log_softmax", "max_pool", "avg_pool", "gelu", "relu", "silu", "tanh", "sigmoid", "elu", "leaky_relu",
     "hardswish", "hardsigmoid", "mish", "softplus"),
)  # fmt: skip
_RANK = {op: rank for rank, ops in enumerate(_MAIN) for op in ops}


@lru_cache(maxsize=4096)
def _readable(filename: str) -> str:
    """``filename`` below the longest entry of ``sys.path`` it lies in, so that it says the same on every machine."""
    roots = [str(Path(p).resolve()) + os.sep for p in (*sys.path, os.getcwd()) if p]
    under = [r for r in roots if filename.startswith(r)]
    return filename[len(max(under, key=len)) :] if under else filename


@lru_cache(maxsize=65536)
def source_line(stack_trace: str | None) -> str | None:
    """``file:line`` of the innermost frame outside torch in fx's ``stack_trace``; None if there is none."""
    frames = _FRAME.findall(stack_trace or "")
    for filename, line in reversed(frames):
        if not filename.startswith(_TORCH) and not filename.startswith("<"):
            return f"{_readable(filename)}:{line}"
    return f"{_readable(frames[-1][0])}:{frames[-1][1]}" if frames else None


def _is_source(filename: str) -> bool:
    """Whether a file is there and is no part of Python itself."""
    standard = filename.startswith(_STANDARD) and "site-packages" not in filename
    return os.path.exists(filename) and not standard


def line_of_error(error: BaseException) -> str | None:
    """``file:line`` of the model's own code that raised ``error``, looking through its causes; None if unknown."""
    ours = str(Path(__file__).resolve().parents[2]) + os.sep + "compiler" + os.sep
    seen: set[int] = set()
    current: BaseException | None = error
    best: str | None = None
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        inside_torch = False
        for frame, line in traceback.walk_tb(current.__traceback__):
            filename = str(Path(frame.f_code.co_filename).resolve())
            if filename.startswith(_TORCH):
                inside_torch = True
            elif inside_torch and not filename.startswith(ours) and _is_source(filename):
                best = f"{_readable(filename)}:{line}"
        current = current.__cause__ or current.__context__
    if best is None:
        best = source_line(str(error)) if 'File "' in str(error) else None
    return best


def line_of_class(kind: type) -> str | None:
    """``file:line`` of a class's definition; None where there is no source."""
    try:
        return f"{_readable(str(Path(inspect.getsourcefile(kind) or '').resolve()))}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return None


def module_path(meta: Mapping[str, Any]) -> str:
    """The path of the innermost module an fx node was traced in; empty for the model itself."""
    stack = meta.get("nn_module_stack") or {}
    path = ""
    for key, entry in stack.items():
        path = entry[0] if isinstance(entry, tuple) else str(key)
    return re.sub(r"@\d+", "", path)


def assign_names(graph: Graph) -> None:
    """Turn each node's module path (its ``name`` so far) into a unique name.

    The op a module is made for (its only op, or its only one of the most telling kind) keeps the path; the others get the
    op as a suffix, numbered where it repeats: ``encoder.layer.0.attention.self.transpose_1``.
    """
    by_path: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op != "constant":
            by_path.setdefault(node.name, []).append(node)
    taken: set[str] = set()
    for path, nodes in by_path.items():
        main = _main_op(nodes) if path else None
        if main is not None and path not in taken:
            taken.add(path)
            main.sources = (path,)
        counts: dict[str, int] = {}
        for node in nodes:
            if node is main:
                continue
            stem = f"{path}.{node.op}" if path else node.op
            name = stem
            while name in taken:
                counts[stem] = counts.get(stem, 0) + 1
                name = f"{stem}_{counts[stem]}"
            taken.add(name)
            node.name = name
            node.sources = (name,)


def _main_op(nodes: list[Node]) -> Node | None:
    if len(nodes) == 1:
        return nodes[0]
    ranked = [(rank, n) for n in nodes if (rank := _RANK.get(n.op)) is not None]
    if not ranked:
        return None
    top = min(rank for rank, _ in ranked)
    chosen = [n for rank, n in ranked if rank == top]
    return chosen[0] if len(chosen) == 1 else None
