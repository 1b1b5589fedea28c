"""Attributes and small constants as text, and back: the leaves of the text form."""

from __future__ import annotations

import hashlib
import json
import re
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from .dims import Expr, symbols
from .errors import UsageError
from .types import DType, bf16_to_float, float_to_bf16

NAME = re.compile(r"[A-Za-z0-9_.$/-]+")
INT = re.compile(r"-?\d+")
FLOAT = re.compile(r"-?(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|inf)|nan")
#: Words that are attribute values of their own.
WORDS: dict[str, Any] = {"none": None, "true": True, "false": False, **{d.value: d for d in DType}}
RESERVED = {*WORDS, "inf", "nan", "_"}


#: Digests of the arrays alive, by identity: constants are never written, and hashing all weights takes a second.
_digests: dict[int, tuple[weakref.ref[np.ndarray], str]] = {}


def digest(array: np.ndarray) -> str:
    """``sha256:`` and 16 hex digits over element type, shape and bytes."""
    key = id(array)
    if key in _digests and _digests[key][0]() is array:
        return _digests[key][1]
    sha = hashlib.sha256(f"{array.dtype.str}{list(array.shape)}".encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    text = "sha256:" + sha.hexdigest()[:16]
    if array.size >= 1 << 16:
        _digests[key] = (weakref.ref(array, lambda _: _digests.pop(key, None)), text)
    return text


def print_attr(value: Any) -> str:
    """An attribute as text.

    Raises:
        UsageError: attributes hold no such thing.
    """
    if value is None:
        return "none"
    if isinstance(value, DType):
        return value.value
    if isinstance(value, bool):
        return str(value).lower()
    if type(value) in (int, float):
        return repr(value)
    if isinstance(value, Expr):
        return f"`{value}`" if symbols(value) & RESERVED else str(value)
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(print_attr(v) for v in value) + "]"
    raise UsageError(
        f"an attribute cannot hold {value!r}", "it holds numbers, dimensions, text, element types and tuples"
    )


def stored(array: np.ndarray) -> DType:
    """The element type of stored data: ``uint16`` holds bf16."""
    return DType.bf16 if array.dtype == np.uint16 else DType.of(array)


def print_data(array: np.ndarray, inline: int) -> str:
    """An array as a list of up to ``inline`` elements, or as its digest."""
    if array.size > inline:
        return digest(array)
    dtype = stored(array)
    wide = bf16_to_float(array) if dtype is DType.bf16 else array
    text = "[" + ", ".join(print_attr(v) for v in wide.reshape(-1).tolist()) + "]"
    again = numbers([_literal(t) for t in text[1:-1].split(", ") if t], dtype).reshape(array.shape)
    # the payload of an unusual NaN has no decimal form
    return text if again.tobytes() == array.tobytes() else f'hex "{array.tobytes().hex()}"'


def numbers(values: Sequence[Any], dtype: DType) -> np.ndarray:
    """A flat array of ``dtype`` as it is stored.

    Raises:
        OverflowError: a number is outside of its range.
    """
    if dtype is DType.bf16:
        return float_to_bf16(np.array(values, np.float32))
    array = np.array(values, dtype.numpy)
    if dtype is DType.i4 and array.size and (array.min() < -8 or array.max() > 7):
        raise OverflowError("i4 holds -8 to 7")
    return array


def _literal(text: str) -> Any:
    if text in ("true", "false", "none"):
        return WORDS[text]
    return int(text) if INT.fullmatch(text) else float(text)
