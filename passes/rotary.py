"""rotary: rotary position embedding (Su et al. 2021), however it is spelled, becomes one ``rotary`` op with tables of half width.

``rotate_half`` with doubled tables (Llama, GPT-NeoX), neighbouring elements in pairs (GPT-J), halves written out one by one,
only some of the dimensions of a head (Phi, GPT-NeoX): each output half is followed back to x1 * cos - x2 * sin and
x2 * cos + x1 * sin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from .lanes import Lane, Lanes, Tree

_DEPTH = 6


@dataclass(frozen=True)
class RecognizeRotary:
    """Make one ``rotary`` op of x * cos + rotate(x) * sin."""

    name: ClassVar[str] = "rotary"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        lanes, found = Lanes(graph), 0
        for node in list(graph.nodes):
            if node._graph is not None and (node.op == "add" or _joins_two(node)):
                context.at(node)
                found += self._rewrite(graph, node, lanes)
        graph.sweep()
        partial = sum(_take_in_the_rest(graph, n) for n in list(graph.nodes) if n.op == "concat")
        graph.sweep()
        if found:
            context.note(f"{found} rotary embedding{'s' if found > 1 else ''} became one op each")
        return PassResult(bool(found or partial))

    def _rewrite(self, graph: Graph, root: Node, lanes: Lanes) -> bool:
        out = root.output
        width = out.shape[-1] if out.shape else 0
        if not isinstance(width, int) or width < 2 or width % 2 or not out.dtype.is_float:
            return False
        half = width // 2
        for x in _sliced(out):
            for interleaved in (False, True):
                ends = (Lane(0, 2, half), Lane(1, 2, half)) if interleaved else (Lane(0, 1, half), Lane(half, 1, half))
                first, second = (lanes.tree(out, lane, (x,)) for lane in ends)
                match = _matched(first, second, x, interleaved)
                if match is None:
                    continue
                start, cos, sin = match
                whole = x
                if start or width != x.shape[-1]:
                    attrs = {"axis": x.type.rank - 1, "start": start, "end": start + width}
                    whole = graph.derive(root, "slice", [x], attrs)
                tables = [lanes.build(t, root) for t in (cos, sin)]
                if whole.shape != out.shape or any(t.dtype is not x.dtype for t in tables):
                    continue
                graph.replace(
                    out, graph.derive(root, "rotary", [whole, *tables], {"interleaved": interleaved}, hint=out.name)
                )
                return True
        return False


def _joins_two(node: Node) -> bool:
    """Whether ``node`` puts two halves, or pairs, together."""
    if node.op == "reshape" and node.inputs[0] is not None and node.inputs[0].node is not None:
        inner = node.inputs[0].node
        return inner.op == "concat" and len(inner.inputs) == 2 and inner.output.shape[-1:] == (2,)
    return node.op == "concat" and len(node.inputs) == 2 and node.attrs["axis"] % node.output.type.rank == (
        node.output.type.rank - 1
    )  # fmt: skip


def _sliced(value: Value) -> list[Value]:
    """What is sliced along its last axis a few nodes in front of ``value``."""
    found: dict[Value, None] = {}
    level = [value]
    for _ in range(_DEPTH):
        deeper: list[Value] = []
        for v in level:
            node = v.node
            if node is None:
                continue
            if (
                node.op == "slice"
                and node.inputs[0] is not None
                and node.attrs["axis"] % v.type.rank == v.type.rank - 1
            ):
                found[node.inputs[0]] = None
            elif node.op in ("add", "sub", "mul", "neg", "concat", "reshape"):
                deeper.extend(node.operands)
        level = deeper
    return list(found)


def _terms(tree: Tree, sign: int = 1) -> list[tuple[int, Tree, Tree]]:
    """``tree`` as a sum of signed products; empty if it is none."""
    if tree[0] != "op":
        return []
    _, op, _, children = tree
    if op == "neg":
        return _terms(children[0], -sign)
    if op in ("add", "sub"):
        left, right = _terms(children[0], sign), _terms(children[1], sign if op == "add" else -sign)
        return [*left, *right] if left and right else []
    if op == "mul":
        factors = []
        for child in children:
            while child[0] == "op" and child[1] == "neg":
                child, sign = child[3][0], -sign
            factors.append(child)
        return [(sign, *factors)]
    return []


def _matched(first: Tree, second: Tree, x: Value, interleaved: bool) -> tuple[int, Tree, Tree] | None:
    """(start of the rotated elements in x, cos, sin) if the trees are x1 cos - x2 sin and x2 cos + x1 sin; None else."""
    by_lane: list[dict[Lane, tuple[int, Tree]]] = []
    for tree in (first, second):
        terms = _terms(tree)
        factors: dict[Lane, tuple[int, Tree]] = {}
        for sign, a, b in terms:
            for mine, other in ((a, b), (b, a)):
                if mine[0] == "slice" and mine[1] is x:
                    factors[mine[2]] = (sign, other)
                    break
        if len(terms) != 2 or len(factors) != 2:
            return None
        by_lane.append(factors)
    if by_lane[0].keys() != by_lane[1].keys():
        return None
    one, two = sorted(by_lane[0])
    step, apart = (2, 1) if interleaved else (1, one.length)
    if one.step != step or two != Lane(one.offset + apart, step, one.length):
        return None
    (plus, cos), (minus, sin) = by_lane[0][one], by_lane[0][two]
    (plus_2, sin_2), (plus_3, cos_2) = by_lane[1][one], by_lane[1][two]
    if (plus, minus, plus_2, plus_3) != (1, -1, 1, 1) or cos != cos_2 or sin != sin_2:
        return None
    return one.offset, cos, sin


def _take_in_the_rest(graph: Graph, node: Node) -> int:
    """concat(rotary(x[..., :r]), x[..., r:]) is a rotary embedding of some of the dimensions of x."""
    if len(node.inputs) != 2 or node.attrs["axis"] % node.output.type.rank != node.output.type.rank - 1:
        return 0
    turned, rest = (v.node for v in node.operands)
    if turned is None or rest is None or turned.op != "rotary" or rest.op != "slice":
        return 0
    inner = turned.inputs[0].node if turned.inputs[0] is not None else None
    whole = rest.inputs[0]
    if inner is None or inner.op != "slice" or whole is None or inner.inputs[0] is not whole:
        return 0
    last = whole.type.rank - 1
    if any(n.attrs["axis"] % whole.type.rank != last or n.attrs["step"] != 1 for n in (inner, rest)):
        return 0
    if inner.attrs["start"] != 0 or rest.attrs["start"] != inner.attrs["end"] or rest.attrs["end"] != whole.shape[-1]:
        return 0
    graph.replace(node.output, graph.derive(node, "rotary", [whole, *turned.inputs[1:]], turned.attrs))
    return 1


@dataclass(frozen=True)
class JoinRotary:
    """Turn the queries and keys of a merged linear in one op: they lie side by side and share their tables."""

    name: ClassVar[str] = "join-rotary"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        groups: dict[object, list[tuple[Node, Node]]] = {}
        for node in graph.nodes:
            if node.op != "rotary":
                continue
            x, cos, sin = node.operands
            split = _part(x)
            if split is None or any(t.type.rank >= 3 and t.shape[-3] != 1 for t in (cos, sin)):
                continue
            key = (split.inputs[0], cos, sin, node.attrs["interleaved"], x.shape[0], *x.shape[2:])
            groups.setdefault(key, []).append((node, split))
        joined = sum(self._join(graph, group) for group in groups.values())
        graph.sweep()
        if joined:
            context.note(f"{joined} rotary embeddings turn queries and keys together")
        return PassResult(bool(joined))

    def _join(self, graph: Graph, group: list[tuple[Node, Node]]) -> int:
        if len(group) != 2 or not all(isinstance(split.attrs["start"], int) for _, split in group):
            return 0
        (first, split), (second, other) = sorted(group, key=lambda g: g[1].attrs["start"])
        if split.attrs["end"] != other.attrs["start"]:
            return 0
        order = {n: i for i, n in enumerate(graph.nodes)}
        at = min(first, second, key=order.__getitem__)
        x, y = first.operands[0], second.operands[0]
        heads = x.shape[1] + y.shape[1]
        source = split.inputs[0]
        assert source is not None
        value = graph.derive(at, "slice", [source], {**split.attrs, "end": other.attrs["end"]})
        value = graph.derive(at, "reshape", [value], {"shape": (x.shape[0], x.shape[2], heads, x.shape[3])})
        value = graph.derive(at, "transpose", [value], {"perm": (0, 2, 1, 3)})
        turned = graph.insert(
            "rotary", [value, *first.inputs[1:]], first.attrs, before=at, name=first.name, location=first.location,
            sources=tuple(dict.fromkeys((*first.sources, *second.sources))),
        ).output  # fmt: skip
        for node, begin, end in ((first, 0, x.shape[1]), (second, x.shape[1], heads)):
            graph.replace(node.output, graph.derive(at, "slice", [turned], {"axis": 1, "start": begin, "end": end}))
        return 1


def _part(x: Value) -> Node | None:
    """The slice of y [batch, sequence, width] that x [batch, heads, sequence, head] is, heads first; None if it is none."""
    node = x.node
    if node is None or x.type.rank != 4:
        return None
    if node.op == "transpose":
        if tuple(node.attrs["perm"]) != (0, 2, 1, 3) or node.inputs[0] is None:
            return None
        node = node.inputs[0].node
    elif x.shape[1] != 1:
        return None
    split = node.inputs[0].node if node is not None and node.op == "reshape" and node.inputs[0] is not None else None
    if split is None or split.op != "slice" or split.inputs[0] is None or split.output.type.rank != 3:
        return None
    if split.attrs["axis"] % 3 != 2 or split.attrs["step"] != 1 or split.output.shape[:2] != (x.shape[0], x.shape[2]):
        return None
    return split
