"""Models of the zoo, captured once for all tests of a process, and their results in eager PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import zoo
from torch import Tensor, nn

from planish.compiler.capture.torch_export import Captured, capture


@dataclass(frozen=True)
class Run:
    """One call: what goes in by name, and what eager PyTorch makes of it (names of outputs as in the artifact)."""

    size: tuple[int, int]
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]


@cache
def module(name: str, attention: str) -> nn.Module:
    """The model, the same in every test."""
    return zoo.MODELS[name].build(attention)


@cache
def captured(name: str, attention: str) -> Captured:
    """The model in the IR, its batch (and length) dynamic."""
    entry = zoo.MODELS[name]
    return capture(module(name, attention), (), entry.call(*entry.example), dynamic_shapes=dict(entry.shapes))


@cache
def runs(name: str, attention: str) -> tuple[Run, ...]:
    """The example and calls of other sizes."""
    entry, found = zoo.MODELS[name], []
    for size in (entry.example, *entry.others):
        call = entry.call(*size)
        with torch.no_grad():
            expected = flat(module(name, attention)(**call))
        found.append(Run(size, {key: value.numpy() for key, value in call.items()}, expected))
    return tuple(found)


def flat(result: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The tensors of a result by path, whatever they are nested in; None is left out."""
    if result is None:
        return {}
    if isinstance(result, (Tensor, np.ndarray)):
        return {prefix: np.asarray(result.detach() if isinstance(result, Tensor) else result)}
    items = result.items() if isinstance(result, Mapping) else enumerate(result)
    return {name: array for key, value in items for name, array in flat(value, f"{prefix}/{key}").items()}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of the angle between two tensors seen as vectors; 1 if both are zero."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms else float(np.array_equal(x, y))
