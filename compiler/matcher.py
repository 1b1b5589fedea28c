"""Lays a pattern over the nodes of a graph.

The matcher backtracks over alternatives and operand orders and remembers how far its best attempt came: the nearest miss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .graph import Graph, Node, Value
from .ops import schema
from .pattern import AnyOf, AttrVar, Maybe, Number, OpPattern, Output, Pattern, Rest, Var, children, heads, variables
from .types import DType, bf16_to_float

#: Relative distance at which a number in a pattern still is the constant in the graph: the rounding of its element type.
CONSTANT_TOLERANCE = {DType.f64: 1e-6, DType.f32: 1e-6, DType.f16: 1e-3, DType.bf16: 8e-3}
#: Ops that yield data and stay in place when a match reads them.
DATA_OPS = ("constant", "full", "arange")


def scalar(graph: Graph, value: Value | None) -> float | None:
    """The number that ``value`` holds: a constant with one element, or ``full`` with a number; else None."""
    if value is None or value.node is None:
        return None
    if value.node.op == "full":
        number = value.node.attrs["value"]
        return float(number) if isinstance(number, (bool, int, float)) else None
    array = graph.array(value)
    if array is None or array.size != 1:
        return None
    return float((bf16_to_float(array) if value.dtype is DType.bf16 else array).reshape(()))


@dataclass(frozen=True)
class Bindings:
    """What a match has found so far."""

    values: Mapping[str, Any] = field(default_factory=dict)
    nodes: Mapping[OpPattern, Node] = field(default_factory=dict)
    numbers: int = 0

    @property
    def depth(self) -> int:
        return len(self.nodes) + self.numbers

    def with_value(self, name: str, value: Any) -> Bindings:
        return replace(self, values={**self.values, name: value})

    def with_node(self, p: OpPattern, node: Node) -> Bindings:
        return replace(self, nodes={**self.nodes, p: node})


@dataclass(frozen=True)
class Miss:
    """The attempt of a rule that came furthest.

    Attributes:
        rule: its name.
        depth, total: how many parts of the pattern matched, of how many.
        node: where (name, op and source line), empty if no node came into question.
        expected, found: what did not fit; empty if everything fitted and ``reason`` says why the rule held back.
    """

    rule: str
    depth: int
    total: int
    node: str = ""
    expected: str = ""
    found: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if not self.node:
            return f"never fired: {self.reason}"
        if self.reason:
            return f"never fired; nearest at {self.node}: {self.reason}"
        return (
            f"never fired; nearest at {self.node}, {self.depth} of {self.total} parts fitted: "
            f"expected {self.expected}, found {self.found}"
        )


def place(node: Node) -> str:
    """A node as reports name it: module path, op, source line."""
    where = f"{node.name} ({node.op})" if node.name else f"{node.op} %{node.outputs[0].name}"
    return f"{where}, {node.location}" if node.location else where


def shown(graph: Graph, value: Value | None) -> str:
    """A value as reports show it."""
    if value is None:
        return "nothing"
    number = scalar(graph, value)
    if number is not None:
        return f"the constant {number:g}"
    if value.node is None:
        return f"the input %{value.name}"
    attrs = ", ".join(f"{k}={v}" for k, v in value.node.attrs.items() if v is not None and value.node.op != "constant")
    return f"%{value.name} = {value.node.op}" + (f" with {attrs}" if attrs else "")


class Matcher:
    """Lays the outputs ``roots`` of one rule's pattern over the nodes of a graph."""

    def __init__(self, rule: str, roots: tuple[Pattern, ...]) -> None:
        self.rule = rule
        self.roots = roots
        parts: dict[Pattern, None] = {}
        stack: list[Pattern] = list(roots)
        while stack:
            p = stack.pop()
            if p not in parts:
                parts[p] = None
                stack += children(p)
        self.total = sum(isinstance(p, (OpPattern, Number)) for p in parts)
        self._best: tuple[int, int, Node, Any, Any, str] | None = None

    # -- the nearest miss --------------------------------------------------------------------------------------------
    def miss(self, depth: int, node: Node, expected: object, found: object, reason: str = "") -> None:
        """Remember an attempt that failed; the deepest stays, among equals the one that met most nearly what it wanted."""
        if self._best is not None and depth < self._best[0]:
            return
        likeness = 0
        if isinstance(expected, Number) and isinstance(found, Value):
            likeness = 2 if found.node is not None and found.node.op in DATA_OPS else 0
        elif isinstance(expected, OpPattern) and isinstance(found, Value):
            likeness = 1 if found.node is not None and found.node.op not in DATA_OPS else 0
        if self._best is None or (depth, likeness) > self._best[:2]:
            self._best = (depth, likeness, node, expected, found, reason)

    def nearest(self, graph: Graph) -> Miss:
        """The nearest miss, in words."""
        if self._best is None:
            ops = sorted({op for head in heads(self.roots[0]) for op in head.ops})
            return Miss(self.rule, 0, self.total, reason=f"the graph has no {' or '.join(ops)}")
        depth, _, node, expected, found, reason = self._best
        text = found if isinstance(found, str) else shown(graph, found)
        return Miss(self.rule, min(depth, self.total), self.total, place(node), str(expected), text, reason)

    # -- matching ----------------------------------------------------------------------------------------------------
    def match(self, graph: Graph, head: OpPattern, node: Node) -> Iterator[tuple[Bindings, tuple[Value, ...]]]:
        """Every way to lay the pattern over ``node`` as its first root, with the values that the roots are."""
        for found in self._node(graph, head, node, Bindings()):
            first = self.roots[0].index if isinstance(self.roots[0], Output) else 0
            if first < len(node.outputs):
                yield from self._others(graph, found, (node.outputs[first],))

    def _others(
        self, graph: Graph, b: Bindings, done: tuple[Value, ...]
    ) -> Iterator[tuple[Bindings, tuple[Value, ...]]]:
        if len(done) == len(self.roots):
            yield b, done
            return
        root = self.roots[len(done)]
        index = root.index if isinstance(root, Output) else 0
        for head in heads(root):
            if head in b.nodes:
                value = b.nodes[head].outputs[index]
                if value not in done:
                    yield from self._others(graph, b, (*done, value))
                continue
            candidates = [n for n in self._candidates(head, b) if all(n is not v.node for v in done)]
            for node in candidates:
                for found in self._node(graph, head, node, b):
                    yield from self._others(graph, found, (*done, node.outputs[index]))
            if not candidates:
                last = done[-1].node
                assert last is not None
                self.miss(b.depth, last, f"{head} as output {len(done)} of the pattern", "none that shares a value")

    def _candidates(self, head: OpPattern, b: Bindings) -> list[Node]:
        """Nodes that could be ``head``, found by climbing from what the match has bound already."""
        path = _path(head, b)
        if path is None:
            return []
        values, climb = path
        nodes: dict[Node, None] = {}
        for p in climb:
            nodes = {u: None for v in values for u in v.users if u.op in p.ops}
            values = [v for n in nodes for v in n.outputs]
        return list(nodes)

    def _value(self, graph: Graph, p: Pattern, value: Value | None, b: Bindings, reader: Node) -> Iterator[Bindings]:
        match p:
            case Maybe(inner=inner):
                if value is not None:
                    yield from self._value(graph, inner, value, b, reader)
                else:
                    yield replace(b, values={**b.values, **dict.fromkeys(variables(inner) - set(b.values))})
                return
            case AnyOf(choices=choices):
                for choice in choices:
                    yield from self._value(graph, choice, value, b, reader)
                return
        if value is None:
            self.miss(b.depth, reader, p, value)
            return
        match p:
            case Var(name=name):
                if name not in b.values:
                    yield b.with_value(name, value)
                elif b.values[name] is value:
                    yield b
                else:
                    self.miss(b.depth, reader, f"{name} again", value)
            case Number(value=number):
                held = scalar(graph, value)
                if held is not None and _equal(number, held, value.dtype):
                    yield replace(b, numbers=b.numbers + 1)
                else:
                    self.miss(b.depth, reader, p, value)
            case OpPattern() | Output():
                head, index = (p.producer, p.index) if isinstance(p, Output) else (p, 0)
                node = value.node
                if (
                    node is None
                    or node.op not in head.ops
                    or index >= len(node.outputs)
                    or node.outputs[index] is not value
                ):
                    self.miss(b.depth, reader, p, value)
                else:
                    yield from self._node(graph, head, node, b)

    def _node(self, graph: Graph, p: OpPattern, node: Node, b: Bindings) -> Iterator[Bindings]:
        if p in b.nodes:
            if b.nodes[p] is node:
                yield b
            else:
                self.miss(b.depth, node, f"{p} once more", node.outputs[0])
            return
        b = b.with_node(p, node)
        for name, wanted in p.attrs.items():
            held = _from_end(name, node.attrs[name], node)
            if isinstance(wanted, AttrVar):
                if wanted.name in b.values and b.values[wanted.name] != held:
                    self.miss(b.depth, node, f"{name}={b.values[wanted.name]}", f"{name}={held}")
                    return
                b = b.with_value(wanted.name, held)
            elif not _fits(name, wanted, held, node):
                text = "another value" if callable(wanted) else wanted
                self.miss(b.depth, node, f"{p.ops[0]} with {name}={text}", f"{name}={held}")
                return
        yield from self._operands(graph, p, node, b)

    def _operands(self, graph: Graph, p: OpPattern, node: Node, b: Bindings) -> Iterator[Bindings]:
        patterns, inputs = p.inputs, list(node.inputs)
        if patterns and isinstance(patterns[-1], Rest):
            fixed = len(patterns) - 1
            b = b.with_value(patterns[-1].name, tuple(inputs[fixed:]))
            patterns, inputs = patterns[:-1], inputs[:fixed]
        inputs += [None] * (len(patterns) - len(inputs))
        extra = next((v for v in inputs[len(patterns) :] if v is not None), None)
        if extra is not None:
            self.miss(
                b.depth, node, f"{node.op} with {len(patterns)} operands", f"one more operand, {shown(graph, extra)}"
            )
            return
        orders = [patterns]
        if len(patterns) == 2 and schema(node.op).commutative:
            orders.append((patterns[1], patterns[0]))
        for order in orders:
            for found in self._sequence(graph, order, inputs, 0, b, node):
                if any(isinstance(q, Number) for q in order) and not _keeps_shape(order, node):
                    self.miss(found.depth, node, "a constant that does not widen the result", node.outputs[0])
                else:
                    yield found

    def _sequence(
        self, graph: Graph, patterns: tuple[Pattern, ...], inputs: list[Value | None], at: int, b: Bindings, node: Node
    ) -> Iterator[Bindings]:
        if at == len(patterns):
            yield b
            return
        for found in self._value(graph, patterns[at], inputs[at], b, node):
            yield from self._sequence(graph, patterns, inputs, at + 1, found, node)


