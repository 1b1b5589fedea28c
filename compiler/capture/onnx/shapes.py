"""Operators that move elements: reshape, transpose, slice, concat, pad, tile, and those that make tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from . import contents
from .importing import Importer
from .registry import op
from .types import array_of


@op("Shape")
def shape(at: Importer, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    return at.holding(contents.of_dims(x.shape[start:end]), DType.i64)


@op("Reshape", since=5)
def reshape(at: Importer, x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    return at.reshape(x, at.resolved(x, at.dims(shape, "the shape"), keep=not allowzero))


@op("Transpose")
def transpose(at: Importer, x: Value, *, perm: Sequence[int] | None = None) -> Value:
    return at.transpose(x, range(x.type.rank)[::-1] if perm is None else perm)


@op("Constant")
def constant(at: Importer, **attributes: Any) -> Value:
    """Its data is read from the node itself: an array alone would not tell bf16 from uint16."""
    (attribute,) = at.node.attribute
    name = at.node.output[0]
    match attribute.name:
        case "value":
            return at.constant(*array_of(attribute.t), name)
        case "value_int" | "value_ints":
            return at.constant(np.asarray(attributes[attribute.name], np.int64), DType.i64, name)
        case "value_float" | "value_floats":
            return at.constant(np.asarray(attributes[attribute.name], np.float32), DType.f32, name)
    raise Unsupported(f"a constant given as {attribute.name!r}")
