"""Attention of language models in ``com.microsoft``: shared key heads, rotary embeddings, biases of relative positions."""

from __future__ import annotations

import math
from typing import Any

from ...dims import Dim, divide_exactly
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .attention import Scores, attend, attend_apart, default_scale, heads_apart, heads_joined
from .importing import Importer
from .products import matmul
from .registry import MICROSOFT, op


# -- rotary embedding --------------------------------------------------------------------------------------------------------
@op("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(
    at: Importer,
    x: Value,
    positions: Value,
    cos: Value,
    sin: Value,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
    is_packed_batching: int = 0,
) -> Value:
    """x is [batch, sequence, heads * size] or [batch, heads, sequence, size]; positions are given, or begin at a number."""
    if is_packed_batching:
        raise Unsupported("packed batches are not supported")
    if scale != 1:
        raise Unsupported(f"its scale {scale} is not supported")
    flat = x.type.rank == 3
    if flat:
        heads: Dim | None = num_heads if num_heads and rotary_embedding_dim else None
        if heads is None:
            size = 2 * cos.shape[1]
            heads = divide_exactly(x.shape[2], size)
        if not isinstance(heads, int):
            raise Unsupported(f"{x.type} does not fall into heads of a known size")
        x = heads_apart(at, x, heads)
    tables = [rows_at(at, t, positions, x.shape[2]) for t in (cos, sin)]
    y = at.emit("rotary", x, *(at.cast(t, x.dtype) for t in tables), interleaved=bool(interleaved))
    return heads_joined(at, y) if flat else y


def rows_at(at: Importer, table: Value, positions: Value, length: Dim) -> Value:
    """Rows of a table [places, size] at positions ``[batch, length]``, or from a number on: [batch or 1, 1, length, size]."""
    if positions.type.elements == 1 and (positions.type.rank < 2 or length != 1):
        known = at.known(positions)
        if known is not None:
            start = known.reshape(-1)[0]
            return at.reshape(at.slice(table, 0, start, start + length), (1, 1, length, table.shape[1]))
        steps = at.emit("arange", end=length, dtype=DType.i64)
        places = at.emit("add", at.reshape(at.cast(positions, DType.i64), (1, 1)), at.reshape(steps, (1, length)))
    else:
        places = positions
    rows = at.emit("embedding", table, places)
    return at.reshape(rows, (rows.shape[0], 1, *rows.shape[1:]))


