"""Operators that mean what a standard one means, or are made of some."""

from __future__ import annotations

from typing import Any

from ...graph import Value
from ..unsupported import Unsupported
from .importing import Importer
from .registry import STANDARD, find


def standard(at: Importer, name: str, *operands: Value | None, **attributes: Any) -> Value:
    """The first result of a standard operator, in its form of the model's opset.

    Raises:
        Unsupported: its handler cannot read it, or there is none.
    """
    return standards(at, name, *operands, **attributes)[0]


def standards(at: Importer, name: str, *operands: Value | None, **attributes: Any) -> list[Value]:
    """As :func:`standard`, all results."""
    entry = find(STANDARD, name, max(at.opset, 13))
    if entry is None:
        raise Unsupported(f"{name} is not supported")
    given = list(operands)
    while given and given[-1] is None:
        given.pop()
    entry.check(given, attributes)
    result = entry.handler(at, *given, **attributes)
    return list(result) if isinstance(result, (list, tuple)) else [result]
