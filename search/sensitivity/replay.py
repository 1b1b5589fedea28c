"""Running a graph again from where something changed: one float run, and from each unit on only what the unit can reach.

The float runs of all batches advance together from unit to unit and hold what is alive there, not every activation. With a unit
replaced by its quantised form only the nodes behind it run again; what they read beside is taken from the float run. Several
replacements run as one, stacked along the batch, where the model treats the elements of a batch apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from torch import Tensor

from ...compiler import dims
from ...compiler.graph import Graph, Node, Value
from ...compiler.interpret import Interpreter, bind_symbols, ordered_inputs, to_numpy, to_torch
from ...passes.batching import batch_symbol

#: Bytes that the widest value of a stacked run may take: more candidates are run in several stacks.
MOST_STACKED_BYTES = 32 << 20

#: (index of the unit, nodes of one piece, precision) -> what computes the piece's outputs from its run-time operands.
Variant = Callable[[int, "Sequence[Node]", str], "Small"]


class Small:
    """The quantised form of a piece: its constants are worked out once, so that a batch costs what depends on the batch.

    Args:
        graph: as ``passes.quantize.quantized`` makes it.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._interpreter = Interpreter(graph)
        self._fixed: dict[Value, Tensor] = {}
        self._nodes: list[Node] = []
        for node in graph.nodes:
            if all(v in self._fixed for v in node.operands) and not any(
                dims.symbols(d) for v in node.outputs for d in v.shape
            ):
                outcome = self._interpreter.evaluate(node, self._gather(node, self._fixed), {})
                self._fixed.update(zip(node.outputs, outcome, strict=True))
            else:
                self._nodes.append(node)
        read = {v for n in self._nodes for v in n.operands} | set(graph.outputs)
        self._fixed = {v: t for v, t in self._fixed.items() if v in read}
        self._interpreter = Interpreter(graph)

    @staticmethod
    def _gather(node: Node, values: Mapping[Value, Tensor]) -> list[Tensor | None]:
        return [None if v is None else values[v] for v in node.inputs]

    def __call__(self, inputs: Mapping[str, Tensor], env: Mapping[str, int]) -> list[Tensor]:
        """The outputs for the operands by name."""
        values = {**self._fixed, **{v: inputs[v.name] for v in self._graph.inputs}}
        for node in self._nodes:
            outcome = self._interpreter.evaluate(node, self._gather(node, values), env)
            values.update(zip(node.outputs, outcome, strict=True))
        return [values[v] for v in self._graph.outputs]


@dataclass(frozen=True, eq=False)
class Piece:
    """Nodes of one unit that are computed together, at the place of the first."""

    unit: int
    nodes: tuple[Node, ...]

    @property
    def outputs(self) -> list[Value]:
        return [v for n in self.nodes for v in n.outputs]


@dataclass(frozen=True)
class Suffix:
    """What has to run again when some units change.

    Attributes:
        steps: pieces and affected nodes in execution order.
        reads: values of the float run that the steps read.
        dead: step -> values that no later step reads.
    """

    steps: tuple[Piece | Node, ...]
    reads: frozenset[Value]
    dead: Mapping[Piece | Node, tuple[Value, ...]]


@dataclass
class Run:
    """The float run of one batch, as far as it went."""

    batch: int
    env: Mapping[str, int]
    values: dict[Value, Tensor]
    left: dict[Value, int]