# -- grouped queries -----------------------------------------------------------------------------------------------------------
@op("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    at: Importer,
    query: Value,
    key: Value | None,
    value: Value | None,
    past_key: Value | None,
    past_value: Value | None,
    lengths: Value | None,
    total: Value | None,
    cos: Value | None = None,
    sin: Value | None = None,
    positions: Value | None = None,
    attention_bias: Value | None = None,
    sink: Value | None = None,
    k_scale: Value | None = None,
    v_scale: Value | None = None,
    q_norm: Value | None = None,
    k_norm: Value | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    scale: float = 0.0,
    softcap: float = 0.0,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
    local_window_size: int = -1,
    smooth_softmax: int = 0,
    causal: int = 1,
    qk_norm_epsilon: float = 1e-6,
    qk_output: int = 0,
    sliding_window_cache: int = 0,
    kv_cache_bit_width: int = 0,
    k_quant_type: str = "NONE",
    v_quant_type: str = "NONE",
) -> list[Any]:
    """Every row of the batch is as long as the others, and the cache holds what came before and nothing else: ``present`` is
    ``past`` with the new keys behind it (ONNX Runtime's own way where past and present are no shared buffer). ``lengths`` and
    ``total`` say the same over again. Rows of a prompt that are shorter are filled up behind, where nobody looks.

    Raises:
        Unsupported: a quantised cache, or scores as a result.
    """
    if k_scale is not None or v_scale is not None or kv_cache_bit_width or {k_quant_type, v_quant_type} != {"NONE"}:
        raise Unsupported("a quantised cache is not supported")
    if qk_output or sliding_window_cache:
        raise Unsupported("scores as a result and a cache of the last keys alone are not supported")
    if key is None or value is None:
        size = divide_exactly(query.shape[-1], num_heads + 2 * kv_num_heads)
        if not isinstance(size, int):
            raise Unsupported(f"{query.type} does not hold {num_heads} + 2 x {kv_num_heads} heads")
        ends = [num_heads * size, (num_heads + kv_num_heads) * size, (num_heads + 2 * kv_num_heads) * size]
        query, key, value = (at.slice(query, 2, a, b) for a, b in zip((0, *ends), ends, strict=False))
    q, k, v = (
        heads_apart(at, query, num_heads),
        heads_apart(at, key, kv_num_heads),
        heads_apart(at, value, kv_num_heads),
    )
    if q_norm is not None and k_norm is not None:
        q, k = (at.emit("rms_norm", t, w, eps=qk_norm_epsilon) for t, w in ((q, q_norm), (k, k_norm)))
    offset: Dim = 0 if past_key is None else past_key.shape[2]
    if do_rotary:
        if cos is None or sin is None:
            raise Unsupported("its tables of cosines and sines are missing")
        q, k = (_turned(at, t, cos, sin, positions, offset, rotary_interleaved) for t in (q, k))
    if past_key is not None and past_value is not None:
        k, v = (at.emit("concat", p, new, axis=2) for p, new in ((past_key, k), (past_value, v)))
    mask = attention_bias
    if local_window_size > 0 and causal:
        mask = _within(at, q, k, offset, local_window_size, mask)
    how = Scores(default_scale(q, scale), mask, bool(causal), offset, softcap)
    if sink is None and not smooth_softmax:
        y = attend(at, q, k, v, how)
    else:
        y = _with_sink(at, q, k, v, how, sink)
    return [heads_joined(at, y), k, v, None]


def _turned(
    at: Importer, x: Value, cos: Value, sin: Value, positions: Value | None, offset: Dim, interleaved: int
) -> Value:
    length = x.shape[2]
    if positions is not None:
        tables = [rows_at(at, t, positions, length) for t in (cos, sin)]
    else:
        tables = [at.slice(t, 0, offset, offset + length) for t in (cos, sin)]
    return at.emit("rotary", x, *(at.cast(t, x.dtype) for t in tables), interleaved=bool(interleaved))


def _within(at: Importer, q: Value, k: Value, offset: Dim, window: int, mask: Value | None) -> Value:
    """The keys that are among the last ``window`` of a query; a mask that is added is kept."""
    queries, keys = q.shape[2], k.shape[2]
    rows = at.emit("arange", start=offset, end=queries + offset, dtype=DType.i64)
    columns = at.emit("arange", end=keys, dtype=DType.i64)
    behind = at.emit("sub", at.reshape(rows, (queries, 1)), columns)
    near = at.reshape(at.emit("lt", behind, at.scalar(window, DType.i64)), (1, 1, queries, keys))
    if mask is None:
        return near
    return at.emit("where", near, mask, at.scalar(-math.inf, mask.dtype))


def _with_sink(at: Importer, q: Value, k: Value, v: Value, how: Scores, sink: Value | None) -> Value:
    """Attention where every query also sees a key that has no value: its score is that of the head's sink, or 0."""
    _, (_, _, scores, _) = attend_apart(at, q, k, v, how)
    batch, heads, queries, _ = scores.shape
    column = at.scalar(0.0, scores.dtype) if sink is None else at.reshape(at.cast(sink, scores.dtype), (1, heads, 1, 1))
    whole = at.emit("concat", scores, at.expand(column, (batch, heads, queries, 1)), axis=3)
    weights = at.emit("softmax", at.cast(whole, DType.f32) if whole.dtype is not DType.f64 else whole, axis=-1)
    seen = at.slice(weights, 3, 0, k.shape[2])
    groups = divide_exactly(heads, v.shape[1])
    if groups != 1:
        size, length = v.shape[3], v.shape[2]
        apart = at.reshape(v, (batch, v.shape[1], 1, length, size))
        v = at.reshape(at.expand(apart, (batch, apart.shape[1], groups, length, size)), (batch, heads, length, size))  # type: ignore[arg-type]
    return at.cast(at.emit("matmul", seen, at.cast(v, seen.dtype)), q.dtype)


