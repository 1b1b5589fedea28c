"""The example call a model is exported with: its arguments, and which of their axes vary."""

from __future__ import annotations

import inspect
import re
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


class Warned(str):
    """A note that people should see."""

    kind = "warning"


class DerivedShapes(dict[str, Any]):
    """``dynamic_shapes`` by input name that were derived, not written by anyone: they may be narrowed."""

    def narrowed(self, fixes: Mapping[str, str], before: Mapping[str, str]) -> tuple[DerivedShapes, dict[str, str]]:
        """Shapes with torch's suggestions kept, and a sentence for each symbol they change.

        Args:
            fixes: symbol -> what torch suggests: a ``Dim(...)`` is kept, anything else fixes the axes.
            before: symbols that were narrowed already: they are fixed now.
        """
        shapes, said = DerivedShapes(), {}
        for name, axes in self.items():
            shapes[name] = dict(axes)
            for axis, dim in axes.items():
                symbol = getattr(dim, "root", dim).__name__
                fix = fixes.get(symbol) or fixes.get(dim.__name__)
                if fix is None:
                    continue
                bounds = {k: int(v) for k, v in re.findall(r"\b(min|max)=(\d+)", fix)}
                if fix.startswith("Dim(") and bounds and symbol not in before and symbol == dim.__name__:
                    low, high = bounds.get("min", dim.min), bounds.get("max", dim.max)
                    shapes[name][axis] = torch.export.Dim(symbol, min=low, max=high)
                    said[symbol] = f"the model lets {symbol} vary from {low} to {high} only"
                else:
                    del shapes[name][axis]
                    said[symbol] = f"the model does not let {symbol} vary: it is fixed as in the example"
        return shapes, said


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


@dataclass(frozen=True)
class _Leaf:
    """A tensor of the example and its place among the flattened arguments."""

    index: int
    tensor: torch.Tensor


def varying_axes(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> list[Varying]:
    """The axes that ``dynamic_shapes`` lets vary; a specification that does not fit is left for torch to complain about."""
    if not shapes:
        return []
    leaves, tree = pytree.tree_flatten((args, kwargs))
    marked = [_Leaf(i, t) if isinstance(t, torch.Tensor) else t for i, t in enumerate(leaves)]
    try:
        args, kwargs = pytree.tree_unflatten(marked, tree)
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:
        return []  # the call does not fit, which torch says better
    found: list[Varying] = []

    def visit(value: Any, spec: Any) -> None:
        if isinstance(value, _Leaf):
            if isinstance(spec, (Mapping, list, tuple)):
                rank = value.tensor.dim()
                for axis, dim in spec.items() if isinstance(spec, Mapping) else enumerate(spec):
                    if _varies(dim) and isinstance(axis, int) and -rank <= axis < rank:
                        found.append(_varying(value.index, axis % rank, dim))
        elif isinstance(value, Mapping):
            if isinstance(spec, Mapping):
                for key in value:
                    visit(value[key], spec.get(key))
        elif isinstance(value, (list, tuple)):
            if isinstance(spec, (list, tuple)):
                for item, part in zip(value, spec, strict=False):
                    visit(item, part)
        elif type(value) in pytree.SUPPORTED_NODES:
            children, _ = pytree.SUPPORTED_NODES[type(value)].flatten_fn(value)
            visit(list(children), list(spec.values()) if isinstance(spec, Mapping) else spec)

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
    small = [v for v in varying if _is_small(v, leaves[v.leaf].shape[v.axis])]
    if not small:
        return None
    roots = {v.name for v in small if v.name is not None}
    for v in varying:
        have = leaves[v.leaf].shape[v.axis]
        if v.name is None:
            want = max(have, 2)
        elif v.name in roots:
            want = max(2, getattr(v.dim, "min", 0) or 0) if v.exact else int(v.dim.fn(2))
            want = min(want, getattr(v.dim, "max", want))
        else:
            continue
        leaves[v.leaf] = _resized(leaves[v.leaf], v.axis, want)
    return pytree.tree_unflatten(leaves, spec)


def _is_small(v: Varying, size: int) -> bool:
    """Whether the symbol behind an axis of this size is 0 or 1."""
    return size < 2 if v.exact else hasattr(v.dim, "fn") and size in (v.dim.fn(0), v.dim.fn(1))


def _resized(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    have = tensor.shape[axis]
    if have == size:
        return tensor
    if have == 0:
        shape = list(tensor.shape)
        shape[axis] = size
        return tensor.new_zeros(shape)
    return tensor.index_select(axis, torch.arange(size) % have)
