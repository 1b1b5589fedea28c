"""Operators of ``com.microsoft`` that activate, multiply, convolve, or mean what a standard operator means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from . import microsoft_norm  # noqa: F401  (it registers its handlers)
from .delegating import standard, standards
from .importing import Importer
from .products import matmul, stem
from .registry import MICROSOFT, op


# -- activations -----------------------------------------------------------------------------------------------------------
@op("Gelu", domain=MICROSOFT)
def gelu(at: Importer, x: Value) -> Value:
    return at.emit("gelu", x)


@op("BiasGelu", domain=MICROSOFT)
def bias_gelu(at: Importer, x: Value, bias: Value) -> Value:
    return at.emit("gelu", at.emit("add", x, bias))


@op("FastGelu", domain=MICROSOFT)
def fast_gelu(at: Importer, x: Value, bias: Value | None = None) -> Value:
    return at.emit("gelu", x if bias is None else at.emit("add", x, bias), approximate="tanh")


@op("QuickGelu", domain=MICROSOFT)
def quick_gelu(at: Importer, x: Value, *, alpha: float = 1.702) -> Value:
    if abs(alpha - 1.702) < 1e-6:
        return at.emit("gelu", x, approximate="quick")
    if alpha == 1:
        return at.emit("silu", x)
    return at.emit("mul", x, at.emit("sigmoid", at.emit("mul", x, at.scalar(alpha, x.dtype))))


@op("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(at: Importer, x: Value, bias: Value) -> Value:
    """The left half of the last axis, gated by the right one."""
    size, last = x.shape[-1], x.type.rank - 1
    if not isinstance(size, int) or size % 2:
        raise Unsupported(f"an axis of {size} has no halves")
    whole = at.emit("add", x, bias)
    left, right = at.slice(whole, last, 0, size // 2), at.slice(whole, last, size // 2, size)
    return at.emit("mul", left, at.emit("gelu", right))


@op("BiasAdd", domain=MICROSOFT)
def bias_add(at: Importer, x: Value, bias: Value, skip: Value) -> Value:
    return at.emit("add", at.emit("add", x, bias), skip)


@op("BiasDropout", domain=MICROSOFT)
def bias_dropout(
    at: Importer,
    x: Value,
    bias: Value,
    residual: Value | None = None,
    ratio: Value | None = None,
    training_mode: Value | None = None,
    *,
    seed: int = 0,
) -> list[Value]:
    """As it is at inference: nothing is dropped."""
    if training_mode is not None and at.number(training_mode, "the training mode"):
        raise Unsupported("training is not supported")
    y = at.emit("add", x, bias)
    y = y if residual is None else at.emit("add", y, residual)
    return [y, at.emit("full", value=True, shape=y.shape, dtype=DType.bool)]


@op("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(at: Importer, x: Value, bias: Value, *, axis: int = 1, is_inner_broadcast: int) -> Value:
    """Softmax over all axes from ``axis`` on of x plus a bias, which is repeated inside, or outside, of its own axes."""
    rank = x.type.rank
    axis %= rank
    if not is_inner_broadcast and bias.type.rank == rank and bias.shape[0] != x.shape[0] != 1:
        raise Unsupported(f"a bias {bias.type} that is repeated over the outer axes of {x.type}")
    whole = at.emit("add", x, bias)
    if axis == rank - 1:
        return at.emit("softmax", whole, axis=-1)
    from ...dims import product

    flat = at.reshape(whole, (*whole.shape[:axis], product(whole.shape[axis:])))
    return at.reshape(at.emit("softmax", flat, axis=-1), whole.shape)


def activated(at: Importer, x: Value, name: str, parameters: Sequence[float | None]) -> Value:
    """``x`` behind the activation that a fused operator names.

    Args:
        name: as ONNX calls it; empty for none.
        parameters: its alpha, beta and gamma as far as they are given.

    Raises:
        Unsupported: there is none of this name.
    """
    alpha, beta, *_ = [*parameters, None, None]

    def given(value: float | None, default: float) -> float:
        return default if value is None else float(value)

    plain = {"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Softplus": "softplus"}
    match name:
        case "":
            return x
        case "LeakyRelu":
            return at.emit("leaky_relu", x, slope=given(alpha, 0.01))
        case "Elu":
            return at.emit("elu", x, alpha=given(alpha, 1.0))
        case "Clip":
            return at.emit("clamp", x, min=given(alpha, -math.inf), max=given(beta, math.inf))
        case "HardSigmoid":
            return standard(at, "HardSigmoid", x, alpha=given(alpha, 0.2), beta=given(beta, 0.5))
        case "HardSwish":
            return at.emit("hardswish", x)
        case "Gelu":
            return at.emit("gelu", x)
    if name in plain:
        return at.emit(plain[name], x)
    raise Unsupported(f"its activation {name!r} is not supported")


# -- products --------------------------------------------------------------------------------------------------------------
@op("FusedMatMul", domain=MICROSOFT)
def fused_matmul(
    at: Importer,
    a: Value,
    b: Value,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Value:
    """``transBatch``: the first axis of an operand stands in front of its last one."""
    a = _turned(at, _batch_turned(at, a, transBatchA), transA)
    b = _turned(at, _batch_turned(at, b, transBatchB), transB)
    y = matmul(at, a, b)
    return y if alpha == 1 else at.emit("mul", y, at.scalar(alpha, y.dtype))


@op("TransposeMatMul", domain=MICROSOFT)
def transpose_matmul(
    at: Importer, a: Value, b: Value, *, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Value:
    return fused_matmul(at, a, b, alpha=alpha, transA=transA, transB=transB)


def _batch_turned(at: Importer, x: Value, turn: int) -> Value:
    rank = x.type.rank
    return _moved(at, x, (*range(1, rank - 1), 0, rank - 1)) if turn and rank > 2 else x


def _turned(at: Importer, x: Value, turn: int) -> Value:
    rank = x.type.rank
    return _moved(at, x, (*range(rank - 2), rank - 1, rank - 2)) if turn and rank > 1 else x


def _moved(at: Importer, x: Value, perm: Sequence[int]) -> Value:
    array = at.array(x)
    if array is None:
        return at.transpose(x, perm)
    name = stem(x)
    return at.constant(np.ascontiguousarray(array.transpose(perm)), x.dtype, name)


@op("FusedMatMulActivation", domain=MICROSOFT)
def fused_matmul_activation(
    at: Importer,
    a: Value,
    b: Value,
    *,
    activation: str,
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    activation_axis: int | None = None,
    **attributes: Any,
) -> Value:
    parameters = (activation_alpha, activation_beta, activation_gamma)
    return activated(at, fused_matmul(at, a, b, **attributes), activation, parameters)


@op("FusedGemm", domain=MICROSOFT)
def fused_gemm(
    at: Importer,
    a: Value,
    b: Value,
    c: Value | None = None,
    *,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    **attributes: Any,
) -> Value:
    y = standard(at, "Gemm", a, b, c, **attributes)
    return activated(at, y, activation, (activation_alpha, activation_beta, activation_gamma))


@op("GemmFastGelu", domain=MICROSOFT)
def gemm_fast_gelu(at: Importer, x: Value, w: Value, bias: Value | None = None) -> Value:
    return fast_gelu(at, matmul(at, x, w), bias)


@op("MatMulInteger16", domain=MICROSOFT)
def matmul_integer16(at: Importer, a: Value, b: Value) -> Value:
    return matmul(at, at.cast(a, DType.i32), at.cast(b, DType.i32))


# -- convolutions ------------------------------------------------------------------------------------------------------------
@op("FusedConv", domain=MICROSOFT)
def fused_conv(
    at: Importer,
    x: Value,
    w: Value,
    bias: Value | None = None,
    z: Value | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    **attributes: Any,
) -> Value:
    y = standard(at, "Conv", x, w, bias, **attributes)
    return activated(at, y if z is None else at.emit("add", y, z), activation, activation_params)


@op("NhwcFusedConv", domain=MICROSOFT)
def nhwc_fused_conv(
    at: Importer, x: Value, w: Value, bias: Value | None = None, z: Value | None = None, **attributes: Any
) -> Value:
    """Channels last; the filters as in the standard."""
    residual = None if z is None else channels_second(at, z)
    return channels_last(at, fused_conv(at, channels_second(at, x), w, bias, residual, **attributes))


@op("NhwcConv", domain=MICROSOFT)
def nhwc_conv(
    at: Importer, x: Value, w: Value, bias: Value | None = None, *, group: int = 1, **attributes: Any
) -> Value:
    """Channels last, in the filters too, as ONNX Runtime's optimizer writes them."""
    if w.shape[-1] == x.shape[-1] or (isinstance(w.shape[-1], int) and w.shape[-1] * group == x.shape[-1]):
        w = _moved(at, w, (0, w.type.rank - 1, *range(1, w.type.rank - 1)))
    return channels_last(at, standard(at, "Conv", channels_second(at, x), w, bias, group=group, **attributes))


