"""Recurrent layers: RNN, GRU, LSTM.

Every direction becomes a ``linear`` over the whole sequence and a ``recurrent``; cells that ``recurrent`` does not have (other
activations, clipping, peepholes, a GRU that resets before its product) are written step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...dims import Dim
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .recurrence_steps import MAX_STEPS, Cell, Operands, activations_of, unrolled
from .registry import op
from .windows import present

#: In what order ``recurrent`` wants the gates, by their places in ONNX's: LSTM i o f c, GRU z r h.
_GATE_ORDER = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
#: A gate with this share is shut (negative) or open in every element type: the sigmoid of it is 0 or 1.
_SHUT = 1e4


@dataclass(frozen=True)
class _Layer:
    """One layer: what its directions share.

    Attributes:
        cell: what the cells compute.
        x: [length, batch, features].
        w, r: weights of input and state, [directions, gates * hidden, features or hidden].
        bias: [directions, 2 * gates * hidden] or None.
        peepholes: [directions, 3 * hidden] or None.
        lengths: of the sequences, i64 [batch]; None: all are as long as ``x``.
        initial: [directions, batch, hidden] per state, or None.
    """

    cell: Cell
    x: Value
    w: Value
    r: Value
    bias: Value | None
    peepholes: Value | None
    lengths: Value | None
    initial: tuple[Value | None, ...]

    @property
    def hidden(self) -> int:
        hidden = self.r.shape[-1]
        if not isinstance(hidden, int):
            raise Unsupported("a state whose size varies is not supported")
        return hidden


def _directions(w: Value) -> int:
    directions = w.shape[0]
    if not isinstance(directions, int):
        raise Unsupported("a number of directions that varies is not supported")
    return directions


@op("RNN", since=7)
def rnn(
    at: Importer, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
    initial_h: Value | None = None, *, activations: Sequence[str] = (), activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (), clip: float = 0.0, direction: str = "forward", hidden_size: int = 0, layout: int = 0,
) -> Any:  # fmt: skip
    found = activations_of(activations or ["Tanh"] * _directions(w), activation_alpha, activation_beta)
    cell = Cell("rnn", found, clip)
    return _whole(at, cell, x, w, r, bias, None, lengths, (initial_h,), direction, layout)


@op("GRU", since=7)
def gru(
    at: Importer, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
    initial_h: Value | None = None, *, activations: Sequence[str] = (), activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (), clip: float = 0.0, direction: str = "forward", hidden_size: int = 0, layout: int = 0,
    linear_before_reset: int = 0,
) -> Any:  # fmt: skip
    found = activations_of(activations or ["Sigmoid", "Tanh"] * _directions(w), activation_alpha, activation_beta)
    cell = Cell("gru", found, clip, product_first=bool(linear_before_reset))
    return _whole(at, cell, x, w, r, bias, None, lengths, (initial_h,), direction, layout)


@op("LSTM", since=7)
def lstm(
    at: Importer, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
    initial_h: Value | None = None, initial_c: Value | None = None, peepholes: Value | None = None, *,
    activations: Sequence[str] = (), activation_alpha: Sequence[float] = (), activation_beta: Sequence[float] = (),
    clip: float = 0.0, direction: str = "forward", hidden_size: int = 0, input_forget: int = 0, layout: int = 0,
) -> Any:  # fmt: skip
    found = activations_of(
        activations or ["Sigmoid", "Tanh", "Tanh"] * _directions(w), activation_alpha, activation_beta
    )
    cell = Cell("lstm", found, clip, coupled=bool(input_forget))
    initial = (initial_h, initial_c)
    return _whole(at, cell, x, w, r, bias, peepholes, lengths, initial, direction, layout)


def _whole(
    at: Importer, cell: Cell, x: Value, w: Value, r: Value, bias: Value | None, peepholes: Value | None,
    lengths: Value | None, initial: tuple[Value | None, ...], direction: str, layout: int,
) -> list[Value]:  # fmt: skip
    """All directions: what every step gives [length, directions, batch, hidden], and the last states [directions, batch, hidden]
    (``layout`` 1: batch first)."""
    ways = _DIRECTIONS.get(direction.lower())
    if ways is None:
        raise Unsupported(f"the direction {direction!r} is not known")
    if layout:
        x = at.transpose(x, (1, 0, 2))
        initial = tuple(None if v is None else at.transpose(v, (1, 0, 2)) for v in initial)
    weights = None if peepholes is None else at.array(peepholes)
    if weights is not None and not weights.any():
        peepholes = None
    layer = _Layer(cell, x, w, r, bias, peepholes, _lengths(at, lengths, x.shape[0]), initial)
    parts = [_direction(at, layer, way, reverse) for way, reverse in enumerate(ways)]
    steps = [at.reshape(p[0], (x.shape[0], 1, *p[0].shape[1:])) for p in parts]
    results = [steps[0] if len(ways) == 1 else at.emit("concat", *steps, axis=1)]
    for ends in zip(*(p[1:] for p in parts), strict=True):
        shaped = [at.reshape(e, (1, *e.shape)) for e in ends]
        results.append(shaped[0] if len(ways) == 1 else at.emit("concat", *shaped, axis=0))
    if layout:
        perms = ((2, 0, 1, 3), *((1, 0, 2) for _ in results[1:]))
        results = [at.transpose(v, perm) for v, perm in zip(results, perms, strict=True)]
    return results


def _lengths(at: Importer, lengths: Value | None, longest: Dim) -> Value | None:
    if lengths is None:
        return None
    array = at.array(lengths)
    if array is not None and isinstance(longest, int) and (array == longest).all():
        return None
    return at.cast(lengths, DType.i64)


# -- weights ----------------------------------------------------------------------------------------------------------
def _of_way(at: Importer, value: Value, way: int, order: Sequence[int], count: int) -> Value:
    """The part of weights that is of one direction: of the ``count`` blocks of its rows those of ``order``."""
    array = at.array(value)
    rows = value.shape[1]
    if not isinstance(rows, int) or rows % count:
        raise Unsupported(f"its weights {value.type} do not fall into {count} parts")
    each = rows // count
    if array is not None:
        blocks = [array[way, i * each : (i + 1) * each] for i in order]
        name = value.node.attrs["ref"] if value.node is not None else "weight"
        return at.constant(np.concatenate(blocks), value.dtype, name)
    mine = at.reshape(at.slice(value, 0, way, way + 1), value.shape[1:])
    parts = [at.slice(mine, 0, i * each, (i + 1) * each) for i in order]
    return parts[0] if len(parts) == 1 else at.emit("concat", *parts, axis=0)


def _start(at: Importer, layer: _Layer, way: int, state: Value | None) -> Value:
    shape = (layer.x.shape[1], layer.hidden)
    if state is None:
        return at.emit("full", value=0.0, shape=shape, dtype=layer.x.dtype)
    return at.reshape(at.slice(state, 0, way, way + 1), shape)


# -- one direction ----------------------------------------------------------------------------------------------------
def _direction(at: Importer, layer: _Layer, way: int, reverse: bool) -> list[Value]:
    """The values of ``recurrent``: every h [length, batch, hidden], then the last states."""
    cell = layer.cell
    native = cell.native(way) if layer.peepholes is None else None
    if at.array(layer.r) is None and isinstance(layer.x.shape[0], int) and layer.x.shape[0] <= MAX_STEPS:
        native = None  # kernels want weights that they can lay out beforehand
    order = _GATE_ORDER[cell.kind] if native else tuple(range(cell.gates))
    w = _of_way(at, layer.w, way, order, cell.gates)
    r = _of_way(at, layer.r, way, order, cell.gates)
    of_input = of_state = None
    if layer.bias is not None:
        of_input = _of_way(at, layer.bias, way, order, 2 * cell.gates)
        of_state = _of_way(at, layer.bias, way, [cell.gates + i for i in order], 2 * cell.gates)
    first = [_start(at, layer, way, state) for state in layer.initial]
    if native is not None:
        return _by_kernel(at, layer, native, w, r, of_input, of_state, first, reverse)
    peepholes = None if layer.peepholes is None else _of_way(at, layer.peepholes, way, (0, 1, 2), 3)
    operands = Operands(layer.x, w, r, of_input, of_state, peepholes, layer.lengths, tuple(first))
    return unrolled(at, cell, way, operands, reverse)


def _by_kernel(
    at: Importer, layer: _Layer, native: str, w: Value, r: Value, of_input: Value | None, of_state: Value | None,
    first: list[Value], reverse: bool,
) -> list[Value]:  # fmt: skip
    bias, new_bias = of_input, None
    if of_input is not None and of_state is not None:
        if native == "gru":
            hidden = layer.hidden
            zeros = at.emit("full", value=0.0, shape=(hidden,), dtype=of_state.dtype)
            outer = at.emit("concat", at.slice(of_state, 0, 0, 2 * hidden), zeros, axis=0)
            bias, new_bias = at.emit("add", of_input, outer), at.slice(of_state, 0, 2 * hidden, 3 * hidden)
        else:
            bias = at.emit("add", of_input, of_state)
    gates = at.emit("linear", *present(layer.x, w, bias))
    attrs = {"cell": native, "reverse": reverse}
    if layer.lengths is None:
        operands = present(gates, r, *first, *[None] * (2 - len(first)), new_bias)
        return list(at.insert("recurrent", operands, attrs).outputs)
    # sequences of different lengths: each reversed by itself, walked forwards, and cut behind its end
    places = _Places(at, layer.lengths, layer.x.shape[0], layer.x.shape[1])
    gates = places.mirrored(gates) if reverse else gates
    if native == "lstm" and len(at.results) > 2 and at.results[2]:
        shares = np.repeat(np.array([-_SHUT, _SHUT, 0.0, 0.0]), layer.hidden)
        kept = at.cast(at.constant(shares, DType.f64, "kept"), gates.dtype)
        gates = at.emit("where", places.inside, gates, kept)  # behind its end a sequence keeps its c
    operands = present(gates, r, *first, *[None] * (2 - len(first)), new_bias)
    steps, _, *cells = at.insert("recurrent", operands, {**attrs, "reverse": False}).outputs
    last = places.last(steps, first[0])
    steps = at.emit("where", places.inside, steps, at.scalar(0.0, steps.dtype))
    return [places.mirrored(steps) if reverse else steps, last, *cells]


class _Places:
    """Where the steps of sequences of different lengths lie.

    Attributes:
        inside: whether a step is one of its sequence, [length, batch, 1].
    """

    def __init__(self, at: Importer, lengths: Value, longest: Dim, batch: Dim) -> None:
        self._at, self._batch = at, batch
        self._step = at.reshape(at.emit("arange", end=longest, dtype=DType.i64), (longest, 1, 1))
        self._lengths = at.reshape(lengths, (1, batch, 1))
        self.inside = at.emit("lt", self._step, self._lengths)

    def mirrored(self, value: Value) -> Value:
        """Every sequence from its end; what lies behind it stays."""
        at = self._at
        back = at.emit("sub", at.emit("sub", self._lengths, at.scalar(1, DType.i64)), self._step)
        ids = at.emit("where", self.inside, back, self._step)
        return at.emit("take_along", value, at.expand(ids, value.shape), axis=0)

    def last(self, steps: Value, first: Value) -> Value:
        """The last step of every sequence, and of an empty one ``first``."""
        at = self._at
        end = at.emit("maximum", at.emit("sub", self._lengths, at.scalar(1, DType.i64)), at.scalar(0, DType.i64))
        found = at.emit("take_along", steps, at.expand(end, (1, *steps.shape[1:])), axis=0)
        some = at.emit("gt", at.reshape(self._lengths, (self._batch, 1)), at.scalar(0, DType.i64))
        return at.emit("where", some, at.reshape(found, first.shape), first)
