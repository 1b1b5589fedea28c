"""Rewrite rules: a pattern, a check that gives its reason, a rewrite; applied to a fixed point with a nearest-miss trace.

A rule is a pass of its own, so it goes wherever a pass goes. ::

    class QuickGelu(RewriteRule):
        name = "quick-gelu"

        def pattern(self, op, x):
            return op.mul(x, op.sigmoid(op.mul(x, 1.702)))

        def check(self, m):
            return None if m.x.dtype in floats else "only floats"

        def rewrite(self, op, m):
            return op.gelu(m.x, approximate="quick")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .errors import PassError, PlanishError
from .graph import Attrs, Graph, Node, Value
from .matcher import DATA_OPS, Bindings, Matcher, Miss, place, scalar
from .pass_protocol import Note, PassContext, PassResult
from .pattern import Number, Pattern, PatternOps, Var, heads, variables
from .types import DType, float_to_bf16

__all__ = ["Builder", "Match", "Miss", "Result", "RewriteRule", "RuleSet", "apply_rules"]

#: How often the whole graph is gone over before rules that still fire are taken for endless.
MAX_ROUNDS = 64


class Match:
    """What a pattern was laid over. A variable of the pattern is an attribute: ``m.x`` (a Value; None if it was optional
    and absent; the attribute itself if it was captured with ``op.attr``).

    Attributes:
        graph: the graph.
        root: the node of the pattern's first output.
        outputs: the values that the pattern's outputs are.
        nodes: every matched node, the roots first.
    """

    def __init__(self, graph: Graph, bindings: Bindings, outputs: tuple[Value, ...]) -> None:
        self.graph = graph
        self.outputs = outputs
        self._bindings = bindings
        root = outputs[0].node
        assert root is not None
        self.root: Node = root
        self.nodes: tuple[Node, ...] = tuple(dict.fromkeys(bindings.nodes.values()))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        """The variable or captured attribute ``name``.

        Raises:
            PassError: the pattern has no such name.
        """
        try:
            return self._bindings.values[name]
        except KeyError:
            there = ", ".join(sorted(self._bindings.values)) or "none"
            raise PassError(f"the pattern has no variable {name!r}", f"it has {there}") from None

    def node(self, name: str) -> Node:
        """The node labelled with ``.named(name)``, else the only matched node of the op ``name``.

        Raises:
            PassError: no such node in this match, or several.
        """
        labelled = [n for p, n in self._bindings.nodes.items() if p.label == name]
        found = list(dict.fromkeys(labelled or [n for n in self.nodes if n.op == name]))
        if len(found) != 1:
            raise PassError(f"the match has {len(found)} nodes {name!r}", "label the one meant with .named(...)")
        return found[0]

    def has(self, name: str) -> bool:
        """Whether a node labelled ``name`` took part (an alternative may have been used instead)."""
        return any(p.label == name for p in self._bindings.nodes)

    def array(self, name: str) -> np.ndarray | None:
        """The data of the variable ``name`` if it is a constant (bf16 as uint16), else None."""
        return self.graph.array(self[name])

    def scalar(self, name: str) -> float | None:
        """The number that the variable ``name`` holds, if it is a constant of one element or ``full``; else None."""
        return scalar(self.graph, self[name])


class Builder:
    """``op`` inside ``rewrite``: ``op.gelu(x, approximate="quick")`` inserts a node in the place of the match and returns
    its output (a tuple of several). A number becomes a constant of the last operand's type, an array a constant. Name,
    source line and sources are those of the match."""

    def __init__(
        self,
        graph: Graph,
        before: Node | None,
        name: str = "",
        location: str | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        self.graph = graph
        self.inserted: list[Node] = []
        self._before = before
        self._name = name
        self._location = location
        self._sources = tuple(sources)

    def constant(self, data: Any, name: str = "c", dtype: DType | None = None) -> Value:
        """A constant of the graph (bf16 data as uint16 bits with ``dtype`` given)."""
        value = self.graph.add_constant(np.asarray(data), name, dtype, before=self._before)
        assert value.node is not None
        self.inserted.append(value.node)
        return value

    def number(self, value: float, dtype: DType) -> Value:
        """A constant of rank 0.

        Raises:
            PassError: ``dtype`` cannot hold the value.
        """
        if dtype is DType.bf16:
            return self.constant(float_to_bf16(np.asarray(value, np.float32)), dtype=dtype)
        with np.errstate(over="ignore"):
            array = np.asarray(value).astype(dtype.numpy)
        if not dtype.is_float and array != value:
            raise PassError(f"{value!r} is no {dtype}")
        return self.constant(array)

    def insert(self, op: str, inputs: Sequence[Any], attrs: Attrs | None = None, regions: Sequence[Graph] = ()) -> Node:
        """Insert a node whose op is computed; returns the node."""
        typed = [v for v in inputs if isinstance(v, Value)]
        lifted: list[Value | None] = []
        for given in inputs:
            if given is None or isinstance(given, Value):
                lifted.append(given)
            elif isinstance(given, np.ndarray):
                lifted.append(self.constant(given))
            elif isinstance(given, (bool, int, float)) and typed:
                lifted.append(self.number(given, typed[-1].dtype))
            else:
                raise PassError(f"{op}: {given!r} is no operand", "operands are values, numbers, arrays or None")
        node = self.graph.insert(
            op, lifted, attrs, regions=regions, before=self._before,
            name=self._name, location=self._location, sources=self._sources,
        )  # fmt: skip
        self.inserted.append(node)
        return node

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*inputs: Any, **attrs: Any) -> Any:
            node = self.insert(name, inputs, attrs)
            return node.outputs[0] if len(node.outputs) == 1 else tuple(node.outputs)

        return call


class RewriteRule:
    """A local change: where ``pattern`` fits and ``check`` has no objection, ``rewrite`` gives the replacement.

    Interior values of the match must have no other reader and be no output of the graph (``.shared()`` in the pattern
    lifts that for a node, which then stays). A subclass may be a frozen dataclass: its fields are its options.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def pattern(self, op: Any, *variables: Any) -> Any:
        """The pattern, traced once: ``op.mul(x, op.sigmoid(x))``; a tuple for several outputs.

        Each parameter behind ``op`` is a variable. See :class:`~planish.compiler.pattern.PatternOps`.
        """
        raise NotImplementedError(f"rule {self.name!r} has no pattern")

    def check(self, m: Any) -> str | None:
        """None if the rule may fire, else the reason why not."""
        return None

    def rewrite(self, op: Any, m: Any) -> Any:
        """Build the replacement with ``op`` (:class:`Builder`); returns one value per output of the pattern, of its type."""
        raise NotImplementedError(f"rule {self.name!r} has no rewrite")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Apply this rule alone, to a fixed point."""
        return apply_rules(graph, [self], context).as_pass_result()


@dataclass(frozen=True)
class RuleSet:
    """Rules that run together to one fixed point, as a pass."""

    rules: tuple[RewriteRule, ...]

    @property
    def name(self) -> str:
        return "+".join(r.name for r in self.rules)

    @property
    def version(self) -> int:
        return sum(r.version for r in self.rules)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Apply the rules to a fixed point."""
        return apply_rules(graph, self.rules, context).as_pass_result()


