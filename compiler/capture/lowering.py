"""From a torch.export graph to the IR: one walk in order, one handler per ATen op, every failure collected.

A handler is a function ``handler(b, **arguments)`` registered under names of ATen overloads. It gets a :class:`Lowering` and
the arguments by the names of the op's schema (tensors as values, sizes as dimensions) and returns a value, a list of them,
or None for an op that leaves nothing behind. It raises :class:`Unsupported` with the reason it cannot.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ..dims import Dim
from ..errors import PlanishError
from ..graph import Graph, Value
from ..types import DType
from . import custom, scalars
from .building import Building, Scalar
from .locations import module_path, source_line
from .mutation import roots, twin
from .symbols import SymbolTable, Unsupported
from .weights import dtype_of, identity, peculiarity, to_numpy, to_torch

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}

#: Arguments that say where or how a tensor is stored, which is not the model's business.
IGNORED = frozenset({"layout", "device", "pin_memory", "memory_format", "non_blocking", "cudnn_enable", "cudnn_enabled",
                     "copy", "implicit", "scale_grad_by_freq", "sparse", "padding_idx", "sparse_grad"})  # fmt: skip

#: Ops that check, annotate or only matter in training; they vanish.
VANISHING = ("aten::_assert", "aten::sym_constrain", "aten::_functional_assert", "aten::_functional_sym", "profiler::")


def aten(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for ATen overloads: ``add.Tensor``; a name without a dot means ``.default``."""

    def add(handler: Handler) -> Handler:
        for name in names:
            key = f"aten.{name if '.' in name else name + '.default'}"
            if key in HANDLERS:
                raise ValueError(f"{key} is handled twice")
            HANDLERS[key] = handler
        return handler

    return add


@dataclass(frozen=True)
class Failure:
    """One op that could not be lowered."""

    target: Any
    op: str
    why: str
    location: str | None
    path: str

    @property
    def final(self) -> bool:
        """Whether writing the op in simpler ones cannot help."""
        return "random" in self.why or "data" in self.why


