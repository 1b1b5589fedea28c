"""Emitter of recurrent layers: ONNX's own operator where the product with the input weights stands in front, else a Scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...compiler.dims import bounds
from ...compiler.graph import Graph, Node, Value
from ...compiler.ops import axis_of
from ...compiler.ops_recurrent import GATES
from ...compiler.types import DType
from .calculation import Calculation
from .emit_norm import cut
from .emitter import Emitter, emits

#: Operator of a cell and the order of ONNX's gates among PyTorch's.
_OPERATORS = {
    "lstm": ("LSTM", (0, 3, 1, 2)), "gru": ("GRU", (1, 0, 2)), "rnn_tanh": ("RNN", (0,)), "rnn_relu": ("RNN", (0,)),
}  # fmt: skip


@emits("recurrent")
def _recurrent(at: Emitter, node: Node) -> tuple[str, ...]:
    return _as_operator(at, node) or _as_scan(at, node)


@dataclass(frozen=True)
class _InputProduct:
    """The product with the input weights that a layer reads: ``linear(x)``, or some of its columns, or batch and length
    exchanged.

    Attributes:
        x: what the linear reads, of rank 3.
        weight: f32 ``[gates * hidden, inputs]``.
        bias: f32 ``[gates * hidden]`` or None.
        exchanged: the length is the second axis of ``x``.
    """

    x: Value
    weight: np.ndarray
    bias: np.ndarray | None
    exchanged: bool


def _input_product(graph: Graph, value: Value) -> _InputProduct | None:
    """What ``value`` is a product of; None if it is something else, or not of f32 constants."""
    rows, exchanged, node = slice(None), False, value.node
    while node is not None and node.op in ("transpose", "slice"):
        (inner,) = node.operands
        if node.op == "transpose":
            if node.attrs["perm"] != (1, 0, 2):
                return None
            exchanged = not exchanged
        else:
            start, end = node.attrs["start"], node.attrs["end"]
            if rows != slice(None) or axis_of(node.attrs["axis"], 3) != 2 or node.attrs["step"] != 1:
                return None
            if not isinstance(start, int) or not isinstance(end, int):
                return None
            rows = slice(start, end)
        node = inner.node
    if node is None or node.op != "linear" or node.output.dtype is not DType.f32 or node.output.type.rank != 3:
        return None
    x, bias = node.operands[0], node.inputs[2] if len(node.inputs) > 2 else None
    weight, shift = graph.array(node.inputs[1]), graph.array(bias)
    if x.dtype is not DType.f32 or weight is None or (bias is not None and shift is None):
        return None
    return _InputProduct(x, np.asarray(weight)[rows], None if shift is None else np.asarray(shift)[rows], exchanged)


def _as_operator(at: Emitter, node: Node) -> tuple[str, ...] | None:
    """LSTM, GRU or RNN on the input of the ``linear`` in front, whose weights are those of the input; None where there is no
    such linear in f32. The linear itself is left to nobody, if nobody else reads it."""
    product, state_weight = node.operands[:2]
    if any(bounds(d, at.graph.bounds)[0] < 1 for d in product.shape[:2]):  # the operators are not made for that
        return None
    new_bias = node.inputs[4] if len(node.inputs) > 4 else None
    front, weight, extra = _input_product(at.graph, product), at.graph.array(state_weight), at.graph.array(new_bias)
    if front is None or weight is None or (new_bias is not None and extra is None):
        return None
    cell = node.attrs["cell"]
    operator, order = _OPERATORS[cell]
    weight = np.asarray(weight)
    hidden = int(weight.shape[1])
    w, r = (_reordered(a, order, hidden)[None] for a in (front.weight, weight))
    b = np.zeros((1, 2 * GATES[cell] * hidden), np.float32)
    if front.bias is not None:
        b[0, : GATES[cell] * hidden] = _reordered(front.bias, order, hidden)
    if extra is not None:  # of gru: the new gate's share of the state, which is last in either order
        b[0, -hidden:] = np.asarray(extra)
    x = at.name(front.x)
    if front.exchanged:
        x = at.op("Transpose", [x], perm=[1, 0, 2], dtype=DType.f32)
    states = [at.reshape(at.name(v), (1, *v.shape)) for v in _states(node)]
    done = at.op(
        operator,
        [x, *(at.constant(a, n) for a, n in ((w, "input_weight"), (r, "state_weight"), (b, "bias"))), None, *states],
        outputs=1 + len(states), hidden_size=hidden, direction="reverse" if node.attrs["reverse"] else "forward",
        linear_before_reset=1 if cell == "gru" else None, activations=["Relu"] if cell == "rnn_relu" else None,
    )  # fmt: skip
    for name in done:
        at.note_dtype(name, DType.f32)
    steps = at.op("Squeeze", [done[0], at.ints(1)])
    return (steps, *(at.op("Squeeze", [name, at.ints(0)]) for name in done[1:]))


def _reordered(array: np.ndarray, order: Sequence[int], hidden: int) -> np.ndarray:
    """Rows of gates in another order."""
    return np.ascontiguousarray(np.concatenate([array[g * hidden : (g + 1) * hidden] for g in order]))


def _states(node: Node) -> list[Value]:
    return [v for v in node.inputs[2:4] if v is not None]


def _as_scan(at: Emitter, node: Node) -> tuple[str, ...]:
    """One step after the other; the state is kept in f32 and rounded where it leaves."""
    x, weight = node.operands[:2]
    dtype = x.dtype
    cell = node.attrs["cell"]
    c = Calculation(at, at.wide(dtype))
    hidden = int(weight.shape[1])  # type: ignore[arg-type]
    turned = at.op("Transpose", [at.cast(at.name(weight), c.dtype)], perm=[1, 0], dtype=c.dtype)
    new_bias = node.inputs[4] if len(node.inputs) > 4 else None
    extra = None if new_bias is None else at.cast(at.name(new_bias), c.dtype)

    def parts(name: str) -> list[str]:
        return [cut(at, name, 1, i * hidden, (i + 1) * hidden) for i in range(GATES[cell])]

    def step(*given: str) -> Sequence[str]:
        *states, part = given
        product = c("MatMul", states[0], turned)
        if cell == "lstm":
            i, f, g, o = parts(c("Add", part, product))
            kept = c("Mul", c("Sigmoid", f), states[1])
            state = c("Add", kept, c("Mul", c("Sigmoid", i), c("Tanh", g)))
            h = c("Mul", c("Sigmoid", o), c("Tanh", state))
            return h, state
        if cell == "gru":
            (xr, xz, xn), (hr, hz, hn) = parts(part), parts(product)
            reset, update = (c("Sigmoid", c("Add", a, b)) for a, b in ((xr, hr), (xz, hz)))
            hn = hn if extra is None else c("Add", hn, extra)
            new = c("Tanh", c("Add", xn, c("Mul", reset, hn)))
            h = c("Add", new, c("Mul", update, c("Sub", states[0], new)))
            return (h,)
        h = c("Tanh" if cell == "rnn_tanh" else "Relu", c("Add", part, product))
        return (h,)

    states = [at.cast(at.name(v), c.dtype) for v in _states(node)]
    of_state, of_slice = (c.dtype, _states(node)[0].shape), (c.dtype, x.shape[1:])
    sequence, length, reverse = at.cast(at.name(x), c.dtype), x.shape[0], int(node.attrs["reverse"])
    may_be_empty = bounds(length, at.graph.bounds)[0] < 1
    if may_be_empty:  # ONNX Runtime's Scan does not survive that: one more step, which is cut off behind
        one = at.op("ConstantOfShape", [at.dims((1, *x.shape[1:]))], value=at.fill(0, c.dtype), dtype=c.dtype)
        sequence = at.op("Concat", [one, sequence] if reverse else [sequence, one], axis=0, dtype=c.dtype)
    body = at.body(
        [*(of_state for _ in states), of_slice],
        lambda *given: (lambda after: (*after, *after))(step(*given)),
        [of_state] * (2 * len(states)),
    )
    done = at.op(
        "Scan", [*states, sequence], outputs=2 * len(states), body=body, num_scan_inputs=1,
        scan_input_directions=[reverse], scan_output_directions=[reverse] * len(states),
    )  # fmt: skip
    for name in done:
        at.note_dtype(name, c.dtype)
    last, every = list(done[: len(states)]), list(done[len(states) :])
    if may_be_empty:
        start = 1 if reverse else 0
        every = [
            at.op("Slice", [e, at.ints(start), at.dims([length + start]), at.ints(0)], dtype=c.dtype) for e in every
        ]
        last = [_last_of(at, first, e, bool(reverse), c.dtype) for first, e in zip(states, every, strict=True)]
    return (at.cast(every[0], dtype), *(at.cast(name, dtype) for name in last))


def _last_of(at: Emitter, first: str, steps: str, reverse: bool, dtype: DType) -> str:
    """The state after the last step, or the first one if there was no step."""
    first = at.op("Unsqueeze", [first, at.ints(0)], dtype=dtype)
    whole = at.op("Concat", [steps, first] if reverse else [first, steps], axis=0, dtype=dtype)
    return at.op("Gather", [whole, at.scalar(0 if reverse else -1, DType.i64)], axis=0, dtype=dtype)
