"""Attention of ``com.microsoft``: as ONNX Runtime's transformer optimizer and its builders of language models write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...dims import Dim, divide_exactly
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .attention import Scores, attend, default_scale, heads_apart, heads_joined
from .importing import Importer
from .products import matmul
from .registry import MICROSOFT, op, refuse


@op("Attention", domain=MICROSOFT)
def attention(
    at: Importer,
    x: Value,
    weights: Value,
    bias: Value | None = None,
    mask: Value | None = None,
    past: Value | None = None,
    attention_bias: Value | None = None,
    past_length: Value | None = None,
    *,
    num_heads: int,
    qkv_hidden_sizes: Sequence[int] = (),
    **attributes: Any,
) -> list[Any]:
    """Q, K and V by one product with a matrix ``[inputs, q + k + v]``."""
    if past_length is not None or attributes.pop("past_present_share_buffer", 0):
        raise Unsupported("a cache that is written in place is not supported")
    whole = matmul(at, x, weights)
    if bias is not None:
        whole = at.emit("add", whole, bias)
    return attended(at, whole, mask, past, attention_bias, heads=num_heads, sizes=qkv_hidden_sizes, **attributes)


def attended(
    at: Importer,
    whole: Value,
    mask: Value | None,
    past: Value | None,
    attention_bias: Value | None,
    *,
    heads: int,
    sizes: Sequence[int] = (),
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    do_rotary: int = 0,
    rotary_embedding_dim: int = 0,
) -> list[Any]:
    """Attention over Q, K and V that lie side by side along the last axis; returns the result and what is kept of K and V.

    Raises:
        Unsupported: a rotation whose angles the file does not hold, or a mask in a form that is not read.
    """
    if do_rotary:
        raise Unsupported("a rotation without tables (do_rotary) is not supported")
    width = whole.shape[-1]
    if not sizes:
        third = divide_exactly(width, 3)
        if not isinstance(third, int):
            raise Unsupported(f"Q, K and V in {width} columns do not have one size")
        sizes = [third] * 3
    ends = [sum(sizes[: i + 1]) for i in range(3)]
    parts = [at.slice(whole, 2, end - size, end) for size, end in zip(sizes, ends, strict=True)]
    q, k, v = (heads_apart(at, p, heads) for p in parts)
    offset: Dim = 0
    if past is not None:
        offset = past.shape[3]
        k, v = (at.emit("concat", _half(at, past, i), new, axis=2) for i, new in enumerate((k, v)))
    kept = None
    if len(at.results) > 1 and at.results[1]:
        kept = at.emit("concat", *(at.reshape(t, (1, *t.shape)) for t in (k, v)), axis=0)
    added = _added(at, mask, q, k, mask_filter_value, attention_bias, offset)
    how = Scores(default_scale(q, scale), added, bool(unidirectional), offset)
    return [heads_joined(at, attend(at, q, k, v, how)), kept]


def _half(at: Importer, past: Value, number: int) -> Value:
    return at.reshape(at.slice(past, 0, number, number + 1), past.shape[1:])


def _added(
    at: Importer, mask: Value | None, q: Value, k: Value, hidden: float, bias: Value | None, offset: Dim
) -> Value | None:
    """What is added to the scores: a bias, and a large negative number for every key that the mask hides."""
    if mask is None:
        return bias
    visible = _visible(at, mask, q, k, offset)
    low = at.emit("where", visible, at.scalar(0.0, q.dtype), at.scalar(hidden, q.dtype))
    return low if bias is None else at.emit("add", low, bias)


def _visible(at: Importer, mask: Value, q: Value, k: Value, offset: Dim) -> Value:
    """The keys that a query sees, bool, of rank 4.

    Raises:
        Unsupported: a mask of another form.
    """
    batch, queries, keys = q.shape[0], q.shape[2], k.shape[2]
    shape = mask.shape
    if len(shape) == 1:  # where each row ends; then where it starts
        places = at.reshape(at.emit("arange", end=keys, dtype=DType.i64), (1, 1, 1, keys))
        if shape[0] not in (batch, 2 * batch):
            raise Unsupported(f"a mask of shape {list(shape)} for a batch of {batch} is not supported")
        ends = at.reshape(at.cast(at.slice(mask, 0, 0, batch), DType.i64), (batch, 1, 1, 1))
        inside = at.emit("lt", places, ends)
        if shape[0] == batch:
            return inside
        starts = at.reshape(at.cast(at.slice(mask, 0, batch, 2 * batch), DType.i64), (batch, 1, 1, 1))
        return at.emit("logical_and", inside, at.emit("ge", places, starts))
    if len(shape) == 2:
        mask = at.reshape(mask, (shape[0], 1, 1, shape[1]))
    elif len(shape) == 3:
        mask = at.reshape(mask, (shape[0], 1, *shape[1:]))
    elif len(shape) == 4:  # as Megatron has it: for the longest sequence there may be
        mask = at.slice(at.slice(mask, 2, offset, offset + queries), 3, 0, keys)
    else:
        raise Unsupported(f"a mask of shape {list(shape)} is not supported")
    if mask.shape[-1] != keys:
        raise Unsupported(f"a mask of {mask.shape[-1]} keys does not fit {keys} keys")
    return at.emit("gt", at.cast(mask, DType.i32), at.scalar(0, DType.i32))


@op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    at: Importer,
    query: Value,
    key: Value | None = None,
    value: Value | None = None,
    bias: Value | None = None,
    mask: Value | None = None,
    attention_bias: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    past_length: Value | None = None,
    indirection: Value | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> list[Any]:
    """Q, K and V apart, or side by side in one operand; a key with four axes comes from a cache as it is."""
    if past_length is not None or indirection is not None:
        raise Unsupported("a cache that is written in place is not supported")
    if len(at.results) > 3 and at.results[3]:
        raise Unsupported("its scores as a result are not supported")
    q, k, v = _three(at, query, key, value, bias, num_heads)
    offset: Dim = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k, v = (at.emit("concat", p, new, axis=2) for p, new in ((past_key, k), (past_value, v)))
    added = _added(at, mask, q, k, mask_filter_value, attention_bias, offset)
    how = Scores(default_scale(q, scale), added, bool(unidirectional), offset)
    return [heads_joined(at, attend(at, q, k, v, how)), k, v, None]


def _three(
    at: Importer, query: Value, key: Value | None, value: Value | None, bias: Value | None, heads: int
) -> list[Value]:
    """Q, K and V, each [batch, heads, sequence, size], biases added."""
    if query.type.rank == 5:  # [batch, sequence, heads, 3, size]
        parts = [_nth(at, query, i) for i in range(3)]
    elif key is None:
        raise Unsupported("it has no keys")
    elif key.type.rank == 5:  # [batch, sequence, heads, 2, size]
        parts = [query, _nth(at, key, 0), _nth(at, key, 1)]
    elif value is None:
        raise Unsupported("it has no values")
    else:
        parts = [query, key, value]
    found, start = [], 0
    for part in parts:
        if part.type.rank == 4:  # it lies as it is wanted
            found.append(part)
            continue
        width = part.shape[-1]
        if bias is not None and isinstance(width, int):
            part = at.emit("add", part, at.slice(bias, 0, start, start + width))
            start += width
        found.append(heads_apart(at, part, heads))
    return found


def _nth(at: Importer, packed: Value, number: int) -> Value:
    batch, length, heads, _, size = packed.shape
    return at.reshape(at.slice(packed, 3, number, number + 1), (batch, length, heads * size))


refuse(
    "DecoderMaskedMultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention",
    why="no CPU kernel of ONNX Runtime computes it, and planish does not read it", domain=MICROSOFT,
)  # fmt: skip
