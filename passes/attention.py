"""attention: every spelling of attention becomes one ``attention`` op with its mask kind.

The anchor is a softmax whose result is multiplied with V. From there the scores are walked back to q @ k.T through what the
spellings put in between (``attention_scores``): a scale anywhere, added masks, a ``where`` or ``masked_fill``, casts to f32 and
back, batch and heads folded into one axis. What a match fails at is noted, so that a report can say why an attention stayed
apart. The masks become one (``masks``), and its causal part an attribute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..compiler import dims
from ..compiler.dims import Dim
from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.types import DType
from .attention_scores import Scores, batch_and_heads, scores_of, unscaled
from .canonicalize import simplify_once
from .facts import uniform
from .masks import (
    ABSORBING,
    NoAttentionError,
    causal_offset,
    combined,
    conjuncts,
    sees_a_key,
    selection,
    with_lead,
)

_ROUNDS = 8

__all__ = ["RecognizeAttention", "causal_offset", "conjuncts"]


@dataclass(frozen=True)
class Reader:
    """A matrix product with the weights of a softmax.

    Attributes:
        product: the node.
        shapes: what the weights were reshaped to on the way.
        zero: rows without a visible key were given zeros on the way.
    """

    product: Node
    shapes: tuple[tuple[Dim, ...], ...] = ()
    zero: bool = False


@dataclass(frozen=True)
class RecognizeAttention:
    """Make one ``attention`` op of softmax(q @ k.T * scale + mask) @ v, and causal masks an attribute of it."""

    name: ClassVar[str] = "attention"
    version: ClassVar[int] = 2

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        found = 0
        for node in list(graph.nodes):
            if node.op != "softmax" or node._graph is None:
                continue
            context.at(node)
            readers = _readers(graph, node.output, node)
            if not readers:
                if any(n.op == "matmul" for n in node.output.users):
                    reason = "its weights are an output of the model or read by something else too"
                    context.note(f"a softmax that looks like attention stays apart: {reason}", node, kind="miss")
                continue
            try:
                self._rewrite(graph, node, readers)
                found += 1
            except NoAttentionError as reason:
                context.note(f"a softmax that looks like attention stays apart: {reason}", node, kind="miss")
        graph.sweep()
        for _ in range(
            _ROUNDS if found else 0
        ):  # what was folded and unfolded again is gone before anybody looks behind it
            if not simplify_once(graph) + graph.sweep():
                break
        changed = 0
        for settle in (self._absorb_scale, self._select, self._split_mask, self._share_heads, self._settle_empty_rows):
            changed += sum(settle(graph, n) for n in list(graph.nodes) if n.op == "attention")
        if found:
            context.note(f"{found} decomposed attention{'s' if found > 1 else ''} became one op each")
        graph.sweep()
        return PassResult(bool(found or changed))

    def _rewrite(self, graph: Graph, softmax: Node, readers: list[Reader]) -> None:
        x = softmax.inputs[0]
        assert x is not None
        rank = x.type.rank
        if rank < 2 or softmax.attrs["axis"] % rank != rank - 1:
            raise NoAttentionError("the softmax is not over the keys")
        scores = scores_of(graph, x)
        for reader in readers:
            v = reader.product.inputs[1]
            assert v is not None
            q, k, v = _narrow(scores.q, scores.k, v)
            if not q.dtype == k.dtype == v.dtype == reader.product.output.dtype:
                raise NoAttentionError("q, k and v differ in element type")
            self._insert(graph, reader, Scores(q, k, scores.scale, scores.parts, scores.shapes), v)

    def _insert(self, graph: Graph, reader: Reader, scores: Scores, v: Value) -> None:
        product = reader.product
        sources = tuple(dict.fromkeys(s for n in (product, scores.q.node, scores.k.node) if n for s in n.sources))
        lead = batch_and_heads(scores, v, list(reader.shapes))
        asked = scores.shapes[-1]  # as the product of q and k had it
        weights = (reader.shapes or scores.shapes[:1])[-1]
        q = _whole(graph, product, with_lead(graph, product, scores.q, (*asked[:-1], 1), lead), lead, (0, 1))
        k = with_lead(graph, product, scores.k, (*asked[:-2], 1, 1), lead, shared_heads=True)
        v = with_lead(graph, product, v, (*weights[:-2], 1, 1), lead, shared_heads=True)
        k, v = (_whole(graph, product, x, lead, (0,) if k.shape[1] == v.shape[1] else (0, 1)) for x in (k, v))
        mask, empty = combined(graph, product, scores.parts, lead)
        attrs = {"scale": scores.scale, "empty_row": "zero" if reader.zero and empty == "nan" else empty}
        made = graph.insert(
            "attention", [q, k, v, *([mask] if mask is not None else [])], attrs, before=product, name=product.name,
            location=product.location, sources=sources,
        )  # fmt: skip
        out = made.output
        if out.shape != product.output.shape:
            out = graph.derive(product, "reshape", [out], {"shape": product.output.shape})
        graph.replace(product.output, out)

    # -- what any attention op can be told more plainly -----------------------------------------------------------------
    def _renew(self, graph: Graph, node: Node, inputs: list[Value | None], **attrs: object) -> int:
        """Put an attention with other operands and attributes in the place of ``node``."""
        new = graph.derive(node, "attention", inputs, {**node.attrs, **attrs}, hint=node.output.name)
        graph.replace(node.output, new)
        graph.erase(node)
        return 1

    def _absorb_scale(self, graph: Graph, node: Node) -> int:
        """A number that multiplies q or k goes into the scale."""
        q, k = node.inputs[:2]
        assert q is not None and k is not None
        (q, early), (k, late) = unscaled(graph, q, node), unscaled(graph, k, node)
        if early * late == 1.0:
            return 0
        return self._renew(graph, node, [q, k, *node.inputs[2:]], scale=node.attrs["scale"] * early * late)

    def _select(self, graph: Graph, node: Node) -> int:
        """A float mask of zeros and a number that swallows any score is a bool mask."""
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is None or mask.dtype is DType.bool:
            return 0
        found = selection(graph, mask, node)
        if found is None or (found[1] > ABSORBING) or (node.attrs["causal"] and found[1] != -float("inf")):
            return 0
        empty = node.attrs["empty_row"] if found[1] == -float("inf") else "mean"
        return self._renew(graph, node, [*node.inputs[:3], found[0]], empty_row=empty)

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
        return self._renew(graph, node, inputs, causal=True, causal_offset=offset)

    def _share_heads(self, graph: Graph, node: Node) -> int:
        """Read k and v in front of the repeat that grouped-query attention was given."""
        q, k, v = node.inputs[:3]
        assert q is not None and k is not None and v is not None
        narrow = [_ungrouped(x, q.shape[1]) for x in (k, v)]
        if narrow[0] is k or narrow[1] is v or narrow[0].shape[1] != narrow[1].shape[1]:
            return 0
        return self._renew(graph, node, [q, *narrow, *node.inputs[3:]])

    def _settle_empty_rows(self, graph: Graph, node: Node) -> int:
        """Where every row sees a key, what an empty one would give is of no account: one spelling for it."""
        k = node.inputs[1]
        assert k is not None
        masked = len(node.inputs) > 3 and node.inputs[3] is not None
        if node.attrs["empty_row"] == "nan" or masked or dims.bounds(k.shape[2], graph.bounds)[0] < 1:
            return 0
        if node.attrs["causal"] and not sees_a_key(graph, node.attrs["causal_offset"]):
            return 0
        return self._renew(graph, node, node.inputs, empty_row="nan")


def _readers(graph: Graph, weights: Value, softmax: Node, shapes: tuple[tuple[Dim, ...], ...] = (),
             zero: bool = False) -> list[Reader]:  # fmt: skip
    """The matrix products whose first factor is the softmax, through casts and reshapes; empty if anything else reads it."""
    found: list[Reader] = []
    if weights in graph.outputs:
        return []
    for user in weights.users:
        deeper: list[Reader] = []
        if user.op == "isnan" and user.output not in graph.outputs:
            if all(_zeroes_nan(graph, u, weights) for u in user.output.users):
                continue  # they read the weights as well
        if user.op == "cast" and user.output.dtype.is_float:
            deeper = _readers(graph, user.output, softmax, shapes, zero)
        elif user.op == "reshape" and user.output.type.rank >= 2 and user.output.shape[-2:] == weights.shape[-2:]:
            deeper = _readers(graph, user.output, softmax, (*shapes, user.output.shape), zero)
        elif user.op == "where" and (
            _zeroes_empty_rows(graph, user, weights, softmax) or _zeroes_nan(graph, user, weights)
        ):
            deeper = _readers(graph, user.output, softmax, shapes, True)
        elif user.op == "matmul" and user.inputs[0] is weights and user.inputs[1] is not weights:
            deeper = [Reader(user, shapes, zero)]
        if not deeper:
            return []
        found.extend(deeper)
    return found


def _zeroes_empty_rows(graph: Graph, node: Node, weights: Value, softmax: Node) -> bool:
    """Whether ``node`` is ``where(all(x == -inf), 0, softmax(x))``, torch's safe softmax."""
    condition, zero, kept = node.inputs
    if kept is not weights or uniform(graph, zero) != 0 or condition is None or condition.node is None:
        return False
    every = condition.node
    if every.op != "reduce_all" or [a % softmax.output.type.rank for a in every.attrs["axes"]] != [
        weights.type.rank - 1
    ]:
        return False
    hidden = every.inputs[0].node if every.inputs[0] is not None else None
    if hidden is None or hidden.op != "eq" or hidden.inputs[0] is not softmax.inputs[0]:
        return False
    return uniform(graph, hidden.inputs[1]) == -float("inf")


