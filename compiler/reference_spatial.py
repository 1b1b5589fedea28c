"""What convolution, transposed convolution and pooling mean, as torch code; see ``reference``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops_spatial import conv_output
from .reference import REFERENCE, TORCH, Attrs, less_zero
from .types import DType


def _channels_second(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let ``fn``, which takes and gives channels second, serve ``channels_last`` as well."""

    def run(attrs: Attrs, x: Tensor, *rest: Tensor | None) -> Tensor:
        if not attrs["channels_last"]:
            return fn(attrs, x, *rest)
        return fn(attrs, x.movedim(-1, 1), *rest).movedim(1, -1)

    return run


def _wide(*tensors: Tensor | None) -> list[Tensor | None]:
    """Low-precision floats as f32: sums are rounded once, at the store."""
    return [t.float() if t is not None and t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]


def _out(attrs: Attrs, like: Tensor) -> torch.dtype:
    return TORCH[attrs["out_dtype"]] if attrs["out_dtype"] else like.dtype


def _conv(attrs: Attrs, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    fn: Callable[..., Tensor] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.dim() - 2]
    wide, weight_, bias_ = _wide(x, weight, bias)
    assert wide is not None
    padding, high = attrs["padding"], attrs["padding_high"]
    if high is not None and tuple(high) != tuple(padding):
        wide, padding = F.pad(wide, [p for pair in zip(padding[::-1], high[::-1], strict=True) for p in pair]), 0
    return fn(wide, weight_, bias_, attrs["stride"], padding, attrs["dilation"], attrs["groups"]).to(_out(attrs, x))


def _qconv(
    attrs: Attrs, x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None,
    x_zero: Tensor | None = None,
) -> Tensor:  # fmt: skip
    sums = _conv({**attrs, "out_dtype": DType.f64}, less_zero(x, x_zero).double(), weight.double())  # exact
    each = (-1, *(1 for _ in x.shape[2:]))
    result = sums.float() * (x_scale.reshape(()) * weight_scale).reshape(each)
    return result if bias is None else result + bias.reshape(each)


def _conv_transpose(attrs: Attrs, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    fn: Callable[..., Tensor] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[x.dim() - 2]
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    return fn(*_wide(x, weight, bias), *(attrs[name] for name in names)).to(_out(attrs, x))


def _fold(attrs: Attrs, x: Tensor) -> Tensor:
    """Every tap is added where it belongs; as a product with ones and zeros an infinity would become NaN elsewhere."""
    kernel, stride, dilation = attrs["kernel"], attrs["stride"], attrs["dilation"]
    wide = _wide(x)[0]
    assert wide is not None
    parts = wide.unflatten(-1, (prod(kernel), -1))
    span = [(n - 1) * s + 1 for n, s in zip(x.shape[1:-1], stride, strict=True)]  # of one tap, from its first cell
    reach = [d * (k - 1) + o for d, k, o in zip(dilation, kernel, attrs["output_padding"], strict=True)]
    whole = parts.new_zeros((x.shape[0], *(n + r for n, r in zip(span, reach, strict=True)), parts.shape[-1]))
    for tap, place in enumerate(product(*(range(k) for k in kernel))):
        first = [i * d for i, d in zip(place, dilation, strict=True)]
        cells = tuple(slice(f, f + n, s) for f, n, s in zip(first, span, stride, strict=True))
        whole[(slice(None), *cells)] += parts[..., tap, :]
    inner = tuple(slice(p, size - p) for p, size in zip(attrs["padding"], whole.shape[1:-1], strict=True))
    return whole[(slice(None), *inner)].to(x.dtype)


def _max_pool(attrs: Attrs, x: Tensor) -> Tensor:
    fn: Callable[..., Tensor] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[x.dim() - 2]
    kernel, stride, padding = attrs["kernel"], attrs["stride"], attrs["padding"]
    dilation = attrs["dilation"] or (1,) * len(kernel)
    around: list[int] = []
    for i in reversed(range(len(kernel))):  # the cells that the windows reach, and no others
        size = x.shape[2 + i]
        count: Any = conv_output(size, kernel[i], stride[i], padding[i], dilation[i], ceil=attrs["ceil_mode"])
        end = (count - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        around += [padding[i], max(end - size - padding[i], 0)]
    wide = x if x.dtype.is_floating_point else x.double()  # torch pools no integers
    padded = F.pad(wide, around, value=-float("inf")) if any(around) else wide
    return fn(padded, kernel, stride, 0, dilation).to(x.dtype)


def _avg_pool(attrs: Attrs, x: Tensor) -> Tensor:
    kernel, stride, padding = (tuple(attrs[k]) for k in ("kernel", "stride", "padding"))
    wide = _wide(x)[0]
    assert wide is not None
    flat = wide.unsqueeze(2) if x.dim() == 3 else wide  # along one axis torch knows no divisor
    if x.dim() == 3:
        kernel, stride, padding = (1, *kernel), (1, *stride), (0, *padding)
    fn: Callable[..., Tensor] = F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
    result = fn(flat, kernel, stride, padding, attrs["ceil_mode"], attrs["count_include_pad"], attrs["divisor"])
    return (result.squeeze(2) if x.dim() == 3 else result).to(x.dtype)


def _group_stats(
    attrs: Attrs, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    groups = attrs["groups"]
    apart = x.double().reshape(x.shape[0], prod(x.shape[1:-1]), groups, x.shape[-1] // groups)
    mean = apart.mean((1, 3), keepdim=True)
    variance = (apart - mean).square().mean((1, 3), keepdim=True)
    factor = torch.rsqrt(variance + attrs["eps"]).flatten(1).repeat_interleave(apart.shape[3], 1)
    factor = factor if weight is None else factor * weight.double()
    shift = -mean.flatten(1).repeat_interleave(apart.shape[3], 1) * factor
    shift = shift if bias is None else shift + bias.double()
    shape = (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1])
    return factor.float().reshape(shape), shift.float().reshape(shape)


REFERENCE["group_stats"] = _group_stats
REFERENCE["conv"] = _channels_second(_conv)
REFERENCE["qconv"] = _channels_second(_qconv)
REFERENCE["conv_transpose"] = _channels_second(_conv_transpose)
REFERENCE["max_pool"] = _channels_second(_max_pool)
REFERENCE["avg_pool"] = _channels_second(_avg_pool)
REFERENCE["fold"] = _fold