# -- relative positions ----------------------------------------------------------------------------------------------------------
@op("RelativePositionBias", domain=MICROSOFT)
def relative_position_bias(
    at: Importer, table: Value, queries: Value, keys: Value, *, max_distance: int, is_bidirectional: int = 0
) -> Value:
    """As T5 has it (Raffel et al. 2020): distances in buckets, small ones of their own, larger ones by their logarithm; the
    table is [buckets, heads], the result [1, heads, queries, keys]."""
    (rows,), (columns,) = at.dims(queries, "the number of queries"), at.dims(keys, "the number of keys")
    buckets, heads = table.shape
    if not isinstance(buckets, int):
        raise Unsupported("a table whose size varies is not supported")
    i = at.reshape(at.emit("arange", end=rows, dtype=DType.i64), (rows, 1))
    distance = at.emit("sub", at.emit("arange", end=columns, dtype=DType.i64), i)  # keys ahead are positive
    first = None
    if is_bidirectional:
        buckets //= 2
        ahead = at.emit("gt", distance, at.scalar(0, DType.i64))
        first = at.emit("where", ahead, at.scalar(buckets, DType.i64), at.scalar(0, DType.i64))
        distance = at.emit("abs", distance)
    else:
        distance = at.emit("maximum", at.emit("neg", distance), at.scalar(0, DType.i64))
    exact = buckets // 2
    ratio = at.emit("div", at.cast(distance, DType.f32), at.scalar(float(exact), DType.f32))
    ratio = at.emit("maximum", ratio, at.scalar(1.0, DType.f32))  # what is smaller is not looked at
    steps = at.emit("div", at.emit("log", ratio), at.scalar(math.log(max_distance / exact), DType.f32))
    steps = at.cast(at.emit("mul", steps, at.scalar(float(buckets - exact), DType.f32)), DType.i64)
    large = at.emit("minimum", at.emit("add", steps, at.scalar(exact, DType.i64)), at.scalar(buckets - 1, DType.i64))
    place = at.emit("where", at.emit("lt", distance, at.scalar(exact, DType.i64)), distance, large)
    place = place if first is None else at.emit("add", place, first)
    found = at.emit("embedding", table, place)  # [queries, keys, heads]
    return at.reshape(at.transpose(found, (2, 0, 1)), (1, heads, rows, columns))


@op("GatedRelativePositionBias", domain=MICROSOFT)
def gated_relative_position_bias(
    at: Importer,
    query: Value,
    query_bias: Value,
    bias_table: Value,
    weight: Value,
    bias: Value,
    eco: Value,
    offsets: Value | None = None,
    *,
    num_heads: int,
) -> Value:
    """As WavLM has it (Chen et al. 2022): two gates for each query and head scale the bias of its relative positions."""
    if offsets is not None:
        raise Unsupported("packed batches are not supported")
    q = heads_apart(at, at.emit("add", query, query_bias), num_heads)
    gates = at.emit("add", matmul(at, q, weight), bias)
    half = divide_exactly(gates.shape[-1], 2)
    if half is None:
        raise Unsupported(f"{gates.type} has no two gates")
    summed = at.emit("reduce_sum", at.reshape(gates, (*gates.shape[:-1], 2, half)), axes=(4,), keepdim=False)
    both = at.emit("sigmoid", summed)
    one, other = at.slice(both, 3, 0, 1), at.slice(both, 3, 1, 2)
    inner = at.emit("sub", at.emit("mul", other, eco), at.scalar(1.0, other.dtype))
    gate = at.emit("add", at.emit("mul", one, inner), at.scalar(2.0, one.dtype))
    return at.emit("mul", gate, bias_table)
