"""How the inputs and outputs of a model nest, as plain data that the runtime reads without torch.

A structure is one of (``index`` counts the flat inputs or outputs)::

    {"kind": "tensor", "index": 0}
    {"kind": "int", "index": 1}                  a size handed out: a rank-0 i64 output
    {"kind": "constant", "value": 3}             None, bool, int, float or str
    {"kind": "list" | "tuple", "items": [...]}
    {"kind": "dict", "keys": [...], "items": [...]}
    {"kind": "object", "class": "BaseModelOutput", "keys": [...], "items": [...]}   mapping + attributes + index
    {"kind": "namedtuple", "class": "Point", "keys": [...], "items": [...]}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import CaptureError

Structure = dict[str, Any]


def structure_of(spec: Any, leaf: Callable[[int], Structure]) -> Structure:
    """The structure a torch ``TreeSpec`` describes; ``leaf(i)`` gives that of flat element i.

    Raises:
        CaptureError: a dict has keys that are neither text nor numbers.
    """
    position = 0

    def read(node: Any) -> Structure:
        nonlocal position
        if node.is_leaf():
            position += 1
            return leaf(position - 1)
        kind, context = node.type, node.context
        items = [read(child) for child in _children(node)]
        name = getattr(kind, "__name__", str(kind))
        if kind in (list, tuple):
            return {"kind": name, "items": items}
        if name == "namedtuple":
            return {"kind": "namedtuple", "class": context.__name__, "keys": list(context._fields), "items": items}
        keys = _keys(kind, context, len(items))
        if any(not isinstance(k, (str, int)) for k in keys):
            raise CaptureError(f"a dict with the keys {keys} cannot be stored", "use text or numbers as keys")
        if issubclass(kind, dict) and kind.__module__ in ("builtins", "collections"):
            return {"kind": "dict", "keys": keys, "items": items}
        return {"kind": "object", "class": name, "keys": keys, "items": items}

    return read(spec)


def _children(node: Any) -> list[Any]:
    return node.children() if hasattr(node, "children") else node.children_specs  # older torch


def _children_names(context: Any, count: int) -> list[Any] | None:
    """The names a registered class keeps in its context: a list of them, or a nest that holds one."""
    if isinstance(context, (list, tuple)):
        if len(context) == count and all(isinstance(c, (str, int)) for c in context):
            return list(context)
        for part in context:
            found = _children_names(part, count) if isinstance(part, (list, tuple)) else None
            if found is not None:
                return found
    return None


def _keys(kind: Any, context: Any, count: int) -> list[Any]:
    if isinstance(context, list) and len(context) == count:
        return list(context)
    if getattr(kind, "__name__", "") == "defaultdict" and len(context) == 2:
        return list(context[1])
    names = _children_names(context, count)
    return names if names is not None else list(range(count))


def leaf_paths(structure: Structure) -> dict[int, tuple[Any, ...]]:
    """Flat index -> the keys that lead to it, for every tensor and int."""
    paths: dict[int, tuple[Any, ...]] = {}

    def walk(node: Structure, path: tuple[Any, ...]) -> None:
        if "index" in node:
            paths[node["index"]] = path
        for key, child in zip(node.get("keys", range(len(node.get("items", ())))), node.get("items", ()), strict=False):
            walk(child, (*path, key))

    walk(structure, ())
    return paths


def output_names(structure: Structure) -> list[str]:
    """A name for every flat output: its path (``last_hidden_state``, ``hidden_states.0``), or ``output``."""
    paths = leaf_paths(structure)
    names = []
    for index in range(len(paths)):
        name = ".".join(str(k) for k in paths[index])
        names.append(f"output.{name}" if name[:1].isdigit() else name or "output")
    return names


def input_names(structure: Structure, positional: Sequence[str]) -> dict[int, tuple[str, tuple[Any, ...]]]:
    """Flat index -> name and path of every input.

    Args:
        structure: of ``(args, kwargs)``.
        positional: names of the parameters of ``forward`` in order, ``*args`` as ``args``.

    The path starts with ``"args"`` and a position or with ``"kwargs"`` and a name.
    """
    named = {}
    for index, path in leaf_paths(structure).items():
        group, key, *rest = path
        if group == 0:
            first = positional[key] if key < len(positional) else f"args.{key}"
            full: tuple[Any, ...] = ("args", key, *rest)
        else:
            first, full = str(key), ("kwargs", key, *rest)
        named[index] = (".".join([first, *(str(r) for r in rest)]), full)
    return named
