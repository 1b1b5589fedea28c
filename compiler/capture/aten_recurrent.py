"""ATen's recurrent ops: every layer and direction becomes a linear over the whole sequence and a ``recurrent``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..graph import Value
from ..ops_recurrent import GATES
from .lowering import Lowering, aten
from .symbols import Unsupported


@aten("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
def _recurrent(
    b: Lowering, input: Value, hx: Any, params: Sequence[Value], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> list[Value]:  # fmt: skip
    if dropout and train:
        raise Unsupported("it draws random numbers (export the model in eval mode)")
    directions = 2 if bidirectional else 1
    per_layer = 4 if has_biases else 2
    if len(params) != num_layers * directions * per_layer:
        if not isinstance(input.shape[1 if batch_first else 0], int):  # written step by step it would lose its length
            raise Unsupported("a projection of the state (proj_size) needs a length that does not depend on the data")
        raise Unsupported("a projection of the state (proj_size) is written step by step")
    states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
    x = b.transpose(input, (1, 0, 2)) if batch_first else input
    last: list[list[Value]] = [[] for _ in states]
    for layer in range(num_layers):
        ways = []
        for way in range(directions):
            at = layer * directions + way
            first = [b.reshape(b.slice(s, 0, at, at + 1), s.shape[1:]) for s in states]
            steps, *ends = _layer(b, b.op, x, params[at * per_layer : (at + 1) * per_layer], first, reverse=way == 1)
            ways.append(steps)
            for into, end in zip(last, ends, strict=True):
                into.append(b.reshape(end, (1, *end.shape)))
        x = ways[0] if directions == 1 else b.emit("concat", *ways, axis=2)
    result = b.transpose(x, (1, 0, 2)) if batch_first else x
    return [result, *(ends[0] if len(ends) == 1 else b.emit("concat", *ends, axis=0) for ends in last)]


def _layer(
    b: Lowering, cell: str, x: Value, params: Sequence[Value], first: Sequence[Value], reverse: bool
) -> Sequence[Value]:
    """One layer in one direction over [length, batch, features]: the values of ``recurrent``."""
    w_input, w_state, *biases = params
    bias, new_bias = _biases(b, cell, biases) if biases else (None, None)
    gates = b.emit("linear", x, w_input, bias) if bias is not None else b.emit("linear", x, w_input)
    inputs = [gates, w_state, *first, *[None] * (2 - len(first)), new_bias]
    while inputs[-1] is None:
        inputs.pop()
    return b.insert("recurrent", inputs, {"cell": cell, "reverse": reverse}).outputs


def _biases(b: Lowering, cell: str, biases: Sequence[Value]) -> tuple[Value, Value | None]:
    """What is added to the input's share of the gates, and what gru adds to the state's share of its new gate."""
    of_input, of_state = biases
    if cell != "gru":
        return b.emit("add", of_input, of_state), None
    hidden = of_state.shape[0] // GATES[cell]  # type: ignore[operator]
    zeros = b.emit("full", value=0.0, shape=(hidden,), dtype=of_state.dtype)
    outer = b.emit("concat", b.slice(of_state, 0, 0, 2 * hidden), zeros, axis=0)
    return b.emit("add", of_input, outer), b.slice(of_state, 0, 2 * hidden, 3 * hidden)


@aten("lstm.data", "gru.data", "rnn_tanh.data", "rnn_relu.data")
def _packed(b: Lowering, **_: Any) -> None:
    raise Unsupported("a packed sequence depends on the data (give the recurrent net the padded batch)")
