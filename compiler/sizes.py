"""Sizes of dynamic dimensions: read off arrays, and arrays cut or repeated to the sizes that are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from .dims import Dim, Expr, evaluate, symbols

Sizes = dict[str, int]


class Shaped(Protocol):
    """An input: its name, and its shape over the symbols."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[Dim, ...]: ...


def sizes_of(inputs: Sequence[Shaped], arrays: Mapping[str, np.ndarray]) -> Sizes:
    """The value that each symbol has in ``arrays``; those that no input shows alone are left out."""
    found: Sizes = {}
    for port in inputs:
        for dim, size in zip(port.shape, arrays[port.name].shape, strict=False) if port.name in arrays else ():
            if isinstance(dim, Expr) and len(names := symbols(dim)) == 1:
                (name,) = names
                value = _solved(dim, name, int(size))
                if value is not None:
                    found.setdefault(name, value)
    return found


def _solved(dim: Expr, name: str, size: int) -> int | None:
    """The symbol's value for which ``dim``, a multiple of it plus a number (``320*frames``), is ``size``; None if unknown."""
    at = [evaluate(dim, {name: value}) for value in (0, 1, 2)]
    step = at[1] - at[0]
    if step == 0 or at[2] - at[1] != step or (size - at[0]) % step:
        return None
    return (size - at[0]) // step


def resized(
    inputs: Sequence[Shaped], arrays: Mapping[str, np.ndarray], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The same data with other sizes of the dynamic dimensions: cut where too long, repeated where too short."""
    known = {**sizes_of(inputs, arrays), **sizes}
    result: dict[str, np.ndarray] = {}
    for port in inputs:
        array = arrays[port.name]
        for axis, dim in enumerate(port.shape):
            size = evaluate(dim, known)
            if size != array.shape[axis]:
                array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
        result[port.name] = np.ascontiguousarray(array)
    return result
