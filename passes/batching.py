"""Whether a model treats the elements of a batch apart, so that a batch may be run a few elements at a time.

Running a large batch in parts keeps the activations of a part in the caches; the outcome is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..compiler import dims
from ..compiler.dims import Dim
from ..compiler.graph import Graph, Node, Value
from ..compiler.ops import is_elementwise

#: Ops that work on every index of axis 0 alone, whatever their attributes; the shapes show the rest (see ``_allowed``).
_APART = frozenset({
    "layer_norm", "rms_norm", "group_norm", "group_stats", "batch_norm", "linear", "qlinear", "matmul", "conv", "qconv",
    "conv_transpose", "fold", "max_pool", "avg_pool", "attention", "embedding", "reshape", "transpose", "expand",
    "constant", "full", "quantize_dynamic", "quantize", "dequantize", "reduce_sum",
    "reduce_mean", "reduce_max", "reduce_min", "reduce_prod", "reduce_any", "reduce_all",
})  # fmt: skip
#: Ops that are apart unless their axis is the batch.
_ALONG = frozenset({
    "softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "topk", "argmax", "argmin",
    "slice", "concat", "gather", "take_along", "put_along",
})  # fmt: skip


def batch_symbol(graph: Graph) -> str | None:
    """The symbol that is axis 0 of every output, and nothing but axis 0 of anything, with no op that mixes along it.

    Conservative: None wherever that is not plain from the shapes and ops.
    """
    for name in graph.symbols:
        outputs = all(v.shape and v.shape[0] == dims.symbol(name) for v in graph.outputs)
        inputs = any(_batched(v, name) for v in graph.inputs)
        if graph.outputs and outputs and inputs and not graph.states and _apart(graph, name):
            return name
    return None


def _batched(value: Value, name: str) -> bool:
    return bool(value.shape) and value.shape[0] == dims.symbol(name)


def _holds(shape: Sequence[Dim], name: str) -> bool:
    return any(name in dims.symbols(d) for d in shape)


def _apart(graph: Graph, name: str) -> bool:
    values = [*graph.inputs, *(v for n in graph.nodes for v in n.outputs)]
    if any(_holds(v.shape[1:] if _batched(v, name) else v.shape, name) for v in values):
        return False
    return all(_allowed(node, name) for node in graph.nodes)


def _allowed(node: Node, name: str) -> bool:
    if node.op == "fused":
        return _apart(node.regions[0], name)
    batched = [v for v in node.operands if _batched(v, name)]
    if batched and not all(_batched(v, name) for v in node.outputs):
        return False  # the batch was reduced, or its size entered a number
    if any(_mentions(value, name) for key, value in node.attrs.items() if key != "shape"):
        return False
    if node.op in _ALONG and batched:
        rank = batched[0].type.rank
        if node.op in ("take_along", "put_along") and len(batched) < len(node.inputs):
            return False
        if node.op == "gather" and node.inputs[0] not in batched:
            return True  # batched ids into a table that all share
        return bool(node.attrs["axis"] % rank)
    if node.op == "pad":
        return not batched or (node.attrs["low"][0] == 0 and node.attrs["high"][0] == 0)
    return node.op in _APART or node.op in _ALONG or is_elementwise(node) or (node.op == "arange" and not batched)


def _mentions(attr: Any, name: str) -> bool:
    if isinstance(attr, dims.Expr):
        return name in dims.symbols(attr)
    return isinstance(attr, tuple) and any(_mentions(a, name) for a in attr)
