"""The tasks of sensitivity: what one worker does with some units or some batches.

A task reads a :class:`Context`, the same for all, and computes with one thread whatever runs it, so that the numbers do not
depend on the executor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...compiler import dims
from ...compiler.errors import UsageError
from ...compiler.graph import Graph, Node
from ...compiler.interpret import Interpreter, bind_symbols, ordered_inputs
from ..units import Unit, nodes_of
from .replay import Replay, Run
from .table import FLOAT, Choice, Losses, Scorer
from .variants import Sent, Variants

if TYPE_CHECKING:
    from ...passes.weights.store import WeightStore

#: Bytes that the float runs of several batches may hold at a time.
MOST_HELD_BYTES = 128 << 20


@dataclass
class Context:
    """What every task reads.

    Attributes:
        graph: the decision graph.
        units: all of them.
        batches, references: the samples and the float model's outputs for them.
        scorer: from outputs to losses.
        store: of weights; stays behind when the context travels, and what was made of it goes with the tasks.
        interpreter: of the graph: the tasks of one process share its constants.
    """

    graph: Graph
    units: Sequence[Unit]
    batches: Sequence[Any]
    references: Sequence[list[np.ndarray]]
    scorer: Scorer
    store: WeightStore | None = None
    interpreter: Interpreter = field(init=False)
    _nodes: dict[str, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.interpreter = Interpreter(self.graph)
        self._nodes = {u.name: nodes_of(self.graph, u) for u in self.units}

    def __getstate__(self) -> dict[str, Any]:
        return {
            "graph": Sent.of(self.graph), "units": list(self.units), "batches": list(self.batches),
            "references": list(self.references), "scorer": self.scorer,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, graph=state["graph"].graph(), store=None)
        self.__post_init__()

    def nodes(self, unit: str) -> list[Node]:
        """The nodes of a unit, by name."""
        return self._nodes[unit]

    @property
    def samples(self) -> int:
        return sum(b.rows for b in self.batches)


@dataclass(frozen=True)
class Task:
    """Assignments to measure.

    Attributes:
        assignments: each (unit, precision), ...; the units of one in execution order.
        variants: quantised units that travel with the task; the others are made by the worker.
    """

    assignments: tuple[tuple[Choice, ...], ...]
    variants: Mapping[str, Sent] = field(default_factory=dict)


@dataclass
class Measured:
    """What a task found.

    Attributes:
        losses: in the order of the assignments.
        evaluations: see ``Table.evaluations``.
    """

    losses: list[Losses]
    evaluations: int


@contextmanager
def keeping_threads() -> Iterator[None]:
    """Torch's number of threads as it was: threads that begin later take over what a task set last."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Torch on one thread here: sums come out the same wherever a task runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def measure(context: Context, task: Task) -> Measured:
    """The losses of every assignment of ``task`` on all samples: only what lies behind the changed units runs again."""
    with single_threaded(), torch.no_grad():
        return _measure(context, task)


def _measure(context: Context, task: Task) -> Measured:
    order = {u.name: i for i, u in enumerate(context.units)}
    names = sorted({u for a in task.assignments for u, _ in a}, key=order.__getitem__)
    position = {name: i for i, name in enumerate(names)}
    variants = Variants(context.graph, context.store, task.variants)
    replay = Replay(context.graph, [context.nodes(n) for n in names], variants, context.interpreter)
    by_first: dict[int, list[int]] = {}
    for index, assignment in enumerate(task.assignments):
        by_first.setdefault(position[assignment[0][0]], []).append(index)
    found: list[list[Losses | None]] = [[None] * len(context.batches) for _ in task.assignments]
    for group in _groups(context, replay):
        runs = [replay.start(b, context.batches[b].inputs) for b in group]
        for unit, indices in sorted(by_first.items()):
            for same in _alike(task.assignments, indices):
                suffix = replay.suffix([position[u] for u, _ in task.assignments[same[0]]])
                wanted = [{position[u]: p for u, p in task.assignments[i]} for i in same]
                for run in runs:
                    replay.advance(run, unit, suffix)
                    outputs = replay.outputs(run, suffix, wanted, context.references[run.batch])
                    for i, arrays in zip(same, outputs, strict=True):
                        found[i][run.batch] = _scored(context, run, arrays, task.assignments[i])
            variants.forget()
    whole = []
    for parts in found:
        kept = [p for p in parts if p is not None]
        whole.append({term: np.concatenate([p[term] for p in kept]) for term in kept[0]})
    return Measured(whole, replay.evaluations)


def _alike(assignments: Sequence[tuple[Choice, ...]], indices: Sequence[int]) -> list[list[int]]:
    """The assignments that change the same units, together: they have one suffix."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i in indices:
        groups.setdefault(tuple(u for u, _ in assignments[i]), []).append(i)
    return list(groups.values())


def _scored(context: Context, run: Run, arrays: list[np.ndarray] | None, assignment: Sequence[Choice]) -> Losses:
    reference, batch = context.references[run.batch], context.batches[run.batch]
    if arrays is None:  # nothing changed at all
        terms = context.scorer.losses(reference, reference, batch)
        return {str(term): np.zeros(batch.rows) for term in terms}
    losses = {str(t): np.asarray(v, np.float64) for t, v in context.scorer.losses(reference, arrays, batch).items()}
    for term, loss in losses.items():
        if np.isnan(loss).any() or (loss < 0).any():
            words = ", ".join(f"{u} in {p}" for u, p in assignment)
            raise UsageError(f"the loss of {term} is {loss[np.isnan(loss) | (loss < 0)][0]} with {words}",
                             "a metric's loss is a number from 0 on")  # fmt: skip
    return losses


def _groups(context: Context, replay: Replay) -> Iterator[list[int]]:
    """Batches whose float runs are advanced together: as many as fit the memory at the widest place."""
    held: list[int] = []
    total = 0
    for index, batch in enumerate(context.batches):
        shapes = [np.shape(a) for a in ordered_inputs(context.graph, batch.inputs)]
        env = bind_symbols(context.graph, shapes)
        widest = max((sum(dims.evaluate(v.type.bytes, env) for v in cut) for cut in replay.cuts), default=0)
        if held and total + widest > MOST_HELD_BYTES:
            yield held
            held, total = [], 0
        held.append(index)
        total += widest
    if held:
        yield held


def choices_of(units: Sequence[Unit]) -> list[tuple[Choice, ...]]:
    """Every unit alone at each of its candidates but float."""
    return [((u.name, p),) for u in units for p in u.candidates if p != FLOAT]