@dataclass(frozen=True)
class Result:
    """How often each rule fired, and the nearest miss of each that never did."""

    fired: dict[str, int]
    misses: dict[str, Miss]

    def as_pass_result(self) -> PassResult:
        """As a pass reports it."""
        notes = [Note(f"{rule} fired {count} times" if count > 1 else f"{rule} fired once")
                 for rule, count in self.fired.items() if count]  # fmt: skip
        notes += [Note(f"{rule} {miss}", "miss") for rule, miss in self.misses.items()]
        return PassResult(any(self.fired.values()), tuple(notes))


def apply_rules(graph: Graph, rules: Iterable[RewriteRule], context: PassContext | None = None) -> Result:
    """Apply ``rules`` to ``graph`` until none fires; earlier rules go first where several fit the same node.

    Each round looks at every node once, and only at the rules whose pattern ends in its op.

    Raises:
        PassError: a rule is wrong (its check returns something else than None or a reason, its rewrite gives a value of
            another type, it never stops firing); names the rule and the node.
    """
    context = context if context is not None else PassContext()
    compiled = [_Compiled(rule) for rule in rules]
    buckets: dict[str, list[tuple[_Compiled, Any]]] = {}
    for rule in compiled:
        for head in heads(rule.matcher.roots[0]):
            for op in head.ops:
                buckets.setdefault(op, []).append((rule, head))
    fired = {rule.name: 0 for rule in compiled}
    if len(fired) != len(compiled):
        names = [rule.name for rule in compiled]
        raise PassError(f"two rules are called {next(n for n in names if names.count(n) > 1)!r}")
    changed = set(fired)
    for _ in range(MAX_ROUNDS):
        changed = set()
        for node in list(graph.nodes):
            for rule, head in buckets.get(node.op, ()):
                if node._graph is not graph:
                    break  # gone with an earlier match
                context.at(node)
                if rule.fire(graph, head, node):
                    fired[rule.name] += 1
                    changed.add(rule.name)
        if not changed:
            break
    else:
        raise PassError(
            f"rules {', '.join(sorted(changed))} still fire after {MAX_ROUNDS} rounds",
            "a rewrite that yields what its pattern matches never ends",
        )
    context.at(None)
    # told before the sweep: a miss may name a constant that only what was rewritten had read
    misses = {r.name: r.matcher.nearest(graph) for r in compiled if not fired[r.name]}
    if any(fired.values()):
        graph.sweep()
    return Result(fired, misses)


