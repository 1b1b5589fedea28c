"""hoist-casts: round once, where the value is made, and widen late, where it is read.

``cast(transpose(reshape(slice(x))))`` to a narrower float, as Q, K and V have it, becomes three views of one ``cast(x)``, which
then fuses into the kernel that makes ``x``; a view of a widening cast becomes a cast of the view, which fuses into its reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType
from .fusion import SOURCES, VIEWS

_LINEARS = ("linear", "qlinear", "matmul")


def _leaves(value: Value, outputs: set[Value]) -> list[Node] | None:
    """The nodes that read ``value`` through views; None if a view of it is an output of the graph."""
    if value in outputs:
        return None
    found: list[Node] = []
    for user in value.users:
        if user.op not in VIEWS:
            found.append(user)
            continue
        deeper = _leaves(user.output, outputs)
        if deeper is None:
            return None
        found.extend(deeper)
    return found


@dataclass(frozen=True)
class HoistCasts:
    """Move casts to a narrower float in front of the views between them and what makes the value."""

    name: ClassVar[str] = "hoist-casts"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        outputs, moved = set(graph.outputs), self._sink(graph)
        for node in list(graph.nodes):
            if node.op in VIEWS or node.op in SOURCES:
                continue
            for value in node.outputs:
                leaves = _leaves(value, outputs)
                if not leaves or not any(u.op in VIEWS for u in value.users):
                    continue
                dtypes = {u.attrs["dtype"] if u.op == "cast" else None for u in leaves}
                if (
                    node.op in _LINEARS
                ):  # which can store its result twice: rounded for V, in full for q and k to be turned
                    dtypes -= {None, value.dtype}
                dtype = dtypes.pop() if len(dtypes) == 1 else None
                if dtype not in (DType.bf16, DType.f16) or not value.dtype.is_float or dtype.size >= value.dtype.size:
                    continue
                self._hoist(graph, value, dtype)
                moved += 1
        graph.sweep()
        return PassResult(bool(moved))

    def _sink(self, graph: Graph) -> int:
        """Move widening casts behind the views that read them."""
        moved = 0
        for node in list(graph.nodes):
            cast = node.inputs[0].node if node.op in VIEWS and node.inputs[0] is not None else None
            if cast is None or cast.op != "cast" or cast.inputs[0] is None:
                continue
            narrow, wide = cast.inputs[0].dtype, cast.output.dtype
            if narrow in (DType.bf16, DType.f16) and wide in (DType.f32, DType.f64):
                view = graph.derive(node, node.op, [cast.inputs[0]], node.attrs)
                graph.replace(node.output, graph.derive(node, "cast", [view], {"dtype": wide}))
                moved += 1
        return moved

    def _hoist(self, graph: Graph, value: Value, dtype: DType) -> None:
        assert value.node is not None
        node = value.node
        there = next((u for u in value.users if u.op == "cast" and u.attrs["dtype"] is dtype), None)
        if there is not None:
            graph.move(there, node._next)
        narrow = there or graph.insert(
            "cast", [value], {"dtype": dtype}, before=node._next, name=node.name, location=node.location,
            sources=node.sources,
        )  # fmt: skip
        self._redirect(graph, value, narrow.output, narrow)

    def _redirect(self, graph: Graph, wide: Value, narrow: Value, but: Node) -> None:
        """Give every cast that reads ``wide`` through views the same view of ``narrow``."""
        for user in wide.users:
            if user is but:
                continue
            if user.op == "cast":
                if user.output.dtype is narrow.dtype:
                    graph.replace(user.output, narrow)
                continue
            if user.op not in VIEWS:
                continue
            view = graph.insert(
                user.op, [narrow], user.attrs, before=user, name=user.name, location=user.location, sources=user.sources
            )
            self._redirect(graph, user.output, view.output, but)
