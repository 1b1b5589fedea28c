"""quantize: write the plan into the graph, as QDQ around int8 linears and as casts around bf16 ops.

Nodes carry no precision: after this pass the graph says what is computed, and interpreting it shows the loss.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType, float_to_bf16
from .calibrate import Statistics, collect
from .canonicalize import hoist_constants
from .precision import CALIBRATION, precision_of
from .weights.rtn import quantize_rows
from .weights.smoothquant import Smoothing, choose


@dataclass(frozen=True)
class Quantize:
    """Materialise the plan.

    Args:
        smooth: choose a SmoothQuant scale per int8 linear on the example data (no data: none).
    """

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 1
    lossy: ClassVar[bool] = True
    smooth: bool = True

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        hoist_constants(graph)
        int8: dict[Value, list[Node]] = defaultdict(list)
        changed = False
        for node in list(graph.nodes):
            context.at(node)
            precision = precision_of(context, node)
            if precision == "f32" or node.op not in ("linear", "attention", "conv"):
                continue
            if precision == "w8a8-dynamic":
                x = node.inputs[0]
                if (
                    node.op == "linear"
                    and graph.array(node.inputs[1]) is not None
                    and x is not None
                    and x.dtype is DType.f32
                ):
                    int8[x].append(node)
                else:
                    context.note(
                        f"{node.op} stays float: {precision} is for f32 linears with constant weights", node, "miss"
                    )
            elif precision == "bf16":
                self._bf16(graph, node)
                changed = True
        if int8:
            self._int8(graph, int8, context)
        graph.sweep()
        return PassResult(changed or bool(int8))

    # -- bf16 -----------------------------------------------------------------------------------------------------------
    def _bf16(self, graph: Graph, node: Node) -> None:
        """Operands rounded to bf16, sums in f32. The result of attention is rounded once more where it is stored: the next
        linear reads it in bf16 or int8 anyway. What joins the residual stream, the result of a linear, stays f32."""
        attention = node.op == "attention"
        count, dtype = (3, DType.bf16) if attention else (2, node.output.dtype)
        operands = [self._rounded(graph, v, node) if v is not None else None for v in node.inputs[:count]]
        inputs, attrs = [*operands, *node.inputs[count:]], {**node.attrs, "out_dtype": dtype}
        new = graph.derive(node, node.op, inputs, attrs, hint=node.output.name)
        if attention:
            new = graph.derive(node, "cast", [new], {"dtype": node.output.dtype})
        graph.replace(node.output, new)
        graph.erase(node)

    def _rounded(self, graph: Graph, value: Value, node: Node) -> Value:
        array = graph.array(value)
        if array is not None and value.dtype is DType.f32:
            return graph.add_constant(float_to_bf16(array), value.name, DType.bf16, before=node)
        if value.dtype is DType.bf16:
            return value
        return graph.derive(node, "cast", [value], {"dtype": DType.bf16})

    # -- int8 -----------------------------------------------------------------------------------------------------------
    def _int8(self, graph: Graph, linears: dict[Value, list[Node]], context: PassContext) -> None:
        batches = context.data.get(CALIBRATION) or []
        statistics: dict[Value, Statistics] = {}
        if self.smooth and batches:
            statistics = collect(graph, linears, batches, context)
        elif self.smooth:
            context.note("no example data: int8 linears are not smoothed", kind="warning")
        order = {n: i for i, n in enumerate(graph.nodes)}
        for done, (x, readers) in enumerate(linears.items()):
            context.advance("quantising", done, len(linears))
            smoothing = self._smoothing(graph, readers, statistics.pop(x, None), context)
            self._quantize_readers(graph, sorted(readers, key=order.__getitem__), smoothing)
        context.advance("quantising", len(linears), len(linears))

    def _smoothing(
        self, graph: Graph, readers: list[Node], statistics: Statistics | None, context: PassContext
    ) -> Smoothing | None:
        if statistics is None:
            return None
        weights = [np.asarray(graph.array(n.inputs[1]), np.float32) for n in readers]
        smoothing = choose(statistics.rows, statistics.low, statistics.high, weights)
        how = "without smoothing" if smoothing.alpha is None else f"smoothed with alpha {smoothing.alpha}"
        how += ", channels shifted" if smoothing.shift is not None else ", rows centred" if smoothing.centred else ""
        context.note(
            f"int8 {how}: relative output error {smoothing.plain_error:.2e} -> {smoothing.error:.2e}", readers[0]
        )
        return smoothing

    def _quantize_readers(self, graph: Graph, readers: list[Node], smoothing: Smoothing | None) -> None:
        """Replace linears that read one value, given in the graph's order."""
        x = readers[0].inputs[0]  # may have changed since: the linear in front of this one was quantised too
        assert x is not None
        first = readers[0]
        scale = None if smoothing is None else smoothing.scale
        shift = None if smoothing is None else smoothing.shift
        smoothed = x
        if scale is not None:
            inverse = (1.0 / scale).astype(np.float32)
            factor = graph.add_constant(inverse, f"{first.name}.smooth", before=first)
            smoothed = graph.derive(first, "mul", [x, factor])
            if shift is not None:
                offset = graph.add_constant(shift * inverse, f"{first.name}.shift", before=first)
                smoothed = graph.derive(first, "sub", [smoothed, offset])
        centre: Value | None = None
        if smoothing is not None and smoothing.centred:
            ends = [
                graph.derive(first, op, [smoothed], {"axes": (x.type.rank - 1,), "keepdim": True})
                for op in ("reduce_max", "reduce_min")
            ]
            half = graph.derive(first, "full", [], {"value": 0.5, "shape": (), "dtype": DType.f32})
            both = graph.derive(first, "add", ends)
            centre = graph.derive(first, "mul", [both, half])
            smoothed = graph.derive(first, "sub", [smoothed, centre])
        quantised = graph.insert(
            "quantize_dynamic",
            [smoothed],
            before=first,
            name=first.name,
            location=first.location,
            sources=first.sources,
        )
        back = graph.derive(first, "dequantize", quantised.outputs)
        for node in readers:
            weight = np.asarray(graph.array(node.inputs[1]), np.float32)
            scaled = weight if scale is None else weight * scale
            q, row_scale = quantize_rows(scaled)
            rounded = q.astype(np.float32) * row_scale
            stem = node.inputs[1].name  # type: ignore[union-attr]
            q_value = graph.add_constant(q, f"{stem}.int8", before=node)
            s_value = graph.add_constant(row_scale, f"{stem}.scale", before=node)
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if shift is not None:  # what the shift took off comes back here
                back_in = rounded @ (shift / scale).astype(np.float32)
                held = graph.array(bias)
                if held is not None or bias is None:
                    total = back_in if held is None else held + back_in
                    bias = graph.add_constant(total, f"{stem}.bias", before=node)
                else:
                    extra = graph.add_constant(back_in, f"{stem}.bias", before=node)
                    bias = graph.derive(node, "add", [bias, extra])
            w = graph.derive(node, "dequantize", [q_value, s_value])
            result = graph.derive(node, "linear", [back, w, bias], node.attrs, hint=node.output.name)
            if centre is not None:  # the centre of a row times the row sums of the weights
                sums = graph.add_constant(rounded.sum(axis=1), f"{stem}.sums", before=node)
                part = graph.derive(node, "mul", [centre, sums])
                result = graph.derive(node, "add", [result, part])
            graph.replace(node.output, result)
            graph.erase(node)
