"""Operators that cut and join: slice, split, concat, pad; and those that make tensors from sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from ...dims import Dim, bounds, dim_max, floordiv
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .moving import axes_in, axis_in, counting, within
from .registry import op
from .types import array_of, dtype_of


# -- cutting --------------------------------------------------------------------------------------------------------------
@op("Slice", since=10)
def slice_(
    at: Importer, x: Value, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> Value:
    first, last = at.dims(starts, "where the slice starts"), at.dims(ends, "where the slice ends")
    places = list(range(len(first))) if axes is None else at.ints(axes, "the axes")
    strides = [1] * len(first) if steps is None else at.ints(steps, "the steps")
    return _cut(at, x, first, last, places, strides)


@op("Slice", since=1)
def slice_by_attributes(
    at: Importer, x: Value, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Value:
    return _cut(at, x, starts, ends, range(len(starts)) if axes is None else axes, [1] * len(starts))


def _cut(
    at: Importer, x: Value, first: Sequence[Dim], last: Sequence[Dim], axes: Sequence[int], strides: Sequence[int]
) -> Value:
    if not len(first) == len(last) == len(axes) == len(strides):
        raise Unsupported(f"it has {len(first)} starts, {len(last)} ends, {len(axes)} axes and {len(strides)} steps")
    for start, end, axis, step in zip(first, last, axes_in(axes, x.type.rank), strides, strict=True):
        if step == 0:
            raise Unsupported("its step is 0")
        x = _forward(at, x, axis, start, end, step) if step > 0 else _backward(at, x, axis, start, end, step)
    return x


def _forward(at: Importer, x: Value, axis: int, start: Dim, end: Dim, step: int) -> Value:
    size = x.shape[axis]
    begin, stop = within(at, start, size), within(at, end, size)
    least, greatest = bounds(stop - begin, at.bounds)
    if greatest <= 0:
        return at.emit("slice", x, axis=axis, start=0, end=0, step=1)
    if least < 0:  # empty at some sizes
        stop = dim_max(stop, begin)
    return at.slice(x, axis, begin, stop, step)


def _backward(at: Importer, x: Value, axis: int, start: Dim, end: Dim, step: int) -> Value:
    """Elements from ``start`` down to the one above ``end``."""
    size = x.shape[axis]
    begin = within(at, start, size, -1, -1)
    stop = within(at, end, size, -1, -1)
    if isinstance(begin, int) and isinstance(stop, int) and begin <= stop:
        return at.emit("slice", x, axis=axis, start=0, end=0, step=1)
    ids = at.emit("arange", start=begin, end=stop, step=step, dtype=DType.i64)
    return at.emit("gather", x, ids, axis=axis)


@op("Split", since=2)
def split(
    at: Importer, x: Value, sizes: Value | None = None, *, axis: int = 0, num_outputs: int | None = None,
    split: Sequence[int] | None = None,
) -> list[Value]:  # fmt: skip
    place, count = axis_in(axis, x.type.rank), len(at.node.output)
    whole = x.shape[place]
    given: Sequence[Dim] | None = split if sizes is None else at.dims(sizes, "the sizes of the parts")
    if given is None:
        parts = count if num_outputs is None else num_outputs
        each = floordiv(whole + parts - 1, parts)
        given = [each] * (parts - 1) + [whole - each * (parts - 1)]
        if isinstance(whole, int) and isinstance(each, int):  # the last parts may be smaller, or empty
            given = [max(min(each, whole - each * i), 0) for i in range(parts)]
    if len(given) != count:
        raise Unsupported(f"it has {count} results and {len(given)} sizes")
    results, start = [], 0  # type: list[Value], Dim
    for size in given:
        results.append(at.slice(x, place, start, start + size))
        start = start + size
    return results


# -- joining --------------------------------------------------------------------------------------------------------------
@op("Concat", since=4)
def concat(at: Importer, *operands: Value, axis: int) -> Value:
    return (
        operands[0] if len(operands) == 1 else at.emit("concat", *operands, axis=axis_in(axis, operands[0].type.rank))
    )


# -- padding --------------------------------------------------------------------------------------------------------------
@op("Pad", since=11)
def pad(
    at: Importer,
    x: Value,
    pads: Value,
    value: Value | None = None,
    axes: Value | None = None,
    *,
    mode: str = "constant",
) -> Value:
    amounts = at.dims(pads, "the padding")
    given = range(x.type.rank) if axes is None else at.ints(axes, "the axes")
    return _padded(at, x, amounts, axes_in(given, x.type.rank), value, mode)


@op("Pad", since=2)
def pad_by_attributes(
    at: Importer, x: Value, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0
) -> Value:
    return _padded(at, x, pads, range(x.type.rank), at.scalar(value, x.dtype), mode)


def _padded(
    at: Importer, x: Value, amounts: Sequence[Dim], axes: Sequence[int], value: Value | None, mode: str
) -> Value:
    if len(amounts) != 2 * len(axes):
        raise Unsupported(f"it has {len(amounts)} amounts for {len(axes)} axes, two are needed for each")
    low: list[Dim] = [0] * x.type.rank
    high: list[Dim] = [0] * x.type.rank
    for i, axis in enumerate(axes):
        low[axis], high[axis] = amounts[i], amounts[len(axes) + i]
    if not any(d != 0 for d in (*low, *high)):
        return x
    if mode == "constant":
        return _filled(at, x, low, high, value)
    if mode not in ("edge", "reflect", "wrap"):
        raise Unsupported(f"there is no mode {mode!r}")
    for axis in axes:
        if low[axis] != 0 or high[axis] != 0:
            x = _continued(at, x, axis, low[axis], high[axis], mode)
    return x


def _filled(at: Importer, x: Value, low: Sequence[Dim], high: Sequence[Dim], value: Value | None) -> Value:
    data = at.array(value)
    if value is not None and (data is None or value.dtype is DType.bf16):
        inside = at.emit("full", value=True, shape=x.shape, dtype=DType.bool)
        inside = at.emit("pad", inside, low=tuple(low), high=tuple(high), value=0.0)
        moved = at.emit("pad", x, low=tuple(low), high=tuple(high), value=0.0)
        return at.emit("where", inside, moved, at.reshape(value, ()))
    number = 0.0 if data is None else data.reshape(()).item()
    return at.emit("pad", x, low=tuple(low), high=tuple(high), value=float(number) if x.dtype.is_float else number)


def _continued(at: Importer, x: Value, axis: int, low: Dim, high: Dim, mode: str) -> Value:
    """Padding with what stands inside; a negative amount crops."""
    if not isinstance(low, int) or not isinstance(high, int):
        raise Unsupported(f"padding by a size that varies is not supported in the mode {mode!r}")
    size = x.shape[axis]
    x = at.slice(x, axis, max(-low, 0), size + min(high, 0))
    low, high, size = max(low, 0), max(high, 0), x.shape[axis]
    if not low and not high:
        return x
    if isinstance(size, int):
        ids = at.constant(np.pad(np.arange(size), (low, high), mode), DType.i64, "padding")  # type: ignore[call-overload]
        return at.emit("gather", x, ids, axis=axis)
    place = at.emit("arange", start=-low, end=size + high, dtype=DType.i64)
    last = at.scalar(size - 1, DType.i64)
    if mode == "edge":
        ids = at.emit("minimum", at.emit("maximum", place, at.scalar(0, DType.i64)), last)
    elif mode == "wrap":
        ids = at.emit("mod", place, at.scalar(size, DType.i64))
    else:  # back and forth: a saw with the period of twice the distance between the first and the last
        period = at.emit("maximum", at.scalar(2 * (size - 1), DType.i64), at.scalar(1, DType.i64))
        turn = at.emit("sub", at.emit("mod", place, period), last)
        ids = at.emit("sub", last, at.emit("abs", turn))
    return at.emit("gather", x, ids, axis=axis)


# -- made from sizes ----------------------------------------------------------------------------------------------------------
def tensor_attribute(at: Importer, name: str) -> tuple[np.ndarray, DType] | None:
    """An attribute of the node at hand that is a tensor; an array alone would not tell bf16 from uint16."""
    found = next((a for a in at.node.attribute if a.name == name), None)
    return None if found is None else array_of(found.t)


@op("Constant")
def constant(at: Importer, **attributes: Any) -> Value:
    (attribute,) = at.node.attribute
    name = at.node.output[0]
    match attribute.name:
        case "value":
            held = at.constant(*array_of(attribute.t), name)
            if attribute.t.data_type == TensorProto.UINT4:
                at.unsigned4.add(held)
            return held
        case "value_int" | "value_ints":
            return at.constant(np.asarray(attributes[attribute.name], np.int64), DType.i64, name)
        case "value_float" | "value_floats":
            return at.constant(np.asarray(attributes[attribute.name], np.float32), DType.f32, name)
    raise Unsupported(f"a constant given as {attribute.name!r}")


@op("ConstantOfShape", since=9)
def constant_of_shape(at: Importer, shape: Value, *, value: np.ndarray | None = None) -> Value:
    data, dtype = tensor_attribute(at, "value") or (np.zeros(1, np.float32), DType.f32)
    one = at.constant(data.reshape(()), dtype, "value")
    sizes = at.dims(shape, "the shape")
    if dtype is DType.bf16:
        return at.expand(one, sizes)
    return at.emit("full", value=data.reshape(()).item(), shape=tuple(sizes), dtype=dtype)


@op("Range", since=11)
def range_(at: Importer, start: Value, limit: Value, delta: Value) -> Value:
    if start.dtype.is_integer:
        first, end, step = (at.dims(v, "the range")[0] for v in (start, limit, delta))
        if not isinstance(step, int):
            raise Unsupported("a step that varies is not supported")
        return at.emit("arange", start=first, end=end, step=step, dtype=start.dtype)
    numbers = [at.number(v, "the range") for v in (start, limit, delta)]
    data = numbers[0] + np.arange(max(int(np.ceil((numbers[1] - numbers[0]) / numbers[2])), 0)) * numbers[2]
    return at.constant(data.astype(start.dtype.numpy), start.dtype, "range")


@op("EyeLike", since=9)
def eye_like(at: Importer, x: Value, *, dtype: int | None = None, k: int = 0) -> Value:
    if x.type.rank != 2:
        raise Unsupported(f"its operand has {x.type.rank} axes, not 2")
    rows = at.emit("add", counting(at, x.shape[0], 0, 2), at.scalar(k, DType.i64))
    there = at.emit("eq", counting(at, x.shape[1], 1, 2), rows)
    return at.cast(there, x.dtype if dtype is None else dtype_of(dtype))


@op("CenterCropPad", since=18)
def center_crop_pad(at: Importer, x: Value, shape: Value, *, axes: Sequence[int] | None = None) -> Value:
    """Each axis is cut, or padded with zeros, to a size, as much before as behind; an odd one more behind where it is padded,
    and one less before where it is cut."""
    low: list[Dim] = [0] * x.type.rank
    high: list[Dim] = [0] * x.type.rank
    given = range(x.type.rank) if axes is None else axes
    sizes = at.dims(shape, "the shape")
    if len(sizes) != len(given):
        raise Unsupported(f"it has {len(sizes)} sizes for {len(given)} axes")
    for axis, size in zip(axes_in(given, x.type.rank), sizes, strict=True):
        have = x.shape[axis]
        if not isinstance(have, int) or not isinstance(size, int):
            raise Unsupported("a size that varies is not supported")
        before = abs(size - have) // 2
        if size < have:
            x = at.slice(x, axis, before, before + size)
        else:
            low[axis], high[axis] = before, size - have - before
    return x if not any(d != 0 for d in (*low, *high)) else at.emit("pad", x, low=tuple(low), high=tuple(high), value=0)
