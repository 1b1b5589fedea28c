"""The IR: a graph of nodes in execution order, in single-assignment form.

``insert``, ``replace`` and ``erase`` are the only ways to change a graph; they keep the use lists right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dims import Bounds
from .types import DType, TensorType

Attrs = Mapping[str, Any]


class Value:
    """A tensor that flows along an edge: an input of the graph, a state, or one output of a node."""

    __slots__ = ("_users", "meta", "name", "node", "type")

    def __init__(self, name: str, type: TensorType, node: Node | None = None) -> None:
        self.name = name
        self.type = type
        self.node = node
        self._users: dict[Node, int] = {}
        self.meta: dict[str, Any] = {}

    @property
    def users(self) -> list[Node]:
        """The nodes that read this value, each once, in the order they first used it."""
        return list(self._users)

    @property
    def use_count(self) -> int:
        """How many operands of nodes this value fills."""
        return sum(self._users.values())

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple:
        return self.type.shape

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operation.

    Attributes:
        op: name of the op in the vocabulary (``compiler/ops.py``).
        inputs: operands; None for an optional one that is absent.
        outputs: results.
        attrs: attributes, validated by the op's schema.
        regions: graphs this node owns (the body of ``fused``).
        name: path of the module it came from, for plans and reports (``encoder.layer.0.output.dense``).
        location: source line of the model, ``file:line``; None if unknown.
        sources: names of all the source nodes merged into this one.
        meta: scratch space of passes; never serialised.
    """

    __slots__ = (
        "_graph", "_next", "_previous", "attrs", "inputs", "location", "meta", "name", "op", "outputs", "regions", "sources",
    )  # fmt: skip

    def __init__(
        self, op: str, inputs: Sequence[Value | None], attrs: Attrs, regions: Sequence[Graph], name: str,
        location: str | None, sources: Sequence[str],
    ) -> None:  # fmt: skip
        self.op = op
        self.inputs: list[Value | None] = list(inputs)
        self.outputs: list[Value] = []
        self.attrs: dict[str, Any] = dict(attrs)
        self.regions: tuple[Graph, ...] = tuple(regions)
        self.name = name
        self.location = location
        self.sources: tuple[str, ...] = tuple(sources) if sources else ((name,) if name else ())
        self.meta: dict[str, Any] = {}
        self._graph: Graph | None = None
        self._previous: Node | None = None
        self._next: Node | None = None

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    @property
    def operands(self) -> list[Value]:
        """The inputs that are present."""
        return [v for v in self.inputs if v is not None]

    def __repr__(self) -> str:
        return f"<{self.op} {self.name or '-'} -> {', '.join('%' + v.name for v in self.outputs)}>"


@dataclass(frozen=True)
class Symbol:
    """A dimension known only at run time, with inclusive bounds."""

    name: str
    lower: int
    upper: int


