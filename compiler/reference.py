"""What every op means, as torch code: exact enough to be the oracle of every kernel, and differentiable.

Imported only when something is interpreted. Each function takes the op's attributes (dimensions already evaluated) and the
operand tensors; bf16 operands are ``torch.bfloat16``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference_order import ORDER_REFERENCE
from .types import DType

Attrs = Mapping[str, Any]
Reference = Callable[..., "Tensor | tuple[Tensor, ...]"]

TORCH = {
    DType.f64: torch.float64, DType.f32: torch.float32, DType.f16: torch.float16, DType.bf16: torch.bfloat16,
    DType.i64: torch.int64, DType.i32: torch.int32, DType.i16: torch.int16, DType.i8: torch.int8, DType.u8: torch.uint8,
    DType.i4: torch.int8, DType.bool: torch.bool,
}  # fmt: skip

REFERENCE: dict[str, Reference] = {}


def _unary(fn: Callable[[Tensor], Tensor]) -> Reference:
    return lambda attrs, x: fn(x)


def _binary(fn: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    return lambda attrs, a, b: fn(a, b)


for _name in ("neg", "abs", "sign", "relu", "floor", "ceil", "round", "trunc", "square", "exp", "exp2", "expm1", "log", "log2",
              "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
              "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf", "erfc", "erfinv", "lgamma",
              "logical_not", "bitwise_not", "isnan", "isinf"):  # fmt: skip
    REFERENCE[_name] = _unary(getattr(torch, _name))
for _name in ("add", "sub", "mul", "pow", "fmod", "atan2", "maximum", "minimum", "logical_and", "logical_or", "logical_xor",
              "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift",
              "bitwise_right_shift", "eq", "ne", "lt", "le", "gt", "ge"):  # fmt: skip
    REFERENCE[_name] = _binary(getattr(torch, _name))
REFERENCE["div"] = _binary(
    lambda a, b: torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")
)
REFERENCE["floordiv"] = _binary(lambda a, b: torch.div(a, b, rounding_mode="floor"))
REFERENCE["mod"] = _binary(torch.remainder)
REFERENCE["where"] = lambda attrs, c, a, b: torch.where(c, a, b)
REFERENCE["cast"] = lambda attrs, x: x.to(TORCH[attrs["dtype"]])
REFERENCE["silu"] = _unary(F.silu)
REFERENCE["hardswish"] = _unary(F.hardswish)
REFERENCE["hardsigmoid"] = _unary(F.hardsigmoid)
REFERENCE["mish"] = _unary(F.mish)
REFERENCE["softplus"] = lambda attrs, x: F.softplus(x, attrs["beta"], attrs["threshold"])
REFERENCE["elu"] = lambda attrs, x: F.elu(x, attrs["alpha"])
REFERENCE["leaky_relu"] = lambda attrs, x: F.leaky_relu(x, attrs["slope"])
REFERENCE["clamp"] = lambda attrs, x: torch.clamp(x, attrs["min"], attrs["max"])


def _reference(name: str) -> Callable[[Reference], Reference]:
    def add(fn: Reference) -> Reference:
        REFERENCE[name] = fn
        return fn

    return add


@_reference("gelu")
def _gelu(attrs: Attrs, x: Tensor) -> Tensor:
    if attrs["approximate"] == "quick":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate=attrs["approximate"])


def _reduce(fn: Callable[..., Tensor]) -> Reference:
    def run(attrs: Attrs, x: Tensor) -> Tensor:
        axes = sorted((a % x.dim() for a in attrs["axes"]), reverse=True)
        result = x
        for axis in axes:
            result = fn(result, axis)
        return result.to(x.dtype)

    return run


def _keeping(fn: Callable[..., Tensor]) -> Reference:
    reduce = _reduce(lambda x, axis: fn(x, axis))

    def run(attrs: Attrs, x: Tensor) -> Tensor:
        result = reduce(attrs, x)
        if isinstance(result, Tensor) and attrs["keepdim"]:
            kept = {a % x.dim() for a in attrs["axes"]}
            result = result.reshape([1 if i in kept else d for i, d in enumerate(x.shape)])
        return result  # type: ignore[return-value]

    return run


REFERENCE["reduce_sum"] = _keeping(lambda x, axis: torch.sum(x, axis))
REFERENCE["reduce_mean"] = lambda attrs, x: torch.mean(x, list(attrs["axes"]), attrs["keepdim"]) if attrs["axes"] else x
REFERENCE["reduce_max"] = _keeping(torch.amax)
REFERENCE["reduce_min"] = _keeping(torch.amin)
REFERENCE["reduce_prod"] = _keeping(torch.prod)
REFERENCE["reduce_any"] = _keeping(torch.any)
REFERENCE["reduce_all"] = _keeping(torch.all)
REFERENCE["argmax"] = lambda attrs, x: torch.argmax(x, attrs["axis"], attrs["keepdim"])
REFERENCE["argmin"] = lambda attrs, x: torch.argmin(x, attrs["axis"], attrs["keepdim"])
REFERENCE.update(ORDER_REFERENCE)
REFERENCE["softmax"] = lambda attrs, x: torch.softmax(x, attrs["axis"])
REFERENCE["log_softmax"] = lambda attrs, x: torch.log_softmax(x, attrs["axis"])


@_reference("layer_norm")
def _layer_norm(attrs: Attrs, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[x.dim() - attrs["axes"] :], weight, bias, attrs["eps"])


@_reference("rms_norm")
def _rms_norm(attrs: Attrs, x: Tensor, weight: Tensor | None = None) -> Tensor:
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    result = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + attrs["eps"])
    return (result if weight is None else result * weight.to(wide.dtype)).to(x.dtype)


@_reference("group_norm")
def _group_norm(attrs: Attrs, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return torch.group_norm(x, attrs["groups"], weight, bias, attrs["eps"])  # F refuses groups of one element


@_reference("batch_norm")
def _batch_norm(
    attrs: Attrs, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, attrs["eps"])


def _out(attrs: Attrs, like: Tensor) -> torch.dtype:
    return TORCH[attrs["out_dtype"]] if attrs["out_dtype"] else like.dtype


@_reference("linear")
def _linear(attrs: Attrs, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.dtype in (torch.bfloat16, torch.float16):  # exact products, f32 sums, one rounding at the store
        result = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
    else:
        result = F.linear(x, weight, bias)
    return result.to(_out(attrs, x))


def exact_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` of integers (int8, or int8 less a zero point) as floats that hold every int32 sum exactly.

    float32 sums are exact while they stay below 2**24, which 255 * 127 * K does for K <= 518.
    """
    wide = torch.float32 if x.shape[-1] <= 518 else torch.float64
    return F.linear(x.to(wide), weight.to(wide))


