"""Operators of ``com.microsoft`` that normalise: with what is added before, and behind embeddings."""

from __future__ import annotations

from typing import Any

from ...dims import product
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import MICROSOFT, op


def _only(at: Importer, places: tuple[int, ...]) -> None:
    """Refuse results that only training wants.

    Raises:
        Unsupported: one of ``places`` is wanted.
    """
    if any(i < len(at.results) and at.results[i] for i in places):
        raise Unsupported("its statistics, which training wants, are not supported")


def normed(at: Importer, x: Value, gamma: Value, beta: Value | None, eps: float, simple: bool) -> Value:
    """Layer normalisation over the last axis, or the root mean square one; f16 in f32, rounded once."""
    name, attributes = ("rms_norm", {"eps": eps}) if simple else ("layer_norm", {"axes": 1, "eps": eps})
    operands = [x, gamma] if simple or beta is None else [x, gamma, beta]
    if x.dtype not in (DType.f16, DType.bf16):
        return at.emit(name, *(at.cast(v, x.dtype) for v in operands), **attributes)
    wide = at.emit(name, *(at.cast(v, DType.f32) for v in operands), **attributes)
    return at.cast(wide, x.dtype)


@op("SimplifiedLayerNormalization", domain=MICROSOFT)
@op("SimplifiedLayerNormalization")
def simplified_layer_norm(
    at: Importer, x: Value, gamma: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Value:
    """Old tools write it into the standard domain."""
    _only(at, (1,))
    axis %= x.type.rank
    if axis == x.type.rank - 1:
        return normed(at, x, gamma, None, epsilon, True)
    width = product(x.shape[axis:])
    flat = normed(at, at.reshape(x, (*x.shape[:axis], width)), at.reshape(gamma, (width,)), None, epsilon, True)
    return at.reshape(flat, x.shape)


@op("LayerNormalization", domain=MICROSOFT)
def layer_norm(
    at: Importer,
    x: Value,
    gamma: Value,
    beta: Value | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Value:
    _only(at, (1, 2))
    if axis % x.type.rank != x.type.rank - 1:
        raise Unsupported(f"its axis {axis} is not supported")
    return normed(at, x, gamma, beta, epsilon, False)


def _joined(at: Importer, x: Value, skip: Value, bias: Value | None) -> Value:
    """``x + skip + bias``; the skip may lack the batch, or have a batch of one."""
    total = at.emit("add", x, skip)
    return total if bias is None else at.emit("add", total, bias)


@op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(
    at: Importer,
    x: Value,
    skip: Value,
    gamma: Value,
    beta: Value | None = None,
    bias: Value | None = None,
    *,
    epsilon: float = 1e-12,
) -> list[Any]:
    _only(at, (1, 2))
    total = _joined(at, x, skip, bias)
    return [normed(at, total, gamma, beta, epsilon, False), None, None, total]


@op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_norm(
    at: Importer, x: Value, skip: Value, gamma: Value, bias: Value | None = None, *, epsilon: float = 1e-12
) -> list[Any]:
    _only(at, (1, 2))
    total = _joined(at, x, skip, bias)
    return [normed(at, total, gamma, None, epsilon, True), None, None, total]


@op("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    at: Importer,
    ids: Value,
    segment_ids: Value | None,
    words: Value,
    positions: Value,
    segments: Value | None,
    gamma: Value,
    beta: Value,
    mask: Value | None = None,
    position_ids: Value | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> list[Any]:
    looked_up = [at.emit("embedding", words, ids), positions_of(at, positions, ids, position_ids)]
    if segment_ids is not None and segments is not None:
        looked_up.append(at.emit("embedding", segments, segment_ids))
    return embedded(at, ids, looked_up, gamma, beta, mask, epsilon)


def positions_of(at: Importer, table: Value, ids: Value, position_ids: Value | None) -> Value:
    """The rows of a table at the places of a sequence [batch, sequence], or at given ones."""
    if position_ids is None:
        return at.slice(table, 0, 0, ids.shape[1])
    return at.emit("embedding", table, position_ids)


def embedded(
    at: Importer, ids: Value, looked_up: list[Value], gamma: Value, beta: Value, mask: Value | None, eps: float
) -> list[Any]:
    """The sum of embeddings normalised, how much of each row the mask keeps (i32 ``[batch]``), and the sum."""
    total = looked_up[0]
    for value in (*looked_up[2:], looked_up[1]):
        total = at.emit("add", total, value)
    kept = None
    if len(at.results) > 1 and at.results[1]:
        if mask is None:
            kept = at.emit("full", value=0, shape=(ids.shape[0],), dtype=DType.i32)
        else:
            kept = at.emit("reduce_sum", at.cast(mask, DType.i32), axes=(1,), keepdim=False)
    return [normed(at, total, gamma, beta, eps, False), kept, total]


@op("GroupNorm", domain=MICROSOFT)
def group_norm(
    at: Importer,
    x: Value,
    gamma: Value,
    beta: Value,
    *,
    groups: int,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Value:
    """``activation`` 1: behind it stands SiLU."""
    rank, given = x.type.rank, x.dtype
    y = at.transpose(x, (0, rank - 1, *range(1, rank - 1))) if channels_last else x
    wide = given if given is DType.f64 else DType.f32
    y = at.emit("group_norm", *(at.cast(v, wide) for v in (y, gamma, beta)), groups=groups, eps=epsilon)
    if activation not in (0, 1):
        raise Unsupported(f"its activation {activation} is not supported")
    y = at.cast(at.emit("silu", y) if activation else y, given)
    return at.transpose(y, (0, *range(2, rank), 1)) if channels_last else y


@op("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(
    at: Importer, x: Value, gamma: Value, beta: Value, skip: Value, bias: Value | None = None, **attributes: Any
) -> list[Value]:
    """The skip may have one element for each sample and channel."""
    last = attributes.get("channels_last", 1)
    if skip.type.rank == 2:
        batch, channels = skip.shape
        spread = (1,) * (x.type.rank - 2)
        skip = at.reshape(skip, (batch, *spread, channels) if last else (batch, channels, *spread))
    total = at.emit("add", x, skip)
    if bias is not None:
        shape = bias.shape if last else (*bias.shape, *(1,) * (x.type.rank - 2))
        total = at.emit("add", total, at.reshape(bias, shape))
    return [group_norm(at, total, gamma, beta, **attributes), total]
