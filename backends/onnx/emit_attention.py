"""Emitter of attention: the operator of opset 23, ONNX Runtime's own, or the products and the softmax they stand for.

The fused operators differ in what a row gives that may attend to nothing, so each is used only where it means the same:
``Attention`` gives zeros, ``MultiHeadAttention`` (with an additive mask) NaN for scores that are all -inf.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...compiler.dims import floordiv
from ...compiler.graph import Node, Value
from ...compiler.types import DType
from .calculation import Calculation
from .emitter import Emitter, emits
from .probe_graph import MICROSOFT

_HEADS_APART = (0, 2, 1, 3)
#: What is added to a score to hide it, far below any score and finite.
_HIDDEN = {DType.f16: -6e4, DType.f32: -1e30, DType.f64: -1e30}


@emits("attention")
def _attention(at: Emitter, node: Node) -> str | None:
    call = _Call(at, node)
    if call.standard:
        return call.by_standard()
    if call.microsoft:
        return call.by_microsoft()
    return call.decomposed()


@dataclass
class _Call:
    """One attention on its way out."""

    at: Emitter
    node: Node

    def __post_init__(self) -> None:
        q, k, v = self.node.operands[:3]
        self.q, self.k, self.v = q, k, v
        self.mask = self.node.inputs[3] if len(self.node.inputs) > 3 else None
        self.heads, self.key_heads = q.shape[1], k.shape[1]
        half = self.at.half and q.dtype is DType.f16
        self.work = DType.f16 if half else self.at.work(self.at.wide(q.dtype), "Softmax")

    @property
    def _plain(self) -> bool:
        """Heads are numbers, and rows have a fixed width."""
        widths = (self.q.shape[3], self.v.shape[3])
        return all(isinstance(d, int) and d > 0 for d in (self.heads, self.key_heads, *widths))

    @property
    def standard(self) -> bool:
        """Whether the operator of opset 23 means the same: no row is empty, or an empty one gives zeros."""
        attrs, mask = self.node.attrs, self.mask
        if self.at.opset < 23 or not self._plain or not self.at.takes("attention-23", self.work.value):
            return False
        if attrs["causal"] and (attrs["causal_offset"] != 0 or mask is not None):
            return False
        return mask is None or (mask.dtype is DType.bool and attrs["empty_row"] == "zero")

    @property
    def microsoft(self) -> bool:
        """Whether MultiHeadAttention means the same: as many key heads, and no mask or an additive one."""
        attrs = self.node.attrs
        if not self._plain or not self.at.takes("multi-head-attention", self.work.value):
            return False
        if attrs["causal"] or self.heads != self.key_heads or self.q.shape[3] != self.v.shape[3]:
            return False
        return self.mask is None or (self.mask.dtype is not DType.bool and attrs["empty_row"] == "nan")

    # -- operands ------------------------------------------------------------------------------------------------------
    def _rows(self, value: Value) -> str:
        """``[batch, heads, tokens, width]`` as ``[batch, tokens, heads * width]``: what it was before heads were set apart."""
        batch, heads, tokens, width = value.shape
        together = (batch, tokens, heads * width)
        before = _apart(value)
        if before is not None:
            whole = before.node.operands[0] if before.node is not None and before.node.op == "reshape" else None
            if whole is not None and whole.shape == together:
                return self.at.cast(self.at.name(whole), self.work)
            name = self.at.name(before)
        else:
            name = self.at.op("Transpose", [self.at.name(value)], perm=list(_HEADS_APART), dtype=value.dtype)
        return self.at.cast(self.at.reshape(name, together, (batch, tokens, heads, width)), self.work)

    def _spread(self, mask: Value) -> str:
        """The mask with four axes, the last two of full size."""
        shape = (*(1 for _ in range(4 - mask.type.rank)), *mask.shape)
        name = self.at.name(mask)
        name = name if shape == mask.shape else self.at.reshape(name, shape, mask.shape)
        full = (*shape[:2], self.q.shape[2], self.k.shape[2])
        if full == shape:
            return name
        return str(self.at.op("Expand", [name, self.at.dims(full)], dtype=mask.dtype))

    def _result(self, rows: str) -> str | None:
        """``rows`` ``[batch, tokens, heads * width]`` with heads apart; if all that follows is putting them together again, the
        value behind that is bound to them and nothing is moved."""
        node, batch, tokens = self.node, self.q.shape[0], self.q.shape[2]
        width = self.v.shape[3]
        rows = self.at.cast(rows, node.output.dtype)
        behind = _together(node.output, (batch, tokens, self.heads * width))
        if behind is not None and node.output not in self.at.graph.outputs:
            self.at.bind(behind, rows)
        apart = self.at.reshape(rows, (batch, tokens, self.heads, width), (batch, tokens, self.heads * width))
        return str(self.at.op("Transpose", [apart], perm=list(_HEADS_APART), dtype=node.output.dtype))

    # -- spellings -----------------------------------------------------------------------------------------------------
    def by_standard(self) -> str | None:
        """``Attention`` on matrices."""
        mask = None if self.mask is None else self._spread(self.mask)
        rows = self.at.op(
            "Attention", [*(self._rows(v) for v in (self.q, self.k, self.v)), mask], dtype=self.work,
            q_num_heads=self.heads, kv_num_heads=self.key_heads, scale=float(self.node.attrs["scale"]),
            is_causal=int(self.node.attrs["causal"]),
        )  # fmt: skip
        return self._result(rows)

    def by_microsoft(self) -> str | None:
        """``MultiHeadAttention`` on matrices."""
        mask = None if self.mask is None else self.at.cast(self._spread(self.mask), self.work)
        rows = self.at.op(
            "MultiHeadAttention", [*(self._rows(v) for v in (self.q, self.k, self.v)), None, None, mask], domain=MICROSOFT,
            dtype=self.work, num_heads=self.heads, scale=float(self.node.attrs["scale"]),
        )  # fmt: skip
        batch, _, tokens, width = self.q.shape
        self.at.declare(rows, self.work, (batch, tokens, self.heads * width))
        return self._result(rows)

    def decomposed(self) -> str:
        """Two products and a softmax."""
        at, attrs = self.at, self.node.attrs
        c = Calculation(at, self.work)
        q, v = (at.cast(at.name(x), self.work) for x in (self.q, self.v))
        v = self._repeated(v, self.v)
        scores = c("MatMul", self._scaled(q), self._keys_turned())
        visible = self._visible()
        added = self.mask is not None and self.mask.dtype is not DType.bool
        if added and self.mask is not None:
            scores = c("Add", scores, at.cast(at.name(self.mask), self.work))
        kind = attrs["empty_row"]
        # A row whose scores are all hidden by a finite number has finite results, and a product makes them zeros, which providers
        # that compile graphs join with the products next to it better than a choice.
        finite = kind == "zero" and visible is not None and not added
        if visible is not None:  # equal in all layers that share a mask, so it is appended once
            hidden = _HIDDEN[self.work] if finite else float("-inf")
            scores = c("Add", scores, c.where(visible, 0.0, hidden))
        weights = at.compute("Softmax", [scores], self.work, axis=-1)
        if finite and visible is not None:
            return self._where_seen(c("MatMul", weights, v), at.cast(self._seen(visible), self.work))
        if kind == "nan" or (visible is None and self.mask is None):
            return at.cast(c("MatMul", weights, v), self.node.output.dtype)
        empty = self._empty(scores) if added or visible is None else self._unseen(visible)
        if kind == "mean":
            weights = c.where(empty, c("Div", 1.0, at.dim(self.k.shape[2], self.work)), weights)
            return at.cast(c("MatMul", weights, v), self.node.output.dtype)
        return at.cast(c.where(empty, 0.0, c("MatMul", weights, v)), self.node.output.dtype)

    def _empty(self, scores: str) -> str:
        """Whether all scores of a row are -inf."""
        largest = self.at.op("ReduceMax", [scores, self.at.ints(-1)], keepdims=1, dtype=self.work)
        return Calculation(self.at, self.work)("Equal", largest, float("-inf"))

    def _where_seen(self, context: str, seen: str) -> str:
        """``context`` times ``seen``; behind the joining of heads, where that is all that follows and heads see alike: the
        product is then next to what the reader does with each element."""
        at, node, mask = self.at, self.node, self.mask
        c = Calculation(at, self.work)
        batch, heads, tokens, width = (self.q.shape[0], self.heads, self.q.shape[2], self.v.shape[3])
        behind = _together(node.output, (batch, tokens, heads * width))
        alike = mask is None or mask.type.rank == 2 or (mask.type.rank == 4 and mask.shape[1] == 1)
        if behind is not None and alike and node.output not in at.graph.outputs:
            turned = at.op("Transpose", [context], perm=list(_HEADS_APART), dtype=self.work)
            rows = at.reshape(turned, (batch, tokens, heads * width), (batch, tokens, heads, width))
            if mask is not None and mask.type.rank == 4:
                lines = tokens if node.attrs["causal"] else mask.shape[2]
                seen = at.reshape(seen, (mask.shape[0], lines, 1), (mask.shape[0], 1, lines, 1))
            at.bind(behind, at.cast(c("Mul", rows, seen), node.output.dtype))
            return at.cast(context, node.output.dtype)  # nobody reads it but the views that are bound now
        return at.cast(c("Mul", context, seen), node.output.dtype)

    def _seen(self, visible: str) -> str:
        """1 for a row that may look at something, else 0."""
        numbers = self.at.cast(visible, DType.f32)
        return str(self.at.op("ReduceMax", [numbers, self.at.ints(-1)], keepdims=1, dtype=DType.f32))

    def _unseen(self, visible: str) -> str:
        """Whether a row may look at nothing."""
        return Calculation(self.at, DType.f32)("Equal", self._seen(visible), 0.0)

    def _keys_turned(self) -> str:
        """Keys ``[batch, heads, width, tokens]``, from where heads were set apart in one step."""
        before = _apart(self.k) if self.heads == self.key_heads else None
        name = self.at.cast(self.at.name(self.k if before is None else before), self.work)
        perm = [0, 1, 3, 2] if before is None else [0, 2, 3, 1]
        return str(self.at.op("Transpose", [self._repeated(name, self.k)], perm=perm, dtype=self.work))

    def _scaled(self, q: str) -> str:
        """Queries times the factor of the scores, which are more numbers. In f64 with a negation in between: ONNX Runtime would
        take the factor into the product, as an attribute, which is f32."""
        c, number = Calculation(self.at, self.work), float(self.node.attrs["scale"])
        if number == 1.0:
            return q
        if self.work is DType.f64:
            return c("Neg", c("Mul", q, -number))
        return c("Mul", q, number)

    def _visible(self) -> str | None:
        """Where a query may look, as a bool tensor; None: everywhere."""
        at, attrs = self.at, self.node.attrs
        visible: str | None = None
        if attrs["causal"]:
            c = Calculation(at, DType.i64)
            rows, columns = (
                at.op("Range", [at.scalar(0, DType.i64), at.dim(d), at.scalar(1, DType.i64)], dtype=DType.i64)
                for d in (self.q.shape[2], self.k.shape[2])
            )
            last = at.op("Unsqueeze", [c("Add", rows, at.dim(attrs["causal_offset"])), at.ints(1)], dtype=DType.i64)
            visible = c("LessOrEqual", columns, last)
        if self.mask is not None and self.mask.dtype is DType.bool:
            mask = at.name(self.mask)
            visible = mask if visible is None else at.op("And", [visible, mask], dtype=DType.bool)
        return visible

    def _repeated(self, name: str, value: Value) -> str:
        """Key or value heads, each as often as query heads share it."""
        if self.heads == self.key_heads:
            return name
        batch, shared, *rest = value.shape
        apart = self.at.reshape(name, (batch, shared, 1, *rest), value.shape)
        wide = (batch, shared, floordiv(self.heads, shared), *rest)
        return self.at.reshape(
            self.at.op("Expand", [apart, self.at.dims(wide)], dtype=self.work), (batch, self.heads, *rest), wide
        )


def _apart(value: Value) -> Value | None:
    """What ``value`` ``[batch, heads, tokens, width]`` was before tokens and heads were exchanged."""
    node = value.node
    if node is None or node.op != "transpose" or tuple(node.attrs["perm"]) != _HEADS_APART:
        return None
    return node.operands[0]


def _together(value: Value, shape: tuple[object, ...]) -> Value | None:
    """The value behind exchanging tokens and heads and joining the last two axes, if that is all that reads ``value``."""
    for op, attribute, wanted in (("transpose", "perm", _HEADS_APART), ("reshape", "shape", shape)):
        if len(value.users) != 1 or value.users[0].op != op or tuple(value.users[0].attrs[attribute]) != wanted:
            return None
        value = value.users[0].output
    return value