def less_zero(x: Tensor, zero: Tensor | None) -> Tensor:
    """``x - zero`` of int8 tensors as int16."""
    return x.short() if zero is None else x.short() - zero.short()


def _over_group_sums(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """The sum over the groups of the last axis, in order, of the product of each in f32 times its scale."""
    size = weight.shape[1] // scales.shape[1]
    total = x.new_zeros((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)
    for group, (part, of_weight) in enumerate(zip(x.split(size, -1), weight.split(size, -1), strict=True)):
        whole = part.dtype == torch.int8
        sums = exact_matmul(part, of_weight).float() if whole else F.linear(part.float(), of_weight.float())
        total = total + sums * scales[:, group]
    return total


@_reference("qlinear")
def _qlinear(
    attrs: Attrs, x: Tensor, x_scale: Tensor | None, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None,
    x_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    if weight_scale.dim() == 2:
        result = _over_group_sums(x, weight, weight_scale.float())
        result = result if x_scale is None else result * x_scale
    elif x_scale is None:
        result = F.linear(x.float(), weight.float()) * weight_scale
    else:
        result = exact_matmul(less_zero(x, x_zero), weight).float() * (x_scale * weight_scale)
    return result if bias is None else result + bias


@_reference("matmul")
def _matmul(attrs: Attrs, a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in (torch.bfloat16, torch.float16):
        return torch.matmul(a.float(), b.float()).to(_out(attrs, a))
    return torch.matmul(a, b).to(_out(attrs, a))


@_reference("attention")
def _attention(attrs: Attrs, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    out = _out(attrs, q)
    if q.dtype in (torch.bfloat16, torch.float16):
        q, k, v = q.float(), k.float(), v.float()
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul(q, k.transpose(-1, -2)) * attrs["scale"]
    visible: Tensor | None = None
    if attrs["causal"]:
        rows = torch.arange(q.shape[2]).unsqueeze(1) + attrs["causal_offset"]
        visible = torch.arange(k.shape[2]).unsqueeze(0) <= rows
    if mask is not None and mask.dtype == torch.bool:
        visible = mask if visible is None else visible & mask
    elif mask is not None:
        scores = scores + mask.to(scores.dtype)
    if visible is not None:
        scores = scores.masked_fill(~visible, -float("inf"))
    weights = torch.softmax(scores, -1)
    if attrs["empty_row"] != "nan" and (visible is not None or mask is not None):
        empty = (scores == -float("inf")).all(-1, keepdim=True)
        weights = weights.masked_fill(empty, 0.0 if attrs["empty_row"] == "zero" else 1.0 / max(k.shape[2], 1))
    return torch.matmul(weights, v).to(out)


@_reference("rotary")
def _rotary(attrs: Attrs, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in (x, cos, sin)]
    turned, cos, sin = wide[0][..., : 2 * cos.shape[-1]], wide[1], wide[2]
    if attrs["interleaved"]:
        first, second = turned[..., 0::2], turned[..., 1::2]
        result = torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)
    else:
        first, second = turned.chunk(2, -1)
        result = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((result, wide[0][..., turned.shape[-1] :]), -1).to(x.dtype)


REFERENCE["embedding"] = lambda attrs, table, ids: F.embedding(ids.long(), table)


@_reference("gather")
def _gather(attrs: Attrs, x: Tensor, ids: Tensor) -> Tensor:
    axis = attrs["axis"] % x.dim()
    flat = ids.reshape(-1).long()
    flat = torch.where(flat < 0, flat + x.shape[axis], flat)
    return x.index_select(axis, flat).reshape((*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :]))


@_reference("take_along")
def _take_along(attrs: Attrs, x: Tensor, ids: Tensor) -> Tensor:
    return torch.gather(x, attrs["axis"], ids.long())


REFERENCE["reshape"] = lambda attrs, x: x.reshape(attrs["shape"])
REFERENCE["transpose"] = lambda attrs, x: x.permute(attrs["perm"])
REFERENCE["expand"] = lambda attrs, x: x.expand(attrs["shape"])
REFERENCE["concat"] = lambda attrs, *xs: torch.cat(xs, attrs["axis"])


@_reference("slice")
def _slice(attrs: Attrs, x: Tensor) -> Tensor:
    index = [slice(None)] * x.dim()
    index[attrs["axis"]] = slice(attrs["start"], attrs["end"], attrs["step"])
    return x[tuple(index)]


@_reference("pad")
def _pad(attrs: Attrs, x: Tensor) -> Tensor:
    flat = [p for pair in zip(reversed(attrs["low"]), reversed(attrs["high"]), strict=True) for p in pair]
    if x.dtype == torch.bool:
        return F.pad(x.to(torch.uint8), flat, value=int(bool(attrs["value"]))).bool()
    return F.pad(x, flat, value=attrs["value"])


REFERENCE["full"] = lambda attrs: torch.full(attrs["shape"], attrs["value"], dtype=TORCH[attrs["dtype"]])
REFERENCE["arange"] = lambda attrs: torch.arange(
    attrs["start"], attrs["end"], attrs["step"], dtype=TORCH[attrs["dtype"]]
)


@_reference("quantize_dynamic")
def _quantize_dynamic(attrs: Attrs, x: Tensor) -> tuple[Tensor, Tensor]:
    wide = x.float()
    amax = wide.abs().amax(-1, keepdim=True) if x.shape[-1] else wide.new_zeros((*x.shape[:-1], 1))
    amax = torch.where(torch.isfinite(amax), amax, torch.full_like(amax, float("nan")))
    inverse = torch.where(amax > 0, 127.0 / amax, torch.zeros_like(amax))
    q = torch.nan_to_num(torch.round(wide * inverse), nan=0.0).clamp(-127, 127)
    return q.to(torch.int8), amax / 127.0


@_reference("quantize_tensor")
def _quantize_tensor(attrs: Attrs, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    wide = x.float()
    ends = wide.aminmax() if wide.numel() else (wide.new_zeros(()), wide.new_zeros(()))
    low, high = ends[0].clamp(max=0.0), ends[1].clamp(min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round((0.0 - low / scale).clamp(0, 255))
    q = torch.nan_to_num(torch.round(wide / scale) + zero, nan=0.0).clamp(0, 255)
    return q.to(torch.uint8), scale, torch.nan_to_num(zero, nan=0.0).to(torch.uint8)


@_reference("quantize")
def _quantize(attrs: Attrs, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    zero = torch.zeros(()) if zero_point is None else zero_point.float()
    low, high = {DType.i8: (-128, 127), DType.u8: (0, 255), DType.i16: (-32768, 32767)}[attrs["dtype"]]
    low = max(low, -127) if zero_point is None and attrs["dtype"] is DType.i8 else low
    steps = torch.round(x.float() / scale if attrs["division"] else x.float() * (1.0 / scale.float())) + zero
    return torch.where(torch.isnan(steps), zero.expand_as(steps), steps).clamp(low, high).to(TORCH[attrs["dtype"]])


@_reference("dequantize")
def _dequantize(attrs: Attrs, q: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    wide = q.float() if zero_point is None else q.float() - over_groups(zero_point, q).float()
    return wide * over_groups(scale, q)


def over_groups(scale: Tensor, q: Tensor) -> Tensor:
    """``scale`` with an element for each of ``q`` along the last axis, where it has one for each group of neighbours."""
    if q.dim() == 0 or scale.dim() != q.dim() or scale.shape[-1] in (0, 1, q.shape[-1]):
        return scale
    return scale.repeat_interleave(q.shape[-1] // scale.shape[-1], -1)


def results(value: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The results of a reference as a tuple."""
    return (value,) if isinstance(value, Tensor) else tuple(value)


from . import reference_recurrent, reference_spatial  # noqa: E402, F401  (they add their ops to REFERENCE)
