"""quantize: write the plan into the graph, as QDQ around linears, convolutions and lookups, and as casts around bf16 ops.

Nodes carry no precision: after this pass the graph says what is computed, and interpreting it shows the loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.precision import PRECISIONS, Precision, kind_of_node
from .calibrate import calibrate
from .canonicalize import hoist_constants
from .precision import CALIBRATION, WEIGHTS, Choice, choice_of
from .quantize_forms import refusal, write_bf16, write_lookup, write_operand, write_readers
from .recipe import Recipe, Request, is_static, make_recipe, recipe_key
from .weights.store import WeightStore

__all__ = ["Quantize", "Request", "quantized", "requests_of"]


@dataclass(frozen=True)
class Quantize:
    """Materialise the plan.

    Args:
        smooth: smooth the inputs of int8 linears on the example data, where the plan names no other method.
    """

    name: ClassVar[str] = "quantize"
    version: ClassVar[int] = 2
    lossy: ClassVar[bool] = True
    smooth: bool = True

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        hoist_constants(graph)
        floats: list[Node] = []
        low: dict[Choice, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            context.at(node)
            choice = choice_of(context, node)
            if choice.precision == "f32" or kind_of_node(node) == "rest":
                continue
            precision = PRECISIONS[choice.precision]
            why = refusal(graph, node, precision)
            if why is not None:
                context.note(f"{node.op} stays float: {why}", node, "miss")
            elif precision.weight.is_float:
                floats.append(node)
            else:
                low[self._methods(choice)].append(node)
        requests = [
            request
            for choice, nodes in low.items()
            for request in requests_of(nodes, PRECISIONS[choice.precision], choice.weights, choice.observer)
        ]
        recipes = self._recipes(graph, requests, context)
        for node in floats:
            context.at(node)
            write_bf16(graph, node)
        for request, recipe in zip(requests, recipes, strict=True):
            context.at(request.nodes[0])
            _note(request, recipe, context)
            _write(graph, request, recipe)
        graph.sweep()
        return PassResult(bool(floats or requests))

    def _methods(self, choice: Choice) -> Choice:
        if self.smooth or choice.weights is not None or PRECISIONS[choice.precision].activation.is_float:
            return choice
        return Choice(choice.precision, "rtn", choice.observer)

    def _recipes(self, graph: Graph, requests: Sequence[Request], context: PassContext) -> list[Recipe]:
        batches: Sequence[Mapping[str, np.ndarray]] = context.data.get(CALIBRATION) or []
        kept = context.data.get(WEIGHTS)
        store = WeightStore() if kept is None else kept
        if requests and batches:
            calibrate(graph, requests, batches, store, context)
        if self.smooth and not batches and any(not r.precision.activation.is_float for r in requests):
            context.note("no example data: int8 linears are not smoothed", kind="warning")
        return [_recipe(graph, request, store) for request in requests]


def requests_of(
    nodes: Iterable[Node], precision: Precision, weights: str | None = None, observer: str | None = None
) -> list[Request]:
    """What to ask of ``calibrate`` for ``nodes``, which can all be written in ``precision``: those that read one value in one
    way share its quantisation; the queries and the keys of an attention have one each. Float precisions need nothing."""
    if precision.weight.is_float:
        return []
    found: dict[tuple, list[Node]] = defaultdict(list)
    scores: list[Request] = []
    for node in nodes:
        if node.op == "attention":
            scores += [Request((node,), precision, weights, observer, operand) for operand in (0, 1)]
        elif kind_of_node(node) == "embedding":
            found["table", id(node.inputs[0])].append(node)
        elif node.op == "conv":
            geometry = tuple(str(v) for k, v in node.attrs.items() if k != "groups")
            found["conv", id(node.inputs[0]), geometry, str(node.inputs[1].shape[2:])].append(node)  # type: ignore[union-attr]
        else:
            found["linear", id(node.inputs[0])].append(node)
    return [*(Request(tuple(group), precision, weights, observer) for group in found.values()), *scores]


def quantized(
    graph: Graph,
    nodes: Sequence[Node],
    precision: Precision,
    *,
    store: WeightStore,
    weights: str | None = None,
    observer: str | None = None,
) -> Graph:
    """The nodes of one unit as a graph of their own, computed in ``precision``.

    Args:
        graph: the float graph, left alone.
        nodes: in its order.
        precision: of all of them.
        store: what :func:`~.calibrate.calibrate` was given; without what it found there, weights are rounded to nearest.
        weights, observer: names of methods; None is the default.

    Returns:
        A graph in QDQ. Inputs: the run-time operands in the order of first use, named as in ``graph``; outputs: those of the
        nodes.

    Raises:
        UsageError: a node cannot be computed so; or a static range was not calibrated.
    """
    for node in nodes:
        why = refusal(graph, node, precision)
        if why is not None:
            raise UsageError(f"{node.name} cannot be {precision}: {why}")
    requests = requests_of(nodes, precision, weights, observer)
    recipes = [_recipe(graph, request, store) for request in requests]
    alone, twins = _alone(graph, nodes)
    if precision.weight.is_float and precision.name != "f32":
        for node in nodes:
            write_bf16(alone, twins[node])
    for request, recipe in zip(requests, recipes, strict=True):
        _write(alone, replace(request, nodes=tuple(twins[n] for n in request.nodes)), recipe)
    alone.sweep()
    return alone


def _alone(graph: Graph, nodes: Sequence[Node]) -> tuple[Graph, dict[Node, Node]]:
    """Copies of ``nodes`` in a graph that has their run-time operands as inputs, and the copy of each."""
    alone = Graph(graph.name)
    alone.symbols = dict(graph.symbols)
    env: dict[Value, Value] = {}
    for value in dict.fromkeys(v for node in nodes for v in node.operands):
        array = graph.array(value)
        if array is not None:
            assert value.node is not None
            env[value] = alone.add_constant(array, value.node.attrs["ref"], value.dtype)
        elif value.node not in nodes:
            env[value] = alone.add_input(value.name, value.type)
    twins: dict[Node, Node] = {}
    for node in nodes:
        twins[node] = twin = alone.insert(
            node.op, [None if v is None else env[v] for v in node.inputs], node.attrs, name=node.name,
            location=node.location, sources=node.sources, hint=node.outputs[0].name,
        )  # fmt: skip
        env.update(zip(node.outputs, twin.outputs, strict=True))
    alone.outputs = [env[v] for node in nodes for v in node.outputs]
    return alone, twins


def _recipe(graph: Graph, request: Request, store: WeightStore) -> Recipe:
    return store.get(recipe_key(graph, request, store), lambda: make_recipe(graph, request, None))


def _write(graph: Graph, request: Request, recipe: Recipe) -> None:
    if request.operand is not None:
        write_operand(graph, request.nodes[0], request.operand, recipe)
    elif kind_of_node(request.nodes[0]) == "embedding":
        for node, table in zip(request.nodes, recipe.weights, strict=True):
            write_lookup(graph, node, table)
    else:
        write_readers(graph, request.nodes, request.precision, recipe)


def _note(request: Request, recipe: Recipe, context: PassContext) -> None:
    text = f"{request.precision} {recipe.words}"
    if recipe.before is not None and recipe.after is not None:
        text += f": relative output error {recipe.before:.2e} -> {recipe.after:.2e}"
    if not request.precision.activation.is_float and not is_static(request.precision) and recipe.before is None:
        return  # the warning that there is no data says it all
    context.note(text, request.nodes[0])
