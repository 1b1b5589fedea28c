"""attention: every spelling of attention becomes one ``attention`` op with its mask kind.

The anchor is a softmax whose result is multiplied with V. From there the scores are walked back to q @ k.T through what the
spellings put in between: a scale before or after the product, an added mask, a ``where`` or ``masked_fill``, casts to f32
and back. What a match fails at is noted, so that a report can say why an attention stayed apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from ..compiler.dims import Dim
from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType
from .facts import sequence, uniform

#: A ``where`` that writes a number at or below this hides the key; f16 has no smaller finite one.
_HIDDEN = -60000.0


@dataclass
class Scores:
    """What was found between the softmax and q @ k.T."""

    q: Value
    k: Value
    scale: float
    masks: list[Value] = field(default_factory=list)
    visible: list[Value] = field(default_factory=list)


class NoAttentionError(Exception):
    """Why a softmax is not that of an attention."""


def _through(value: Value, *ops: str) -> Value:
    """``value`` without the nodes of ``ops`` in front of it."""
    while value.node is not None and value.node.op in ops:
        inner = value.node.inputs[0]
        assert inner is not None
        value = inner
    return value


def _float_cast(value: Value) -> Value:
    """``value`` without casts between float types."""
    while value.node is not None and value.node.op == "cast":
        inner = value.node.inputs[0]
        assert inner is not None
        if not inner.dtype.is_float:
            return value
        value = inner
    return value


def _times(graph: Graph, value: Value) -> tuple[Value, float]:
    """``value`` as (x, number) with ``value = x * number``."""
    node = value.node
    if node is not None and node.op in ("mul", "div"):
        for side in (0, 1) if node.op == "mul" else (1,):
            number = uniform(graph, node.inputs[side])
            other = node.inputs[1 - side]
            if isinstance(number, (int, float)) and other is not None and other.shape == value.shape and number:
                inner, rest = _times(graph, other)
                return inner, rest * (number if node.op == "mul" else 1.0 / number)
    return value, 1.0


def _swapped(graph: Graph, value: Value, before: Node) -> Value:
    """``value`` with its last two axes exchanged, merged with a transpose that is there."""
    rank, node = value.type.rank, value.node
    perm: tuple[int, ...] = (*range(rank - 2), rank - 1, rank - 2)
    if node is not None and node.op == "transpose" and node.inputs[0] is not None:
        value, perm = node.inputs[0], tuple(node.attrs["perm"][p] for p in perm)
        if list(perm) == list(range(rank)):
            return value
    return graph.derive(before, "transpose", [value], {"perm": perm})


def _scores(graph: Graph, value: Value, found: list[Value], visible: list[Value], scale: float) -> Scores:
    """Walk back from the scores to the product of q and k."""
    value = _float_cast(value)
    node = value.node
    if node is None:
        raise NoAttentionError("the scores are an input of the model")
    if node.op == "reshape":
        inner = node.inputs[0]
        assert inner is not None
        if (inner.type.rank == 3 and value.type.rank == 4) or (inner.type.rank == 4 and value.type.rank == 3):
            raise NoAttentionError("the scores are reshaped between the product and the softmax")
    if node.op in ("mul", "div"):
        x, number = _times(graph, value)
        if x is not value:
            return _scores(graph, x, found, visible, scale * number)
    if node.op in ("add", "sub"):
        for side in (1, 0) if node.op == "add" else (1,):
            mask, scores = node.inputs[side], node.inputs[1 - side]
            assert mask is not None and scores is not None
            if scores.shape == value.shape and _leads_to_product(scores):
                if node.op == "sub":
                    raise NoAttentionError("a mask is subtracted from the scores")
                if scale != 1.0:
                    raise NoAttentionError("the scale multiplies the mask too")
                return _scores(graph, scores, [*found, mask], visible, scale)
    if node.op == "where":
        condition, a, b = node.inputs
        assert condition is not None and a is not None and b is not None
        for kept, other, inverted in ((a, b, False), (b, a, True)):
            fill = uniform(graph, other)
            if isinstance(fill, (int, float)) and fill <= _HIDDEN and kept.shape == value.shape:
                seen = condition if not inverted else _negated(graph, condition, node)
                if fill != -math.inf:
                    if scale != 1.0:
                        raise NoAttentionError("the scale multiplies the mask too")
                    return _scores(graph, kept, [*found, _as_bias(graph, seen, fill, node)], visible, scale)
                return _scores(graph, kept, found, [*visible, seen], scale)
    if node.op == "matmul":
        return _product(graph, node, found, visible, scale)
    raise NoAttentionError(f"the scores come from {node.op}")


def _as_bias(graph: Graph, seen: Value, number: float, before: Node) -> Value:
    """A huge negative number written over hidden scores, as a bias: adding it gives that very number.

    A row without any visible key then has equal weights, as in the source (with -inf it would be NaN).
    """
    if number > -1e30:
        raise NoAttentionError(f"keys are hidden with {number:g}, which does not absorb the scores")
    zero, low = (
        graph.derive(before, "full", [], {"value": v, "shape": (), "dtype": DType.f32}) for v in (0.0, float(number))
    )
    return graph.derive(before, "where", [seen, zero, low])


def _leads_to_product(value: Value, depth: int = 8) -> bool:
    node = value.node
    if node is None or depth == 0:
        return False
    if node.op == "matmul":
        return True
    if node.op in ("mul", "div", "add", "cast", "where"):
        return any(_leads_to_product(v, depth - 1) for v in node.operands)
    return False


def _negated(graph: Graph, condition: Value, before: Node) -> Value:
    node = condition.node
    if node is not None and node.op == "logical_not" and node.inputs[0] is not None:
        return node.inputs[0]
    return graph.derive(before, "logical_not", [condition])


def _product(graph: Graph, node: Node, masks: list[Value], visible: list[Value], scale: float) -> Scores:
    a, b = node.inputs
    assert a is not None and b is not None
    b, late = _times(graph, b)
    q, early = _times(graph, a)
    moved = b.node
    if (
        moved is not None and moved.op == "transpose" and moved.inputs[0] is not None
    ):  # a scale in front of the transpose
        inner, before = _times(graph, moved.inputs[0])
        if before != 1.0:
            late *= before
            b = graph.insert(
                "transpose", [inner], moved.attrs, before=node, name=moved.name, sources=moved.sources
            ).output
    return Scores(q, _swapped(graph, b, node), scale * late * early, masks, visible)


def _ungrouped(value: Value, heads: Dim) -> Value:
    """k or v in front of the repeat that gives every query head a copy of its own (GQA)."""
    node = value.node
    if node is None or node.op != "reshape" or value.type.rank != 4:
        return value
    wide = node.inputs[0]
    assert wide is not None
    if wide.type.rank != 5 or wide.node is None or wide.node.op != "expand" or wide.shape[1] * wide.shape[2] != heads:
        return value
    source = wide.node.inputs[0]
    assert source is not None
    if source.type.rank != 5 or source.shape[2] != 1 or source.shape[1] != wide.shape[1]:
        return value
    inner = source.node
    if inner is not None and inner.op == "reshape" and inner.inputs[0] is not None:
        narrow = inner.inputs[0]
        if narrow.shape == (source.shape[0], source.shape[1], *source.shape[3:]):
            return narrow
    return value


def causal_offset(graph: Graph, mask: Value) -> Dim | None:
    """``offset`` where a bool mask is ``key <= query + offset`` and nothing else; None if it is not."""
    node = _through(mask, "expand", "reshape").node
    if node is None or node.op not in ("le", "lt", "ge", "gt"):
        return None
    left, right = node.inputs
    assert left is not None and right is not None
    if node.op in ("ge", "gt"):
        left, right = right, left
    low, high = sequence(graph, left), sequence(graph, right)
    if low is None or high is None or low.step != 1 or high.step != 1:
        return None
    rank = node.output.type.rank
    key_axis, query_axis = rank - left.type.rank + low.axis, rank - right.type.rank + high.axis
    if (key_axis, query_axis) != (rank - 1, rank - 2):
        return None
    strict = 1 if node.op in ("lt", "gt") else 0
    return high.start - low.start - strict


def conjuncts(mask: Value) -> list[Value]:
    """The parts of a bool mask that all have to hold."""
    inner = _through(mask, "expand")
    node = inner.node
    if node is not None and node.op in ("logical_and", "bitwise_and"):
        return [part for v in node.operands for part in conjuncts(v)]
    return [mask]


@dataclass(frozen=True)
class RecognizeAttention:
    """Make one ``attention`` op of softmax(q @ k.T * scale + mask) @ v, and causal masks an attribute of it."""

    name: ClassVar[str] = "attention"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        found = 0
        for node in list(graph.nodes):
            if node.op != "softmax" or node._graph is None:
                continue
            context.at(node)
            readers = _products(node.output, set(graph.outputs))
            if not readers:
                continue
            try:
                self._rewrite(graph, node, readers)
                found += 1
            except NoAttentionError as reason:
                context.note(f"a softmax that looks like attention stays apart: {reason}", node, kind="miss")
        graph.sweep()
        masks = sum(self._split_mask(graph, n) for n in list(graph.nodes) if n.op == "attention")
        masks += sum(self._share_heads(graph, n) for n in list(graph.nodes) if n.op == "attention")
        if found:
            context.note(f"{found} decomposed attention{'s' if found > 1 else ''} became one op each")
        graph.sweep()
        return PassResult(bool(found or masks))

    def _rewrite(self, graph: Graph, softmax: Node, readers: list[Node]) -> None:
        x = softmax.inputs[0]
        assert x is not None
        rank = x.type.rank
        if softmax.attrs["axis"] % rank != rank - 1:
            raise NoAttentionError("the softmax is not over the keys")
        if rank not in (3, 4):
            raise NoAttentionError(f"the scores have rank {rank}")
        scores = _scores(graph, x, [], [], 1.0)
        for product in readers:
            v = product.inputs[1]
            assert v is not None
            if v.type.rank != rank or scores.q.type.rank != rank or scores.k.type.rank != rank:
                raise NoAttentionError("q, k and v differ in rank")
            if not scores.q.dtype == scores.k.dtype == v.dtype == product.output.dtype:
                raise NoAttentionError("q, k and v differ in element type")
            self._insert(graph, product, scores, v)

    def _insert(self, graph: Graph, product: Node, scores: Scores, v: Value) -> None:
        sources = tuple(dict.fromkeys(s for n in (product, scores.q.node, scores.k.node) if n for s in n.sources))
        q, k = scores.q, scores.k
        rank = q.type.rank

        def four(value: Value) -> Value:
            if value.type.rank == 4:
                return value
            shape = (1,) * (4 - value.type.rank) + value.shape
            if value.type.rank == 3 and value in (q, k, v):  # [batch * heads, sequence, head]: heads are batches of one
                shape = (value.shape[0], 1, *value.shape[1:])
            return graph.derive(product, "reshape", [value], {"shape": shape})

        def mask_of(value: Value) -> Value:
            if rank == 4:
                return four(value)
            shape = (1,) * (3 - value.type.rank) + value.shape
            return graph.derive(product, "reshape", [value], {"shape": (shape[0], 1, *shape[1:])})

        mask: Value | None = None
        for seen in scores.visible:
            part = mask_of(seen)
            mask = part if mask is None else graph.derive(product, "logical_and", [mask, part])
        if scores.masks:
            if mask is not None:
                raise NoAttentionError("one mask is added and another one selects")
            for added in scores.masks:
                f32 = added.dtype is DType.f32
                wide = added if f32 else graph.derive(product, "cast", [added], {"dtype": DType.f32})
                part = mask_of(wide)
                mask = part if mask is None else graph.derive(product, "add", [mask, part])
        inputs = [four(q), four(k), four(v), *([mask] if mask is not None else [])]
        made = graph.insert(
            "attention", inputs, {"scale": scores.scale}, before=product, name=product.name, location=product.location,
            sources=sources,
        )  # fmt: skip
        out = made.output
        if out.shape != product.output.shape:
            out = graph.derive(product, "reshape", [out], {"shape": product.output.shape})
        graph.replace(product.output, out)

    def _split_mask(self, graph: Graph, node: Node) -> int:
        """Take a causal part out of a bool mask and make it an attribute."""
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is None or mask.dtype is not DType.bool or node.attrs["causal"]:
            return 0
        rest: list[Value] = []
        offset: Dim | None = None
        for part in conjuncts(mask):
            here = causal_offset(graph, part)
            if here is not None and offset is None:
                offset = here
            elif uniform(graph, part) is not True:
                rest.append(part)
        if offset is None:
            return 0
        joined: Value | None = None
        for part in rest:
            joined = part if joined is None else graph.derive(node, "logical_and", [joined, part])
        inputs = [*node.inputs[:3], *([joined] if joined is not None else [])]
        attrs = {**node.attrs, "causal": True, "causal_offset": offset}
        graph.replace(node.output, graph.derive(node, "attention", inputs, attrs, hint=node.output.name))
        graph.erase(node)
        return 1

    def _share_heads(self, graph: Graph, node: Node) -> int:
        """Read k and v in front of the repeat that grouped-query attention was given."""
        q, k, v = node.inputs[:3]
        assert q is not None and k is not None and v is not None
        narrow = [_ungrouped(x, q.shape[1]) for x in (k, v)]
        if narrow[0] is k or narrow[1] is v or narrow[0].shape[1] != narrow[1].shape[1]:
            return 0
        shared = graph.derive(node, "attention", [q, *narrow, *node.inputs[3:]], node.attrs, hint=node.output.name)
        graph.replace(node.output, shared)
        graph.erase(node)
        return 1


def _products(weights: Value, outputs: set[Value]) -> list[Node]:
    """The matrix products whose first factor is the softmax (through casts); empty if anything else reads it."""
    found: list[Node] = []
    if weights in outputs:
        return []
    for user in weights.users:
        if user.op == "cast" and user.output.dtype.is_float:
            deeper = _products(user.output, outputs)
            if not deeper:
                return []
            found.extend(deeper)
        elif user.op == "matmul" and user.inputs[0] is weights and user.inputs[1] is not weights:
            found.append(user)
        else:
            return []
    return found
