"""decompose-custom: registered ops whose kernel is an expression or a function become what they are made of.

This is the first pass, so that recognition, the precision plan and fusion see a model as if it had been written that way.
Ops with a C++ kernel stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..compiler.custom_ops import CppKernel, CustomOp, custom_op
from ..compiler.dims import Expr
from ..compiler.errors import PassError, PlanishError
from ..compiler.expressions import build_expression
from ..compiler.graph import Attrs, Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.rewrite import Builder
from ..compiler.types import DType

#: How deep ops may be made of other registered ops.
MAX_DEPTH = 16


class Parts(Builder):
    """``op`` inside a kernel that is a function: a builder that also takes run-time dimensions as operands."""

    def insert(self, op: str, inputs: Sequence[Any], attrs: Attrs | None = None, regions: Sequence[Graph] = ()) -> Node:
        like = next((v.dtype for v in reversed(inputs) if isinstance(v, Value)), DType.i64)
        return super().insert(op, [self._number(v, like) if isinstance(v, Expr) else v for v in inputs], attrs, regions)

    def _number(self, dim: Expr, dtype: DType) -> Value:
        value = super().insert("full", [], {"value": dim, "shape": (), "dtype": DType.i64}).output
        return value if dtype is DType.i64 else super().insert("cast", [value], {"dtype": dtype}).output


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
    try:
        if isinstance(op.kernel, str):
            arguments = dict(zip((p.name for p in op.operands), node.inputs, strict=True))
            made: Any = build_expression(op.kernel, builder, {**arguments, **node.attrs})
        else:
            assert callable(op.kernel)
            made = op.call(op.kernel, node.inputs, node.attrs, builder)
    except PlanishError as error:
        raise PassError(f"the kernel of the op {op.name}: {error.message}", error.hint) from error
    except Exception as error:
        raise PassError(f"the kernel of the op {op.name} failed: {type(error).__name__}: {error}") from error
    values = list(made) if isinstance(made, (tuple, list)) else [made]
    if len(values) != len(node.outputs) or not all(isinstance(v, Value) for v in values):
        raise PassError(
            f"the kernel of the op {op.name} returned {made!r}",
            "it must return a value" if op.results == 1 else f"it must return {op.results} values",
        )
    for old, new in zip(node.outputs, values, strict=True):
        if new.type != old.type:
            raise PassError(
                f"the kernel of the op {op.name} gives {new.type} where the op gives {old.type}",
                "op.cast(x, dtype=...), op.reshape and op.expand bring a value into another type",
            )
    for old, new in zip(node.outputs, values, strict=True):
        graph.replace(old, new)
    graph.erase(node)