def _zeroes_nan(graph: Graph, node: Node, weights: Value) -> bool:
    """Whether ``node`` is ``where(isnan(weights), 0, weights)``, as torch's ONNX exporter writes the safe softmax.

    A row without a visible key is zeros in both. What differs is a row of scores that hold NaN or infinity: it stays NaN, as in
    the model that was exported, where the file would hide it.
    """
    if node.op != "where":
        return False
    condition, zero, kept = node.inputs
    test = None if condition is None else condition.node
    return (
        kept is weights and uniform(graph, zero) == 0 and test is not None and test.op == "isnan"
        and test.inputs[0] is weights
    )  # fmt: skip


def _narrow(q: Value, k: Value, v: Value) -> tuple[Value, Value, Value]:
    """q and k in front of the casts that widen them for the product, which is summed in f32 anyway."""
    nodes = [x.node for x in (q, k)]
    inner = [n.inputs[0] if n is not None and n.op == "cast" else None for n in nodes]
    if v.dtype in (DType.bf16, DType.f16) and all(x is not None and x.dtype is v.dtype for x in inner):
        return inner[0], inner[1], v  # type: ignore[return-value]
    return q, k, v


def _whole(graph: Graph, before: Node, value: Value, lead: tuple[Dim, Dim], axes: tuple[int, ...]) -> Value:
    """``value`` with the given leading axes as long as those of the scores."""
    shape = tuple(lead[i] if i in axes else d for i, d in enumerate(value.shape))
    return value if shape == value.shape else graph.derive(before, "expand", [value], {"shape": shape})


def _ungrouped(value: Value, heads: Dim) -> Value:
    """k or v in front of the repeat that gives every query head a copy of its own (GQA)."""
    node = value.node
    if node is None or value.type.rank != 4 or node.inputs[:1] == [None]:
        return value
    if node.op == "expand":  # one head for all
        narrow = node.inputs[0]
        assert narrow is not None
        same = narrow.type.rank == 4 and narrow.shape[1] == 1 and (narrow.shape[0], *narrow.shape[2:]) == (
            value.shape[0], *value.shape[2:]
        )  # fmt: skip
        return narrow if same else value
    if node.op != "reshape":
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
