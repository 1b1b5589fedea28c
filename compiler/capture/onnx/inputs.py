"""Example inputs for a model that came without any: the likeliest that a graph's own use of its inputs tells.

A file says element types and shapes, and a graph what becomes of an input: ids that look up rows of a table have to lie inside
of it, whole numbers that look up nothing are masks or flags, and floats are close enough to a standard normal distribution to
time a model and to compare it with its source. They are no data to calibrate on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ... import dims
from ...dims import Dim, Expr
from ...errors import UsageError
from ...graph import Graph, Node, Value
from ...options import nearest
from ...sizes import sizes_of
from ...types import DType, float_to_bf16
from .types import plain

#: Ops that hand elements on as they are, from their first operand.
_MOVES = frozenset({"cast", "reshape", "transpose", "expand", "slice", "pad"})
#: Ops whose operand 1 holds places along an axis of operand 0.
_LOOKUPS = frozenset({"gather", "take_along", "embedding"})
#: Sizes of what varies, by what its name holds.
_SIZES: tuple[tuple[tuple[str, ...], int], ...] = (
    (("batch",), 1),
    (("seq", "length", "len", "token", "time", "frame", "past", "text"), 128),
    (("height", "width"), 224),
)
#: Sizes of what no name tells about: of whole numbers, of channels and places of an image, of the rest.
_TOKENS, _IMAGE, _OTHER = 128, 224, 32


def usual_sizes(graph: Graph) -> dict[str, int]:
    """A size for every symbol, inside of its bounds: one sample, 128 tokens, 224 pixels, else 32."""
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape):
            for name in sorted(dims.symbols(dim)):
                if name not in sizes:
                    symbol = graph.symbols[name]
                    sizes[name] = max(symbol.lower, min(symbol.upper, _usual(name, value, axis)))
    for name, symbol in graph.symbols.items():
        sizes.setdefault(name, max(symbol.lower, min(symbol.upper, _OTHER)))
    return sizes


def _usual(name: str, value: Value, axis: int) -> int:
    for words, size in _SIZES:
        if any(word in name.lower() for word in words):
            return size
    if axis == 0:
        return 1
    if value.dtype.is_integer or value.dtype is DType.bool:
        return _TOKENS
    return _IMAGE if value.type.rank == 4 and axis > 1 else _OTHER


def example_inputs(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> tuple[dict[str, np.ndarray], list[str]]:
    """An array for every input, and what each is in words.

    Args:
        graph: as captured.
        sizes: of every symbol.
        seed: of the random numbers; an input's also depend on its name, and on nothing else.

    Returns:
        Arrays by name (bf16 as ``uint16`` bits), and a phrase per input.
    """
    arrays: dict[str, np.ndarray] = {}
    words: list[str] = []
    for value in graph.inputs:
        shape = tuple(dims.evaluate(d, sizes) for d in value.shape)
        own = int.from_bytes(hashlib.sha256(value.name.encode()).digest()[:4], "little")
        array, what = _array(value, shape, sizes, np.random.default_rng((seed, own)))
        arrays[value.name] = array
        words.append(f"{value.name} [{', '.join(map(str, shape))}]: {what}")
    return arrays, words


def _array(
    value: Value, shape: tuple[int, ...], sizes: Mapping[str, int], random: np.random.Generator
) -> tuple[np.ndarray, str]:
    dtype = value.dtype
    if dtype.is_float:
        if "mask" in value.name.lower() and value.type.rank == 2:
            normal, what = np.ones(shape, np.float32), "ones"
        else:
            normal, what = random.standard_normal(shape).astype(np.float32), "standard normal"
        return (float_to_bf16(normal) if dtype is DType.bf16 else normal.astype(dtype.numpy)), what
    if dtype is DType.bool:
        return np.ones(shape, np.bool_), "true"
    room = _room(value, sizes)
    if room is None and dtype is DType.u8:
        return random.integers(0, 256, shape).astype(np.uint8), "random bytes"
    if room is None:
        return np.ones(shape, dtype.numpy), "ones"
    low, high = room
    return random.integers(low, max(high, low) + 1, shape).astype(dtype.numpy), f"random ids from {low} to {high}"


def _room(value: Value, sizes: Mapping[str, int]) -> tuple[int, int] | None:
    """The least and greatest value that every look-up by ``value`` takes, None where nothing is looked up by it."""
    lows, highs = [], []
    todo: list[tuple[Value, int]] = [(value, 0)]  # what is looked up by is the input plus a number
    seen = {value}
    while todo:
        at, plus = todo.pop()
        for node in at.users:
            size = _table(node, at, sizes)
            if size is not None:
                if size - 1 - plus >= 0:  # else it is how ids that count from the end are brought into the table
                    lows.append(max(0, -plus))
                    highs.append(size - 1 - plus)
            elif (shift := _shift(node, at)) is not None and node.output not in seen:
                seen.add(node.output)
                todo.append((node.output, plus + shift))
    return (max(lows), min(highs)) if lows else None


def _table(node: Node, ids: Value, sizes: Mapping[str, int]) -> int | None:
    """How many places there are where ``node`` looks something up by ``ids``."""
    table = node.inputs[0] if node.op in _LOOKUPS and node.inputs[1] is ids else None
    if table is None:
        return None
    axis = node.attrs.get("axis", 0)
    size: Dim = table.shape[axis]
    return dims.evaluate(size, sizes) if isinstance(size, Expr) else size


def _shift(node: Node, value: Value) -> int | None:
    """What ``node`` adds to the numbers in ``value`` on their way, 0 where it moves them only; None where it does more."""
    if node.op in _MOVES and node.inputs[0] is value:
        return 0
    if node.op == "concat":
        return 0
    if node.op == "where":
        return 0 if value in node.inputs[1:] else None
    if node.op in ("add", "sub") and node.inputs[0] is not node.inputs[1]:
        other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
        number = _number(other)
        if number is not None and (node.op == "add" or node.inputs[0] is value):
            return number if node.op == "add" else -number
    return None


def _number(value: Value | None) -> int | None:
    node = None if value is None else value.node
    graph = None if node is None else node._graph
    array = None if graph is None else graph.array(value)
    if array is None or array.dtype.kind not in "iu" or array.size != 1:
        return None
    return int(array.reshape(-1)[0])


def checked_examples(graph: Graph, given: Any, fixed: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Arrays that a user gave, as the graph takes them.

    Args:
        graph: as captured.
        given: arrays by name, or in the order of the inputs.
        fixed: names of inputs that are none any more; what is given for them is left out.

    Raises:
        UsageError: one is missing, is not the model's, or does not fit in type or shape.
    """
    names = [v.name for v in graph.inputs]
    if not isinstance(given, Mapping):
        if len(given) != len(names):
            raise UsageError(
                f"the example has {len(given)} inputs, and the model takes {len(names)}: {', '.join(names) or 'none'}"
            )
        given = dict(zip(names, given, strict=True))
    for name in given:
        if name not in names and name not in fixed:
            raise UsageError(f"the model has no input {name!r}", nearest(name, names))
    missing = [name for name in names if name not in given]
    if missing:
        raise UsageError(f"the example lacks the input {missing[0]!r}", "give an array for every input, or none")
    arrays = {v.name: _as_given(v, given[v.name]) for v in graph.inputs}
    sizes = sizes_of(graph.inputs, arrays)
    for name, size in sizes.items():
        symbol = graph.symbols[name]
        if not symbol.lower <= size <= symbol.upper:
            raise UsageError(
                f"in the example {name} is {size}, outside of its bounds {symbol.lower} to {symbol.upper}",
                f'dims={{"{name}": ({min(size, symbol.lower)}, {max(size, symbol.upper)})}} or --dim {name}='
                f"{min(size, symbol.lower)}..{max(size, symbol.upper)} widens them",
            )
    for value in graph.inputs:
        for axis, dim in enumerate(value.shape):
            known = dims.symbols(dim) <= set(sizes)
            if known and dims.evaluate(dim, sizes) != arrays[value.name].shape[axis]:
                raise UsageError(
                    f"the example's {value.name!r} has shape {list(arrays[value.name].shape)}, where {_shown(value)} is expected"
                )
    return arrays


