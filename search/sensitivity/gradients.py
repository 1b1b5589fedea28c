"""Backward passes: what a change of each unit's outputs does to the compared outputs, along random directions.

One forward pass per batch with gradients, and a backward pass for every direction, serve all units at once. Then each candidate
costs its own unit only: the error that it makes at the unit's outputs, taken from its small graph.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...compiler.graph import Value
from ...compiler.interpret import bind_symbols, last_uses, ordered_inputs, to_torch
from ...passes.batching import batch_symbol
from .curvature import Compared, directions
from .replay import Replay, initial_states, is_constant
from .table import FLOAT, Choice, Losses
from .variants import Variants
from .work import Context, single_threaded

#: Bytes of inputs, outputs and gradients of the units that are held at a time.
MOST_HELD_BYTES = 32 << 20


@dataclass(frozen=True)
class Passes:
    """A task: some batches and how to look at them.

    Attributes:
        batches: their indices.
        directions: backward passes for each thing that is compared.
        seed: of the directions; the same whatever task a batch is in.
        second_order: ``projection`` or ``trace``, see ``fisher`` and ``hessian``.
    """

    batches: tuple[int, ...]
    directions: int
    seed: int
    second_order: str


@dataclass
class _Held:
    """What one batch left behind: operands and outputs of the units, and for each thing that is compared the gradients in
    the outputs, ``[directions, ...]``."""

    batch: int
    env: dict[str, int]
    operands: dict[Value, Tensor]
    gradients: list[dict[Value, Tensor]]


def estimate(context: Context, task: Passes) -> list[dict[Choice, Losses]]:
    """For every batch of ``task``: choice -> term -> estimated loss per row."""
    with single_threaded(), torch.no_grad():
        return _estimate(context, task)


def _estimate(context: Context, task: Passes) -> list[dict[Choice, Losses]]:
    variants = Variants(context.graph, context.store)
    compared = Compared.of(context.scorer, context.references[0], context.batches[0])
    found: dict[int, dict[Choice, Losses]] = {b: {} for b in task.batches}
    for group in _groups(context, compared, task):
        _judge(context, variants, compared, task, group, found)
        group.clear()  # before the next one is made: both would be there at once
    return [found[b] for b in task.batches]


def _judge(
    context: Context, variants: Variants, compared: Sequence[Compared], task: Passes, group: Sequence[_Held],
    found: Mapping[int, dict[Choice, Losses]],
) -> None:  # fmt: skip
    """Put the estimated losses of every candidate on the batches of ``group`` into ``found``."""
    symbol = batch_symbol(context.graph)
    for index, unit in enumerate(context.units):
        pieces = Replay.pieces_of(context.graph, context.nodes(unit.name))
        candidates = [p for p in unit.candidates if p != FLOAT]
        errors: list[dict[Value, list[Tensor]]] = [defaultdict(list) for _ in group]
        for precision in candidates:
            for nodes in pieces:
                small = variants(index, nodes, precision)
                for held, wrong in zip(group, errors, strict=True):
                    made = small({v.name: t for v, t in held.operands.items()}, held.env)
                    for v, t in zip((v for n in nodes for v in n.outputs), made, strict=True):
                        wrong[v].append(t.float() - held.operands[v].float())
            variants.forget()  # weights of one candidate at a time
        for held, wrong in zip(group if candidates else (), errors, strict=bool(candidates)):
            rows = context.batches[held.batch].rows
            for kind, gradients in zip(compared, held.gradients, strict=True):
                losses = _losses(gradients, wrong, len(candidates), rows, symbol, task)
                for precision, loss in zip(candidates, losses, strict=True):
                    found[held.batch].setdefault((unit.name, precision), {}).update(dict.fromkeys(kind.terms, loss))


def _losses(
    gradients: Mapping[Value, Tensor], errors: Mapping[Value, list[Tensor]], candidates: int, rows: int,
    symbol: str | None, task: Passes,
) -> np.ndarray:  # fmt: skip
    """Estimated losses f64 ``[candidates, rows]`` of one unit on one batch.

    Args:
        gradients: by output of the unit, all directions stacked ``[directions, ...]``.
        errors: by output of the unit, one for each candidate.
    """
    apart = all(_has_rows(v, symbol, rows, e[0]) for v, e in errors.items())
    parts = rows if apart else 1
    slopes = [gradients[v].reshape(task.directions, parts, -1).transpose(0, 1) for v in errors if v in gradients]
    moves = [
        torch.stack(e).reshape(candidates, parts, -1).transpose(0, 1) for v, e in errors.items() if v in gradients
    ]  # fmt: skip
    total = np.zeros((candidates, parts))
    if slopes:
        total = 0.5 * _SECOND_ORDER[task.second_order](slopes, moves).T.double().numpy()
    if not apart:  # what the rows did together, in equal parts: they are independent, so their squares add
        total = np.repeat(total / rows, rows, axis=1)
    return np.where(np.isfinite(total), total, np.inf)


def _has_rows(value: Value, symbol: str | None, rows: int, tensor: Tensor) -> bool:
    return symbol is not None and bool(value.shape) and str(value.shape[0]) == symbol and tensor.shape[0] == rows


def _projection(slopes: list[Tensor], moves: list[Tensor]) -> Tensor:
    """``(g . e)^2``: the error of the compared outputs along each direction, squared; the mean over the directions."""
    along = sum(torch.bmm(e, g.transpose(1, 2)) for g, e in zip(slopes, moves, strict=True))
    assert isinstance(along, Tensor)
    return along.square().mean(2)


def _trace(slopes: list[Tensor], moves: list[Tensor]) -> Tensor:
    """``|g|^2 / n * |e|^2``: the mean eigenvalue of the curvature times the energy of the error."""
    total = sum(
        g.square().mean(2).mean(1, keepdim=True) * e.square().sum(2) for g, e in zip(slopes, moves, strict=True)
    )  # fmt: skip
    assert isinstance(total, Tensor)
    return total


#: (gradients ``[rows, directions, n]``, errors ``[rows, candidates, n]`` of every output of a unit) -> ``[rows, candidates]``.
_SECOND_ORDER: dict[str, Callable[[list[Tensor], list[Tensor]], Tensor]] = {"projection": _projection, "trace": _trace}


def _groups(context: Context, compared: Sequence[Compared], task: Passes) -> Iterator[list[_Held]]:
    """Batches with their gradients, as many at a time as fit the memory; the list is to be emptied in between."""
    group: list[_Held] = []
    size = 0
    for index in task.batches:
        held = _differentiate(context, compared, index, task)
        group.append(held)
        size += sum(t.nbytes for t in held.operands.values())
        size += sum(t.nbytes for gradients in held.gradients for t in gradients.values())
        if size > MOST_HELD_BYTES:
            yield group
            size = 0
    if group:
        yield group


def _differentiate(context: Context, compared: Sequence[Compared], index: int, task: Passes) -> _Held:
    batch = context.batches[index]
    with torch.enable_grad():
        outputs, leaves, operands, env = _forward(context, batch)
        values = [v for v, t in leaves.items() if t.requires_grad]
        gradients: list[dict[Value, Tensor]] = []
        for number, kind in enumerate(compared):
            picked = kind.pick(context.scorer, outputs, batch)
            along: dict[Value, Tensor] = {}
            for k in range(task.directions if picked.requires_grad else 0):
                seed = zlib.crc32(f"{task.seed}/{index}/{number}/{k}".encode())
                vector = directions(
                    kind.shape, picked.detach(), getattr(batch, "batched", True), torch.Generator().manual_seed(seed)
                )
                slopes = torch.autograd.grad(
                    picked, [leaves[v] for v in values], vector, retain_graph=True, allow_unused=True
                )
                for v, g in zip(values, slopes, strict=True):
                    if g is not None:
                        along.setdefault(v, g.new_empty((task.directions, *g.shape)))[k] = g
            gradients.append({v: g.float() for v, g in along.items()})
    return _Held(index, env, {**operands, **{v: t.detach() for v, t in leaves.items()}}, gradients)


def _forward(
    context: Context, batch: Any
) -> tuple[list[Tensor], dict[Value, Tensor], dict[Value, Tensor], dict[str, int]]:
    """The float run with gradients: outputs of the graph, of the units' nodes (with gradients), and what those read."""
    graph, interpreter = context.graph, context.interpreter
    members = {n for u in context.units for n in context.nodes(u.name)}
    arrays = ordered_inputs(graph, batch.inputs)
    tensors = [to_torch(a, v.dtype) for a, v in zip(arrays, graph.inputs, strict=True)]
    env = bind_symbols(graph, [t.shape for t in tensors])
    values: dict[Value, Tensor] = {**dict(zip(graph.inputs, tensors, strict=True)), **initial_states(graph, env)}
    operands: dict[Value, Tensor] = {}
    leaves: dict[Value, Tensor] = {}
    dead_after = last_uses(graph)
    for node in graph.nodes:
        outcome = interpreter.evaluate(node, [None if v is None else values[v] for v in node.inputs], env)
        values.update(zip(node.outputs, outcome, strict=True))
        if node in members:
            operands.update({v: values[v].detach() for v in node.operands if not is_constant(v)})
            for value, tensor in zip(node.outputs, outcome, strict=True):
                if tensor.is_floating_point() and not tensor.requires_grad:
                    tensor.requires_grad_()  # the first units: nothing before them asks for a gradient
                leaves[value] = tensor
        for value in dead_after.get(node, ()):  # what the backward pass needs, it keeps itself
            del values[value]
    return [values[v] for v in graph.outputs], leaves, operands, env
