"""decompose-custom: registered ops whose kernel is an expression or a function become what they are made of.

This is the first pass, so that recognition, the precision plan and fusion see a model as if it had been written that way.
Ops with a C++ kernel stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.custom_ops import CppKernel, CustomOp, custom_op
from ..compiler.custom_parts import Parts, build_parts
from ..compiler.errors import PassError
from ..compiler.graph import Graph, Node
from ..compiler.pass_protocol import PassContext, PassResult

#: How deep ops may be made of other registered ops.
MAX_DEPTH = 16


@dataclass(frozen=True)
class DecomposeCustom:
    """Write registered custom ops as the ops that their kernels are made of."""

    name: ClassVar[str] = "decompose-custom"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        counts: dict[str, int] = {}
        for depth in range(MAX_DEPTH + 1):
            found = [(n, op) for n in graph.nodes if (op := _composite(n)) is not None]
            if not found:
                break
            if depth == MAX_DEPTH:
                raise PassError(f"the kernel of the op {found[0][1].name} is made of the op itself")
            for node, op in found:
                context.at(node)
                _take_apart(graph, node, op)
                counts[op.name] = counts.get(op.name, 0) + 1
        context.at(None)
        if counts:
            graph.sweep()
        for name, count in counts.items():
            context.note(f"{name} taken apart {'once' if count == 1 else f'{count} times'}")
        return PassResult(bool(counts))


def _composite(node: Node) -> CustomOp | None:
    op = custom_op(node.op) if "." in node.op else None
    return op if op is not None and not isinstance(op.kernel, CppKernel) else None


def _take_apart(graph: Graph, node: Node, op: CustomOp) -> None:
    builder = Parts(graph, node, node.name, node.location, node.sources)
    values = build_parts(op, builder, node.inputs, node.attrs)
    for old, new in zip(node.outputs, values, strict=True):
        if new.type != old.type:
            raise PassError(
                f"the kernel of the op {op.name} gives {new.type} where the op gives {old.type}",
                "op.cast(x, dtype=...), op.reshape and op.expand bring a value into another type",
            )
    for old, new in zip(node.outputs, values, strict=True):
        graph.replace(old, new)
    graph.erase(node)
