"""fold: compute at compile time what depends on constants alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.dims import Expr
from ..compiler.graph import Graph, Node
from ..compiler.ops import schema
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import TensorType

_CHEAP_SOURCES = ("full", "arange")


@dataclass(frozen=True)
class Fold:
    """Replace static nodes whose operands are all constant by their value.

    Args:
        max_bytes: results larger than this, and larger than what they are computed from, are left alone (a folded
            broadcast only makes the artifact bigger).
    """

    name: ClassVar[str] = "fold"
    version: ClassVar[int] = 1
    max_bytes: int = 1 << 22

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        from ..compiler.interpret import Interpreter, to_numpy

        folded = 0
        for node in list(graph.nodes):
            if not self._can_fold(graph, node):
                continue
            piece = Graph("fold")
            operands = []
            for v in node.operands:
                assert v.node is not None
                if v.node.op == "constant":
                    operands.append(piece.add_constant(graph.constants[v.node.attrs["ref"]], v.name, v.dtype))
                else:
                    operands.append(piece.insert(v.node.op, [], v.node.attrs).output)
            by_value = dict(zip(node.operands, operands, strict=True))
            twin = piece.insert(node.op, [None if v is None else by_value[v] for v in node.inputs], node.attrs)
            piece.outputs = list(twin.outputs)
            for value, result in zip(node.outputs, Interpreter(piece)([]), strict=True):
                new = graph.add_constant(to_numpy(result), _name(graph, node), value.dtype, before=node)
                graph.replace(value, new)
            folded += 1
        graph.sweep()
        if folded:
            context.note(f"{folded} nodes computed at compile time")
        return PassResult(bool(folded))

    def _can_fold(self, graph: Graph, node: Node) -> bool:
        if node.op in ("constant", *_CHEAP_SOURCES, "fused") or not node.inputs or not node.outputs:
            return False
        if not any(v.use_count or v in graph.outputs for v in node.outputs):
            return False
        if node.op == "dequantize" and _is_weight(node):
            return False  # what the product reads stays integer, for kernels that take it so
        known = all(v.node is not None and _is_known(v.node) for v in node.operands)
        if not known or not all(v.type.is_static for v in (*node.operands, *node.outputs)):
            return False
        if all(v.node is not None and v.node.op in _CHEAP_SOURCES for v in node.operands) and not schema(node.op).flops:
            return False  # views of a generated value stay symbolic: facts read through them
        size = sum(_bytes(v.type) for v in node.outputs)
        return size <= max(self.max_bytes, sum(_bytes(v.type) for v in node.operands))


def _is_weight(node: Node) -> bool:
    """Whether products alone read it, as their weight or their bias."""
    users = node.output.users
    return bool(users) and all(u.op in ("linear", "conv") and node.output in u.inputs[1:] for u in users)


def _is_known(node: Node) -> bool:
    """Whether the value of ``node`` is known now: a ``full`` of a run-time dimension is not."""
    return node.op in ("constant", *_CHEAP_SOURCES) and not any(isinstance(a, Expr) for a in node.attrs.values())


def _bytes(type: TensorType) -> int:
    assert isinstance(type.bytes, int)
    return type.bytes


def _name(graph: Graph, node: Node) -> str:
    for v in node.operands:
        if v.node is not None and v.node.op == "constant":
            return str(v.node.attrs["ref"])
    return node.op