@dataclass
class Replay:
    """Float runs and suffixes of one graph.

    Args:
        graph: left alone.
        units: the nodes of every unit, in execution order of their first nodes.
        variant: gives the quantised form of a piece.
        interpreter: of the graph, where others share its constants.

    Attributes:
        evaluations: nodes executed so far, each counted once per stacked replacement.
    """

    graph: Graph
    units: Sequence[Sequence[Node]]
    variant: Variant
    interpreter: Interpreter | None = None
    evaluations: int = 0
    symbol: str | None = None
    _interpreter: Interpreter = field(init=False)

    def __post_init__(self) -> None:
        self._interpreter = Interpreter(self.graph) if self.interpreter is None else self.interpreter
        self._order = {node: i for i, node in enumerate(self.graph.nodes)}
        self._pieces = [
            [Piece(i, piece) for piece in self.pieces_of(self.graph, nodes)] for i, nodes in enumerate(self.units)
        ]
        self._fed = self._feeding_outputs()
        self.symbol = batch_symbol(self.graph)
        self._last_need: dict[Value, int] = {}
        #: What the float run holds for each unit.
        self.cuts: list[tuple[Value, ...]] = []
        for i in range(len(self.units)):
            own = [v for n in self.units[i] for v in n.outputs]
            self.cuts.append(tuple(dict.fromkeys([*self.suffix([i]).reads, *own])))
            self._last_need.update(dict.fromkeys(self.cuts[-1], i))
        self._readers = self._future_readers()

    # -- what has to run ---------------------------------------------------------------------------------------------------
    @staticmethod
    def pieces_of(graph: Graph, nodes: Sequence[Node]) -> list[tuple[Node, ...]]:
        """The nodes of a unit in pieces: all at once where their operands are there before the first of them."""
        members, made = set(nodes), set[Value]()
        for node in graph.nodes:
            if node in members:
                break
            made.update(node.outputs)
        made.update(graph.inputs, graph.states)
        ready = all(v in made for n in nodes for v in n.operands if not is_constant(v))
        return [tuple(nodes)] if ready else [(n,) for n in nodes]

    def _feeding_outputs(self) -> set[Node]:
        wanted = {v.node for v in self.graph.outputs if v.node is not None}
        for node in sorted(self._order, key=self._order.__getitem__, reverse=True):
            if node in wanted:
                wanted.update(v.node for v in node.operands if v.node is not None)
        return wanted

    def affected(self, units: Iterable[int]) -> tuple[set[Value], list[Node]]:
        """Values that change with ``units``, and the nodes behind them that an output depends on (not the units' own)."""
        members = {n for u in units for n in self.units[u]}
        changed = {v for n in members for v in n.outputs}
        start = min(self._order[n] for n in members)
        nodes = []
        node = next(n for n in members if self._order[n] == start)
        following = node
        while following is not None:
            if following not in members and following in self._fed and any(v in changed for v in following.operands):
                changed.update(following.outputs)
                nodes.append(following)
            following = following._next  # type: ignore[assignment]
        return changed, nodes

    def suffix(self, units: Sequence[int]) -> Suffix:
        """What runs again when ``units`` change."""
        _, nodes = self.affected(units)
        pieces = [p for u in units for p in self._pieces[u]]
        at: list[tuple[int, Piece | Node]] = [(self._order[p.nodes[0]], p) for p in pieces]
        at += [(self._order[n], n) for n in nodes]
        steps = tuple(step for _, step in sorted(at, key=lambda e: e[0]))
        made: set[Value] = set()
        reads: set[Value] = set()
        for step in steps:
            reads.update(v for v in _operands(step) if v not in made and not is_constant(v))
            made.update(step.outputs)
        seen: set[Value] = set(self.graph.outputs)
        dead: dict[Piece | Node, tuple[Value, ...]] = {}
        for step in reversed(steps):
            gone = [v for v in dict.fromkeys([*_operands(step), *step.outputs]) if v in made and v not in seen]
            seen.update(gone)
            dead[step] = tuple(gone)
        return Suffix(steps, frozenset(reads), dead)

    def _future_readers(self) -> dict[Value, int]:
        """How many nodes of the float run read each value; nodes that no unit needs do not run."""
        wanted = {v.node for v in self._last_need if v.node is not None}
        count: dict[Value, int] = defaultdict(int)
        for node in sorted(self._order, key=self._order.__getitem__, reverse=True):
            if node in wanted and node.op != "constant":
                for v in set(node.operands):
                    count[v] += 1
                    if v.node is not None:
                        wanted.add(v.node)
        return count

    # -- the float run -----------------------------------------------------------------------------------------------------
    def start(self, batch: int, inputs: Mapping[str, np.ndarray]) -> Run:
        """The float run of a batch, not begun."""
        arrays = ordered_inputs(self.graph, inputs)
        tensors = [to_torch(a, v.dtype) for a, v in zip(arrays, self.graph.inputs, strict=True)]
        env = bind_symbols(self.graph, [t.shape for t in tensors])
        states = initial_states(self.graph, env)
        return Run(batch, env, {**dict(zip(self.graph.inputs, tensors, strict=True)), **states}, dict(self._readers))

    def advance(self, run: Run, unit: int, suffix: Suffix) -> None:
        """Compute what ``suffix``, whose first unit is ``unit``, reads, and the unit's own outputs; drop what only units
        before it needed."""
        for value in [*suffix.reads, *(v for n in self.units[unit] for v in n.outputs)]:
            self._demand(run, value)
        for value in [v for v in run.values if not run.left.get(v, 0) and self._last_need.get(v, -1) < unit]:
            del run.values[value]

    def _demand(self, run: Run, value: Value) -> None:
        stack = [value]
        while stack:
            wanted = stack[-1]
            if wanted in run.values or is_constant(wanted):
                stack.pop()
                continue
            node = wanted.node
            assert node is not None, f"%{wanted.name} was dropped too early"
            missing = [v for v in node.operands if v not in run.values and not is_constant(v)]
            if missing:
                stack.extend(missing)
                continue
            outcome = self._interpreter.evaluate(node, [self._value(v, run.values) for v in node.inputs], run.env)
            self.evaluations += 1
            run.values.update(zip(node.outputs, outcome, strict=True))
            for v in set(node.operands):
                run.left[v] -= 1
            stack.pop()

    def _value(self, value: Value | None, values: Mapping[Value, Tensor]) -> Tensor | None:
        if value is None:
            return None
        if value.node is not None and value.node.op == "constant":
            return self._interpreter.evaluate(value.node, [], {})[0]
        return values[value]

    # -- the runs behind a unit --------------------------------------------------------------------------------------------
    def outputs(
        self, run: Run, suffix: Suffix, assignments: Sequence[Mapping[int, str]], reference: list[np.ndarray]
    ) -> list[list[np.ndarray] | None]:
        """The graph's outputs under each of ``assignments`` (index of a unit -> precision; others float).

        Args:
            run: advanced to the first of the units.
            suffix: of all units of all assignments.
            reference: outputs that do not depend on these units are taken from here.

        Returns:
            One list of arrays per assignment; None where the units' own outputs do not change at all.
        """
        found: list[list[np.ndarray] | None] = [None] * len(assignments)
        first = suffix.steps[0]
        assert isinstance(first, Piece)
        ahead: dict[int, list[Tensor]] = {}
        for i, assignment in enumerate(assignments):
            made = self._piece(run, first, [assignment], {}, 1)
            alone = set(assignment) == {first.unit} and len(self._pieces[first.unit]) == 1
            same = all(torch.equal(m, run.values[v]) for m, v in zip(made, first.outputs, strict=True))
            if not (alone and same):
                ahead[i] = made
        most = self._most_stacked(run, suffix) if self.symbol else 1
        left = list(ahead)
        while left:
            together, left = left[:most], left[most:]
            tensors = self._behind(run, suffix, [assignments[i] for i in together], [ahead.pop(i) for i in together])
            for position, i in enumerate(together):
                found[i] = [
                    reference[o] if v not in tensors else to_numpy(_part(tensors[v], position, len(together)))
                    for o, v in enumerate(self.graph.outputs)
                ]
        return found

    def _most_stacked(self, run: Run, suffix: Suffix) -> int:
        types = dict.fromkeys(v.type for step in suffix.steps for v in step.outputs)
        widest = max(prod(_size(d, run.env) for d in t.shape) * t.dtype.size for t in types)
        return max(1, MOST_STACKED_BYTES // max(1, widest))

    def _behind(
        self, run: Run, suffix: Suffix, assignments: Sequence[Mapping[int, str]], ahead: Sequence[list[Tensor]]
    ) -> dict[Value, Tensor]:
        count = len(assignments)
        env = dict(run.env)
        if count > 1:
            assert self.symbol is not None
            env[self.symbol] *= count
        values: dict[Value, Tensor] = {}
        for step in suffix.steps:
            if step is suffix.steps[0]:
                outcome: Sequence[Tensor] = [
                    torch.cat(parts) if count > 1 else parts[0] for parts in zip(*ahead, strict=True)
                ]
            elif isinstance(step, Piece):
                outcome = self._piece(run, step, assignments, values, count)
            else:
                operands = [self._stacked(run, v, values, count) for v in step.inputs]
                outcome = self._interpreter.evaluate(step, operands, env)
                self.evaluations += count
            values.update(zip(step.outputs, outcome, strict=True))
            for v in suffix.dead[step]:
                values.pop(v, None)
        return values

    def _stacked(self, run: Run, value: Value | None, values: Mapping[Value, Tensor], count: int) -> Tensor | None:
        """An operand for ``count`` replacements at once: what does not change is repeated where it holds the batch."""
        if value is None or value in values:
            return None if value is None else values[value]
        tensor = self._value(value, run.values)
        if count == 1 or tensor is None or not self._batched(value):
            return tensor
        if tensor.shape[0] == 1:
            return tensor.expand(count, *tensor.shape[1:])
        return torch.cat([tensor] * count)

    def _batched(self, value: Value) -> bool:
        return bool(value.shape) and str(value.shape[0]) == self.symbol

    def _piece(
        self,
        run: Run,
        piece: Piece,
        assignments: Sequence[Mapping[int, str]],
        values: Mapping[Value, Tensor],
        count: int,
    ) -> list[Tensor]:
        """The outputs of a unit's nodes, stacked: each assignment by its own quantised form, or in float."""
        parts: list[list[Tensor]] = []
        inside = set(piece.outputs)
        operands = [
            v
            for v in dict.fromkeys(v for n in piece.nodes for v in n.operands)
            if not is_constant(v) and v not in inside
        ]
        for position, assignment in enumerate(assignments):
            mine = {
                v: _part(values[v], position, count) if v in values else run.values[v] for v in operands
            }  # fmt: skip
            precision = assignment.get(piece.unit)
            if precision is None:
                made: list[Tensor] = []
                for node in piece.nodes:
                    made += self._interpreter.evaluate(node, [self._value(v, mine) for v in node.inputs], run.env)
            else:
                small = self.variant(piece.unit, piece.nodes, precision)
                made = small({v.name: t for v, t in mine.items()}, run.env)
            self.evaluations += len(piece.nodes)
            parts.append(made)
        return [torch.cat(p) if count > 1 else p[0] for p in zip(*parts, strict=True)]


def is_constant(value: Value) -> bool:
    """Whether the graph holds the data of ``value``."""
    return value.node is not None and value.node.op == "constant"


def initial_states(graph: Graph, env: Mapping[str, int]) -> dict[Value, Tensor]:
    """States as a new model has them: zeros."""
    return {
        s: to_torch(np.zeros([_size(d, env) for d in s.shape], s.dtype.numpy), s.dtype) for s in graph.states
    }  # fmt: skip


def _operands(step: Piece | Node) -> list[Value]:
    if isinstance(step, Node):
        return step.operands
    inside = set(step.outputs)
    return [v for n in step.nodes for v in n.operands if v not in inside]


def _part(tensor: Tensor, position: int, count: int) -> Tensor:
    if count == 1:
        return tensor
    rows = tensor.shape[0] // count
    return tensor[position * rows : (position + 1) * rows]


def _size(dim: dims.Dim, env: Mapping[str, int]) -> int:
    return dims.evaluate(dim, env)