def _as_given(value: Value, given: Any) -> np.ndarray:
    if hasattr(given, "detach"):  # a tensor of PyTorch; bf16 has no numpy type
        given = given.detach().cpu()
        if str(given.dtype) == "torch.bfloat16":
            given = float_to_bf16(given.float().numpy())
        else:
            given = given.numpy()
    array = np.asarray(given)
    if array.dtype.kind not in "biuf" and array.dtype.itemsize != 2:  # bfloat16 of another library is of kind V
        raise UsageError(f"the example's {value.name!r} holds {array.dtype}, where {value.dtype} is expected")
    if value.dtype is DType.bf16 and array.dtype.kind == "f":
        array = float_to_bf16(array.astype(np.float32))
    if not value.dtype.is_float and array.dtype.kind == "f":
        raise UsageError(f"the example's {value.name!r} holds {array.dtype}, where {value.dtype} is expected")
    if array.ndim != value.type.rank:
        raise UsageError(
            f"the example's {value.name!r} has shape {list(array.shape)}, where {_shown(value)} is expected"
        )
    return plain(array, value.dtype)


def _shown(value: Value) -> str:
    return f"[{', '.join(map(str, value.shape))}]"


class ExampleNote(str):
    """A note that people should see beside the figures that rest on it."""

    kind = "example"


def in_words(phrases: Sequence[str]) -> ExampleNote:
    """The note that says what was made up."""
    return ExampleNote("example inputs were made up: " + "; ".join(phrases))
