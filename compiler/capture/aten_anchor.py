"""ATen ops that carry the work: matrix products, attention, norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..dims import Dim, product
from ..graph import Value
from ..types import DType
from .aten_elementwise import arithmetic
from .aten_reduce import variance
from .aten_shape import broadcast_to
from .building import broadcast_shapes
from .lowering import Lowering, Scalar, aten
from .scalars import low_precision
from .symbols import Unsupported


# -- matrix products ------------------------------------------------------------------------------------------------------
@aten("linear")
def _linear(b: Lowering, input: Value, weight: Value, bias: Value | None) -> Value:
    if weight.type.rank == 1:
        result = _linear(b, input, b.reshape(weight, (1, *weight.shape)), None)
        result = b.reshape(result, result.shape[:-1])
        return result if bias is None else b.emit("add", result, bias)
    return b.emit("linear", input, weight, bias) if bias is not None else b.emit("linear", input, weight)


def product_of(b: Lowering, a: Value, c: Value, bias: Value | None = None) -> Value:
    """``a @ c``; a constant matrix on the right makes it a ``linear`` (with ``bias`` along the last axis)."""
    if a.type.rank >= 2 and c.type.rank == 2:
        node = c.node
        weight: Value | None = None
        if node is not None and node.op == "transpose" and b.array(node.operands[0]) is not None:
            weight = node.operands[0]
        elif b.array(c) is not None:
            weight = b.transpose(c, (1, 0))
        if weight is not None:
            return b.emit("linear", a, weight) if bias is None else b.emit("linear", a, weight, bias)
    result = b.emit("matmul", a, c)
    return result if bias is None else b.emit("add", result, bias)


@aten("matmul", "mm", "bmm", "dot", "mv", "linalg_matmul")
def _matmul(b: Lowering, self: Value, **other: Value) -> Value:
    right = next(iter(other.values()))
    left = self
    shape = b.out_shape
    if left.type.rank == 1:
        left = b.reshape(left, (1, *left.shape))
    if right.type.rank == 1:
        right = b.reshape(right, (*right.shape, 1))
    result = product_of(b, left, right)
    return result if result.type.rank == len(shape) else b.reshape(result, shape)


@aten("addmm", "baddbmm", "addmv", "addbmm")
def _addmm(b: Lowering, self: Value, beta: Scalar, alpha: Scalar, **factors: Value) -> Value:
    left, right = factors.values()
    name = b.op
    if "addmv" in name:
        right = b.reshape(right, (*right.shape, 1))
    if beta == 1 and alpha == 1 and self.type.rank == 1 and self.shape == (right.shape[-1],):
        return product_of(b, left, right, self)
    result = product_of(b, left, right)
    if "addmv" in name:
        result = b.reshape(result, result.shape[:-1])
    if name == "addbmm":
        result = b.emit("reduce_sum", result, axes=(0,), keepdim=False)
    if alpha != 1:
        result = arithmetic(b, "mul", result, alpha)
    if beta == 0:
        return result
    return b.emit("add", result, self if beta == 1 else arithmetic(b, "mul", self, beta))


@aten("bilinear")
def _bilinear(b: Lowering, input1: Value, input2: Value, weight: Value, bias: Value | None) -> Value:
    """sum over i, j of x1[i] weight[o, i, j] x2[j]: a product with all of the weight, and a sum."""
    outs, left, right = weight.shape
    wide = b.reshape(b.transpose(weight, (1, 0, 2)), (left, outs * right))
    part = b.reshape(product_of(b, input1, wide), (*input1.shape[:-1], outs, right))
    x2 = b.reshape(input2, (*input2.shape[:-1], 1, right))
    rank = part.type.rank
    result = b.emit("reduce_sum", b.emit("mul", part, x2), axes=(rank - 1,), keepdim=False)
    return result if bias is None else b.emit("add", result, bias)


# -- attention ------------------------------------------------------------------------------------------------------------
def attention(
    b: Lowering, q: Value, k: Value, v: Value, mask: Value | None, causal: bool, scale: Scalar | None
) -> Value:
    """``scaled_dot_product_attention`` on tensors of any rank from 2 up.

    A row that sees no key gives zeros, as torch's kernels do.
    """
    leading = q.shape[:-2]
    batch = q.shape[:-3]
    shape = (*leading, q.shape[-2], v.shape[-1])

    def four(x: Value) -> Value:
        rank = x.type.rank
        if rank == 4:
            return x
        if rank == 2:
            return b.reshape(x, (1, 1, *x.shape))
        if rank == 3:
            return b.reshape(x, (x.shape[0], 1, *x.shape[1:]))
        if x.shape[:-3] != batch:
            x = broadcast_to(b, x, (*batch, *x.shape[-3:]))
        return b.reshape(x, (product(x.shape[:-3]), *x.shape[-3:]))

    def masked(x: Value) -> Value:
        if q.type.rank == 3 and x.type.rank == 3:
            x = b.reshape(x, (x.shape[0], 1, *x.shape[1:]))
        elif q.type.rank > 4 and x.type.rank > 3:
            x = four(broadcast_to(b, x, (*batch, *x.shape[-3:])))
        if x.type.rank < 4:
            x = b.reshape(x, (*(1 for _ in range(4 - x.type.rank)), *x.shape))
        return x if x.dtype is DType.bool else b.cast(x, q.dtype)

    number = scale if scale is not None else None
    if number is None:
        if not isinstance(q.shape[-1], int):
            raise Unsupported("a head size that varies is not supported")
        number = 1.0 / math.sqrt(q.shape[-1])
    if isinstance(number, Value) or not isinstance(number, (int, float)):
        q, number = b.emit("mul", q, b.operand(number, q.dtype)), 1.0
    q4, k4, v4 = four(q), four(k), four(v)
    if not q4.shape[0] == k4.shape[0] == v4.shape[0]:
        size = broadcast_shapes([(x.shape[0],) for x in (q4, k4, v4)])
        q4, k4, v4 = (broadcast_to(b, x, (*size, *x.shape[1:])) for x in (q4, k4, v4))
    operands = [q4, k4, v4] + ([] if mask is None else [masked(mask)])
    result = b.emit("attention", *operands, scale=float(number), causal=causal, empty_row="zero")
    return result if len(leading) == 2 else b.reshape(result, shape)


def _no_dropout(p: float) -> None:
    if p:
        raise Unsupported("it draws random numbers (export the model in eval mode)")


@aten("scaled_dot_product_attention")
def _sdpa(
    b: Lowering, query: Value, key: Value, value: Value, attn_mask: Value | None, dropout_p: float, is_causal: bool,
    scale: Scalar | None, enable_gqa: bool = False,
) -> Value:  # fmt: skip
    _no_dropout(dropout_p)
    heads = {x.shape[-3] for x in (query, key, value) if x.type.rank > 2}
    if not enable_gqa and len(heads) > 1:
        most = query.shape[-3]
        key, value = (broadcast_to(b, x, (*x.shape[:-3], most, *x.shape[-2:])) for x in (key, value))
    return attention(b, query, key, value, attn_mask, is_causal, scale)


@aten("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention")
def _flash(
    b: Lowering, query: Value, key: Value, value: Value, dropout_p: float, is_causal: bool, scale: Scalar | None,
    attn_mask: Value | None = None, return_debug_mask: bool = False,
) -> list[Value | None]:  # fmt: skip
    _no_dropout(dropout_p)
    return [attention(b, query, key, value, attn_mask, is_causal, scale)] + [None] * (len(b.fake) - 1)


# -- norms ----------------------------------------------------------------------------------------------------------------
def optional(b: Lowering, op: str, x: Value, *rest: Value | None, **attrs: Any) -> Value:
    """``op`` on ``x`` and what there is of ``rest``."""
    operands = [x, *rest]
    while operands[-1] is None:
        operands.pop()
    return b.emit(op, *operands, **attrs)


@aten("layer_norm", "native_layer_norm")
def _layer_norm(
    b: Lowering, input: Value, normalized_shape: Sequence[Dim], weight: Value | None, bias: Value | None, eps: float
) -> Any:
    result = optional(b, "layer_norm", input, weight, bias, axes=len(normalized_shape), eps=float(eps))
    return [result, None, None] if "native" in b.op else result


@aten("rms_norm", "_fused_rms_norm")
def _rms_norm(
    b: Lowering, input: Value, normalized_shape: Sequence[Dim], weight: Value | None, eps: float | None
) -> Any:
    if len(normalized_shape) != 1:
        raise Unsupported("RMS normalisation over several axes is not supported")
    small = {DType.f64: 2.0**-52, DType.f32: 2.0**-23, DType.bf16: 2.0**-23, DType.f16: 2.0**-23}
    result = optional(b, "rms_norm", input, weight, eps=small[input.dtype] if eps is None else float(eps))
    return [result, None] if "fused" in b.op else result


@aten("group_norm")
def _group_norm(
    b: Lowering, input: Value, num_groups: int, weight: Value | None, bias: Value | None, eps: float
) -> Value:
    return optional(b, "group_norm", input, weight, bias, groups=num_groups, eps=float(eps))


@aten("native_group_norm")
def _native_group_norm(
    b: Lowering, input: Value, weight: Value | None, bias: Value | None, group: int, eps: float, **_: Any
) -> Any:
    return [_group_norm(b, input, group, weight, bias, eps), None, None]


@aten("instance_norm")
def _instance_norm(
    b: Lowering, input: Value, weight: Value | None, bias: Value | None, running_mean: Value | None,
    running_var: Value | None, use_input_stats: bool, eps: float, momentum: float = 0.0,
) -> Value:  # fmt: skip
    if not use_input_stats:
        return batch_norm(b, input, weight, bias, running_mean, running_var, eps)
    if not isinstance(input.shape[1], int):
        raise Unsupported("a number of channels that varies is not supported")
    return optional(b, "group_norm", input, weight, bias, groups=input.shape[1], eps=float(eps))


def batch_norm(
    b: Lowering, x: Value, weight: Value | None, bias: Value | None, mean: Value | None, var: Value | None, eps: float
) -> Value:
    """Batch normalisation with running statistics, or with those of the batch where there are none."""
    if mean is None or var is None:  # a layer that tracks none: those of the batch at hand
        axes = tuple(a for a in range(x.type.rank) if a != 1)
        wide = b.cast(x, DType.f32) if low_precision(x.dtype) else x
        var, mean = (b.cast(v, x.dtype) for v in variance(b, wide, axes, False, 0))
    return b.emit("batch_norm", x, weight, bias, mean, var, eps=float(eps))


@aten("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "_native_batch_norm_legit",
      "_native_batch_norm_legit.no_stats")  # fmt: skip
def _batch_norm(
    b: Lowering, input: Value, weight: Value | None, bias: Value | None, eps: float, running_mean: Value | None = None,
    running_var: Value | None = None, training: bool = False, momentum: float = 0.0,
) -> Any:  # fmt: skip
    if training and running_mean is not None:
        raise Unsupported("it normalises with the statistics of the batch (export the model in eval mode)")
    result = batch_norm(b, input, weight, bias, running_mean, running_var, eps)
    return [result, None, None] if "native" in b.op else result
