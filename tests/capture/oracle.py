"""Capture a model and compare the interpreted graph with eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from planish.compiler.capture.structure import Structure
from planish.compiler.capture.torch_export import Captured, capture
from planish.compiler.capture.weights import to_numpy
from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.types import DType, bf16_to_float


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: Any) -> Any:
        return self.fn(*args)


def flat_inputs(captured: Captured, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of the graph, picked out of a call by their paths."""
    call = {"args": list(args), "kwargs": dict(kwargs)}
    values = {}
    for entry in captured.inputs:
        value: Any = call
        for key in entry.path:
            value = value[key]
        values[entry.name] = to_numpy(value)
    return values


def rebuilt(structure: Structure, flat: Sequence[Any]) -> Any:
    """Outputs nested as the source nested them (objects and namedtuples as dicts)."""
    if "index" in structure:
        value = flat[structure["index"]]
        return int(value) if structure["kind"] == "int" else value
    if structure["kind"] == "constant":
        return structure["value"]
    items = [rebuilt(item, flat) for item in structure["items"]]
    if structure["kind"] in ("list", "tuple"):
        return items if structure["kind"] == "list" else tuple(items)
    return dict(zip(structure["keys"], items, strict=True))


def run(captured: Captured, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[np.ndarray]:
    """The outputs of the graph."""
    return interpret(captured.graph, flat_inputs(captured, args, kwargs))


def compare(got: Sequence[np.ndarray], values: Sequence[Value], expected: Any, tolerance: float) -> None:
    """Element type, shape and values of outputs against eager PyTorch; NaN equals NaN."""
    wanted = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, Tensor)]
    assert len(got) == len(values) == len(wanted) > 0
    for array, value, tensor in zip(got, values, wanted, strict=True):
        reference = to_numpy(tensor)
        assert array.dtype == reference.dtype
        assert array.shape == reference.shape
        if value.dtype is DType.bf16:
            array, reference = bf16_to_float(array), bf16_to_float(reference)
        if reference.dtype.kind == "f":
            scale = np.abs(reference[np.isfinite(reference)]).max(initial=1.0)
            np.testing.assert_allclose(array, reference, rtol=0, atol=tolerance * scale, equal_nan=True)
        else:
            np.testing.assert_array_equal(array, reference)


def check(
    model: nn.Module | Callable[..., Any],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    shapes: Any = None,
    others: Sequence[tuple[Sequence[Any], Mapping[str, Any]]] = (),
    tolerance: float = 1e-5,
) -> Captured:
    """Capture ``model`` and compare with eager on the example and on ``others`` (calls of other sizes)."""
    module = model if isinstance(model, nn.Module) else Function(model)
    captured = capture(module, args, kwargs, dynamic_shapes=shapes)
    for call, named in [(args, kwargs or {}), *others]:
        with torch.no_grad():
            expected = module(*call, **named)
        compare(run(captured, call, named), captured.graph.outputs, expected, tolerance)
    return captured


def resized(tensor: Tensor, size: int) -> Tensor:
    """The tensor with its rows repeated or cut to ``size`` of them."""
    return tensor[torch.arange(size) % tensor.shape[0]]


class Together(nn.Module):
    """Several functions, each on inputs of its own."""

    def __init__(self, parts: Sequence[tuple[Callable[..., Any], int]]) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, *args: Tensor) -> list[Any]:
        results, at = [], 0
        for fn, count in self.parts:
            results.append(fn(*args[at : at + count]))
            at += count
        return results


def check_ops(
    cases: Sequence[tuple[str, Callable[..., Any], tuple[Tensor, ...]]], tolerances: Mapping[str, float], moving: bool,
    *, rows: int = 3, alone: bool = False,
) -> dict[str, Exception | None]:  # fmt: skip
    """Capture functions as one program and compare each with eager.

    Args:
        cases: name, function and inputs.
        tolerances: by name, where not the usual one.
        moving: the rows (a first dimension of size ``rows``) are dynamic, and 1, ``rows`` and 5 of them are tried.
        rows: their number.
        alone: a failing capture is an outcome, not an exception.
    """
    module = Together([(fn, len(inputs)) for _, fn, inputs in cases])
    args = tuple(t for _, _, inputs in cases for t in inputs)
    moves = [moving and t.dim() > 0 and t.shape[0] == rows for t in args]
    batch = torch.export.Dim("rows", min=1, max=64)
    spec = (tuple({0: batch} if m else None for m in moves),) if any(moves) else None
    results: dict[str, Exception | None] = dict.fromkeys(name for name, _, _ in cases)
    try:
        captured = capture(module, args, dynamic_shapes=spec)
    except Exception as error:
        if not alone:
            raise
        return dict.fromkeys(results, error)
    for count in (rows, 1, 5) if any(moves) else (rows,):
        call = tuple(resized(t, count) if m else t for t, m in zip(args, moves, strict=True))
        got = run(captured, call, {})
        with torch.no_grad():
            expected = module(*call)
        at = 0
        for (name, _, _), wanted in zip(cases, expected, strict=True):
            size = len(pytree.tree_leaves(wanted))
            part = slice(at, at + size)
            at += size
            try:
                compare(got[part], captured.graph.outputs[part], wanted, tolerances.get(name, 2e-5))
            except AssertionError as error:
                results[name] = results[name] or error
    return results
