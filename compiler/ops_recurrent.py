"""The vocabulary, recurrent nets: one layer in one direction, its input already multiplied with its input weights.

The product of the whole sequence with the input weights is a ``linear`` in front, which can be fused and quantised like any
other; what is left is the recurrence itself.
"""

from __future__ import annotations

from .dims import Dim
from .graph import Node
from .ops_schema import REQUIRED, define, fail, same_dtype, type_of
from .types import TensorType

#: Gates per hidden unit.
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _recurrent(node: Node) -> list[TensorType]:
    x, w, h = (type_of(v) for v in node.inputs[:3])
    cell = node.attrs["cell"]
    if cell not in GATES:
        raise fail(node, f"there is no cell {cell!r}; there are {', '.join(GATES)}")
    if w.rank != 2 or w.shape[0] != w.shape[1] * GATES[cell]:
        raise fail(node, f"the weight {w} is not [{GATES[cell]} * hidden, hidden]")
    hidden = w.shape[1]
    if x.rank != 3 or x.shape[2] != w.shape[0]:
        raise fail(node, f"x {x} is not [length, batch, {w.shape[0]}]")
    state: tuple[Dim, ...] = (x.shape[1], hidden)
    states = [v for v in (node.inputs[2], node.inputs[3] if len(node.inputs) > 3 else None) if v is not None]
    if h.shape != state or any(v.shape != state for v in states) or len(states) != (2 if cell == "lstm" else 1):
        raise fail(node, f"the initial state does not fit [batch, hidden] = {list(state)}")
    dtype = same_dtype(node, [node.inputs[0], node.inputs[1], *states])
    steps = TensorType(dtype, (x.shape[0], *state))
    return [steps, *(TensorType(dtype, state) for _ in states)]


def _flops(node: Node) -> Dim:
    return 2 * type_of(node.inputs[0]).elements * type_of(node.inputs[1]).shape[1]


define(
    "recurrent", "x weight h c? bias?", _recurrent,
    "one recurrent layer over [length, batch, gates * hidden]: (h of every step, last h, and for lstm last c); gates in "
    "PyTorch's order; `reverse` walks from the end; `bias` is what gru adds to the new gate's share of h",
    attrs={"cell": REQUIRED, "reverse": False}, flops=_flops,
)  # fmt: skip
