"""Structural equality of graphs: the same inputs, ops, attributes, types, data and wiring, whatever the values are called."""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from .graph import Graph, Node, Value
from .text_literals import print_attr


def same(a: Graph, b: Graph, *, names: bool = False, provenance: bool = False) -> bool:
    """Whether :func:`difference` finds none."""
    return difference(a, b, names=names, provenance=provenance) is None


def difference(a: Graph, b: Graph, *, names: bool = False, provenance: bool = False) -> str | None:
    """The first difference in words, or None.

    Args:
        a: "here" in the answer.
        b: "there".
        names: values, constants and graphs must be called the same as well.
        provenance: names, source lines and sources of the nodes count as well.
    """
    if names and a.name != b.name:
        return f"the graph is called {a.name!r} here, {b.name!r} there"
    if a.symbols != b.symbols:
        return f"symbols differ: {_symbols(a)} here, {_symbols(b)} there"
    twin: dict[Value, Value] = {}
    for kind, mine, theirs in (("input", a.inputs, b.inputs), ("state", a.states, b.states)):
        for i, (v, w) in enumerate(zip_longest(mine, theirs)):
            if v is None or w is None or (v.name, v.type) != (w.name, w.type):
                return (
                    f"{kind} {i} is {v if v is not None else 'missing'} here, {w if w is not None else 'missing'} there"
                )
            twin[v] = w
    for i, (n, m) in enumerate(zip_longest(a.nodes, b.nodes)):
        if n is None or m is None:
            return f"node {i} is {n if n is not None else 'missing'} here, {m if m is not None else 'missing'} there"
        why = _nodes(a, b, n, m, twin, names, provenance)
        if why is not None:
            return f"node {i} ({_call(n)}): {why}"
        twin.update(zip(n.outputs, m.outputs, strict=True))
    if [twin.get(v) for v in a.outputs] != list(b.outputs):
        return f"outputs are {_names(a.outputs)} here, {_names(b.outputs)} there"
    if names and set(a.constants) != set(b.constants):
        return f"constants differ: {sorted(set(a.constants) ^ set(b.constants))}"
    return None


def _nodes(a: Graph, b: Graph, n: Node, m: Node, twin: dict[Value, Value], names: bool, provenance: bool) -> str | None:
    if n.op != m.op:
        return f"{_call(n)} here, {_call(m)} there"
    if len(n.inputs) != len(m.inputs):
        return f"{len(n.inputs)} operands here, {len(m.inputs)} there"
    for i, (v, w) in enumerate(zip(n.inputs, m.inputs, strict=True)):
        if (v is None) != (w is None) or (v is not None and twin.get(v) is not w):
            return f"operand {i} is {_name(v)} here, {_name(w)} there"
    for name in (*n.attrs, *(k for k in m.attrs if k not in n.attrs)):
        if n.op == "constant" and name == "ref" and not names:
            continue
        if name not in n.attrs or name not in m.attrs:
            return f"only one has the attribute {name}"
        if print_attr(n.attrs[name]) != print_attr(m.attrs[name]):
            return f"{name} = {print_attr(n.attrs[name])} here, {print_attr(m.attrs[name])} there"
    if [v.type for v in n.outputs] != [w.type for w in m.outputs]:
        return f"results {[str(v.type) for v in n.outputs]} here, {[str(w.type) for w in m.outputs]} there"
    if names and [v.name for v in n.outputs] != [w.name for w in m.outputs]:
        return f"results are called {_names(n.outputs)} here, {_names(m.outputs)} there"
    if n.op == "constant":
        why = _data(a.constants.get(n.attrs["ref"]), b.constants.get(m.attrs["ref"]))
        if why is not None:
            return why
    if provenance:
        for what in ("name", "location", "sources"):
            if getattr(n, what) != getattr(m, what):
                return f"{what} is {getattr(n, what)!r} here, {getattr(m, what)!r} there"
    if len(n.regions) != len(m.regions):
        return f"{len(n.regions)} regions here, {len(m.regions)} there"
    for r, s in zip(n.regions, m.regions, strict=True):
        why = difference(r, s, names=names, provenance=provenance)
        if why is not None:
            return f"in the region: {why}"
    return None


def _data(x: np.ndarray | None, y: np.ndarray | None) -> str | None:
    if x is y:
        return None
    if x is None or y is None:
        return "only one has data"
    if (x.dtype, x.shape) != (y.dtype, y.shape):
        return f"data are {x.dtype}{list(x.shape)} here, {y.dtype}{list(y.shape)} there"
    if x.tobytes() != y.tobytes():
        flat_x, flat_y = x.reshape(-1), y.reshape(-1)
        at = next(i for i in range(x.size) if flat_x[i].tobytes() != flat_y[i].tobytes())
        return f"element {at} of the data is {flat_x[at]} here, {flat_y[at]} there"
    return None


def _call(node: Node) -> str:
    return f"{node.op}({', '.join(_name(v) for v in node.inputs)})"


def _name(value: Value | None) -> str:
    return "_" if value is None else f"%{value.name}"


def _names(values: list[Value]) -> str:
    return ", ".join(_name(v) for v in values) or "none"


def _symbols(graph: Graph) -> str:
    return ", ".join(f"{s.name} in [{s.lower}, {s.upper}]" for s in graph.symbols.values()) or "none"
