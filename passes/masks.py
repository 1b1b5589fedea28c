"""Masks of attention: what they hide, whether that is causal, and how several of them become one.

A mask hides a key in three ways: it selects (bool), it writes a number over the score, or it adds one. The first two, and
the third where the number is so large that it swallows any score, are the same mask up to one question: what becomes of a
query that sees no key? Minus infinity gives NaN, a finite number equal weights; ``empty_row`` of the attention op says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler import dims
from ..compiler.dims import Dim, product
from ..compiler.graph import Graph, Node, Value
from ..compiler.types import DType, bf16_to_float
from .facts import as_stored, sequence, uniform
from .fusion import VIEWS
from .view_chains import aligned

#: A number at or below this that is written over a score hides the key; f16 has no smaller finite one.
HIDDEN = -60000.0
#: A number at or below this that is *added* to a score swallows it: the sum is the number itself.
ABSORBING = -1e30


class NoAttentionError(Exception):
    """Why a softmax is not that of an attention."""


@dataclass(frozen=True)
class Part:
    """Something between the product of q and k and the softmax that acts as a mask.

    Attributes:
        value: bool, true where the key is seen; or floats that are added.
        space: the shape of the scores at this point, which ``value`` broadcasts to.
        fill: what is written over hidden scores; None where ``value`` is added.
        factor: what an added ``value`` is multiplied by.
    """

    value: Value
    space: tuple[Dim, ...]
    fill: float | None = None
    factor: float = 1.0


# -- facts --------------------------------------------------------------------------------------------------------
def negated(graph: Graph, condition: Value, before: Node) -> Value:
    """``not condition``, without a double negation."""
    node = condition.node
    if node is not None and node.op == "logical_not" and node.inputs[0] is not None:
        return node.inputs[0]
    return graph.derive(before, "logical_not", [condition])


def conjuncts(mask: Value) -> list[Value]:
    """The parts of a bool mask that all have to hold."""
    inner = mask
    while inner.node is not None and inner.node.op == "expand" and inner.node.inputs[0] is not None:
        inner = inner.node.inputs[0]
    node = inner.node
    if node is not None and node.op in ("logical_and", "bitwise_and"):
        return [part for v in node.operands for part in conjuncts(v)]
    return [mask]


def causal_offset(graph: Graph, mask: Value) -> Dim | None:
    """``offset`` where a bool mask is ``key <= query + offset`` and nothing else; None if it is not."""
    node, shift = mask.node, 0
    rank = mask.type.rank
    moved: Dim = 0  # slices of a square of constants or ranges: where its rows and columns begin
    while node is not None and node.op in ("expand", "reshape", "slice") and node.inputs[0] is not None:
        source = node.inputs[0]
        if source.type.rank >= 2 and rank >= 2 and node.op != "expand" and source.shape[-2:] != node.output.shape[-2:]:
            axis = source.type.rank - 1 - node.attrs["axis"] % source.type.rank if node.op == "slice" else 2
            if axis > 1 or node.attrs["step"] != 1:
                return None
            moved = moved + node.attrs["start"] * (1 if axis else -1)
        node = source.node
    if node is not None and node.op == "logical_not":  # not (key > query)
        inside = node.inputs[0]
        node = None if inside is None else inside.node
        opposite = {"gt": "le", "ge": "lt", "lt": "ge", "le": "gt"}
        op = None if node is None else opposite.get(node.op)
    else:
        op = None if node is None else node.op
    if node is None:
        return None
    if node.op == "constant":
        found = _constant_offset(graph.constants[node.attrs["ref"]])
        return None if found is None else found + moved
    if op not in ("le", "lt", "ge", "gt"):
        return None
    left, right = node.inputs
    assert left is not None and right is not None
    if op in ("ge", "gt"):
        left, right = right, left
    low, high = sequence(graph, left), sequence(graph, right)
    if low is None or high is None or low.step != 1 or high.step != 1:
        return None
    rank = node.output.type.rank
    key_axis, query_axis = rank - left.type.rank + low.axis, rank - right.type.rank + high.axis
    if (key_axis, query_axis) != (rank - 1, rank - 2):
        return None
    shift = 1 if op in ("lt", "gt") else 0
    return high.start - low.start - shift + moved


def _constant_offset(array: np.ndarray) -> int | None:
    if array.dtype != np.bool_ or array.ndim < 2 or array.size != array.shape[-1] * array.shape[-2] or array.size < 2:
        return None
    square = array.reshape(-1, array.shape[-1])
    first = int(square[0].sum()) - 1  # the first query sees keys 0..first
    rows, columns = len(square), array.shape[-1]
    if not 0 <= first < columns - 1 or rows < 2:
        return None
    return first if np.array_equal(square, np.tri(rows, columns, first, dtype=np.bool_)) else None


def sees_a_key(graph: Graph, offset: Dim) -> bool:
    """Whether every query of a causal mask, which hides nothing else, sees at least key 0."""
    return dims.bounds(offset, graph.bounds)[0] >= 0


def selection(graph: Graph, value: Value, before: Node, depth: int = 8) -> tuple[Value, float] | None:
    """(seen, number) where a float mask is 0 where ``seen`` (bool) holds and a negative ``number`` elsewhere; else None."""
    node = value.node
    if node is None or depth == 0 or not value.dtype.is_float:
        return None
    if node.op == "where":
        return _selection_of_where(graph, node, before, depth)
    if node.op == "constant":
        return _selection_of_constant(graph, value, before)
    if node.op in VIEWS and node.inputs[0] is not None:
        inner = selection(graph, node.inputs[0], before, depth - 1)
        return None if inner is None else (graph.derive(before, node.op, [inner[0]], node.attrs), inner[1])
    if node.op == "cast" and node.inputs[0] is not None and node.inputs[0].dtype.is_float:
        inner = selection(graph, node.inputs[0], before, depth - 1)
        stored = None if inner is None else as_stored(inner[1], value.dtype)
        return (inner[0], stored) if inner is not None and isinstance(stored, float) else None
    if node.op == "mul":
        return _selection_of_product(graph, node, before)
    return None


def _number(graph: Graph, value: Value | None) -> float | None:
    known = uniform(graph, value)
    return float(known) if isinstance(known, (int, float)) and not isinstance(known, bool) else None


def _selection_of_where(graph: Graph, node: Node, before: Node, depth: int) -> tuple[Value, float] | None:
    condition, a, b = node.inputs
    assert condition is not None and a is not None and b is not None
    for kept, other, inverted in ((a, b, False), (b, a, True)):
        low = _number(graph, other)
        if low is None or not low < 0:
            continue
        inner = None if _number(graph, kept) == 0 else selection(graph, kept, before, depth - 1)
        if _number(graph, kept) != 0 and (inner is None or inner[1] != low):
            continue
        seen = negated(graph, condition, before) if inverted else condition
        if inner is not None:
            seen = graph.derive(before, "logical_and", [seen, inner[0]])
        shape = node.output.shape
        return (seen if seen.shape == shape else graph.derive(before, "expand", [seen], {"shape": shape})), low
    return None


def _selection_of_constant(graph: Graph, value: Value, before: Node) -> tuple[Value, float] | None:
    array = graph.array(value)
    if array is None or array.size == 0:
        return None
    numbers = bf16_to_float(array) if value.dtype is DType.bf16 else array
    low = float(numbers.min())
    if not low < 0 or not bool(((numbers == 0) | (numbers == low)).all()):
        return None
    return graph.add_constant(numbers == 0, f"{value.name}.seen", before=before), low


def _selection_of_product(graph: Graph, node: Node, before: Node) -> tuple[Value, float] | None:
    """(1 - cast(seen)) * number, or cast(hidden) * number."""
    for side in (0, 1):
        low, other = _number(graph, node.inputs[side]), node.inputs[1 - side]
        if low is None or not -math.inf < low < 0 or other is None or other.shape != node.output.shape:
            continue
        inverted = other.node is not None and other.node.op == "sub" and _number(graph, other.node.inputs[0]) == 1
        kept = other.node.inputs[1] if inverted and other.node is not None else other
        while kept is not None and kept.node is not None and kept.node.op == "cast" and kept.dtype is not DType.bool:
            kept = kept.node.inputs[0]
        if kept is None or kept.dtype is not DType.bool or kept.shape != node.output.shape:
            continue
        return (kept if inverted else negated(graph, kept, before)), low
    return None


# -- several masks as one -----------------------------------------------------------------------------------------
def combined(graph: Graph, before: Node, parts: Sequence[Part], lead: tuple[Dim, Dim]) -> tuple[Value | None, str]:
    """One mask of rank 4 for all ``parts`` (the outermost first), and what ``empty_row`` has to be.

    Raises:
        NoAttentionError: no single mask has the same effect.
    """
    if not parts:
        return None, "nan"
    chosen: list[tuple[Value, float]] = []
    for part in parts:
        found = (part.value, part.fill) if part.fill is not None else _as_selection(graph, part, before)
        if found is None:
            break
        chosen.append((with_lead(graph, before, found[0], part.space, lead), found[1]))
    fills = {fill for _, fill in chosen}
    added = any(part.fill is None for part in parts)
    if len(chosen) == len(parts) and (fills == {-math.inf} or (len(fills) == 1 and (len(parts) == 1 or not added))):
        mask = chosen[0][0]
        for seen, _ in chosen[1:]:
            mask = graph.derive(before, "logical_and", [mask, seen])
        return mask, "nan" if fills == {-math.inf} else "mean"
    bias: Value | None = None
    # Where some part tells windows of a batch apart, the sum does so too, and the batch comes in last: it may be constant.
    widest = max((part.space for part in parts), key=len)
    outer = widest[:-2] if len(widest) > 4 else lead
    for part in reversed(parts):
        value = part.value if part.value.dtype in (DType.bool, DType.f32) else _cast(graph, before, part.value)
        value = with_lead(graph, before, value, part.space, outer)
        if part.fill is None:
            if part.factor != 1.0:
                value = graph.derive(before, "mul", [value, _scalar(graph, before, part.factor)])
            bias = value if bias is None else graph.derive(before, "add", [bias, value])
            continue
        if part.fill > ABSORBING:
            raise NoAttentionError(f"keys are hidden with {part.fill:g}, which does not absorb the scores")
        kept = _scalar(graph, before, 0.0) if bias is None else bias
        bias = graph.derive(before, "where", [value, kept, _scalar(graph, before, part.fill)])
    assert bias is not None
    return with_lead(graph, before, bias, (*outer, 1, 1), lead), "nan"


def _as_selection(graph: Graph, part: Part, before: Node) -> tuple[Value, float] | None:
    """An added mask as one that selects, where that makes no difference."""
    found = selection(graph, part.value, before)
    if found is None or part.factor <= 0:
        return None
    seen, low = found[0], found[1] * part.factor
    if low <= ABSORBING:
        return seen, low
    offset = causal_offset(graph, seen) if low <= HIDDEN else None
    return (seen, low) if offset is not None and sees_a_key(graph, offset) else None


def _scalar(graph: Graph, before: Node, number: float) -> Value:
    return graph.derive(before, "full", [], {"value": float(number), "shape": (), "dtype": DType.f32})


def _cast(graph: Graph, before: Node, value: Value) -> Value:
    return graph.derive(before, "cast", [value], {"dtype": DType.f32})


# -- shapes -------------------------------------------------------------------------------------------------------
def with_lead(
    graph: Graph, before: Node, value: Value, space: Sequence[Dim], lead: tuple[Dim, ...], shared_heads: bool = False
) -> Value:
    """``value``, which broadcasts to ``space`` ([..., rows, columns]), with the leading axes ``lead``: batch and heads.

    An axis stays 1 where ``value`` broadcasts.

    Args:
        shared_heads: what repeats along the last leading axes of ``space`` may stay fewer heads (grouped-query attention).

    Raises:
        NoAttentionError: the leading axes of ``space`` are no regrouping of ``lead``.
    """
    outer = tuple(space[:-2])
    groups = aligned(outer, lead)
    if groups is None:
        raise NoAttentionError(f"the leading axes {outer} are not batch and heads {lead}")
    shape = (1,) * (len(space) - value.type.rank) + value.shape
    wide: list[Dim] = []
    new: list[Dim] = []
    for mine, theirs in groups:
        have, full = [shape[i] for i in mine], [outer[i] for i in mine]
        if all(d == 1 for d in have):
            wide.extend(have)
            new.extend(1 for _ in theirs)
            continue
        count = next((n for n, d in enumerate(have) if d == 1 and full[n] != 1), len(have))
        rest = all(d == 1 for d in have[count:])
        if shared_heads and count < len(have) and rest and have[:count] == full[:count] and len(theirs) == 1:
            wide.extend(have)
            new.append(product(have))
            continue
        wide.extend(full)
        new.extend(lead[i] for i in theirs)
    tail = shape[-2:]
    if [*wide, *tail] != list(shape):
        value = graph.derive(before, "expand", [value], {"shape": (*wide, *tail)})
    final = (*new, *tail)
    return value if value.shape == final else graph.derive(before, "reshape", [value], {"shape": final})


def before_the_batch(graph: Graph, node: Node) -> Value | None:
    """fold(expand(m)) + bias, both constant, as fold(expand(m + bias)): what a mask of windows and a bias are together is known
    before the batch is (Swin)."""
    for side in (0, 1):
        view, other = node.inputs[side], node.inputs[1 - side]
        assert view is not None and other is not None
        spread = view.node.inputs[0] if view.node is not None and view.node.op == "reshape" else None
        if spread is None or spread.node is None or spread.node.op != "expand" or graph.array(other) is None:
            continue
        mask, wide, out = spread.node.inputs[0], spread.shape, node.output.shape
        if graph.array(mask) is None or view.type.rank != len(out) or len(out) < 3 or wide[-2:] != view.shape[-2:]:
            continue
        target = list(wide[:-2])
        groups = aligned(target, view.shape[:-2])
        if groups is None or view.shape[-2:] != out[-2:]:
            continue
        for mine, theirs in groups:
            if len(mine) == len(theirs) == 1:  # an axis along which only the bias varies
                target[mine[0]] = out[theirs[0]]
        if aligned(out[:-2], target) is None or product(target) != product(out[:-2]):
            continue
        bias = with_lead(graph, node, other, out, tuple(target))
        pair = [mask, bias] if side == 0 else [bias, mask]
        both = graph.derive(node, node.op, pair, node.attrs)
        both = graph.derive(node, "expand", [both], {"shape": (*target, *out[-2:])})
        return graph.derive(node, "reshape", [both], {"shape": out})
    return None
