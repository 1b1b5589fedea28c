"""The outputs of a model in the structure its source gave them."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import ArtifactError

Build = Callable[[Sequence[np.ndarray]], Any]


class Record(Mapping[str, Any]):
    """A result with named parts: a mapping in order, with attributes, integer indices and slices as well."""

    __slots__ = ("_class", "_values")

    def __init__(self, class_name: str, keys: Sequence[str], values: Sequence[Any]) -> None:
        object.__setattr__(self, "_class", class_name)
        object.__setattr__(self, "_values", dict(zip(keys, values, strict=True)))

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, (int, slice)):
            return tuple(self._values.values())[key]
        return self._values[key]

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            names = ", ".join(self._values)
            raise AttributeError(f"{self._class} has no '{name}'; it has {names}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {self._class} is read-only")

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (self._class, list(self._values), list(self._values.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"{self._class}({', '.join(f'{k}={v!r}' for k, v in self._values.items())})"

    def to_tuple(self) -> tuple[Any, ...]:
        """The values in order."""
        return tuple(self._values.values())


def builder(structure: Mapping[str, Any]) -> Build:
    """A function from the flat outputs to what the caller gets.

    Args:
        structure: as the manifest holds it: ``tensor`` and ``int`` with an ``index``, ``constant`` with a ``value``, and
            ``list``, ``tuple``, ``dict``, ``object``, ``namedtuple`` with ``items`` (and ``keys``, ``class``).

    Raises:
        ArtifactError: the structure is none of these.
    """
    kind = structure.get("kind")
    if kind == "tensor":
        index = structure["index"]
        return lambda flat: flat[index]
    if kind == "int":
        index = structure["index"]
        return lambda flat: int(flat[index])
    if kind == "constant":
        value = structure.get("value")
        return lambda flat: value
    items = [builder(item) for item in structure.get("items", ())]
    if kind == "list":
        return lambda flat: [item(flat) for item in items]
    if kind == "tuple":
        return lambda flat: tuple([item(flat) for item in items])
    keys = list(structure.get("keys", ()))
    if kind == "dict":
        return lambda flat: {key: item(flat) for key, item in zip(keys, items, strict=True)}
    name = str(structure.get("class", "Output"))
    if kind == "object":
        names = [str(key) for key in keys]
        return lambda flat: Record(name, names, [item(flat) for item in items])
    if kind == "namedtuple":
        made = namedtuple(name, keys, rename=True)  # type: ignore[misc]
        return lambda flat: made(*[item(flat) for item in items])
    raise ArtifactError(f"the artifact describes its output as '{kind}'", "compile the model again")
