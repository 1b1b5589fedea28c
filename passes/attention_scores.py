"""From a softmax back to q @ k.T, through whatever the spellings of attention put in between."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..compiler.dims import Dim, product
from ..compiler.graph import Graph, Node, Value
from .facts import uniform
from .fusion import VIEWS
from .masks import HIDDEN, NoAttentionError, Part, negated

_DEPTH = 10
#: What the scores may come from that an attention kernel has no place for, in words.
_REASONS = {
    "tanh": "they are capped by tanh, and a cap has no place in the attention kernels, whose scores only grow by addition",
    "reduce_sum": "they are a sum of products that is no matrix product",
}


@dataclass
class Scores:
    """What was found between the softmax and q @ k.T.

    Attributes:
        q, k: [..., rows, head].
        scale: of their product.
        parts: the masks, the outermost first.
        shapes: every shape that the scores had on the way, the softmax's first.
    """

    q: Value
    k: Value
    scale: float = 1.0
    parts: list[Part] = field(default_factory=list)
    shapes: list[tuple[Dim, ...]] = field(default_factory=list)


def scores_of(graph: Graph, value: Value) -> Scores:
    """Walk back from the operand of a softmax to the product of q and k.

    Raises:
        NoAttentionError: they are not the scores of an attention; says why.
    """
    scale, shapes = 1.0, [value.shape]
    parts: list[Part] = []
    while True:
        value = _float_cast(value)
        node = value.node
        if node is None:
            raise NoAttentionError("the scores are an input of the model")
        if node.op == "matmul":
            q, k, factor = _product(graph, node)
            return Scores(q, k, scale * factor, parts, [*shapes, value.shape])
        step = _step(graph, node, value, scale)
        if step is None:
            raise NoAttentionError(_REASONS.get(node.op, f"the scores come from {node.op}"))
        value, factor, part = step
        scale *= factor
        if part is not None:
            parts.append(part)
        if value.shape != shapes[-1]:
            shapes.append(value.shape)


def _step(graph: Graph, node: Node, value: Value, scale: float) -> tuple[Value, float, Part | None] | None:
    """(what the scores came from, what they were multiplied by, the mask that was put on them); None if it is none of these."""
    if node.op == "reshape":
        inner = node.inputs[0]
        assert inner is not None
        if inner.type.rank < 2 or inner.shape[-2:] != value.shape[-2:]:
            raise NoAttentionError("the scores are reshaped between the product and the softmax")
        return inner, 1.0, None
    if node.op in ("mul", "div"):
        inner, number = times(graph, value)
        return None if inner is value else (inner, number, None)
    if node.op in ("add", "sub"):
        for side in (1, 0) if node.op == "add" else (1,):
            mask, scores = node.inputs[side], node.inputs[1 - side]
            assert mask is not None and scores is not None
            if scores.shape == value.shape and _leads_to_product(scores):
                return scores, 1.0, Part(mask, value.shape, factor=scale if node.op == "add" else -scale)
        return None
    if node.op == "where":
        condition, a, b = node.inputs
        assert condition is not None and a is not None and b is not None
        for kept, other, inverted in ((a, b, False), (b, a, True)):
            fill = uniform(graph, other)
            if not isinstance(fill, (int, float)) or kept.shape != value.shape or not _leads_to_product(kept):
                continue
            if fill * scale > HIDDEN:
                raise NoAttentionError(f"keys are hidden with {fill:g}, which does not hide them from any scores")
            seen = negated(graph, condition, node) if inverted else condition
            return kept, 1.0, Part(seen, value.shape, fill=fill * scale)
    return None


def _float_cast(value: Value) -> Value:
    """``value`` without casts between float types."""
    while value.node is not None and value.node.op == "cast":
        inner = value.node.inputs[0]
        assert inner is not None
        if not inner.dtype.is_float:
            return value
        value = inner
    return value


def times(graph: Graph, value: Value) -> tuple[Value, float]:
    """``value`` as (x, number) with ``value = x * number``."""
    node = value.node
    if node is not None and node.op in ("mul", "div"):
        for side in (0, 1) if node.op == "mul" else (1,):
            number = uniform(graph, node.inputs[side])
            other = node.inputs[1 - side]
            if isinstance(number, (int, float)) and other is not None and other.shape == value.shape and number:
                inner, rest = times(graph, other)
                return inner, rest * (number if node.op == "mul" else 1.0 / number)
    return value, 1.0


def unscaled(graph: Graph, value: Value, before: Node, depth: int = _DEPTH) -> tuple[Value, float]:
    """``value`` as (x, number) with ``value = x * number``, the multiplication found behind views and rotations as well."""
    inner, number = times(graph, value)
    node = inner.node
    if node is None or depth == 0 or node.op not in (*VIEWS, "rotary") or node.inputs[0] is None:
        return inner, number
    source, factor = unscaled(graph, node.inputs[0], before, depth - 1)
    if source is node.inputs[0]:
        return inner, number
    view = graph.insert(
        node.op,
        [source, *node.inputs[1:]],
        node.attrs,
        before=before,
        name=node.name,
        location=node.location,
        sources=node.sources,
    )
    return view.output, number * factor


def _leads_to_product(value: Value, depth: int = _DEPTH) -> bool:
    node = value.node
    if node is None or depth == 0:
        return False
    if node.op == "matmul":
        return True
    if node.op in ("mul", "div", "add", "sub", "cast", "where", "reshape", "tanh"):
        return any(_leads_to_product(v, depth - 1) for v in node.operands)
    return False


def _product(graph: Graph, node: Node) -> tuple[Value, Value, float]:
    """(q, k, number) of ``matmul(q, k.T)``."""
    a, b = node.inputs
    assert a is not None and b is not None
    if a.type.rank < 2 or a.type.rank != b.type.rank:
        raise NoAttentionError("q and k differ in rank")
    q, early = unscaled(graph, a, node)
    k, late = unscaled(graph, b, node)
    return q, _swapped(graph, k, node), early * late


def _swapped(graph: Graph, value: Value, before: Node) -> Value:
    """``value`` with its last two axes exchanged, merged with a transpose that is there."""
    rank, node = value.type.rank, value.node
    perm: tuple[int, ...] = (*range(rank - 2), rank - 1, rank - 2)
    if node is not None and node.op == "transpose" and node.inputs[0] is not None:
        value, perm = node.inputs[0], tuple(node.attrs["perm"][p] for p in perm)
        if list(perm) == list(range(rank)):
            return value
    return graph.derive(before, "transpose", [value], {"perm": perm})


def batch_and_heads(scores: Scores, v: Value, more: list[tuple[Dim, ...]]) -> tuple[Dim, Dim]:
    """The batch and the heads that the leading axes of the scores are.

    Args:
        scores: as found.
        v: the values.
        more: shapes that the weights had behind the softmax.
    """
    shapes = [*scores.shapes, *more]
    four = next((s for s in shapes if len(s) == 4), None)
    if four is not None:
        return four[0], four[1]
    longest = max(shapes, key=len)
    outer = longest[:-2]
    if len(outer) > 2:
        k = scores.k
        several = [d for d in outer if d != 1]
        if len(several) <= 2:
            batch, heads = (1, 1, *several)[-2:]
            return batch, heads
        if k.type.rank == len(longest) and k.shape[-3] == 1 and outer[-1] != 1:  # k is shared by the innermost heads
            return product(outer[:-2]), outer[-2] * outer[-1]
        return product(outer[:-1]), outer[-1]
    if len(outer) < 2:
        for value in (scores.q, scores.k, v):
            folded = _folded_from(value)
            if folded is not None and folded[0] * folded[1] == product(outer):
                return folded
    return product(outer), 1


def _folded_from(value: Value) -> tuple[Dim, Dim] | None:
    """(batch, heads) where ``value`` [batch * heads, ...] was made of [batch, heads, ...] by a reshape."""
    node = value.node
    while node is not None and node.op == "transpose" and node.attrs["perm"][0] == 0 and node.inputs[0] is not None:
        node = node.inputs[0].node
    if node is None or node.op != "reshape" or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    if source.type.rank != 4 or source.shape[2:] != node.output.shape[1:]:
        return None
    return source.shape[0], source.shape[1]