class Graph:
    """Inputs, outputs, states, constants and nodes in execution order.

    Attributes:
        inputs: values given by the caller.
        outputs: values handed back, in order; the same value may appear twice.
        states: read-write buffers that live across calls.
        symbols: run-time dimensions with their bounds, by name.
        constants: arrays by name; a ``constant`` node names one in its attribute ``ref``. bf16 is stored as uint16.
        meta: facts about the whole model (structure of the outputs, source hash). Scratch, except what ``capture`` documents.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.states: list[Value] = []
        self.symbols: dict[str, Symbol] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.meta: dict[str, Any] = {}
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._names: dict[str, int] = {}

    # -- reading ---------------------------------------------------------------------------------------------------
    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes in execution order; the node yielded last may be erased, and nodes inserted, while iterating."""
        node = self._first
        while node is not None:
            following = node._next
            yield node
            node = following if node._graph is None else node._next

    def __len__(self) -> int:
        return self._count

    @property
    def bounds(self) -> dict[str, Bounds]:
        """Bounds of every symbol, as ``dims.bounds`` takes them."""
        return {s.name: (s.lower, s.upper) for s in self.symbols.values()}

    def array(self, value: Value | None) -> np.ndarray | None:
        """The data of ``value`` if it is a constant of this graph, else None."""
        if value is None or value.node is None or value.node.op != "constant":
            return None
        return self.constants[value.node.attrs["ref"]]

    # -- building --------------------------------------------------------------------------------------------------
    def fresh_name(self, hint: str) -> str:
        """A value name not used before in this graph, as close to ``hint`` as can be."""
        hint = hint or "v"
        count = self._names.get(hint)
        self._names[hint] = 0 if count is None else count + 1
        return hint if count is None else self.fresh_name(f"{hint}_{count + 1}")

    def add_input(self, name: str, type: TensorType) -> Value:
        """Append an input of the graph."""
        value = Value(self.fresh_name(name), type)
        self.inputs.append(value)
        return value

    def add_state(self, name: str, type: TensorType) -> Value:
        """Append a read-write buffer."""
        value = Value(self.fresh_name(name), type)
        self.states.append(value)
        return value

    def add_constant(
        self, array: np.ndarray, name: str = "c", dtype: DType | None = None, before: Node | None = None
    ) -> Value:
        """Store ``array`` and insert the ``constant`` node that yields it.

        Args:
            array: data; ``uint16`` bits when ``dtype`` is bf16.
            name: stem of the stored name.
            dtype: element type; None reads it off the array.
            before: node to insert in front of; None appends.
        """
        array = np.asarray(array)  # keeps rank 0, unlike ascontiguousarray
        if not array.flags.c_contiguous:
            array = array.copy()
        ref, count = name, 0
        while ref in self.constants and self.constants[ref] is not array:
            count += 1
            ref = f"{name}.{count}"
        self.constants[ref] = array
        attrs = {"ref": ref, "dtype": dtype or DType.of(array), "shape": tuple(array.shape)}
        return self.insert("constant", [], attrs, before=before, hint=ref).output

    def insert(
        self, op: str, inputs: Sequence[Value | None], attrs: Attrs | None = None, *, regions: Sequence[Graph] = (),
        before: Node | None = None, name: str = "", location: str | None = None, sources: Sequence[str] = (), hint: str = "",
    ) -> Node:  # fmt: skip
        """Insert a node; the op's schema validates the attributes and infers the types of the outputs.

        Args:
            op: name of an op in the vocabulary.
            inputs: operands, None for an absent optional one.
            attrs: attributes.
            regions: graphs the node owns.
            before: node to insert in front of; None appends.
            name: source module path.
            location: source line.
            sources: names of the source nodes this one stands for.
            hint: stem of the names of the outputs.

        Raises:
            PassError: the op, an attribute or an operand type is not valid.
        """
        from .ops import infer, normalise  # the vocabulary builds on the graph's classes

        node = Node(op, inputs, {}, regions, name, location, sources)
        node.attrs = normalise(op, attrs or {})
        for type in infer(node):
            node.outputs.append(Value(self.fresh_name(hint or op), type, node))
        self._link(node, before)
        for value in node.operands:
            value._users[node] = value._users.get(node, 0) + 1
        return node

    def derive(
        self, node: Node, op: str, inputs: Sequence[Value | None], attrs: Attrs | None = None, *, hint: str = ""
    ) -> Value:
        """Insert an op with one output in front of ``node``, with its name, location and sources; returns the output."""
        new = self.insert(
            op, inputs, attrs, before=node, name=node.name, location=node.location, sources=node.sources, hint=hint
        )
        return new.output

    def _link(self, node: Node, before: Node | None) -> None:
        assert before is None or before._graph is self, "`before` is a node of another graph"
        previous = self._last if before is None else before._previous
        node._graph, node._previous, node._next = self, previous, before
        if previous is None:
            self._first = node
        else:
            previous._next = node
        if before is None:
            self._last = node
        else:
            before._previous = node
        self._count += 1

    def _unlink(self, node: Node) -> None:
        if node._previous is None:
            self._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            self._last = node._previous
        else:
            node._next._previous = node._previous
        node._graph = None
        self._count -= 1

    # -- changing --------------------------------------------------------------------------------------------------
    def replace(self, old: Value, new: Value, *, only: Iterable[Node] | None = None) -> None:
        """Make every reader of ``old`` read ``new``; with ``only``, these nodes alone (then outputs stay as they are)."""
        if old is new:
            return
        for node in list(old._users) if only is None else list(only):
            count = old._users.pop(node, 0)
            if count:
                node.inputs = [new if v is old else v for v in node.inputs]
                new._users[node] = new._users.get(node, 0) + count
        if only is None:
            self.outputs = [new if v is old else v for v in self.outputs]

    def erase(self, node: Node) -> None:
        """Remove a node none of whose outputs is used.

        Raises:
            ValueError: an output still has a reader or is an output of the graph.
        """
        for value in node.outputs:
            if value._users or value in self.outputs:
                raise ValueError(f"%{value.name} is still used; {node!r} cannot be erased")
        for value in node.operands:
            value._users.pop(node, None)
        self._unlink(node)

    def move(self, node: Node, before: Node | None) -> None:
        """Move a node in front of another (None: to the end). The caller keeps definitions before uses."""
        if before is node:
            return
        self._unlink(node)
        self._link(node, before)

    def sweep(self) -> int:
        """Erase every node whose outputs nobody reads, and the constants nobody names; returns how many nodes went."""
        gone, outputs = 0, set(self.outputs)
        node = self._last
        while node is not None:
            previous = node._previous
            if not any(v._users or v in outputs for v in node.outputs):
                self.erase(node)
                gone += 1
            node = previous
        named = {n.attrs["ref"] for n in self.nodes if n.op == "constant"}
        for ref in [r for r in self.constants if r not in named]:
            del self.constants[ref]
        return gone

    def copy(self) -> Graph:
        """A deep copy of the structure; arrays are shared (they are never written)."""
        other = Graph(self.name)
        env: dict[Value, Value] = {}
        for value in self.inputs:
            env[value] = other.add_input(value.name, value.type)
        for value in self.states:
            env[value] = other.add_state(value.name, value.type)
        other.symbols, other.constants, other.meta = dict(self.symbols), dict(self.constants), dict(self.meta)
        for node in self.nodes:
            twin = other.insert(
                node.op, [None if v is None else env[v] for v in node.inputs], node.attrs,
                regions=[r.copy() for r in node.regions], name=node.name, location=node.location, sources=node.sources,
            )  # fmt: skip
            for mine, theirs in zip(node.outputs, twin.outputs, strict=True):
                theirs.name, theirs.type = mine.name, mine.type
                env[mine] = theirs
        other._names = dict(self._names)
        other.outputs = [env[v] for v in self.outputs]
        return other
