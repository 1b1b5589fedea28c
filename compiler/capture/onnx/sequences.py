"""Sequences and optionals: they vanish while a model is read, a sequence into its elements, an optional into what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...dims import Expr
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import Absent, TensorSequence, op


def elements(of: Any) -> TensorSequence:
    """``of`` as a sequence.

    Raises:
        Unsupported: it is none.
    """
    if not isinstance(of, TensorSequence):
        raise Unsupported("it is given something else where a sequence is expected")
    return of


def _place(at: Importer, position: Value | None, count: int, most: int) -> int:
    """Where in a sequence of ``count`` elements; ``most`` is the last place there is.

    Raises:
        NotConstant: that depends on the data.
        Unsupported: it is outside.
    """
    if position is None:
        return most
    (place,) = at.ints(position, "the place in a sequence")
    place = place + count if place < 0 else place
    if not 0 <= place <= most:
        raise Unsupported(f"the place {place} is outside of its sequence of {count}")
    return place


@op("SequenceEmpty")
def sequence_empty(at: Importer, *, dtype: int = 1) -> TensorSequence:
    return TensorSequence()


@op("SequenceConstruct")
def sequence_construct(at: Importer, *inputs: Value) -> TensorSequence:
    return TensorSequence(inputs)


@op("SequenceInsert", sequences=True)
def sequence_insert(at: Importer, sequence: Any, tensor: Value, position: Value | None = None) -> TensorSequence:
    held = elements(sequence)
    place = _place(at, position, len(held), len(held))
    return TensorSequence((*held[:place], tensor, *held[place:]))


@op("SequenceErase", sequences=True)
def sequence_erase(at: Importer, sequence: Any, position: Value | None = None) -> TensorSequence:
    held = elements(sequence)
    place = _place(at, position, len(held), len(held) - 1)
    return TensorSequence((*held[:place], *held[place + 1 :]))


@op("SequenceAt", sequences=True)
def sequence_at(at: Importer, sequence: Any, position: Value) -> Any:
    held = elements(sequence)
    return held[_place(at, position, len(held), len(held) - 1)]


@op("SequenceLength", sequences=True)
def sequence_length(at: Importer, sequence: Any) -> Value:
    return at.scalar(len(elements(sequence)), DType.i64)


@op("ConcatFromSequence", sequences=True)
def concat_from_sequence(at: Importer, sequence: Any, *, axis: int, new_axis: int = 0) -> Value:
    held = elements(sequence)
    if not held:
        raise Unsupported("it joins an empty sequence")
    return joined(at, held, axis, bool(new_axis))


def joined(at: Importer, tensors: Sequence[Value], axis: int, new_axis: bool) -> Value:
    """Tensors one after the other along an axis, or along one that is inserted there."""
    if new_axis:
        rank = tensors[0].type.rank + 1
        place = axis % rank
        tensors = [at.reshape(t, (*t.shape[:place], 1, *t.shape[place:])) for t in tensors]
    return tensors[0] if len(tensors) == 1 else at.emit("concat", *tensors, axis=axis % tensors[0].type.rank)


@op("SplitToSequence")
def split_to_sequence(
    at: Importer, x: Value, split: Value | None = None, *, axis: int = 0, keepdims: int = 1
) -> TensorSequence:
    axis %= max(x.type.rank, 1)
    size = x.shape[axis]
    if split is not None and split.type.rank == 1:
        sizes = at.dims(split, "the sizes of a split")
    else:
        each = 1 if split is None else at.ints(split, "the size of a split")[0]
        if isinstance(size, Expr):
            raise Unsupported(f"it makes a sequence of {size} tensors, and that varies")
        sizes = [min(each, size - start) for start in range(0, size, each)]
    parts: list[Value] = []
    start: Any = 0
    for length in sizes:
        part = at.slice(x, axis, start, start + length)
        if split is None and not keepdims:
            part = at.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))
        parts.append(part)
        start = start + length
    return TensorSequence(parts)


@op("Optional", sequences=True)
def optional(at: Importer, x: Any = None, *, type: Any = None) -> Any:
    return Absent() if x is None else x


@op("OptionalHasElement", sequences=True)
def optional_has_element(at: Importer, x: Any = None) -> Value:
    return at.constant(np.asarray(x is not None and not isinstance(x, Absent)), DType.bool, "has")


@op("OptionalGetElement", sequences=True)
def optional_get_element(at: Importer, x: Any) -> Any:
    if isinstance(x, Absent):
        raise Unsupported("it takes what an empty optional holds")
    return x
