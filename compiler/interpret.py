"""Reference execution of a graph, with a hook per node. Calibration, gradients, bisection and tests all use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import dims
from .dims import Dim, Expr
from .errors import PlanishError, UsageError
from .graph import Graph, Node, Value
from .reference import REFERENCE, TORCH, results
from .types import DType

Hook = Callable[[Node, Sequence["Tensor | None"], tuple[Tensor, ...]], "tuple[Tensor, ...] | None"]


def to_torch(array: np.ndarray, dtype: DType | None = None) -> Tensor:
    """A tensor that shares the array's memory where it can; ``uint16`` data of a bf16 value becomes bfloat16."""
    array = np.asarray(array)
    # an axis of one element may have a negative stride and be contiguous all the same; torch refuses it
    if not array.flags.writeable or not array.flags.c_contiguous or any(s < 0 for s in array.strides):
        array = array.copy()
    if dtype is DType.bf16 and array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """An array; bfloat16 becomes ``uint16`` bits."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def bind_symbols(graph: Graph, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The value of every symbol, read off the shapes of the inputs.

    Raises:
        UsageError: rank or size of an input does not fit.
    """
    env: dict[str, int] = {}
    for value, shape in zip(graph.inputs, shapes, strict=True):
        if len(shape) != value.type.rank:
            raise UsageError(f"input {value.name!r} has rank {value.type.rank}, not {len(shape)}")
        for d, size in zip(value.shape, shape, strict=True):
            solved = solve_for_symbol(d, int(size))
            if solved is not None:
                env.setdefault(*solved)
    for value, shape in zip(graph.inputs, shapes, strict=True):
        for axis, (d, size) in enumerate(zip(value.shape, shape, strict=True)):
            if dims.evaluate(d, env) != size:
                raise UsageError(f"input {value.name!r} has size {size} on axis {axis}, where {d} is expected")
    return env


def solve_for_symbol(d: Dim, size: int) -> tuple[str, int] | None:
    """The symbol and its value where ``d`` is ``a*symbol + b``; None otherwise."""
    if not isinstance(d, Expr):
        return None
    coefficient, constant, name = 0, 0, None
    for monomial, c in d.terms:
        if not monomial:
            constant = c
        elif len(monomial) == 1 and isinstance(monomial[0], str) and name is None:
            name, coefficient = monomial[0], c
        else:
            return None
    if name is None or (size - constant) % coefficient:
        return None
    return name, (size - constant) // coefficient


def resolve(attr: Any, env: Mapping[str, int]) -> Any:
    """An attribute with its dimensions evaluated."""
    if isinstance(attr, Expr):
        return dims.evaluate(attr, env)
    if isinstance(attr, tuple):
        return tuple(resolve(a, env) for a in attr)
    return attr


class Interpreter:
    """Runs one graph many times; constants are converted once.

    Args:
        graph: the graph.
        hook: called after every node (those inside ``fused`` regions too) with the node, its operands and its results; what
            it returns, unless None, replaces the results.
    """

    def __init__(self, graph: Graph, hook: Hook | None = None) -> None:
        self.graph = graph
        self.hook = hook
        self._constants: dict[tuple[int, str], Tensor] = {}
        self._last_use = {id(graph): last_uses(graph)}

    def __call__(
        self, inputs: Sequence[Tensor], env: Mapping[str, int] | None = None, states: Mapping[str, Tensor] | None = None
    ) -> list[Tensor]:
        """Outputs for ``inputs`` (in order). ``env`` gives the symbols; None reads them off the shapes. States that are not
        given are zero, as a loaded model's are when it is new."""
        if env is None:
            env = bind_symbols(self.graph, [t.shape for t in inputs])
        return self._run(self.graph, inputs, env, states or {})

    def _run(
        self, graph: Graph, inputs: Sequence[Tensor], env: Mapping[str, int], states: Mapping[str, Tensor]
    ) -> list[Tensor]:
        values: dict[Value, Tensor] = dict(zip(graph.inputs, inputs, strict=True))
        for state in graph.states:
            fresh = torch.zeros(resolve(state.shape, env), dtype=TORCH[state.dtype])
            values[state] = states.get(state.name, fresh)
        if id(graph) not in self._last_use:
            self._last_use[id(graph)] = last_uses(graph)
        dead_after = self._last_use[id(graph)]
        for node in graph.nodes:
            operands = [None if v is None else values[v] for v in node.inputs]
            outcome = self._node(graph, node, operands, env)
            if self.hook is not None:
                outcome = self.hook(node, operands, outcome) or outcome
            values.update(zip(node.outputs, outcome, strict=True))
            for value in dead_after.get(node, ()):
                del values[value]
        return [values[v] for v in graph.outputs]

    def evaluate(self, node: Node, operands: Sequence[Tensor | None], env: Mapping[str, int]) -> tuple[Tensor, ...]:
        """The results of one node of the graph, for those who choose the order themselves (no hook is called)."""
        return self._node(self.graph, node, operands, env)

    def _node(
        self, graph: Graph, node: Node, operands: Sequence[Tensor | None], env: Mapping[str, int]
    ) -> tuple[Tensor, ...]:
        if node.op == "constant":
            key = (id(graph), node.attrs["ref"])
            if key not in self._constants:
                self._constants[key] = to_torch(graph.constants[node.attrs["ref"]], node.attrs["dtype"])
            return (self._constants[key],)
        if node.op == "fused":
            return tuple(self._run(node.regions[0], operands, env, {}))  # type: ignore[arg-type]
        attrs = {name: resolve(value, env) for name, value in node.attrs.items()}
        try:
            return results(REFERENCE[node.op](attrs, *operands))
        except KeyError:
            raise PlanishError(f"op {node.op!r} has no reference meaning", "register one beside its schema") from None


def last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """What is not read any more behind a node, its own results included; outputs of the graph are never among them."""
    seen: set[Value] = set(graph.outputs)
    dead: dict[Node, list[Value]] = {}
    for node in reversed(list(graph.nodes)):
        for value in [*node.operands, *node.outputs]:
            if value not in seen:
                seen.add(value)
                dead.setdefault(node, []).append(value)
    return dead


def ordered_inputs(graph: Graph, inputs: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> list[np.ndarray]:
    """The inputs in the graph's order.

    Raises:
        UsageError: a name is missing or unknown.
    """
    if not isinstance(inputs, Mapping):
        return list(inputs)
    names = [v.name for v in graph.inputs]
    wrong = sorted(set(names) ^ set(inputs))
    if wrong:
        raise UsageError(f"the inputs are {', '.join(names)}, not {', '.join(inputs)}")
    return [inputs[n] for n in names]


def interpret(
    graph: Graph, inputs: Mapping[str, np.ndarray] | Sequence[np.ndarray], *, hook: Hook | None = None
) -> list[np.ndarray]:
    """Run ``graph`` on numpy arrays without gradients.

    Args:
        graph: the graph.
        inputs: by name, or in order; shapes as the graph's inputs.
        hook: see :class:`Interpreter`.

    Returns:
        The outputs in order (bf16 as ``uint16`` bits).

    Raises:
        UsageError: an input is missing, unknown, or of the wrong shape.
    """
    tensors = [to_torch(a, v.dtype) for a, v in zip(ordered_inputs(graph, inputs), graph.inputs, strict=True)]
    with torch.no_grad():
        return [to_numpy(t) for t in Interpreter(graph, hook)(tensors)]
