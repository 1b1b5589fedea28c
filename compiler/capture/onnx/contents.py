"""What small integer tensors hold, as far as it is known while a model is read: numbers, and dimensions.

ONNX computes shapes with tensors (Shape, Gather, Concat, Reshape). Reading a model, planish computes with what they hold: an
array of ``object`` whose elements are ints or dimensions. numpy's own functions work on such arrays, so that each operator of
such a computation is one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from ... import dims
from ...dims import Bounds, Dim, Expr

#: Tensors of more elements are data, no shapes.
MOST = 1024

Content = np.ndarray
Compute = Callable[..., "Content | Sequence[Content] | None"]
_COMPUTE: dict[str, Compute] = {}


def is_constant(content: Content) -> bool:
    """Whether every element is a number."""
    return not any(isinstance(e, Expr) for e in content.flat)


def of_dims(shape: Sequence[Dim]) -> Content:
    """A one-dimensional content."""
    content = np.empty(len(shape), object)
    content[:] = list(shape)
    return content


def _content(name: str) -> Callable[[Compute], Compute]:
    def add(function: Compute) -> Compute:
        _COMPUTE[name] = function
        return function

    return add


def compute(
    name: str, operands: Sequence[Content | None], attributes: Mapping[str, Any], bounds: Mapping[str, Bounds]
) -> list[Content] | None:
    """The contents of an operator's results, None where they cannot be told.

    Args:
        name: of a standard operator.
        operands: contents; None for one that is absent.
        attributes: of the operator.
        bounds: of the symbols.
    """
    function = _COMPUTE.get(name)
    if function is None:
        return None
    try:
        result = function(bounds, *operands, **attributes)
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, NotImplementedError):
        return None  # the handler, or the error it raises, says more
    if result is None:
        return None
    results = list(result) if isinstance(result, (list, tuple)) else [result]
    wrapped = [np.asarray(r, dtype=object) for r in results]
    return wrapped if all(w.size <= MOST for w in wrapped) else None


def _each(function: Callable[..., Any], *operands: Content) -> Content:
    arrays = np.broadcast_arrays(*operands)
    result = np.empty(arrays[0].shape, object)
    for index in np.ndindex(result.shape):
        result[index] = function(*(a[index] for a in arrays))
    return result


def _arithmetic(name: str, function: Callable[[Any, Any], Any]) -> None:
    _COMPUTE[name] = lambda bounds, a, b: _each(function, a, b)


for _name, _function in {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}.items():
    _arithmetic(_name, _function)


@_content("Div")
def _div(bounds: Mapping[str, Bounds], a: Content, b: Content) -> Content:
    return _each(lambda x, y: truncated(x, y, bounds), a, b)


def truncated(a: Dim, b: Dim, bounds: Mapping[str, Bounds]) -> Dim:
    """``a / b`` towards zero, as ONNX divides integers.

    Raises:
        ValueError: a sign depends on the sizes.
        ZeroDivisionError: by zero.
    """
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    exact = dims.divide_exactly(a, b)
    if exact is not None:
        return exact
    low, high = dims.bounds(b, bounds)
    if high < 0:
        a, b, low = -a, -b, -high
    if low <= 0:
        raise _Undecided(f"the sign of {b}")
    low, high = dims.bounds(a, bounds)
    if low < 0 < high:
        raise _Undecided(f"the sign of {a}")
    return dims.floordiv(a, b) if low >= 0 else -dims.floordiv(-a, b)


@_content("Mod")
def _mod(bounds: Mapping[str, Bounds], a: Content, b: Content, *, fmod: int = 0) -> Content | None:
    if fmod or any(isinstance(d, Expr) and dims.bounds(d, bounds)[0] <= 0 for d in b.flat):
        return None
    return _each(lambda x, y: x % y if isinstance(x, int) and isinstance(y, int) else dims.mod(x, y), a, b)


@_content("Neg")
def _neg(bounds: Any, a: Content) -> Content:
    return _each(lambda x: -x, a)


@_content("Abs")
def _abs(bounds: Mapping[str, Bounds], a: Content) -> Content:
    return _each(lambda x: abs(x) if isinstance(x, int) else dims.dim_max(x, -x), a)


@_content("Not")
def _not(bounds: Any, a: Content) -> Content:
    return _each(lambda x: not x, a)


@_content("Identity")
def _identity(bounds: Any, a: Content) -> Content:
    return a


@_content("Min")
def _min(bounds: Any, *operands: Content) -> Content:
    return _fold(dims.dim_min, operands)


@_content("Max")
def _max(bounds: Any, *operands: Content) -> Content:
    return _fold(dims.dim_max, operands)


def _fold(function: Callable[[Dim, Dim], Dim], operands: Sequence[Content]) -> Content:
    result = operands[0]
    for other in operands[1:]:
        result = _each(function, result, other)
    return result


class _Undecided(ValueError):
    """A comparison of dimensions that holds for some sizes and not for others."""


def compare(name: str, a: Dim, b: Dim, bounds: Mapping[str, Bounds]) -> bool:
    """Whether ``a name b`` for all sizes there may be; names as ONNX has them.

    Raises:
        ValueError: for some it does and for others it does not, or it cannot be told.
    """
    if a == b:
        return name in ("Equal", "LessOrEqual", "GreaterOrEqual")
    low, high = dims.bounds(a - b, bounds)
    verdicts = {
        "Equal": (low == high == 0, low > 0 or high < 0),
        "Less": (high < 0, low >= 0),
        "LessOrEqual": (high <= 0, low > 0),
        "Greater": (low > 0, high <= 0),
        "GreaterOrEqual": (low >= 0, high < 0),
    }
    yes, no = verdicts[name]
    if not yes and not no:
        raise _Undecided(f"{a} and {b}")
    return yes


def _comparison(name: str) -> None:
    _COMPUTE[name] = lambda bounds, a, b: _each(lambda x, y: compare(name, x, y, bounds), a, b)


for _name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
    _comparison(_name)


@_content("Where")
def _where(bounds: Any, condition: Content, a: Content, b: Content) -> Content:
    return _each(lambda c, x, y: x if c else y, condition, a, b)


@_content("Cast")
def _cast(bounds: Any, a: Content, *, to: int, saturate: int = 1) -> Content | None:
    if to in (6, 7):  # int32, int64
        return _each(lambda x: int(x) if isinstance(x, bool) else x, a)
    if to == 9 and is_constant(a):
        return _each(bool, a)
    return None


@_content("Gather")
def _gather(bounds: Any, a: Content, ids: Content, *, axis: int = 0) -> Content:
    return np.take(a, np.asarray(ids.astype(np.int64)), axis=axis)


@_content("Concat")
def _concat(bounds: Any, *operands: Content, axis: int = 0) -> Content:
    return np.concatenate(operands, axis=axis)


@_content("Unsqueeze")
def _unsqueeze(bounds: Any, a: Content, axes: Any = None, **attributes: Any) -> Content:
    places = _ints(attributes.get("axes") if axes is None else axes)
    result = a
    for axis in sorted(p % (a.ndim + len(places)) for p in places):
        result = np.expand_dims(result, axis)
    return result


@_content("Squeeze")
def _squeeze(bounds: Any, a: Content, axes: Any = None, **attributes: Any) -> Content:
    places = attributes.get("axes") if axes is None else axes
    return a.reshape([d for d in a.shape if d != 1]) if places is None else np.squeeze(a, tuple(_ints(places)))


@_content("Reshape")
def _reshape(bounds: Any, a: Content, shape: Content, *, allowzero: int = 0) -> Content:
    sizes = [a.shape[i] if d == 0 and not allowzero else int(d) for i, d in enumerate(shape.flat)]
    return a.reshape(sizes)


@_content("Flatten")
def _flatten(bounds: Any, a: Content, *, axis: int = 1) -> Content:
    axis = axis % (a.ndim + 1) if axis < 0 else axis
    return a.reshape(int(np.prod(a.shape[:axis], dtype=int)), -1)


@_content("Slice")
def _slice(bounds: Any, a: Content, *operands: Any, **attributes: Any) -> Content:
    if not operands:
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes"), None
    else:
        starts, ends, axes, steps = (*operands, None, None)[:4]
    starts, ends = _ints(starts), _ints(ends)
    places = list(range(len(starts))) if axes is None else _ints(axes)
    strides = [1] * len(starts) if steps is None else _ints(steps)
    cut: list[Any] = [slice(None)] * a.ndim
    for start, end, axis, step in zip(starts, ends, places, strides, strict=True):
        # an end before the first element means "up to and with it" when walking backwards
        cut[axis] = slice(start, None if step < 0 and end < -a.shape[axis] else end, step)
    return a[tuple(cut)]


@_content("Split")
def _split(
    bounds: Any, a: Content, sizes: Any = None, *, axis: int = 0, num_outputs: int = 0, split: Any = None
) -> Any:
    given = split if sizes is None else sizes
    if given is None:
        if not num_outputs:
            return None
        each = -(-a.shape[axis] // num_outputs)
        return np.split(a, range(each, a.shape[axis], each), axis=axis)
    return np.split(a, np.cumsum(_ints(given))[:-1], axis=axis)


@_content("Transpose")
def _transpose(bounds: Any, a: Content, *, perm: Sequence[int] | None = None) -> Content:
    return np.transpose(a, perm)


@_content("Expand")
def _expand(bounds: Any, a: Content, shape: Content) -> Content:
    return np.broadcast_to(a, np.broadcast_shapes(a.shape, tuple(_ints(shape)))).copy()


@_content("Tile")
def _tile(bounds: Any, a: Content, repeats: Content) -> Content:
    return np.tile(a, _ints(repeats))


@_content("ConstantOfShape")
def _constant_of_shape(bounds: Any, shape: Content, *, value: Any = None) -> Content | None:
    sizes = _ints(shape)
    if value is None or np.asarray(value).dtype.kind not in "bi" or int(np.prod(sizes, dtype=int)) > MOST:
        return None
    return np.full(sizes, np.asarray(value).reshape(-1)[0].item(), object)


@_content("Range")
def _range(bounds: Any, start: Content, limit: Content, delta: Content) -> Content | None:
    ends = [start.item(), limit.item(), delta.item()]
    return of_dims(list(range(*ends))) if all(isinstance(e, int) for e in ends) else None


def _reduction(name: str, function: Callable[[Sequence[Dim]], Dim]) -> None:
    def reduced(
        bounds: Any, a: Content, axes: Any = None, /, *, keepdims: int = 1, noop_with_empty_axes: int = 0, **attributes: Any
    ) -> Content | None:  # fmt: skip
        places = attributes.get("axes") if axes is None else axes
        named = [] if places is None else _ints(places)
        if a.ndim != 1 or named not in ([], [0], [-1]) or (noop_with_empty_axes and not named) or not a.size:
            return None
        total = function(a.tolist())
        return of_dims([total]) if keepdims else np.array(total, object)

    _COMPUTE[name] = reduced


_reduction("ReduceProd", dims.product)
_reduction("ReduceSum", lambda sizes: sum(sizes, start=0))
_reduction("ReduceMax", lambda sizes: reduce(dims.dim_max, sizes))
_reduction("ReduceMin", lambda sizes: reduce(dims.dim_min, sizes))


@_content("ScatterND")
def _scatter(bounds: Any, a: Content, ids: Content, updates: Content, *, reduction: str = "none") -> Content | None:
    if reduction != "none":
        return None
    result = a.copy()
    places = ids.astype(np.int64)
    for index in np.ndindex(*places.shape[:-1]):
        result[tuple(places[index])] = updates[index]
    return result


def _ints(content: Any) -> list[int]:
    """Plain numbers.

    Raises:
        TypeError: a dimension is among them.
    """
    values = np.asarray(content, object).reshape(-1).tolist()
    if any(isinstance(v, Expr) for v in values):
        raise TypeError("a size that varies")
    return [int(v) for v in values]
