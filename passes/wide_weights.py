"""Weights of int8 with zero points that take all of their range: the middle of every output's weights apart.

``x @ (q - z)`` needs nine bits for ``q - z``. Less the middle of its range, each output's weights fit into [-127, 127], and what
that takes off is the sum of x times the middle: ``x @ (q - z - m) + sum(x) m``. Where an output holds both the least and the
greatest u8 they do not fit, and there are two products, of halves: twice the work of int8, half the bytes of floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType


@dataclass(frozen=True)
class CentreWeights:
    """Make int8 weights without zero points of those that have them, in front of quantised x, for kernels that want that."""

    name: ClassVar[str] = "centre-weights"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed = 0
        for node in list(graph.nodes):
            if node.op in ("linear", "conv"):
                context.at(node)
                changed += _reads_int8(graph, node) and centre_weight(graph, node)
        graph.sweep()
        return PassResult(bool(changed))


def _reads_int8(graph: Graph, node: Node) -> bool:
    """Whether x is quantised, that of a convolution with constants: one whose range is found at run time stays float."""
    made = None if node.inputs[0] is None else node.inputs[0].node
    if made is None or made.op != "dequantize":
        return False
    return node.op == "linear" or all(graph.array(v) is not None for v in made.operands[1:])


def centre_weight(graph: Graph, node: Node) -> bool:
    """Rewrite a linear or conv whose weight is a dequantised constant with zero points, or holds -128, where that makes it int8
    with neither.

    Args:
        node: its weight has one scale for each output.
    """
    if node.op not in ("linear", "conv") or node.attrs.get("channels_last"):
        return False
    x, weight = node.inputs[:2]
    made = None if weight is None else weight.node
    if x is None or made is None or made.op != "dequantize":
        return False
    q, scale = (graph.array(v) for v in made.operands[:2])
    zero = np.zeros(1, np.int8) if len(made.operands) == 2 else graph.array(made.operands[2])
    if q is None or scale is None or zero is None or made.operands[0].dtype not in (DType.i8, DType.u8):
        return False
    if len(made.operands) == 2 and (not q.size or -128 < q.min() <= q.max() < 128):
        return False  # it fits as it is
    groups = node.attrs.get("groups", 1)
    if scale.size != q.shape[0] or zero.size not in (1, q.shape[0]) or groups not in (1, q.shape[0]):
        return False
    rows = zero.reshape(-1, *(1 for _ in q.shape[1:]))
    exact = (q.astype(np.int32) - rows.astype(np.int32)).reshape(q.shape[0], -1)
    middle = (exact.max(axis=1) + exact.min(axis=1)) // 2
    centred = exact - middle[:, None]
    if not centred.size or np.abs(exact).max() > 254:
        return False
    if np.abs(centred).max() > 127:
        _in_two(graph, node, exact.reshape(q.shape), made)
        return True
    stem = str(made.operands[0].node.attrs["ref"])  # type: ignore[union-attr]
    held = graph.add_constant(centred.astype(np.int8).reshape(q.shape), stem, before=node)
    w = graph.derive(node, "dequantize", [held, made.operands[1]], hint=made.output.name)
    y = graph.derive(node, node.op, [x, w, *node.inputs[2:]], node.attrs, hint=node.output.name)
    columns = (middle * scale.reshape(-1)).astype(np.float32)
    y = graph.derive(node, "add", [y, _sums(graph, node, x, q.shape, columns, stem)])
    graph.replace(node.output, y)
    graph.erase(node)
    return True


def _in_two(graph: Graph, node: Node, exact: np.ndarray, made: Node) -> None:
    """``node`` as the sum of two products, with weights that add up to ``exact``."""
    half = np.trunc(exact / 2).astype(np.int8)
    stem, bias = str(made.operands[0].node.attrs["ref"]), node.inputs[2:]  # type: ignore[union-attr]
    parts = []
    for values in (half, (exact - half).astype(np.int8)):
        held = graph.add_constant(values, stem, before=node)
        w = graph.derive(node, "dequantize", [held, made.operands[1]], hint=made.output.name)
        parts.append(graph.derive(node, node.op, [node.inputs[0], w, *bias], node.attrs, hint=node.output.name))
        bias = []
    graph.replace(node.output, graph.derive(node, "add", parts))
    graph.erase(node)


def _sums(graph: Graph, node: Node, x: Value, shape: tuple[int, ...], columns: np.ndarray, stem: str) -> Value:
    """The sum of what every output is computed from, times a factor for each output."""
    if node.op == "linear":
        total = graph.derive(node, "reduce_sum", [x], {"axes": (x.type.rank - 1,), "keepdim": True})
        factor = graph.add_constant(columns, f"{stem}.middle", before=node)
    else:  # windows are summed by a filter of ones
        groups = node.attrs["groups"]
        ones = graph.add_constant(np.ones((groups, *shape[1:]), np.int8), f"{stem}.ones", before=node)
        one = graph.add_constant(np.ones((groups, *(1 for _ in shape[1:])), np.float32), f"{stem}.one", before=node)
        filters = graph.derive(node, "dequantize", [ones, one])
        total = graph.derive(node, "conv", [x, filters], node.attrs)
        spread = columns.reshape(-1, *(1 for _ in shape[2:]))
        factor = graph.add_constant(spread, f"{stem}.middle", before=node)
    return graph.derive(node, "mul", [total, factor])