class _Compiled:
    """A rule with its pattern traced."""

    def __init__(self, rule: RewriteRule) -> None:
        self.rule = rule
        self.name = rule.name
        self.matcher = Matcher(rule.name, _trace(rule))

    def fire(self, graph: Graph, head: Any, node: Node) -> bool:
        """Rewrite at ``node`` if the rule fits there."""
        for bindings, outputs in self.matcher.match(graph, head, node):
            objection = _blocked(graph, bindings, outputs)
            if objection is not None:
                self.matcher.miss(self.matcher.total + 1, node, "", "", objection)
                continue
            m = Match(graph, bindings, outputs)
            reason = self._ask("check", node, self.rule.check, m)
            if reason is None:
                self._rewrite(graph, m)
                return True
            if not isinstance(reason, str):
                raise PassError(
                    f"rule {self.name!r}: check returned {reason!r} at {place(node)}",
                    "it must return None, or the reason why not as a string",
                )
            self.matcher.miss(self.matcher.total + 2, node, "", "", reason)
        return False

    def _ask(self, what: str, node: Node, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except PlanishError as error:
            raise PassError(f"rule {self.name!r}, {what} at {place(node)}: {error.message}", error.hint) from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise PassError(f"rule {self.name!r}, {what} at {place(node)}: {reason}") from error

    def _rewrite(self, graph: Graph, m: Match) -> None:
        gone = [n for p, n in m._bindings.nodes.items() if not p.kept and n.op not in DATA_OPS]
        sources = dict.fromkeys(s for n in reversed(gone) for s in n.sources)
        named = next((n for n in gone if n.name), m.root)
        located = next((n for n in gone if n.location), m.root)
        before = m.root
        if len(m.outputs) > 1:
            before = _hoist(graph, m)
        builder = Builder(graph, before, named.name, located.location, tuple(sources))
        given = self._ask("rewrite", m.root, self.rule.rewrite, builder, m)
        new = given if isinstance(given, tuple) else (given,)
        if len(new) != len(m.outputs) or not all(isinstance(v, Value) for v in new):
            raise PassError(
                f"rule {self.name!r}: rewrite returned {given!r} at {place(m.root)}",
                f"it must return {'a value' if len(m.outputs) == 1 else f'{len(m.outputs)} values'}",
            )
        for old, fresh in zip(m.outputs, new, strict=True):
            if fresh.type != old.type:
                raise PassError(
                    f"rule {self.name!r}: rewrite gives {fresh.type} for {old.type} at {place(m.root)}",
                    "a rewrite must keep the type; cast or reshape the result",
                )
            if any(old in n.inputs for n in builder.inserted) and fresh is not old:
                raise PassError(f"rule {self.name!r}: rewrite reads the value that it replaces at {place(m.root)}")
        for old, fresh in zip(m.outputs, new, strict=True):
            graph.replace(old, fresh)
        while True:
            dead = [
                n for n in gone if n._graph is graph and not any(v.use_count or v in graph.outputs for v in n.outputs)
            ]
            if not dead:
                return
            for n in dead:
                graph.erase(n)


def _trace(rule: RewriteRule) -> tuple[Pattern, ...]:
    """The outputs of the rule's pattern.

    Raises:
        PassError: the pattern is no pattern.
    """
    parameters = list(inspect.signature(rule.pattern).parameters.values())[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise PassError(f"rule {rule.name!r}: the variables of the pattern must be named parameters")
    names = [p.name for p in parameters]
    try:
        traced = rule.pattern(PatternOps(), **{name: Var(name) for name in names})
    except PassError as error:
        raise PassError(f"rule {rule.name!r}: {error.message}", error.hint) from error
    roots = traced if isinstance(traced, tuple) else (traced,)
    if not roots or not all(isinstance(r, Pattern) for r in roots):
        raise PassError(f"rule {rule.name!r}: pattern returned {traced!r}", "it must return what op.<name>(...) gives")
    if any(isinstance(r, (Var, Number)) or not heads(r) for r in roots):
        raise PassError(f"rule {rule.name!r}: a pattern must end in an op")
    unused = [n for n in names if n not in set().union(*(variables(r) for r in roots))]
    if unused:
        raise PassError(f"rule {rule.name!r}: the pattern does not use its variable {unused[0]!r}")
    return roots


def _blocked(graph: Graph, b: Bindings, outputs: tuple[Value, ...]) -> str | None:
    """Why the matched nodes cannot be taken out of the graph, or None."""
    gone = {n for p, n in b.nodes.items() if not p.kept and n.op not in DATA_OPS}
    for node in gone:
        for value in node.outputs:
            if value in outputs:
                continue
            outside = next((u for u in value.users if u not in gone), None)
            if outside is not None:
                return f"%{value.name} ({node.op}) is also read by {place(outside)}"
            if value in graph.outputs:
                return f"%{value.name} ({node.op}) is an output of the graph"
    if len(outputs) > 1:
        roots = {v.node for v in outputs}
        inputs = [v for n in gone for v in n.operands if v.node not in gone]
        for value in _ancestors(inputs):
            if value.node in roots:
                return f"%{value.name} feeds another output of the pattern"
    return None


def _ancestors(values: Sequence[Value]) -> Iterator[Value]:
    seen: set[Value] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            yield value
            stack += value.node.operands if value.node is not None else []


def _hoist(graph: Graph, m: Match) -> Node:
    """Make room for a replacement of several outputs: the first root in order, with everything the match reads in front."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    roots = [v.node for v in m.outputs if v.node is not None]
    first = min(roots, key=order.__getitem__)
    matched = set(m.nodes)
    late = [v.node for v in _ancestors([v for n in matched for v in n.operands])
            if v.node is not None and order[v.node] > order[first]]  # fmt: skip
    for node in sorted(set(late), key=order.__getitem__):
        graph.move(node, first)
    return first
