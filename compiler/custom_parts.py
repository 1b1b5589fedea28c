"""What a registered op is made of: its kernel, an expression or a function, written as nodes of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .custom_ops import CppKernel, CustomOp
from .dims import Expr
from .errors import PassError, PlanishError
from .expressions import build_expression
from .graph import Attrs, Graph, Node, Value
from .rewrite import Builder
from .types import DType, TensorType


class Parts(Builder):
    """``op`` inside a kernel that is a function: a builder that also takes run-time dimensions as operands."""

    def insert(self, op: str, inputs: Sequence[Any], attrs: Attrs | None = None, regions: Sequence[Graph] = ()) -> Node:
        like = next((v.dtype for v in reversed(inputs) if isinstance(v, Value)), DType.i64)
        return super().insert(op, [self._number(v, like) if isinstance(v, Expr) else v for v in inputs], attrs, regions)

    def _number(self, dim: Expr, dtype: DType) -> Value:
        value = super().insert("full", [], {"value": dim, "shape": (), "dtype": DType.i64}).output
        return value if dtype is DType.i64 else super().insert("cast", [value], {"dtype": dtype}).output


def build_parts(
    op: CustomOp, builder: Parts, operands: Sequence[Value | None], attrs: Mapping[str, Any]
) -> list[Value]:
    """The results of ``op`` as values of the graph that ``builder`` adds nodes to.

    Raises:
        PassError: the kernel failed, or returned something else than values.
    """
    try:
        if isinstance(op.kernel, str):
            arguments = dict(zip((p.name for p in op.operands), operands, strict=True))
            made: Any = build_expression(op.kernel, builder, {**arguments, **attrs})
        else:
            assert callable(op.kernel)
            made = op.call(op.kernel, operands, attrs, builder)
    except PlanishError as error:
        raise PassError(f"the kernel of the op {op.name}: {error.message}", error.hint) from error
    except Exception as error:
        raise PassError(f"the kernel of the op {op.name} failed: {type(error).__name__}: {error}") from error
    values = list(made) if isinstance(made, (tuple, list)) else [made]
    if len(values) != op.results or not all(isinstance(v, Value) for v in values):
        raise PassError(
            f"the kernel of the op {op.name} returned {made!r}",
            "it must return a value" if op.results == 1 else f"it must return {op.results} values",
        )
    return values


def parts_graph(
    op: CustomOp, types: Sequence[TensorType | None], attrs: Mapping[str, Any], symbols: Mapping[str, Any] | None = None
) -> Graph:
    """A graph that computes ``op`` alone, of inputs of these types (None for an operand that is absent).

    Raises:
        PassError: see :func:`build_parts`.
    """
    assert not isinstance(op.kernel, CppKernel)
    graph = Graph("parts")
    graph.symbols = dict(symbols or {})
    operands = [None if t is None else graph.add_input(f"x{i}", t) for i, t in enumerate(types)]
    end = graph.insert("full", [], {"value": 0, "shape": (), "dtype": DType.i64})
    graph.outputs = build_parts(op, Parts(graph, end, "", None, ()), operands, attrs)
    graph.sweep()
    return graph
