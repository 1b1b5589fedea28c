"""fold-norm: a batch normalisation with constant statistics disappears into the convolution or linear in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType

#: Where the outputs lie among the axes of a weight.
_OUTPUT_AXIS = {"conv": 0, "linear": 0, "conv_transpose": 1}


@dataclass(frozen=True)
class FoldNorm:
    """Scale the filters and shift the bias: one rounding of each weight, in place of two operations per element.

    The factor of an output is computed in f64. Only f32 weights are folded, and only where nothing else reads what is
    normalised.
    """

    name: ClassVar[str] = "fold-norm"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        folded = 0
        for node in list(graph.nodes):
            if node.op == "batch_norm":
                context.at(node)
                folded += self._fold(graph, node)
        graph.sweep()
        if folded:
            context.note(f"{folded} batch norm{'s' if folded > 1 else ''} folded into the weights in front")
        return PassResult(bool(folded))

    def _fold(self, graph: Graph, norm: Node) -> bool:
        x, *affine = norm.inputs
        anchor = None if x is None else x.node
        if x is None or anchor is None or anchor.op not in _OUTPUT_AXIS or x.use_count != 1 or x in graph.outputs:
            return False
        if (
            x.type.rank != 2 and anchor.op == "linear"
        ):  # its outputs lie along the last axis, the norm's along the second
            return False
        if anchor.attrs.get("channels_last") or anchor.attrs["out_dtype"] is not None or x.dtype is not DType.f32:
            return False
        weight = graph.array(anchor.inputs[1])
        held = anchor.inputs[2] if len(anchor.inputs) > 2 else None
        bias = np.zeros(1) if held is None else graph.array(held)
        gamma, beta, mean, var = (_array(graph, v) for v in (*affine, *[None] * (4 - len(affine))))
        if weight is None or bias is None or mean is None or var is None:
            return False
        if any(v is not None and graph.array(v) is None for v in affine):
            return False
        factor = 1.0 / np.sqrt(var + norm.attrs["eps"])
        if gamma is not None:
            factor = factor * gamma
        shift = (bias - mean) * factor + (0.0 if beta is None else beta)
        self._replace(graph, norm, anchor, weight, factor, shift)
        return True

    def _replace(
        self, graph: Graph, norm: Node, anchor: Node, weight: np.ndarray, factor: np.ndarray, shift: np.ndarray
    ) -> None:
        if anchor.op == "conv_transpose":  # [in, out / groups, ...]: the outputs of a group are spread over its inputs
            groups = anchor.attrs["groups"]
            apart = weight.reshape(groups, -1, *weight.shape[1:])
            per_group = factor.reshape(groups, 1, -1, *(1 for _ in weight.shape[2:]))
            scaled = (apart * per_group).reshape(weight.shape)
        else:
            scaled = weight * factor.reshape(-1, *(1 for _ in weight.shape[1:]))
        stem = anchor.inputs[1].name if anchor.inputs[1] is not None else "weight"
        filters = graph.add_constant(scaled.astype(np.float32), stem, before=anchor)
        bias = graph.add_constant(shift.astype(np.float32), f"{stem}.bias", before=anchor)
        inputs: list[Value | None] = [anchor.inputs[0], filters, bias]
        sources = tuple(dict.fromkeys((*anchor.sources, *norm.sources)))
        new = graph.insert(
            anchor.op, inputs, anchor.attrs, before=norm, name=anchor.name, location=anchor.location, sources=sources
        )
        graph.replace(norm.output, new.output)
        graph.erase(norm)


def _array(graph: Graph, value: Value | None) -> np.ndarray | None:
    held = graph.array(value)
    return None if held is None else held.astype(np.float64)
