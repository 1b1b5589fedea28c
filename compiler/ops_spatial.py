"""The vocabulary, what slides over axes of space: convolution, transposed convolution, pooling.

All of them take ``[batch, channels, *space]``; with ``channels_last`` they take and give ``[batch, *space, channels]``, which
is how kernels want it. The shape of a weight does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from .dims import Dim, dim_min, divide_exactly, floordiv, product
from .graph import Node
from .ops_schema import REQUIRED, define, fail, type_of
from .types import DType, TensorType


def conv_output(
    size: Dim, kernel: Dim, stride: int, low: int, dilation: int, high: int | None = None, ceil: bool = False
) -> Dim:
    """How many windows of ``kernel`` fit along an axis of ``size`` with ``low`` and ``high`` (None: as low) cells around it.

    Args:
        ceil: a window may reach over the end if it starts before it.
    """
    reach = size + low + (low if high is None else high) - dilation * (kernel - 1) - 1
    if not ceil:
        return floordiv(reach, stride) + 1
    return dim_min(floordiv(reach + stride - 1, stride), floordiv(size + low - 1, stride)) + 1


def split_axes(node: Node, x: TensorType) -> tuple[Dim, tuple[Dim, ...]]:
    """(channels, sizes of the axes of space) of an operand of ``node``."""
    return (x.shape[-1], x.shape[1:-1]) if node.attrs["channels_last"] else (x.shape[1], x.shape[2:])


def _joined(node: Node, x: TensorType, channels: Dim, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
    last = node.attrs["channels_last"]
    return (x.shape[0], *sizes, channels) if last else (x.shape[0], channels, *sizes)


def convolved(node: Node, x: TensorType, w: TensorType) -> tuple[Dim, ...]:
    """The shape of the result of a convolution of ``x`` with filters ``w``, with the attributes of ``node``.

    Raises:
        PassError: they do not fit.
    """
    if w.rank != x.rank or x.rank < 3:
        raise fail(node, f"x {x} and w {w} must have the same rank of at least 3")
    channels, space = split_axes(node, x)
    if channels != w.shape[1] * node.attrs["groups"]:
        raise fail(node, f"x {x} has not {w.shape[1]} x {node.attrs['groups']} channels")
    stride, low, dilation = (node.attrs[a] for a in ("stride", "padding", "dilation"))
    high = node.attrs["padding_high"] or low
    sizes = [conv_output(d, w.shape[2 + i], stride[i], low[i], dilation[i], high[i]) for i, d in enumerate(space)]
    return _joined(node, x, w.shape[0], sizes)


def _conv(node: Node) -> list[TensorType]:
    x, w = type_of(node.inputs[0]), type_of(node.inputs[1])
    return [TensorType(node.attrs["out_dtype"] or x.dtype, convolved(node, x, w))]


def _conv_transpose(node: Node) -> list[TensorType]:
    x, w = type_of(node.inputs[0]), type_of(node.inputs[1])
    if w.rank != x.rank or x.rank < 3:
        raise fail(node, f"x {x} and w {w} must have the same rank of at least 3")
    channels, space = split_axes(node, x)
    if channels != w.shape[0]:
        raise fail(node, f"x {x} has not {w.shape[0]} channels")
    names = ("stride", "padding", "output_padding", "dilation")
    sizes: list[Dim] = []
    for i, size in enumerate(space):
        stride, padding, extra, dilation = (node.attrs[a][i] for a in names)
        sizes.append((size - 1) * stride - 2 * padding + dilation * (w.shape[2 + i] - 1) + extra + 1)
    shape = _joined(node, x, w.shape[1] * node.attrs["groups"], sizes)
    return [TensorType(node.attrs["out_dtype"] or x.dtype, shape)]


def _fold(node: Node) -> list[TensorType]:
    x, kernel = type_of(node.inputs[0]), node.attrs["kernel"]
    taps = product(kernel)
    channels = divide_exactly(x.shape[-1], taps)
    if x.rank != len(kernel) + 2 or channels is None:
        raise fail(node, f"x {x} does not hold {taps} taps per position")
    names = ("stride", "padding", "output_padding", "dilation")
    sizes: list[Dim] = []
    for i, size in enumerate(x.shape[1:-1]):
        stride, padding, extra, dilation = (node.attrs[a][i] for a in names)
        sizes.append((size - 1) * stride - 2 * padding + dilation * (kernel[i] - 1) + extra + 1)
    return [TensorType(x.dtype, (x.shape[0], *sizes, channels))]


def _pool(node: Node) -> list[TensorType]:
    x = type_of(node.inputs[0])
    channels, space = split_axes(node, x)
    kernel, stride, padding = (node.attrs[k] for k in ("kernel", "stride", "padding"))
    if len(kernel) != len(space):
        raise fail(node, f"windows of rank {len(kernel)} do not fit {x}")
    dilation = node.attrs.get("dilation") or (1,) * len(kernel)
    sizes = [
        conv_output(size, kernel[i], stride[i], padding[i], dilation[i], ceil=node.attrs["ceil_mode"])
        for i, size in enumerate(space)
    ]
    return [TensorType(x.dtype, _joined(node, x, channels, sizes))]


def _group_stats(node: Node) -> list[TensorType]:
    x, groups = type_of(node.inputs[0]), node.attrs["groups"]
    if x.rank < 3 or divide_exactly(x.shape[-1], groups) is None:
        raise fail(node, f"the channels of {x}, which are last, do not fall into {groups} groups")
    one = TensorType(DType.f32, (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1]))
    return [one, one]


def _conv_flops(node: Node) -> Dim:
    return 2 * node.output.type.elements * product(type_of(node.inputs[1]).shape[1:])


def _conv_transpose_flops(node: Node) -> Dim:
    return 2 * type_of(node.inputs[0]).elements * product(type_of(node.inputs[1]).shape[1:])


def _pool_flops(node: Node) -> Dim:
    return node.output.type.elements * product(node.attrs["kernel"])


#: The attributes of a convolution (``conv`` has ``out_dtype`` too).
CONV_ATTRIBUTES = {
    "stride": REQUIRED, "padding": REQUIRED, "dilation": REQUIRED, "groups": 1, "padding_high": None, "channels_last": False,
}  # fmt: skip
_WINDOWS = {"kernel": REQUIRED, "stride": REQUIRED, "padding": REQUIRED}

define(
    "conv", "x weight bias?", _conv,
    "convolution; weight [out, in / groups, *kernel]; `padding_high` is the padding behind, where it differs",
    attrs={**CONV_ATTRIBUTES, "out_dtype": None},
    flops=_conv_flops,
)  # fmt: skip
define(
    "conv_transpose", "x weight bias?", _conv_transpose,
    "transposed convolution, the adjoint of conv; weight [in, out / groups, *kernel]",
    attrs={"stride": REQUIRED, "padding": REQUIRED, "output_padding": REQUIRED, "dilation": REQUIRED, "groups": 1,
           "channels_last": False, "out_dtype": None},
    flops=_conv_transpose_flops,
)  # fmt: skip
define(
    "fold", "x", _fold,
    "[batch, *space, taps * channels] to [batch, *space, channels]: the sum of overlapping windows, the second half of a "
    "transposed convolution",
    attrs={"kernel": REQUIRED, "stride": REQUIRED, "padding": REQUIRED, "output_padding": REQUIRED, "dilation": REQUIRED},
    flops=lambda node: type_of(node.inputs[0]).elements,
)  # fmt: skip
define(
    "max_pool", "x", _pool, "largest element of every window; what lies outside does not count",
    attrs={**_WINDOWS, "dilation": None, "ceil_mode": False, "channels_last": False}, flops=_pool_flops,
)  # fmt: skip
define(
    "avg_pool", "x", _pool,
    "mean of every window: its sum over the number of its cells, of those inside x only (count_include_pad false), or over "
    "`divisor`",
    attrs={**_WINDOWS, "count_include_pad": True, "ceil_mode": False, "divisor": None, "channels_last": False},
    flops=_pool_flops,
)  # fmt: skip
define(
    "group_stats", "x weight? bias?", _group_stats,
    "the factor and the summand with which a group normalisation of [batch, *space, channels] takes every channel, in f32",
    attrs={"groups": REQUIRED, "eps": REQUIRED}, flops=lambda node: 4 * type_of(node.inputs[0]).elements,
)  # fmt: skip
