"""Backward passes: what a change of each unit's outputs does to the compared outputs, along random directions.

One forward pass per batch with gradients, and a backward pass for every direction, serve all units at once. Then each candidate
costs its own unit only: the error that it makes at the unit's outputs, taken from its small graph.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...compiler.graph import Node, Value
from ...compiler.interpret import Interpreter, bind_symbols, ordered_inputs, to_torch
from ...passes.batching import batch_symbol
from .curvature import Compared, directions
from .replay import Replay, _constant
from .table import FLOAT, Choice, Losses
from .variants import Variants
from .work import Context, single_threaded

#: Bytes of inputs, outputs and gradients of the units that are held at a time.
MOST_HELD_BYTES = 64 << 20

#: (gradients of one direction, error) of the outputs of a unit, row by row ``[rows, elements]`` -> a loss per row.
Estimate = Callable[[list[Tensor], list[Tensor]], Tensor]


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
    """What one batch left behind: operands of the units by value, their outputs, and gradients by what is compared."""

    batch: int
    env: dict[str, int]
    operands: dict[Value, Tensor]
    gradients: list[list[dict[Value, Tensor]]]


def estimate(context: Context, task: Passes) -> list[dict[Choice, Losses]]:
    """For every batch of ``task``: choice -> term -> estimated loss per row."""
    with single_threaded():
        return _estimate(context, task)


def _estimate(context: Context, task: Passes) -> list[dict[Choice, Losses]]:
    interpreter = Interpreter(context.graph)
    symbol = batch_symbol(context.graph)
    variants = Variants(context.graph, context.store)
    compared = Compared.of(context.scorer, context.references[0], context.batches[0])
    found: dict[int, dict[Choice, Losses]] = {b: {} for b in task.batches}
    for group in _groups(context, interpreter, compared, task):
        for index, unit in enumerate(context.units):
            pieces = Replay.pieces_of(context.graph, context.nodes(unit.name))
            for precision in unit.candidates:
                if precision == FLOAT:
                    continue
                for held in group:
                    rows = context.batches[held.batch].rows
                    errors: dict[Value, Tensor] = {}
                    with torch.no_grad():
                        for nodes in pieces:
                            small = variants(index, nodes, precision)
                            made = small({v.name: t for v, t in held.operands.items()}, held.env)
                            for v, t in zip((v for n in nodes for v in n.outputs), made, strict=True):
                                errors[v] = t.float() - held.operands[v].float()
                        found[held.batch][unit.name, precision] = {
                            term: loss
                            for kind, gradients in zip(compared, held.gradients, strict=True)
                            for term, loss in _losses(kind, gradients, errors, rows, symbol, task).items()
                        }
            variants.forget()
    return [found[b] for b in task.batches]


def _losses(
    kind: Compared, gradients: Sequence[dict[Value, Tensor]], errors: dict[Value, Tensor], rows: int, symbol: str | None,
    task: Passes,
) -> Losses:  # fmt: skip
    apart = all(_has_rows(v, symbol, rows, e) for v, e in errors.items())
    total = torch.zeros(rows if apart else 1, dtype=torch.float64)
    for gradient in gradients:
        slopes = [_rows(gradient[v], len(total)) for v in errors if v in gradient]
        if not slopes:
            continue
        moves = [_rows(e, len(total)) for v, e in errors.items() if v in gradient]
        total += _SECOND_ORDER[task.second_order](slopes, moves)
    loss = 0.5 * total.numpy() / max(1, len(gradients))
    if not apart:  # what the rows did together, in equal parts: they are independent, so their squares add
        loss = np.full(rows, loss[0] / rows)
    loss = np.where(np.isfinite(loss), loss, np.inf)
    return dict.fromkeys(kind.terms, loss)


def _has_rows(value: Value, symbol: str | None, rows: int, tensor: Tensor) -> bool:
    return symbol is not None and bool(value.shape) and str(value.shape[0]) == symbol and tensor.shape[0] == rows


def _rows(tensor: Tensor, rows: int) -> Tensor:
    return tensor.reshape(rows, -1).double()


def _projection(slopes: list[Tensor], moves: list[Tensor]) -> Tensor:
    """``(g . e)^2``: the error of the compared outputs along the direction, squared."""
    return torch.stack([(g * e).sum(1) for g, e in zip(slopes, moves, strict=True)]).sum(0).square()


def _trace(slopes: list[Tensor], moves: list[Tensor]) -> Tensor:
    """``|g|^2 / n * |e|^2``: the mean eigenvalue of the curvature times the energy of the error."""
    return torch.stack(
        [g.square().mean(1) * e.square().sum(1) for g, e in zip(slopes, moves, strict=True)]
    ).sum(0)  # fmt: skip


_SECOND_ORDER: dict[str, Estimate] = {"projection": _projection, "trace": _trace}


def _groups(
    context: Context, interpreter: Interpreter, compared: Sequence[Compared], task: Passes
) -> Iterator[list[_Held]]:
    """Batches with their gradients, as many at a time as fit the memory."""
    group: list[_Held] = []
    size = 0
    for index in task.batches:
        held = _differentiate(context, interpreter, compared, index, task)
        group.append(held)
        size += sum(t.nbytes for t in held.operands.values())
        size += sum(t.nbytes for kind in held.gradients for g in kind for t in g.values())
        if size > MOST_HELD_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _differentiate(
    context: Context, interpreter: Interpreter, compared: Sequence[Compared], index: int, task: Passes
) -> _Held:
    graph, batch = context.graph, context.batches[index]
    members = {n for u in context.units for n in context.nodes(u.name)}
    operands: dict[Value, Tensor] = {}
    leaves: dict[Value, Tensor] = {}
    with torch.enable_grad():
        outputs, env = _forward(interpreter, batch, members, operands, leaves)
        gradients: list[list[dict[Value, Tensor]]] = []
        names = [v for v in leaves if leaves[v].requires_grad]
        for number, kind in enumerate(compared):
            picked = kind.pick(context.scorer, outputs, batch)
            along: list[dict[Value, Tensor]] = []
            for k in range(task.directions if picked.requires_grad else 0):
                seed = zlib.crc32(f"{task.seed}/{index}/{number}/{k}".encode())
                vector = directions(
                    kind.shape, picked.detach(), getattr(batch, "batched", True), torch.Generator().manual_seed(seed)
                )
                slopes = torch.autograd.grad(
                    picked, [leaves[v] for v in names], vector, retain_graph=True, allow_unused=True
                )
                along.append({v: g.detach() for v, g in zip(names, slopes, strict=True) if g is not None})
            gradients.append(along)
    operands.update({v: t.detach() for v, t in leaves.items()})
    read = {v for n in members for v in [*n.operands, *n.outputs] if not _constant(v)}
    assert graph.outputs
    return _Held(index, env, {v: t.detach() for v, t in operands.items() if v in read}, gradients)


def _forward(
    interpreter: Interpreter,
    batch: object,
    members: set[Node],
    operands: dict[Value, Tensor],
    leaves: dict[Value, Tensor],
) -> tuple[list[Tensor], dict[str, int]]:
    """The float run with gradients; notes what the units' nodes read and gave."""
    graph = interpreter.graph
    arrays = ordered_inputs(graph, batch.inputs)  # type: ignore[attr-defined]
    tensors = [to_torch(a, v.dtype) for a, v in zip(arrays, graph.inputs, strict=True)]
    env = bind_symbols(graph, [t.shape for t in tensors])

    def hook(node: Node, given: Sequence[Tensor | None], outcome: tuple[Tensor, ...]) -> None:
        if node not in members:
            return
        for value, tensor in zip(node.inputs, given, strict=True):
            if value is not None and tensor is not None and not _constant(value):
                operands[value] = tensor.detach()
        for value, tensor in zip(node.outputs, outcome, strict=True):
            if tensor.is_floating_point() and not tensor.requires_grad:
                tensor.requires_grad_()  # the first units: nothing before them asks for a gradient
            leaves[value] = tensor

    interpreter.hook = hook
    try:
        return interpreter(tensors, env), env
    finally:
        interpreter.hook = None