@op("NhwcMaxPool", domain=MICROSOFT)
def nhwc_max_pool(at: Importer, x: Value, **attributes: Any) -> Value:
    return channels_last(at, standard(at, "MaxPool", channels_second(at, x), **attributes))


def channels_second(at: Importer, x: Value) -> Value:
    """[batch, *space, channels] as [batch, channels, *space]."""
    rank = x.type.rank
    return at.transpose(x, (0, rank - 1, *range(1, rank - 1)))


def channels_last(at: Importer, x: Value) -> Value:
    """[batch, channels, *space] as [batch, *space, channels]."""
    return at.transpose(x, (0, *range(2, x.type.rank), 1))


# -- what the standard has too -----------------------------------------------------------------------------------------------
def _as_standard(name: str) -> Callable[..., list[Value]]:
    def handler(at: Importer, *operands: Value | None, **attributes: Any) -> list[Value]:
        return standards(at, name, *operands, **attributes)

    return handler


for _name in ("Trilu", "Range", "Pad", "GatherND"):
    op(_name, domain=MICROSOFT)(_as_standard(_name))


@op("GridSample", domain=MICROSOFT)
def grid_sample(at: Importer, x: Value, grid: Value, *, mode: str = "bilinear", **attributes: Any) -> Value:
    modern = at.opset >= 20
    names = {"bilinear": "linear", "bicubic": "cubic"} if modern else {}
    return standard(at, "GridSample", x, grid, mode=names.get(mode, mode), **attributes)


