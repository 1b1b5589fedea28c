"""Recurrent cells step by step, with every activation that ONNX has for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...dims import Expr
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer

#: Longer sequences are not written step by step: every step is a dozen nodes.
MAX_STEPS = 512

#: Gates per hidden unit, and activations.
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_ACTIVATIONS = {"lstm": 3, "gru": 2, "rnn": 1}
#: Default alpha and beta of the activations that have them.
_DEFAULTS: dict[str, tuple[float, ...]] = {
    "affine": (1.0, 0.0), "leakyrelu": (0.01,), "thresholdedrelu": (1.0,), "scaledtanh": (1.0, 1.0), "hardsigmoid": (0.2, 0.5),
    "elu": (1.0,),
}  # fmt: skip
_PLAIN = frozenset({"relu", "tanh", "sigmoid", "softsign", "softplus"})


@dataclass(frozen=True)
class Activation:
    """A function of one number: its name without capitals, and its parameters."""

    name: str
    parameters: tuple[float, ...] = ()

    def __call__(self, at: Importer, x: Value) -> Value:
        number = [at.scalar(p, x.dtype) for p in self.parameters]
        match self.name:
            case "affine":
                return at.emit("add", at.emit("mul", x, number[0]), number[1])
            case "leakyrelu":
                return at.emit("leaky_relu", x, slope=self.parameters[0])
            case "thresholdedrelu":
                return at.emit("where", at.emit("ge", x, number[0]), x, at.scalar(0.0, x.dtype))
            case "scaledtanh":
                return at.emit("mul", at.emit("tanh", at.emit("mul", x, number[1])), number[0])
            case "hardsigmoid":
                line = at.emit("add", at.emit("mul", x, number[0]), number[1])
                return at.emit("clamp", line, min=0.0, max=1.0)
            case "elu":
                alpha = self.parameters[0]
                return at.emit("elu", x, alpha=alpha)
            case "softsign":
                return at.emit("div", x, at.emit("add", at.emit("abs", x), at.scalar(1.0, x.dtype)))
        return at.emit(self.name, x)


def activations_of(names: Sequence[str], alpha: Sequence[float], beta: Sequence[float]) -> tuple[Activation, ...]:
    """Activations in order; alphas and betas go, in order, to those that have them.

    Raises:
        Unsupported: one that is not known.
    """
    alphas, betas, found = list(alpha), list(beta), []
    for given in names:
        name = given.lower()
        defaults = _DEFAULTS.get(name, ())
        if not defaults and name not in _PLAIN:
            raise Unsupported(f"the activation {given!r} is not known")
        parameters = [
            left.pop(0) if left else default for left, default in zip((alphas, betas), defaults, strict=False)
        ]
        found.append(Activation(name, tuple(parameters)))
    return tuple(found)


@dataclass(frozen=True)
class Cell:
    """What a cell computes.

    Attributes:
        kind: lstm, gru or rnn.
        activations: those of every direction in turn.
        clip: inputs of activations are cut to [-clip, clip], those of the LSTM's last one apart, as ONNX Runtime has it; 0: they
            are not.
        coupled: an LSTM forgets as much as it does not take in.
        product_first: a GRU resets the product with the state, not the state.
    """

    kind: str
    activations: tuple[Activation, ...]
    clip: float = 0.0
    coupled: bool = False
    product_first: bool = False

    @property
    def gates(self) -> int:
        return _GATES[self.kind]

    def of_way(self, way: int) -> tuple[Activation, ...]:
        """The activations of a direction."""
        count = _ACTIVATIONS[self.kind]
        mine = self.activations[way * count : (way + 1) * count]
        if len(mine) < count:
            raise Unsupported(f"it has {len(self.activations)} activations where each direction needs {count}")
        return mine

    def native(self, way: int) -> str | None:
        """The cell of ``recurrent`` that this is in a direction, None if it is none."""
        names = tuple(a.name for a in self.of_way(way))
        if self.clip > 0 or self.coupled:
            return None
        match self.kind:
            case "lstm":
                return "lstm" if names == ("sigmoid", "tanh", "tanh") else None
            case "gru":
                return "gru" if names == ("sigmoid", "tanh") and self.product_first else None
        return {"tanh": "rnn_tanh", "relu": "rnn_relu"}.get(names[0])


@dataclass(frozen=True)
class Operands:
    """Those of one direction, gates in ONNX's order.

    Attributes:
        x: [length, batch, features].
        w, r: [gates * hidden, features or hidden].
        of_input, of_state: biases [gates * hidden], or None.
        peepholes: [3 * hidden] for the gates i, o and f, or None.
        lengths: i64 [batch], or None.
        first: the states at the start, [batch, hidden].
    """

    x: Value
    w: Value
    r: Value
    of_input: Value | None
    of_state: Value | None
    peepholes: Value | None
    lengths: Value | None
    first: tuple[Value, ...]


#: From the input's share of the gates and the states to the next states.
Step = Callable[[Value, list[Value]], list[Value]]


def unrolled(at: Importer, cell: Cell, way: int, given: Operands, reverse: bool) -> list[Value]:
    """Every h [length, batch, hidden], then the last states [batch, hidden].

    Raises:
        Unsupported: the sequence has a length that varies, or is very long.
    """
    length = given.x.shape[0]
    if isinstance(length, Expr) or length > MAX_STEPS:
        what = "whose length varies" if isinstance(length, Expr) else f"of {length} steps"
        raise Unsupported(
            f"a sequence {what}, in a cell other than the usual (LSTM of sigmoid and tanh, GRU with linear_before_reset, RNN of"
            f" tanh or relu; without clip and peepholes), which is written step by step up to {MAX_STEPS}"
        )
    step = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[cell.kind](at, cell, way, given)
    shares = at.emit("linear", given.x, given.w, *([] if given.of_input is None else [given.of_input]))
    states, found = list(given.first), [given.first[0]] * length
    for t in range(length)[::-1] if reverse else range(length):
        share = at.reshape(at.slice(shares, 0, t, t + 1), shares.shape[1:])
        after = step(share, states)
        outcome = after[0]
        if given.lengths is not None:
            inside = at.emit("gt", given.lengths, at.scalar(t, DType.i64))
            inside = at.reshape(inside, (*given.lengths.shape, 1))
            outcome = at.emit("where", inside, outcome, at.scalar(0.0, outcome.dtype))
            after = [at.emit("where", inside, new, old) for new, old in zip(after, states, strict=True)]
        states = after
        found[t] = at.reshape(outcome, (1, *outcome.shape))
    whole = found[0] if length == 1 else at.emit("concat", *found, axis=0)
    return [whole, *states]


def _through(at: Importer, cell: Cell, activation: Activation, x: Value) -> Value:
    return activation(at, at.emit("clamp", x, min=-cell.clip, max=cell.clip) if cell.clip > 0 else x)


def _product(at: Importer, h: Value, weight: Value, bias: Value | None) -> Value:
    return at.emit("linear", h, weight) if bias is None else at.emit("linear", h, weight, bias)


def _blocks(at: Importer, value: Value, count: int, axis: int) -> list[Value]:
    each = value.shape[axis] // count
    return [at.slice(value, axis, i * each, (i + 1) * each) for i in range(count)]


def _rnn(at: Importer, cell: Cell, way: int, given: Operands) -> Step:
    (f,) = cell.of_way(way)

    def step(share: Value, states: list[Value]) -> list[Value]:
        total = at.emit("add", share, _product(at, states[0], given.r, given.of_state))
        return [_through(at, cell, f, total)]

    return step


def _gru(at: Importer, cell: Cell, way: int, given: Operands) -> Step:
    f, g = cell.of_way(way)
    weights = _blocks(at, given.r, 3, 0)
    biases: list[Value | None] = [None] * 3 if given.of_state is None else [*_blocks(at, given.of_state, 3, 0)]

    def step(share: Value, states: list[Value]) -> list[Value]:
        (h,) = states
        update, reset, new = _blocks(at, share, 3, 1)
        update = _through(at, cell, f, at.emit("add", update, _product(at, h, weights[0], biases[0])))
        reset = _through(at, cell, f, at.emit("add", reset, _product(at, h, weights[1], biases[1])))
        if cell.product_first:
            part = at.emit("mul", reset, _product(at, h, weights[2], biases[2]))
        else:
            part = _product(at, at.emit("mul", reset, h), weights[2], biases[2])
        new = _through(at, cell, g, at.emit("add", new, part))
        kept = at.emit("mul", update, h)
        return [at.emit("add", at.emit("mul", at.emit("sub", at.scalar(1.0, h.dtype), update), new), kept)]

    return step


def _lstm(at: Importer, cell: Cell, way: int, given: Operands) -> Step:
    f, g, last = cell.of_way(way)
    looks: list[Value | None] = [None] * 3 if given.peepholes is None else [*_blocks(at, given.peepholes, 3, 0)]

    def looking(gate: Value, weight: Value | None, c: Value) -> Value:
        return gate if weight is None else at.emit("add", gate, at.emit("mul", weight, c))

    def step(share: Value, states: list[Value]) -> list[Value]:
        h, c = states
        total = at.emit("add", share, _product(at, h, given.r, given.of_state))
        taken, out, forgotten, new = _blocks(at, total, 4, 1)
        taken = _through(at, cell, f, looking(taken, looks[0], c))
        if cell.coupled:
            forgotten = at.emit("sub", at.scalar(1.0, c.dtype), taken)
        else:
            forgotten = _through(at, cell, f, looking(forgotten, looks[2], c))
        new = _through(at, cell, g, new)
        c = at.emit("add", at.emit("mul", forgotten, c), at.emit("mul", taken, new))
        out = _through(at, cell, f, looking(out, looks[1], c))
        return [at.emit("mul", out, last(at, c)), c]

    return step