def _path(head: OpPattern, b: Bindings) -> tuple[list[Value], list[OpPattern]] | None:
    """What is bound below ``head``, and the op patterns from there up to ``head``; the shortest such way."""
    best: tuple[list[Value], list[OpPattern]] | None = None

    def visit(p: Pattern, climb: list[OpPattern]) -> None:
        nonlocal best
        if best is not None and len(climb) >= len(best[1]):
            return
        if isinstance(p, Var) and isinstance(b.values.get(p.name), Value):
            best = ([b.values[p.name]], climb)
        elif isinstance(p, OpPattern) and p in b.nodes:
            best = (list(b.nodes[p].outputs), climb)
        else:
            for child in children(p):
                visit(child, [p, *climb] if isinstance(p, OpPattern) else climb)

    visit(head, [])
    return best


def _equal(wanted: float, held: float, dtype: DType) -> bool:
    if wanted == held or (math.isnan(wanted) and math.isnan(held)):
        return True
    return dtype.is_float and math.isclose(wanted, held, rel_tol=CONSTANT_TOLERANCE[dtype])


def _from_end(name: str, value: Any, node: Node) -> Any:
    """An attribute with axes counted from the end, so that one spelling matches (rank 4: axis 3 is -1)."""
    if name not in ("axis", "axes") or not node.inputs or node.inputs[0] is None:
        return value
    rank = node.inputs[0].type.rank
    if isinstance(value, (tuple, list)):
        return tuple(sorted(a - rank if isinstance(a, int) and a >= 0 else a for a in value))
    return value - rank if name == "axis" and isinstance(value, int) and value >= 0 else value


def _fits(name: str, wanted: Any, held: Any, node: Node) -> bool:
    if callable(wanted):
        return bool(wanted(held))
    if isinstance(wanted, (set, frozenset)):
        return any(_fits(name, w, held, node) for w in wanted)
    wanted = _from_end(name, tuple(wanted) if isinstance(wanted, list) else wanted, node)
    if isinstance(held, float) and isinstance(wanted, (int, float)):
        return wanted == held or math.isclose(wanted, held, rel_tol=1e-6)
    return bool(wanted == held)


def _keeps_shape(order: tuple[Pattern, ...], node: Node) -> bool:
    """Whether the result of an elementwise node has the shape of an operand that is no number."""
    if not schema(node.op).elementwise:
        return True
    others = [v for q, v in zip(order, node.inputs, strict=False) if not isinstance(q, Number) and v is not None]
    return not others or any(v.shape == node.outputs[0].shape for v in others)
