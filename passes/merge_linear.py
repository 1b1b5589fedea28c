"""merge-linear: linears that read the same value and are only looked at through views (Q, K and V) become one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType
from .canonicalize import hoist_constants
from .fusion import VIEWS
from .precision import choice_of


def _only_viewed(graph: Graph, value: Value) -> bool:
    """Whether ``value`` is only ever read through views, so that no epilogue is lost when its linear grows wider."""
    return bool(value.users) and value not in graph.outputs and all(u.op in VIEWS for u in value.users)


def _weight(graph: Graph, node: Node) -> list[Value]:
    """The constants that the weight of a linear is made of: itself, or int8 ``[out, in]`` and one scale for each output; none for
    any other."""
    weight = node.inputs[1]
    assert weight is not None
    if graph.array(weight) is not None:
        return [weight]
    made = weight.node
    if made is None or made.op != "dequantize" or len(made.operands) != 2:
        return []
    q, scale = made.operands
    fits = q.dtype is DType.i8 and scale.shape == (q.shape[0], 1)
    return [q, scale] if fits and graph.array(q) is not None and graph.array(scale) is not None else []


def _outputs(weight: list[Value]) -> int:
    count = weight[0].shape[0]
    assert isinstance(count, int)
    return count


@dataclass(frozen=True)
class MergeLinear:
    """Join linears that share their input, as Q, K and V do: one pass over the input, one kernel, wider panels."""

    name: ClassVar[str] = "merge-linear"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        hoist_constants(graph)
        merged = 0
        by_input: dict[Value, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if node.op == "linear" and node.inputs[0] is not None and _only_viewed(graph, node.output):
                by_input[node.inputs[0]].append(node)
        for linears in by_input.values():
            if len(linears) > 1 and self._may_merge(graph, linears, context):
                self._merge(graph, linears)
                merged += 1
        if merged:
            context.note(f"{merged} groups of linears that share their input became one linear each")
        return PassResult(bool(merged))

    def _may_merge(self, graph: Graph, linears: list[Node], context: PassContext) -> bool:
        names = ", ".join(n.name for n in linears)
        choices = {choice_of(context, n) for n in linears}
        if len(choices) > 1:
            precisions = sorted({choice.precision for choice in choices})
            what = "precisions" if len(precisions) > 1 else "methods for"
            context.note(
                f"{names} stay apart: the plan gives them different {what} ({', '.join(precisions)})", kind="miss"
            )
            return False
        kinds = {(len(_weight(graph, n)), n.attrs["out_dtype"]) for n in linears}
        if len(kinds) > 1 or not all(_weight(graph, n) for n in linears):
            context.note(f"{names} stay apart: a weight is not constant", kind="miss")
            return False
        biases = [n.inputs[2] if len(n.inputs) > 2 else None for n in linears]
        if len({b.dtype for b in biases if b is not None}) > 1:
            context.note(f"{names} stay apart: their biases have different element types", kind="miss")
            return False
        if any(b is not None and graph.array(b) is None for b in biases):
            context.note(f"{names} stay apart: a bias is not constant", kind="miss")
            return False
        return True

    def _merge(self, graph: Graph, linears: list[Node]) -> None:
        order = {n: i for i, n in enumerate(graph.nodes)}
        first = min(linears, key=order.__getitem__)
        weights = [_weight(graph, n) for n in linears]
        name = "+".join(n.name.rsplit(".", 1)[-1] for n in linears)
        stem = first.name.rsplit(".", 1)[0] if "." in first.name else ""
        path = f"{stem}.{name}" if stem else name
        joined_weight = [
            graph.add_constant(
                np.concatenate([graph.array(v) for v in parts]), f"{path}.{what}", parts[0].dtype, before=first
            )  # type: ignore[misc]
            for what, parts in zip(("weight", "scale"), zip(*weights, strict=True), strict=False)
        ]
        weight = joined_weight[0]
        if len(joined_weight) > 1:
            weight = graph.insert("dequantize", joined_weight, before=first, name=path).output
        bias: Value | None = None
        if any(len(n.inputs) > 2 and n.inputs[2] is not None for n in linears):
            kind = next(n.inputs[2].dtype for n in linears if len(n.inputs) > 2 and n.inputs[2] is not None)
            parts = []
            for n, w in zip(linears, weights, strict=True):
                held = graph.array(n.inputs[2]) if len(n.inputs) > 2 else None
                parts.append(np.zeros(_outputs(w), kind.numpy) if held is None else held)
            bias = graph.add_constant(np.concatenate(parts), f"{path}.bias", kind, before=first)
        sources = tuple(dict.fromkeys(s for n in linears for s in n.sources))
        joined = graph.insert(
            "linear", [first.inputs[0], weight, bias], first.attrs, before=first, name=path, location=first.location,
            sources=sources,
        )  # fmt: skip
        start = 0
        for n, w in zip(linears, weights, strict=True):
            width = _outputs(w)
            part = graph.insert(
                "slice", [joined.output], {"axis": joined.output.type.rank - 1, "start": start, "end": start + width},
                before=first, name=n.name, location=n.location, sources=n.sources,
            )  # fmt: skip
            graph.replace(n.output, part.output)
            start += width
        for n in linears:
            graph.erase(n)
