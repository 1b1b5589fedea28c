"""The example call a model is exported with: its arguments, and which of their axes vary."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..errors import UsageError


def arguments(args: Any, kwargs: Mapping[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from what the caller wrote.

    A lone tensor is the only argument and a lone mapping the keywords; a tuple's last element is never special.

    Raises:
        UsageError: both a mapping and keywords were given.
    """
    if isinstance(args, Mapping):
        if kwargs:
            raise UsageError(
                "the keyword arguments were given twice", "pass the mapping as args or as kwargs, not both"
            )
        return (), dict(args)
    if args is None:
        args = ()
    if isinstance(args, (tuple, list)):
        return tuple(args), dict(kwargs or {})
    return (args,), dict(kwargs or {})


def parameter_names(model: torch.nn.Module, count: int) -> list[str]:
    """The names of the first ``count`` positional parameters of ``forward``; ``*args`` become ``args.0`` and so on."""
    names: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


@dataclass(frozen=True)
class Varying:
    """One axis of one input that varies.

    ``leaf`` counts the flattened arguments. ``dim`` is torch's object or hint. ``key`` is equal for axes that must have the
    same size; None where torch decides (``Dim.AUTO``). ``name`` is the symbol asked for, ``exact`` False for ``2 * seq``.
    """

    leaf: int
    axis: int
    dim: Any
    key: str | None
    name: str | None
    exact: bool = True


def varying_axes(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> list[Varying]:
    """The axes that ``dynamic_shapes`` lets vary; a specification that does not fit is left for torch to complain about."""
    if not shapes:
        return []
    leaves: dict[int, int] = {id(t): i for i, t in reversed(list(enumerate(pytree.tree_leaves((args, kwargs)))))}
    found: list[Varying] = []

    def visit(value: Any, spec: Any) -> None:
        if spec is None or value is None:
            return
        if isinstance(value, torch.Tensor):
            pairs = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
            for axis, dim in pairs:
                if _varies(dim) and isinstance(axis, int) and -value.dim() <= axis < value.dim():
                    found.append(_varying(leaves[id(value)], axis % value.dim(), dim))
        elif isinstance(value, Mapping):
            for key in value:
                if isinstance(spec, Mapping) and key in spec:
                    visit(value[key], spec[key])
        elif isinstance(value, (list, tuple)) and isinstance(spec, (list, tuple)):
            for item, part in zip(value, spec, strict=False):
                visit(item, part)
        elif type(value) in pytree.SUPPORTED_NODES:
            children, _ = pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
            parts = list(spec.values()) if isinstance(spec, Mapping) else spec
            visit(list(children), list(parts) if isinstance(parts, (list, tuple)) else [])

    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:
        return []  # torch says it better
    if isinstance(shapes, Mapping):
        flat = {k: v for name, value in bound.items() for k, v in ((name, value), *_keywords(model, name, value))}
        for name, spec in shapes.items():
            visit(flat.get(name), spec)
    else:
        visit(list(bound.values()), shapes)
    return found


def _keywords(model: torch.nn.Module, name: str, value: Any) -> list[tuple[str, Any]]:
    """What ``**kwargs`` of ``forward`` holds, which torch lets a specification name directly."""
    if inspect.signature(model.forward).parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
        return list(value.items())
    return []


def _varies(dim: Any) -> bool:
    if dim is None or isinstance(dim, int):
        return False
    return getattr(dim, "type", None) is None or "STATIC" not in str(dim.type)


def _varying(leaf: int, axis: int, dim: Any) -> Varying:
    name = getattr(dim, "__name__", None)
    root = getattr(dim, "root", None)
    if root is not None:
        return Varying(leaf, axis, dim, name, getattr(root, "__name__", None), False)
    hint = name is None or getattr(dim, "type", None) is not None
    return Varying(leaf, axis, dim, None if hint else name, None if hint else name)


def widened(args: tuple[Any, ...], kwargs: dict[str, Any], varying: Sequence[Varying]) -> tuple[Any, Any] | None:
    """The example with every varying axis of size 0 or 1 repeated to 2 or more; None if there is no such axis.

    torch.export takes a size of 0 or 1 for a constant of the model; the model is traced with these instead.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    small = [v for v in varying if isinstance(leaves[v.leaf], torch.Tensor) and leaves[v.leaf].shape[v.axis] < 2]
    if not small:
        return None
    roots = {v.name for v in small if v.name is not None}
    sizes: dict[str, int] = {}
    for v in varying:
        if v.name in roots and v.exact and v.name is not None:
            low, high = getattr(v.dim, "min", 0) or 0, getattr(v.dim, "max", 1 << 40)
            sizes[v.name] = int(min(max(2, low), high))
    for v in varying:
        have = leaves[v.leaf].shape[v.axis]
        if v.name is None:
            want = 2 if have < 2 else have
        elif v.name not in roots:
            continue
        else:
            root = sizes.setdefault(v.name, 2)
            want = root if v.exact else int(v.dim.fn(root)) if hasattr(v.dim, "fn") else max(have, 2)
        leaves[v.leaf] = _resized(leaves[v.leaf], v.axis, want)
    return pytree.tree_unflatten(leaves, spec)


def _resized(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    have = tensor.shape[axis]
    if have == size:
        return tensor
    if have == 0:
        shape = list(tensor.shape)
        shape[axis] = size
        return tensor.new_zeros(shape)
    return tensor.index_select(axis, torch.arange(size) % have)
