"""Attention and rotary embedding of the standard."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...dims import Dim, divide_exactly, floordiv
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op
from .types import dtype_of


def heads_apart(at: Importer, x: Value, heads: int) -> Value:
    """[batch, sequence, heads * size] as [batch, heads, sequence, size].

    Raises:
        Unsupported: the last axis is no multiple of the heads.
    """
    size = divide_exactly(x.shape[-1], heads) if heads > 0 else None
    if size is None:
        raise Unsupported(f"{x.type} does not fall into {heads} heads")
    return at.transpose(at.reshape(x, (*x.shape[:2], heads, size)), (0, 2, 1, 3))


def heads_joined(at: Importer, x: Value) -> Value:
    """[batch, heads, sequence, size] as [batch, sequence, heads * size]."""
    batch, heads, length, size = x.shape
    return at.reshape(at.transpose(x, (0, 2, 1, 3)), (batch, length, heads * size))


@dataclass(frozen=True)
class Scores:
    """How queries and keys become weights.

    Attributes:
        scale: of the products.
        mask: bool (where to attend) or float (added), of rank 4; or None.
        causal: query i sees keys up to i + offset.
        offset: keys from before.
        softcap: scores x become softcap * tanh(x / softcap); 0: they stay.
    """

    scale: float
    mask: Value | None = None
    causal: bool = False
    offset: Dim = 0
    softcap: float = 0.0


def default_scale(q: Value, scale: float) -> float:
    """``scale``, or where that is 0 the square root of the head's size, inverted.

    Raises:
        Unsupported: the head's size varies.
    """
    if scale:
        return scale
    size = q.shape[-1]
    if not isinstance(size, int):
        raise Unsupported("a head whose size varies is not supported")
    return 1.0 / math.sqrt(size)


def attend(at: Importer, q: Value, k: Value, v: Value, how: Scores) -> Value:
    """Attention over [batch, heads, sequence, size]; a query that sees no key gives zeros."""
    if how.softcap:
        return attend_apart(at, q, k, v, how)[0]
    operands = [q, k, v] if how.mask is None else [q, k, v, how.mask]
    return at.emit(
        "attention", *operands, scale=how.scale, causal=how.causal, causal_offset=how.offset, empty_row="zero"
    )


def attend_apart(
    at: Importer, q: Value, k: Value, v: Value, how: Scores, precision: DType | None = None
) -> tuple[Value, list[Value]]:
    """:func:`attend` op by op.

    Args:
        precision: element type of the softmax; None: at least f32.

    Returns:
        the result, and [products, after the softcap, with the mask, weights], each [batch, heads, queries, keys].
    """
    given = q.dtype
    wide = given if given is DType.f64 else DType.f32
    q, k, v = (at.cast(x, wide) for x in (q, k, v))
    groups = floordiv(q.shape[1], k.shape[1])
    if groups != 1:
        k, v = (_shared(at, x, groups, q.shape[1]) for x in (k, v))
    products = at.emit("matmul", q, at.transpose(k, (0, 1, 3, 2)))
    stages = [at.emit("mul", products, at.scalar(how.scale, wide))]
    scores = stages[0]
    if how.softcap:
        cap = at.scalar(how.softcap, wide)
        scores = at.emit("mul", at.emit("tanh", at.emit("div", scores, cap)), cap)
    stages.append(scores)
    lowest = at.scalar(-math.inf, wide)
    queries, keys = q.shape[2], k.shape[2]
    hidden: Value | None = None  # where a query does not see a key, whatever their product
    if how.mask is not None:
        if how.mask.dtype is DType.bool:
            hidden = at.emit("logical_not", how.mask)
        else:
            hidden = at.emit("eq", how.mask, at.scalar(-math.inf, how.mask.dtype))
            scores = at.emit("add", scores, at.cast(how.mask, wide))
    if how.causal:
        rows = at.emit("arange", start=how.offset, end=queries + how.offset, dtype=DType.i64)
        columns = at.emit("arange", end=keys, dtype=DType.i64)
        ahead = at.emit("gt", columns, at.reshape(rows, (queries, 1)))
        hidden = ahead if hidden is None else at.emit("logical_or", hidden, ahead)
    if hidden is not None:
        scores = at.emit("where", hidden, lowest, scores)
    stages.append(scores)
    weights = at.emit("softmax", at.cast(scores, precision or wide), axis=-1)
    weights = at.cast(weights, wide)
    if hidden is not None:
        none = at.emit("reduce_all", at.expand(hidden, scores.shape), axes=(3,), keepdim=True)
        weights = at.emit("where", none, at.scalar(0.0, wide), weights)
    stages.append(weights)
    result = at.emit("matmul", weights, v)
    return at.cast(result, given), [at.cast(s, given) for s in stages]


def _shared(at: Importer, x: Value, groups: Dim, heads: Dim) -> Value:
    """Every head ``groups`` times."""
    batch, own, length, size = x.shape
    apart = at.expand(at.reshape(x, (batch, own, 1, length, size)), (batch, own, groups, length, size))
    return at.reshape(apart, (batch, heads, length, size))


@op("Attention", since=23)
def attention(
    at: Importer, q: Value, k: Value, v: Value, mask: Value | None = None, past_key: Value | None = None,
    past_value: Value | None = None, *, is_causal: int = 0, kv_num_heads: int = 0, q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0, scale: float = 0.0, softcap: float = 0.0, softmax_precision: int = 0,
) -> Any:  # fmt: skip
    flat = q.type.rank == 3
    if flat:
        q, k, v = heads_apart(at, q, q_num_heads), heads_apart(at, k, kv_num_heads), heads_apart(at, v, kv_num_heads)
    offset: Dim = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k = at.emit("concat", past_key, k, axis=2)
        v = at.emit("concat", past_value, v, axis=2)
    if mask is not None and mask.dtype is not DType.bool:
        mask = at.cast(mask, q.dtype)
    shaped = None if mask is None else _shaped_mask(at, mask, k.shape[2])
    how = Scores(default_scale(q, scale), shaped, bool(is_causal), offset, softcap)
    wanted = [*at.results, False, False, False]
    products: Value | None = None
    if wanted[3] or softmax_precision not in (0, 11 if q.dtype is DType.f64 else 1):  # what attention computes in
        precision = dtype_of(softmax_precision) if softmax_precision else None
        result, stages = attend_apart(at, q, k, v, how, precision)
        if not 0 <= qk_matmul_output_mode < len(stages):
            raise Unsupported(f"there is no stage {qk_matmul_output_mode} of the scores")
        products = stages[qk_matmul_output_mode]
    else:
        result = attend(at, q, k, v, how)
    return [heads_joined(at, result) if flat else result, k, v, *([] if products is None else [products])]


def _shaped_mask(at: Importer, mask: Value, keys: Dim) -> Value:
    """A mask with four axes; keys that it does not reach are hidden."""
    mask = at.reshape(mask, (*(1 for _ in range(4 - mask.type.rank)), *mask.shape))
    have = mask.shape[-1]
    if isinstance(have, int) and isinstance(keys, int) and 1 < have < keys:
        value: Any = False if mask.dtype is DType.bool else -math.inf
        mask = at.emit("pad", mask, low=(0, 0, 0, 0), high=(0, 0, 0, keys - have), value=value)
    return mask


@op("RotaryEmbedding", since=23)
def rotary_embedding(
    at: Importer, x: Value, cos: Value, sin: Value, position_ids: Value | None = None, *, interleaved: int = 0,
    num_heads: int = 0, rotary_embedding_dim: int = 0,
) -> Value:  # fmt: skip
    shape = x.shape
    if x.type.rank == 3:
        size = divide_exactly(shape[2], num_heads) if num_heads > 0 else None
        if size is None:
            raise Unsupported(f"{x.type} does not fall into {num_heads} heads")
        x = at.reshape(x, (*shape[:2], num_heads, size))
    axis = 1 if len(shape) == 4 else 2  # of the heads, over which the tables are the same
    turned = rotary_embedding_dim or x.shape[-1]
    tables = []
    for table in (cos, sin):
        rows = table if position_ids is None else at.emit("gather", table, position_ids, axis=0)
        if rows.type.rank != 3 or rows.shape[-1] * 2 != turned:
            raise Unsupported(f"its tables {table.type} do not fit {x.type}")
        tables.append(at.cast(at.reshape(rows, (*rows.shape[:axis], 1, *rows.shape[axis:])), x.dtype))
    return at.reshape(at.emit("rotary", x, *tables, interleaved=bool(interleaved)), shape)
