"""Normalisation, and dropout, which does nothing once a model is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...dims import Dim, divide_exactly, product
from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op
from .windows import present


def _wide(dtype: DType) -> DType:
    """The element type in which statistics of ``dtype`` are computed."""
    return DType.f64 if dtype is DType.f64 else DType.f32


def _fitted(at: Importer, value: Value | None, shape: Sequence[Dim]) -> Value | None:
    """``value``, which broadcasts, in exactly ``shape``; None where it varies along axes before those."""
    if value is None:
        return None
    ahead = value.type.rank - len(shape)
    if any(d != 1 for d in value.shape[: max(ahead, 0)]):
        return None
    return at.expand(at.reshape(value, value.shape[max(ahead, 0) :]), shape)


# -- with running statistics ------------------------------------------------------------------------------------------
@op("BatchNormalization", since=7)
def batch_normalization(
    at: Importer,
    x: Value,
    scale: Value,
    bias: Value,
    mean: Value,
    var: Value,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> Any:
    if not spatial:
        raise Unsupported("statistics for every element (spatial = 0) are not supported")
    if any(at.results[3:]) or (at.opset < 14 and any(at.results[1:])):
        raise Unsupported("it is of training (export the model for inference)")
    if not training_mode:
        operands = [at.cast(v, x.dtype) for v in (scale, bias, mean, var)]
        return at.emit("batch_norm", x, *operands, eps=epsilon)
    wide = at.cast(x, _wide(x.dtype))
    axes = tuple(a for a in range(x.type.rank) if a != 1)
    centre = at.emit("reduce_mean", wide, axes=axes, keepdim=True)
    spread = at.emit("square", at.emit("sub", wide, centre))
    channels = (x.shape[1],)
    here = at.reshape(centre, channels), at.emit("reduce_mean", spread, axes=axes, keepdim=False)
    operands = [at.cast(v, wide.dtype) for v in (scale, bias)]
    result = at.cast(at.emit("batch_norm", wide, *operands, *here, eps=epsilon), x.dtype)

    def running(before: Value, now: Value) -> Value:
        old = at.emit("mul", at.cast(before, now.dtype), at.scalar(momentum, now.dtype))
        new = at.emit("mul", now, at.scalar(1.0 - momentum, now.dtype))
        return at.cast(at.emit("add", old, new), before.dtype)

    return [result, *(running(v, n) for v, n, wanted in zip((mean, var), here, at.results[1:], strict=False) if wanted)]


# -- with statistics of the data at hand ------------------------------------------------------------------------------
@op("InstanceNormalization", since=6)
def instance_normalization(at: Importer, x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    if not isinstance(x.shape[1], int):
        raise Unsupported("a number of channels that varies is not supported")
    return at.emit("group_norm", x, scale, bias, groups=x.shape[1], eps=epsilon)


@op("GroupNormalization", since=18)
def group_normalization_18(
    at: Importer, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5
) -> Value:
    """Scale and bias are one for each group."""
    each = divide_exactly(x.shape[1], num_groups)
    if each is None:
        raise Unsupported(f"{x.shape[1]} channels do not fall into {num_groups} groups")

    def repeated(value: Value) -> Value:
        array = at.array(value)
        if array is not None and isinstance(each, int):
            return at.constant(np.repeat(array, each), value.dtype, "groups")
        apart = at.expand(at.reshape(value, (num_groups, 1)), (num_groups, each))
        return at.reshape(apart, (x.shape[1],))

    return at.emit("group_norm", x, repeated(scale), repeated(bias), groups=num_groups, eps=epsilon)


@op("GroupNormalization", since=21)
def group_normalization(
    at: Importer, x: Value, scale: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Value:
    """Scale and bias are one for each channel."""
    return at.emit("group_norm", x, scale, bias, groups=num_groups, eps=epsilon)


@op("LayerNormalization", since=17)
def layer_normalization(
    at: Importer,
    x: Value,
    scale: Value,
    bias: Value | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Any:
    first = axis % x.type.rank
    shape = x.shape[first:]
    weight = _fitted(at, at.cast(scale, x.dtype), shape)
    shift = None if bias is None else _fitted(at, at.cast(bias, x.dtype), shape)
    attrs = {"axes": x.type.rank - first, "eps": epsilon}
    if weight is None or (bias is not None and shift is None):  # they differ from row to row
        result = at.emit("mul", at.emit("layer_norm", x, **attrs), at.cast(scale, x.dtype))
        result = result if bias is None else at.emit("add", result, at.cast(bias, x.dtype))
    else:
        result = at.emit("layer_norm", *present(x, weight, shift), **attrs)
    if not any(at.results[1:]):
        return result
    wide = at.cast(x, _wide(x.dtype))
    axes = tuple(range(first, x.type.rank))
    mean = at.emit("reduce_mean", wide, axes=axes, keepdim=True)
    variance = at.emit("reduce_mean", at.emit("square", at.emit("sub", wide, mean)), axes=axes, keepdim=True)
    deviation = at.emit("rsqrt", at.emit("add", variance, at.scalar(epsilon, wide.dtype)))
    stash = {1: DType.f32, 10: DType.f16, 11: DType.f64, 16: DType.bf16}.get(stash_type, DType.f32)
    return [result, at.cast(mean, stash), at.cast(deviation, stash)]


@op("RMSNormalization", since=23)
def rms_normalization(
    at: Importer, x: Value, scale: Value, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Value:
    first = axis % x.type.rank
    shape = x.shape[first:]
    flat = at.reshape(x, (*x.shape[:first], product(shape)))
    weight = _fitted(at, at.cast(scale, x.dtype), shape)
    if weight is None:
        result = at.reshape(at.emit("rms_norm", flat, eps=epsilon), x.shape)
        return at.emit("mul", result, at.cast(scale, x.dtype))
    weight = at.reshape(weight, (product(shape),))
    return at.reshape(at.emit("rms_norm", flat, weight, eps=epsilon), x.shape)


@op("LRN")
def local_response_normalization(
    at: Importer, x: Value, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Value:
    """Local response normalisation across channels (Krizhevsky et al. 2012)."""
    wide = at.cast(x, _wide(x.dtype))
    lead, space = x.shape[:2], x.shape[2:]
    squares = at.reshape(at.emit("square", wide), (lead[0], 1, lead[1], product(space)))
    before, behind = (size - 1) // 2, size // 2
    around = at.emit("pad", squares, low=(0, 0, before, 0), high=(0, 0, behind, 0), value=0.0)
    mean = at.emit("avg_pool", around, kernel=(size, 1), stride=(1, 1), padding=(0, 0))
    total = at.emit("mul", at.reshape(mean, x.shape), at.scalar(alpha, wide.dtype))
    power = _to_the(at, at.emit("add", total, at.scalar(bias, wide.dtype)), beta)
    return at.cast(at.emit("div", wide, power), x.dtype)


def _to_the(at: Importer, x: Value, exponent: float) -> Value:
    """A positive number to the power; 1/2 and 3/4, which networks use, by square roots."""
    if exponent not in (0.5, 0.75):
        return at.emit("pow", x, at.scalar(exponent, x.dtype))
    root = at.emit("sqrt", x)
    return root if exponent == 0.5 else at.emit("mul", root, at.emit("sqrt", root))


@op("LpNormalization")
def lp_normalization(at: Importer, x: Value, *, axis: int = -1, p: int = 2) -> Value:
    """A vector of zeros stays one."""
    if p not in (1, 2):
        raise Unsupported(f"the norm of order {p} is not defined for it")
    wide = at.cast(x, _wide(x.dtype))
    along = {"axes": (axis % x.type.rank,), "keepdim": True}
    total = at.emit("reduce_sum", at.emit("abs" if p == 1 else "square", wide), **along)
    norm = total if p == 1 else at.emit("sqrt", total)
    empty = at.emit("eq", norm, at.scalar(0.0, wide.dtype))
    return at.cast(at.emit("div", wide, at.emit("where", empty, at.scalar(1.0, wide.dtype), norm)), x.dtype)


@op("MeanVarianceNormalization", since=9)
def mean_variance_normalization(at: Importer, x: Value, *, axes: Sequence[int] = (0, 2, 3)) -> Value:
    wide = at.cast(x, _wide(x.dtype))
    along = {"axes": tuple(a % x.type.rank for a in axes), "keepdim": True}
    apart = at.emit("sub", wide, at.emit("reduce_mean", wide, **along))
    deviation = at.emit("sqrt", at.emit("reduce_mean", at.emit("square", apart), **along))
    return at.cast(at.emit("div", apart, at.emit("add", deviation, at.scalar(1e-9, wide.dtype))), x.dtype)


# -- dropout ----------------------------------------------------------------------------------------------------------
def _mask(at: Importer, x: Value) -> list[Value]:
    if not any(at.results[1:]):
        return []
    return [at.emit("full", value=True, shape=x.shape, dtype=DType.bool)]


@op("Dropout", since=7)
def dropout_7(at: Importer, x: Value, *, ratio: float = 0.5, seed: int = 0) -> Any:
    return [x, *_mask(at, x)]


@op("Dropout", since=12)
def dropout(
    at: Importer, x: Value, ratio: Value | None = None, training_mode: Value | None = None, *, seed: int = 0
) -> Any:
    if (
        training_mode is not None
        and at.number(training_mode, "whether it drops")
        and (ratio is None or at.number(ratio, "the ratio"))
    ):
        raise Unsupported("it draws random numbers (export the model for inference)")
    return [x, *_mask(at, x)]