@op("ExpandDims", domain=MICROSOFT)
def expand_dims(at: Importer, x: Value, axis: Value) -> Value:
    (place,) = at.ints(axis, "the axis")
    place %= x.type.rank + 1
    return at.reshape(x, (*x.shape[:place], 1, *x.shape[place:]))


@op("UnfoldTensor", domain=MICROSOFT)
def unfold_tensor(at: Importer, x: Value, *, size: int, dim: int = -1, step: int = 1) -> Value:
    """Windows along ``dim``, their elements along a new last axis."""
    dim %= x.type.rank
    length = x.shape[dim]
    if not isinstance(length, int):
        raise Unsupported(f"windows along an axis whose size varies ({length})")
    count = (length - size) // step + 1
    starts = np.arange(count)[:, None] * step + np.arange(size)
    found = at.emit("gather", x, at.constant(starts, DType.i64, "windows"), axis=dim)
    rank = found.type.rank
    return at.transpose(found, [*(i for i in range(rank) if i != dim + 1), dim + 1])


@op("TorchEmbedding", domain=MICROSOFT)
def torch_embedding(
    at: Importer, table: Value, ids: Value, padding_idx: Value | None = None, scale_grad_by_freq: Value | None = None
) -> Value:
    return at.emit("embedding", table, ids)


@op("ReduceSumInteger", domain=MICROSOFT)
def reduce_sum_integer(at: Importer, x: Value, *, axes: Sequence[int], keepdims: int) -> Value:
    return at.emit("reduce_sum", at.cast(x, DType.i32), axes=tuple(axes), keepdim=bool(keepdims))


@op("MulInteger", domain=MICROSOFT)
def mul_integer(at: Importer, a: Value, a_zero: Value | None, b: Value, b_zero: Value | None = None) -> Value:
    wide = []
    for q, zero in ((a, a_zero), (b, b_zero)):
        q = at.cast(q, DType.i32)
        wide.append(q if zero is None else at.emit("sub", q, at.cast(zero, DType.i32)))
    return at.emit("mul", *wide)


@op("CDist", domain=MICROSOFT)
def cdist(at: Importer, a: Value, b: Value, *, metric: str = "sqeuclidean") -> Value:
    """Distances of the rows of two matrices."""
    if metric not in ("sqeuclidean", "euclidean"):
        raise Unsupported(f"its metric {metric!r} is not supported")
    rows, columns, width = a.shape[0], b.shape[0], a.shape[1]
    apart = at.emit("sub", at.reshape(a, (rows, 1, width)), at.reshape(b, (1, columns, width)))
    total = at.emit("reduce_sum", at.emit("square", apart), axes=(2,), keepdim=False)
    return total if metric == "sqeuclidean" else at.emit("sqrt", total)