class Lowering(Building):
    """The state of one walk; what handlers build with.

    Attributes:
        graph: the graph being built.
        symbols: torch sizes -> dimensions.
        node: the fx node at hand.
        failures: what could not be lowered.
    """

    def __init__(self, graph: Graph, symbols: SymbolTable) -> None:
        super().__init__(graph)
        self.symbols = symbols
        self.node: fx.Node
        self.failures: list[Failure] = []
        self.poisoned: set[fx.Node] = set()
        self._env: dict[fx.Node, Any] = {}
        self._tensors: dict[fx.Node, tuple[str, torch.Tensor]] = {}
        self._constants: dict[tuple[object, ...], Value] = {}
        self._keep: list[torch.Tensor] = []
        self._roots: dict[fx.Node, fx.Node] = {}
        self._written: set[fx.Node] = set()

    # -- what the driver of the walk calls -----------------------------------------------------------------------------
    def bind(self, node: fx.Node, value: Any) -> None:
        """Say what an fx node (a placeholder) stands for."""
        self._env[node] = value

    def bind_tensor(self, node: fx.Node, name: str, tensor: torch.Tensor) -> None:
        """Say that a placeholder is the parameter, buffer or constant ``name``; it enters the graph when it is first read."""
        self._tensors[node] = (name, tensor)

    def result(self, argument: Any) -> Any:
        """What an argument of an fx node stands for: values, dimensions, numbers, or lists of them."""
        if isinstance(argument, fx.Node):
            return self._of_node(argument)
        if isinstance(argument, (list, tuple)):
            return [self.result(a) for a in argument]
        if isinstance(argument, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._symbolic(argument)
        return argument

    def walk(self, graph: fx.Graph, owner: fx.GraphModule) -> Any:
        """Lower every node of ``graph``; returns the arguments of its output node."""
        self._roots.update(roots(graph) or {})
        self._written = set(self._roots.values())
        live = _live(graph)
        for node in graph.nodes:
            if node not in live:
                continue
            if node.op == "get_attr":
                self._get_attr(node, owner)
            elif node.op == "call_function":
                self._visit(node, owner)
            elif node.op == "output":
                return node.args[0]
            elif node.op != "placeholder":
                self._fail(node, str(node.target), "calls into a module cannot be captured")
        raise AssertionError("an fx graph without an output")

    def _get_attr(self, node: fx.Node, owner: fx.GraphModule) -> None:
        target: Any = owner
        for part in str(node.target).split("."):
            target = getattr(target, part)
        if isinstance(target, torch.Tensor):
            self.bind_tensor(node, str(node.target), target)
        else:
            self._env[node] = target

    def _visit(self, node: fx.Node, owner: fx.GraphModule) -> None:
        self.node = node
        self._path, self._location = module_path(node.meta), source_line(node.meta.get("stack_trace"))
        target = node.target
        if target is operator.getitem:
            source = node.args[0]
            if source in self.poisoned:
                self.poisoned.add(node)
            else:
                self._env[node] = self._of_node(source)[node.args[1]]  # type: ignore[arg-type, index]
                if self._env[node] is None and node.users:
                    self._fail(node, f"output {node.args[1]} of {source.target}", "this result is not available")  # type: ignore[union-attr]
            return
        if _is_size_arithmetic(node) or _vanishes(node):
            return
        poisoned = any(n in self.poisoned for n in node.all_input_nodes)
        if isinstance(target, torch._ops.HigherOrderOperator):
            self._higher_order(node, owner, poisoned)
            return
        name = str(target)
        root = self._roots.get(node)
        handler = HANDLERS.get(name if root is None else twin(target) or name)  # type: ignore[arg-type]
        handler = handler or custom.handler_of(target)
        if handler is None:
            if not poisoned and self._folded(node):
                return
            overload = target if isinstance(target, torch._ops.OpOverload) else None
            random = overload is not None and is_random(overload)
            self._fail(
                node, name if overload else "a transform of torch.func", "it draws random numbers" if random else ""
            )
        elif poisoned:
            self.poisoned.add(node)
        else:
            try:
                self._env[node] = self._checked(handler(self, **_arguments(self, node, handler)))
                if root is not None:  # every name of the tensor that was written to means the result from here on
                    self._env[root] = self._env.pop(node)
            except (Unsupported, PlanishError) as problem:
                if not self._folded(node):
                    self._fail(node, name, problem.message if isinstance(problem, PlanishError) else str(problem))

    def _higher_order(self, node: fx.Node, owner: fx.GraphModule, poisoned: bool) -> None:
        name = str(node.target)
        if name in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            at = next(i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")
            body = self._env[node.args[at]]  # type: ignore[index]
            holders = [n for n in body.graph.nodes if n.op == "placeholder"]
            for holder, argument in zip(holders, node.args[at + 1 :], strict=True):
                if argument in self.poisoned:
                    self.poisoned.add(holder)
                elif argument in self._tensors:
                    self._tensors[holder] = self._tensors[argument]  # type: ignore[index]
                else:
                    self._env[holder] = self.result(argument)
            outputs = self.walk(body.graph, body)
            self.node = node
            if any(isinstance(o, fx.Node) and o in self.poisoned for o in outputs):
                self.poisoned.add(node)
            else:
                self._env[node] = [self.result(o) for o in outputs]
        elif poisoned:
            self.poisoned.add(node)
        else:
            if name.startswith("auto_functionalized") and node.args:
                self._fail(node, str(node.args[0]), custom.WRITES)
                return
            what = {"cond": "a branch on data", "while_loop": "a loop on data"}.get(name, "this higher-order operation")
            self._fail(node, name, f"{what} cannot be captured")

    def _fail(self, node: fx.Node, op: str, why: str) -> None:
        self._path, self._location = module_path(node.meta), source_line(node.meta.get("stack_trace"))
        if not why or "element type" in why:
            why = peculiarity([n.meta.get("val") for n in (node, *node.all_input_nodes)]) or why
        self.failures.append(Failure(node.target, op, why, self._location, self._path))
        self.poisoned.add(node)

    def _of_node(self, node: fx.Node) -> Any:
        node = self._roots.get(node, node)
        if node in self._env:
            return self._env[node]
        if node in self._tensors:
            self._env[node] = self._constant(*self._tensors[node])
            return self._env[node]
        value = node.meta.get("val")
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._symbolic(value)
        if isinstance(value, (bool, int, float)):
            return value
        raise Unsupported(f"the value {node.name} is not available")

    def _symbolic(self, value: Any) -> Any:
        if isinstance(value, torch.SymInt):
            return self.symbols.dim(value)
        if isinstance(value, torch.SymFloat):
            return scalars.symbolic_float(self, value.node.expr)
        raise Unsupported("a condition on sizes is used as data")

    def _constant(self, name: str, tensor: torch.Tensor) -> Value:
        key = identity(tensor)
        found = self._constants.get(key)
        if found is None:
            array = to_numpy(tensor)
            found = self.graph.add_constant(array, name, dtype_of(tensor.dtype))
            self._constants[key] = found
            self._keep.append(tensor)
        return found

    def _checked(self, result: Any) -> Any:
        """Compare a result with what torch says of it: element type, rank and known sizes."""
        expected = self.node.meta.get("val")
        pairs = zip(result, expected, strict=False) if isinstance(expected, (list, tuple)) else [(result, expected)]
        for value, fake in pairs:
            if isinstance(value, Value) and isinstance(fake, torch.Tensor):
                for size, dim in zip(fake.shape, value.shape, strict=False):
                    self.symbols.learn(size, dim)
                theirs = (dtype_of(fake.dtype), self.symbols.shape(fake.shape))
                ours = (value.dtype, value.shape)
                sizes = zip(theirs[1], ours[1], strict=False)
                if theirs[0] != ours[0] or len(theirs[1]) != len(ours[1]) or any(
                    a != b and isinstance(a, int) and isinstance(b, int) for a, b in sizes
                ):  # fmt: skip
                    raise Unsupported(f"it gives {theirs[0].value}{list(theirs[1])} but was read as {value.type}")
        return result

    # -- what handlers call --------------------------------------------------------------------------------------------
    @property
    def op(self) -> str:
        """The name of the op at hand without namespace, overload and the underscore of an in-place spelling."""
        name = str(self.node.target).split(".")[1]
        return name.removesuffix("_") if not name.endswith("__") else name

    @property
    def fake(self) -> Any:
        """What torch says of the result at hand: a fake tensor or a list of them."""
        return self.node.meta["val"]

    @property
    def out_dtype(self) -> DType:
        """Element type of the result at hand.

        Raises:
            Unsupported: no counterpart.
        """
        fake = self.fake
        return dtype_of((fake[0] if isinstance(fake, (list, tuple)) else fake).dtype)

    @property
    def out_shape(self) -> tuple[Dim, ...]:
        """Shape of the result at hand, as torch sees it."""
        return self.symbols.shape(self.fake.shape)

    def operand(self, value: Value | Scalar, dtype: DType) -> Value:
        """A tensor or a number as an operand of the element type ``dtype``."""
        return self.cast(value, dtype) if isinstance(value, Value) else self.scalar(value, dtype)

    # -- constants that torch computes ---------------------------------------------------------------------------------
    def _folded(self, node: fx.Node) -> bool:
        """Let torch compute an op nobody can lower when all it reads is constant (an interpolated position table)."""
        try:
            tensor = self.concrete(node)
        except Unsupported:
            return False
        self._env[node] = (
            [self._constant(f"folded.{node.name}.{i}", t) for i, t in enumerate(tensor)]
            if isinstance(tensor, (list, tuple))
            else self._constant(f"folded.{node.name}", tensor)
        )
        return True

    def concrete(self, argument: Any) -> Any:
        """The data an fx argument has whatever the inputs are.

        Raises:
            Unsupported: it depends on an input, on a varying size or on chance.
        """
        if isinstance(argument, (list, tuple)):
            return [self.concrete(a) for a in argument]
        if isinstance(argument, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise Unsupported("a size that varies")
        if not isinstance(argument, fx.Node):
            return argument
        if argument in self._roots or argument in self._written:
            raise Unsupported("it is written to")
        if argument in self._tensors:
            return self._tensors[argument][1].detach()
        value = argument.meta.get("val")
        if isinstance(value, (bool, int, float)):
            return value
        known = self._env.get(argument)
        if isinstance(known, Value) and (data := self.array(known)) is not None:
            return to_torch(data, known.dtype)
        target = argument.target
        if target is operator.getitem:
            return self.concrete(argument.args[0])[argument.args[1]]  # type: ignore[index]
        if not isinstance(target, torch._ops.OpOverload) or is_random(target) or target._schema.is_mutable:
            raise Unsupported("not a constant")
        args = [self.concrete(a) for a in argument.args]
        kwargs = {k: self.concrete(v) for k, v in argument.kwargs.items()}
        result = target(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self._tensors[argument] = (f"folded.{argument.name}", result)
        return result


def is_random(target: torch._ops.OpOverload) -> bool:
    """Whether an op itself draws random numbers; a composite one (``lstm``) is made of others that say so."""
    seeded = torch.Tag.nondeterministic_seeded in target.tags
    return seeded and not torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")


def _is_size_arithmetic(node: fx.Node) -> bool:
    """Whether the node computes a size or a condition on sizes: its value is read from torch's own expression."""
    if not isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool, bool, int, float)):
        return False
    target = node.target
    if isinstance(target, torch._ops.HigherOrderOperator):
        return False
    if isinstance(target, torch._ops.OpOverload) and not target._schema.name.startswith("aten::sym_"):
        return not any(isinstance(n.meta.get("val"), torch.Tensor) for n in node.all_input_nodes)
    return True


def _vanishes(node: fx.Node) -> bool:
    target = node.target
    if target in (torch._C._set_grad_enabled, torch._check):
        return True
    return isinstance(target, torch._ops.OpOverload) and target._schema.name.startswith(VANISHING)


def _live(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that an output, or a tensor that is written to, depends on: a number that is read out of the data for the sake
    of an assertion alone need not be captured."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        target = node.target
        writes = isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
        calls = isinstance(target, torch._ops.HigherOrderOperator)
        if node.op != "call_function" or writes or calls or not node.users.keys().isdisjoint(live):
            live.add(node)
        if _vanishes(node):
            live.discard(node)
    return live


_PARAMETERS: dict[Handler, tuple[set[str], bool]] = {}


def _arguments(lowering: Lowering, node: fx.Node, handler: Handler) -> dict[str, Any]:
    """The arguments of ``node`` by the names of its schema, defaults left to the handler.

    Raises:
        Unsupported: an argument the handler does not know differs from its default.
    """
    if handler not in _PARAMETERS:
        parameters = list(inspect.signature(handler).parameters.values())[1:]
        _PARAMETERS[handler] = ({p.name for p in parameters}, any(p.kind is p.VAR_KEYWORD for p in parameters))
    known, anything = _PARAMETERS[handler]
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if position < len(node.args) and not argument.kwarg_only:
            given = node.args[position]
        elif argument.name in node.kwargs:
            given = node.kwargs[argument.name]
        elif argument.has_default_value():
            given = argument.default_value
        else:
            raise Unsupported(f"the argument {argument.name!r} is missing")
        if argument.name in known or anything:
            arguments[argument.name] = lowering.result(given)
        elif argument.name not in IGNORED and given != (
            argument.default_value if argument.has_default_value() else None
        ):
            raise Unsupported(f"the argument {argument.name}={given} is not supported")
    return arguments
