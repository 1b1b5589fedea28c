"""Decision units: the parts of a model that choose their precision together, and what each may choose from."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..compiler.errors import UsageError
from ..compiler.graph import Graph, Node, Value
from ..compiler.plan import Plan, Rule
from ..compiler.precision import Precision, expand, find_precision, kind_of
from ..compiler.target import Capabilities, Target
from ..compiler.types import DType
from ..passes.fusion import VIEWS

UnitKind = Literal["linear", "conv", "attention", "embedding"]

#: Products that an int32 sum of int8 products may have: 2**31 / 127**2.
MOST_INT8_PRODUCTS = (2**31 - 1) // (127 * 127)


@dataclass(frozen=True)
class Unit:
    """Nodes that decide together.

    Attributes:
        name: what reports call it: the source name, or what several have in common (``layer.0.query+key+value``); unique.
        kind: ``linear``, ``conv``, ``attention`` or ``embedding``.
        sources: names of the source model that it stands for: what a plan's rules say.
        parameters: elements of its constant weights and biases; 0 for attention.
        candidates: names of precisions, ``f32`` first; the pinned one alone where the user pinned it.
        refused: precision of the target -> why it is no candidate here.
        tied: names of the units that read the same stored weight (an output layer that shares the embedding's table). Each
            decides for itself: a linear's weight is packed for its kernel, and so stored apart from the table whatever
            the precisions are.
    """

    name: str
    kind: UnitKind
    sources: tuple[str, ...]
    parameters: int
    candidates: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    tied: tuple[str, ...] = ()


# -- finding -----------------------------------------------------------------------------------------------------------
def find_units(graph: Graph, target: Target | Capabilities, pins: Plan | None = None) -> list[Unit]:
    """The units of ``graph`` in execution order, each with its candidates on ``target``.

    Linears that read one value, directly or through views, decide together (one quantised input serves them all, and where
    they stand side by side they become one kernel); so do lookups in one table, and nodes that share a source name.

    Args:
        graph: the decision graph: the pipeline run up to, not including, ``quantize``; left alone.
        target: with its level filled in; or what it can do.
        pins: rules of the user; what one of them matches has no choice left. A pattern with a wildcard decides no embedding.

    Raises:
        UsageError: a pin asks for what the target or the layer cannot do.
    """
    capabilities = target.capabilities() if isinstance(target, Target) else target
    pins = pins or Plan()
    groups: dict[tuple, list[Node]] = defaultdict(list)
    pinned: dict[Node, Precision | None] = {}
    for node in graph.nodes:
        kind = _kind(graph, node)
        if kind is None:
            continue
        pinned[node] = _pin(node, kind, pins, capabilities)
        wanted = pinned[node]
        groups[kind, _shared(graph, node, kind), None if wanted is None else wanted.name].append(node)
    joined = _join(list(groups.items()))
    names = _names(joined)
    order = {node: i for i, node in enumerate(graph.nodes)}
    units = []
    for ((kind, *_), nodes), name in sorted(zip(joined, names, strict=True), key=lambda e: order[e[0][1][0]]):
        offered = _offered(capabilities, kind)
        refused = {p: why for p in offered if (why := _refusal(graph, nodes, kind, find_precision(p)))}
        pin = next((pinned[n] for n in nodes if pinned[n] is not None), None)
        if pin is not None:
            why = _refusal(graph, nodes, kind, pin)
            if why:
                raise UsageError(f"{name} cannot be {pin.name}: {why}", f"it can be {_listed(offered, refused)}")
            refused = {p: f"pinned to {pin.name}" for p in offered if p != pin.name}
            candidates: tuple[str, ...] = (pin.name,)
        else:
            candidates = tuple(p for p in offered if p not in refused)
        sources = tuple(dict.fromkeys(s for n in nodes for s in (n.sources or (n.name,))))
        units.append(Unit(name, kind, sources, _parameters(graph, nodes), candidates, refused))
    return _with_ties(graph, units)


def nodes_of(graph: Graph, unit: Unit) -> list[Node]:
    """The nodes of ``unit`` in execution order: those of its kind that stand for one of its sources."""
    sources = set(unit.sources)
    return [
        n for n in graph.nodes
        if not sources.isdisjoint(n.sources or (n.name,)) and _kind(graph, n) == unit.kind
    ]  # fmt: skip


def plan_of(units: Iterable[Unit], assignment: Mapping[str, str], pins: Plan | None = None) -> Plan:
    """The plan that gives every unit its precision: the pins as they are, then exact source names; the rest is f32.

    Args:
        units: what can be decided.
        assignment: name of a unit -> name of a precision; a unit that is missing is f32.
        pins: rules of the user, which stay in front.

    Raises:
        UsageError: a unit or a precision is unknown, or the precision is no candidate of the unit.
    """
    rules = list((pins or Plan()).rules)
    own = {rule.precision.name: rule.precision for rule in rules}
    units = list(units)
    unknown = sorted(set(assignment) - {u.name for u in units})
    if unknown:
        raise UsageError(f"there is no decision unit {unknown[0]!r}")
    for unit in units:
        chosen = assignment.get(unit.name, "f32")
        if unit.name in assignment and chosen not in unit.candidates:
            why = unit.refused.get(chosen, "it is none of its candidates")
            raise UsageError(f"{unit.name} cannot be {chosen}: {why}", f"it can be {', '.join(unit.candidates)}")
        precision = own.get(chosen) or find_precision(chosen)
        if chosen != "f32":
            rules += [Rule(glob.escape(source), precision) for source in unit.sources]
    return Plan(tuple(rules))


# -- what belongs together ---------------------------------------------------------------------------------------------
def _kind(graph: Graph, node: Node) -> UnitKind | None:
    match node.op:
        case "linear" | "conv" | "attention":
            return node.op  # type: ignore[return-value]
        case "embedding" | "gather":
            table = node.inputs[0]
            rows = node.op == "embedding" or node.attrs["axis"] == 0
            assert table is not None
            is_table = rows and table.type.rank == 2 and table.dtype.is_float and graph.array(table) is not None
            return "embedding" if is_table else None
    return None


def root(value: Value) -> Value:
    """The value that ``value`` is a view of, through any number of views."""
    while value.node is not None and value.node.op in VIEWS:
        source = value.node.inputs[0]
        assert source is not None
        value = source
    return value


def _shared(graph: Graph, node: Node, kind: UnitKind) -> object:
    """What nodes of one unit have in common: their input for linears, the table for lookups."""
    first = node.inputs[0]
    assert first is not None
    if kind == "linear":
        return root(first)
    if kind == "embedding":
        return id(graph.array(first))
    return node


def _join(groups: list[tuple[tuple, list[Node]]]) -> list[tuple[tuple, list[Node]]]:
    """Groups of one kind that share a source name made one: a rule of a plan could not tell them apart."""
    at: dict[tuple[str, str], int] = {}
    merged: dict[int, tuple[tuple, list[Node]]] = {}
    for i, (key, nodes) in enumerate(groups):
        names = {(key[0], s) for n in nodes for s in (n.sources or (n.name,))}
        others = sorted({at[name] for name in names if name in at})
        home = others[0] if others else i
        merged.setdefault(home, (key, []))[1].extend(nodes)
        for other in others[1:]:
            merged[home][1].extend(merged.pop(other)[1])
            at.update({name: home for name, where in at.items() if where == other})
        at.update(dict.fromkeys(names, home))
    return list(merged.values())


def _names(groups: Sequence[tuple[tuple, list[Node]]]) -> list[str]:
    taken: set[str] = set()
    found = []
    for (kind, *_), nodes in groups:
        names = list(dict.fromkeys(n.name or (n.sources[0] if n.sources else "") for n in nodes))
        name = _together(names) or kind
        count, unique = 1, name
        while unique in taken:
            count += 1
            unique = f"{name}#{count}"
        taken.add(unique)
        found.append(unique)
    return found


def _together(names: Sequence[str]) -> str:
    """One name for several: ``a.b.gate_proj`` and ``a.b.up_proj`` are ``a.b.gate_proj+up_proj``."""
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(p) > common + 1 for p in parts) and len({p[common] for p in parts}) == 1:
        common += 1
    tails = [".".join(p[common:]) for p in parts]
    return ".".join([*parts[0][:common], "+".join(tails[:3]) + ("+..." if len(tails) > 3 else "")])


def _with_ties(graph: Graph, units: list[Unit]) -> list[Unit]:
    readers: dict[int, list[str]] = defaultdict(list)
    stored: dict[str, list[int]] = {}
    for unit in units:
        arrays = {id(a) for n in nodes_of(graph, unit) if (a := graph.array(_weight(n, unit.kind))) is not None}
        stored[unit.name] = sorted(arrays)
        for array in arrays:
            readers[array].append(unit.name)
    tied = {u.name: tuple(dict.fromkeys(o for a in stored[u.name] for o in readers[a] if o != u.name)) for u in units}
    return [
        Unit(u.name, u.kind, u.sources, u.parameters, u.candidates, u.refused, tied[u.name]) if tied[u.name] else u
        for u in units
    ]


# -- what it may choose from -------------------------------------------------------------------------------------------
def _offered(capabilities: Capabilities, kind: UnitKind) -> tuple[str, ...]:
    listed = capabilities.of(kind)
    return ("f32", *(p for p in listed if p != "f32"))


def _listed(offered: Iterable[str], refused: Mapping[str, str]) -> str:
    return ", ".join(p for p in offered if p not in refused)


def _pin(node: Node, kind: UnitKind, pins: Plan, capabilities: Capabilities) -> Precision | None:
    """What the pins say about ``node``, a shorthand expanded by kind of op; None where they are silent."""
    for name in dict.fromkeys((node.name, *node.sources)):
        for rule in pins.rules:
            if rule.matches(name) and not (kind == "embedding" and glob.has_magic(rule.pattern)):
                return rule.precision if kind == "embedding" else expand(rule.precision, capabilities)[kind_of(node.op)]
    return None


def _weight(node: Node, kind: UnitKind) -> Value | None:
    """The operand that a weight scheme is about."""
    if kind == "attention":
        return None
    return node.inputs[0] if kind == "embedding" else node.inputs[1]


def _parameters(graph: Graph, nodes: Sequence[Node]) -> int:
    arrays = {id(a): a.size for n in nodes for v in n.operands if (a := graph.array(v)) is not None}
    return 0 if nodes[0].op == "attention" else sum(arrays.values())


def _refusal(graph: Graph, nodes: Sequence[Node], kind: UnitKind, precision: Precision) -> str | None:
    """Why ``nodes`` cannot be in ``precision``; None if they can."""
    if precision.name == "f32":
        return None
    for node in nodes:
        where = f" ({node.name})" if len(nodes) > 1 else ""
        narrow = next((v.dtype for v in node.operands[:2] if v.dtype.is_float and v.dtype is not DType.f32), None)
        if narrow is not None:
            return f"it computes in {narrow} already{where}"
        if precision.weight.is_float or kind == "attention":
            continue
        weight = _weight(node, kind)
        if graph.array(weight) is None:
            return f"its weight is computed at run time{where}"
        assert weight is not None
        depth = 1
        for d in weight.shape[1:]:
            depth *= int(d)  # a constant's shape is known
        group = precision.weight.group_size
        if group and depth % group:
            return f"groups of {group} do not divide its {depth} input channels{where}"
        if not precision.activation.is_float and not group and depth > MOST_INT8_PRODUCTS:
            return f"int32 cannot hold the sum of {depth} products of int8{where}"
    return None
