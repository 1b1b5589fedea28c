"""Chains of reshapes and transposes, shortened: at most one transpose between two reshapes says what any chain says.

A chain only permutes the *atoms* of its source: the source's axes, split wherever a reshape on the way splits them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..compiler.dims import Dim, divide_exactly, product
from ..compiler.graph import Graph, Node, Value

_LONGEST = 8


@dataclass(eq=False)
class Atom:
    """A part of an axis of the source; it may come to be split further."""

    size: Dim
    parts: list[Atom] = field(default_factory=list)

    def leaves(self) -> list[Atom]:
        return [leaf for p in self.parts for leaf in p.leaves()] if self.parts else [self]


def aligned(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[range, range]] | None:
    """Which neighbouring axes of ``source`` make which of ``target``, in order; None if they do not."""
    i = j = 0
    groups: list[tuple[range, range]] = []
    while i < len(source) or j < len(target):
        begin, first = i, j
        have: Dim = source[i] if i < len(source) else 1
        want: Dim = target[j] if j < len(target) else 1
        i, j = min(i + 1, len(source)), min(j + 1, len(target))
        while have != want:
            if i < len(source) and divide_exactly(want, have) is not None:
                have, i = have * source[i], i + 1
            elif j < len(target):
                want, j = want * target[j], j + 1
            elif i < len(source):
                have, i = have * source[i], i + 1
            else:
                return None
        groups.append((range(begin, i), range(first, j)))
    return groups


def shortened(graph: Graph, node: Node) -> Value | None:
    """The chain that ends in ``node`` in fewer nodes; None if it is as short as can be."""
    chain = [node]
    while len(chain) < _LONGEST:
        source = chain[-1].inputs[0]
        if source is None or source.node is None or source.node.op not in ("reshape", "transpose"):
            break
        chain.append(source.node)
    for length in range(len(chain), 2, -1):
        source = chain[length - 1].inputs[0]
        assert source is not None
        steps = _normal_form(source, chain[length - 1 :: -1])
        if steps is None or len(steps) >= length:
            continue
        value = source
        for op, attrs in steps:
            value = graph.derive(node, op, [value], attrs, hint=node.output.name)
        return value
    return None


def _normal_form(source: Value, chain: Sequence[Node]) -> list[tuple[str, dict[str, tuple[Dim, ...]]]] | None:
    """(op, attributes) of reshape, transpose, reshape, without those that change nothing; None if no such form was found."""
    roots = [Atom(d) for d in source.shape]
    groups: list[list[Atom]] = [[a] for a in roots]
    for node in chain:
        if node.op == "transpose":
            groups = [groups[p] for p in node.attrs["perm"]]
            continue
        regrouped = _regrouped([a for g in groups for a in g], node.output.shape)
        if regrouped is None:
            return None
        groups = regrouped
    order = [leaf for root in roots for leaf in root.leaves() if leaf.size != 1]
    place = {atom: i for i, atom in enumerate(order)}
    runs: list[list[Atom]] = []
    for group in groups:
        last: Atom | None = None
        for atom in (leaf for a in group for leaf in a.leaves() if leaf.size != 1):
            if last is not None and place[atom] == place[last] + 1:
                runs[-1].append(atom)
            else:
                runs.append([atom])
            last = atom
    by_source = sorted(range(len(runs)), key=lambda r: place[runs[r][0]])
    sizes = tuple(product(a.size for a in runs[r]) for r in by_source)
    final = chain[-1].output.shape
    if by_source == list(range(len(runs))):
        return [("reshape", {"shape": final})]
    perm = tuple(by_source.index(r) for r in range(len(runs)))
    steps: list[tuple[str, dict[str, tuple[Dim, ...]]]] = []
    if sizes != source.shape:
        steps.append(("reshape", {"shape": sizes}))
    steps.append(("transpose", {"perm": perm}))
    if tuple(sizes[p] for p in perm) != final:
        steps.append(("reshape", {"shape": final}))
    return steps


def _regrouped(atoms: list[Atom], shape: Sequence[Dim]) -> list[list[Atom]] | None:
    """``atoms``, split where needed, as the axes ``shape``."""
    waiting = [leaf for a in atoms for leaf in a.leaves() if leaf.size != 1][::-1]
    groups: list[list[Atom]] = []
    for want in shape:
        group: list[Atom] = []
        while want != 1:
            if not waiting:
                return None
            atom = waiting.pop()
            rest = divide_exactly(want, atom.size)
            if rest is not None and atom.size != 0:
                group.append(atom)
                want = rest
                continue
            inner = divide_exactly(atom.size, want) if want != 0 else None
            if inner is None:
                return None
            atom.parts = [Atom(want), Atom(inner)]
            group.append(atom.parts[0])
            waiting.append(atom.parts[1])
            want = 1
        groups.append(group)
    return groups if not waiting else None


def raised_slice(graph: Graph, node: Node) -> Value | None:
    """A slice of a reshaped or transposed value as a view of a slice of the value itself (not along the last axis)."""
    x, attrs = node.inputs[0], node.attrs
    assert x is not None
    axis, inner = attrs["axis"] % x.type.rank, x.node
    if inner is None or axis == x.type.rank - 1 or inner.op not in ("transpose", "reshape") or inner.inputs[0] is None:
        return None
    source = inner.inputs[0]
    if inner.op == "transpose":
        perm = inner.attrs["perm"]
        part = graph.derive(node, "slice", [source], {**attrs, "axis": perm[axis]}, hint=node.output.name)
        return graph.derive(node, "transpose", [part], {"perm": perm}, hint=node.output.name)
    group = next((g for g in aligned(source.shape, x.shape) or [] if axis in g[1]), None)
    if group is None or len(group[0]) != 1 or attrs["step"] != 1 or any(x.shape[i] != 1 for i in group[1] if i < axis):
        return None
    behind = product(x.shape[i] for i in group[1] if i > axis)
    whole = {"axis": group[0][0], "start": attrs["start"] * behind, "end": attrs["end"] * behind}
    part = graph.derive(node, "slice", [source], whole, hint=node.output.name)
    return graph.derive(node, "reshape", [part], {"shape": node.output.shape}, hint=node.output.name)


def turned_linear(graph: Graph, node: Node) -> Value | None:
    """linear(transpose(x)) as transpose(linear(x)) where the transpose leaves the last axis alone."""
    x = node.inputs[0]
    assert x is not None
    turn = x.node
    if turn is None or turn.op != "transpose" or turn.attrs["perm"][-1] != x.type.rank - 1 or turn.inputs[0] is None:
        return None
    linear = graph.insert(
        "linear", [turn.inputs[0], *node.inputs[1:]], node.attrs, before=node, name=node.name, location=node.location,
        sources=node.sources, hint=node.output.name,
    ).output  # fmt: skip
    return graph.derive(node, "transpose", [linear], turn.attrs)


def raised_transpose(graph: Graph, node: Node) -> Value | None:
    """transpose(linear(x)) as linear(transpose(x)) where x is a transpose itself, seen through a reshape: the two may cancel."""
    x, perm = node.inputs[0], node.attrs["perm"]
    assert x is not None
    linear = x.node
    if linear is None or linear.op != "linear" or x.use_count != 1 or x in graph.outputs or perm[-1] != len(perm) - 1:
        return None
    rows = linear.inputs[0]
    assert rows is not None
    chain: list[Node] = []
    value: Value | None = rows
    while value is not None and value.node is not None and value.node.op in ("reshape", "transpose"):
        chain.append(value.node)
        value = value.node.inputs[0]
    if value is None or len(chain) < 2 or chain[0].op != "reshape" or not any(n.op == "transpose" for n in chain):
        return None
    turned = graph.derive(node, "transpose", [rows], {"perm": perm})
    assert turned.node is not None
    steps = _normal_form(value, [*reversed(chain), turned.node])
    if steps is None or len(steps) > len(chain) or steps[-1][0] == "transpose":
        graph.erase(turned.node)
        return None
    return graph.insert(
        "linear", [turned, *linear.inputs[1:]], linear.attrs, before=node, name=linear.name, location=linear.location,
        sources=linear.sources, hint=node.output.name,
    ).output  # fmt: skip


def sunk_norm(graph: Graph, node: Node) -> Value | None:
    """norm(reshape(x)) as reshape(norm(x)) where the reshape only folds or splits rows."""
    x = node.inputs[0]
    assert x is not None
    if x.node is None or x.node.op != "reshape" or node.attrs.get("axes", 1) != 1:
        return None
    source = x.node.inputs[0]
    assert source is not None
    if source.type.rank <= x.type.rank or source.shape[-1:] != x.shape[-1:]:
        return None
    y = graph.derive(node, node.op, [source, *node.inputs[1:]], node.attrs)
    return graph.derive(node, "reshape", [y], {"shape": node.output.shape})


def sunk_fold(graph: Graph, node: Node) -> Value | None:
    """add(fold(x), fold(y)) as fold(add(x, y)), for any binary op: the residual stream keeps one shape.

    An operand may also be one row, or one number.
    """
    sources = [
        v.node.inputs[0] if v.node is not None and v.node.op == "reshape" and v.shape == node.output.shape else None
        for v in node.operands
    ]
    wide = next((s for s in sources if s is not None), None)
    if wide is None or wide.type.rank <= node.output.type.rank or wide.shape[-1:] != node.output.shape[-1:]:
        return None
    inputs: list[Value | None] = []
    for v, source in zip(node.operands, sources, strict=True):
        if source is not None and source.shape == wide.shape:
            inputs.append(source)
        elif v.type.rank <= 1:
            inputs.append(v)
        else:
            return None
    y = graph.derive(node, node.op, inputs, node.attrs)
    return graph.derive(node, "reshape", [y], {"shape": node.output.shape})
