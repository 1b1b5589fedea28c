"""Convolutions and pools that the kernels over windows do not have (filters computed at run time, f64, integers): slices,
products and maxima. Everything else ``channels_last`` has taken before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as cartesian

import numpy as np

from ...compiler.dims import Dim, dim_max, product
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.types import DType
from .builder import Builder


def _windows(
    b: Builder, x: Value, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Sequence[Dim]
) -> list[Value]:
    """For every kernel position, the elements of ``x`` it meets: a strided slice per axis of space."""
    found = []
    for at in cartesian(*(range(k) for k in kernel)):
        piece = x
        for axis, (offset, step, spread, size) in enumerate(zip(at, stride, dilation, sizes, strict=True), start=2):
            start = offset * spread
            piece = b("slice", piece, axis=axis, start=start, end=start + step * (size - 1) + 1, step=step)
        found.append(piece)
    return found


def _padded(b: Builder, x: Value, low: Sequence[Dim], high: Sequence[Dim], value: float | int = 0) -> Value:
    if not any(d != 0 for d in (*low, *high)):
        return x
    return b("pad", x, low=(0, 0, *low), high=(0, 0, *high), value=value)


def _conv(b: Builder, node: Node) -> Value | None:
    """Windows side by side are the rows of a linear; groups one after the other."""
    x, w, *rest = node.inputs
    assert x is not None and w is not None
    if node.attrs["channels_last"]:
        return None
    if not all(isinstance(d, int) for d in w.shape):
        raise LoweringError(f"the filters of the convolution {node.name} have a size that varies")
    bias, groups, shape = rest[0] if rest else None, node.attrs["groups"], w.shape
    padding = node.attrs["padding"]
    kernel: tuple[int, ...] = tuple(int(d) for d in w.shape[2:])
    outputs, inputs, space = int(w.shape[0]) // groups, int(w.shape[1]), len(kernel)
    padded = _padded(b, x, padding, node.attrs["padding_high"] or padding)
    windows = _windows(b, padded, kernel, node.attrs["stride"], node.attrs["dilation"], node.output.shape[2:])
    parts = []
    for g in range(groups):
        pieces, filters, shift = windows, w, bias
        if groups > 1:
            pieces = [b("slice", v, axis=1, start=g * inputs, end=(g + 1) * inputs) for v in windows]
            filters = b("slice", w, axis=0, start=g * outputs, end=(g + 1) * outputs)
            shift = None if bias is None else b("slice", bias, axis=0, start=g * outputs, end=(g + 1) * outputs)
        joined = pieces[0] if len(pieces) == 1 else b("concat", *pieces, axis=1)
        rows = b("transpose", joined, perm=(0, *range(2, space + 2), 1))
        matrix = b("transpose", filters, perm=(0, *range(2, space + 2), 1))
        matrix = b("reshape", matrix, shape=(outputs, product(shape[1:])))
        y = b("linear", rows, matrix, shift, out_dtype=node.attrs["out_dtype"])
        parts.append(b("transpose", y, perm=(0, space + 1, *range(1, space + 1))))
    return parts[0] if groups == 1 else b("concat", *parts, axis=1)


def _conv_transpose(b: Builder, node: Node) -> Value | None:
    """Filters computed at run time: a linear that gives every position its window, and the sum of the windows, group by group."""
    x, w, *rest = node.inputs
    assert x is not None and w is not None
    attrs, shape, space = node.attrs, w.shape, w.type.rank - 2
    if attrs["channels_last"]:
        return None
    if x.dtype not in (DType.f32, DType.bf16, DType.f16) or not all(isinstance(d, int) for d in shape):
        what = f"is in {x.dtype}" if x.dtype.is_integer or x.dtype is DType.f64 else "has filters of a size that varies"
        raise LoweringError(
            f"the transposed convolution {node.name} {what}", "it runs in float32, bfloat16 and float16"
        )
    wide, filters = (v if v.dtype is DType.f32 else b("cast", v, dtype=DType.f32) for v in (x, w))
    groups, inputs, outputs = attrs["groups"], int(shape[0]) // attrs["groups"], int(shape[1])
    kernel = tuple(int(d) for d in shape[2:])
    rows = b("transpose", wide, perm=(0, *range(2, space + 2), 1))
    windows = {name: attrs[name] for name in ("stride", "padding", "output_padding", "dilation")}
    parts = []
    for g in range(groups):
        mine, of_group = rows, filters
        if groups > 1:
            mine = b("slice", rows, axis=space + 1, start=g * inputs, end=(g + 1) * inputs)
            of_group = b("slice", filters, axis=0, start=g * inputs, end=(g + 1) * inputs)
        matrix = b("transpose", of_group, perm=(*range(2, space + 2), 1, 0))
        matrix = b("reshape", matrix, shape=(product(kernel) * outputs, inputs))
        parts.append(b("fold", b("linear", mine, matrix), kernel=kernel, **windows))
    y = parts[0] if groups == 1 else b("concat", *parts, axis=space + 1)
    if rest and rest[0] is not None:
        y = b("add", y, rest[0] if rest[0].dtype is DType.f32 else b("cast", rest[0], dtype=DType.f32))
    y = b("transpose", y, perm=(0, space + 1, *range(1, space + 1)))
    return y if y.dtype is node.output.dtype else b("cast", y, dtype=node.output.dtype)


def _pool(b: Builder, node: Node) -> Value | None:
    x, attrs = node.inputs[0], node.attrs
    assert x is not None
    if attrs["channels_last"]:
        return None
    kernel, stride, padding = (attrs[k] for k in ("kernel", "stride", "padding"))
    dilation = attrs.get("dilation") or (1,) * len(kernel)
    largest, sizes = node.op == "max_pool", node.output.shape[2:]
    high = [  # the cells that windows reach behind x, and no others
        dim_max((size - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - x.shape[2 + i] - padding[i], 0)
        for i, size in enumerate(sizes)
    ]
    lowest: float | int = -float("inf") if x.dtype.is_float else int(np.iinfo(x.dtype.numpy).min)

    def combine(value: Value, fill: float | int) -> Value:
        parts = _windows(b, _padded(b, value, padding, high, fill), kernel, stride, dilation, sizes)
        total = parts[0]
        for v in parts[1:]:
            total = b("maximum" if largest else "add", total, v)
        return total

    if largest:
        return combine(x, lowest)
    total = combine(x, 0.0)
    if attrs["divisor"]:
        return b("div", total, b.full(float(attrs["divisor"]), x))
    if not attrs["ceil_mode"] and (not any(padding) or attrs["count_include_pad"]):
        return b("div", total, b.full(float(np.prod(kernel)), x))
    ones = b.full(1.0, x, (1, 1, *x.shape[2:]))
    if attrs["count_include_pad"]:
        ones = b.full(1.0, x, (1, 1, *(d + 2 * p for d, p in zip(x.shape[2:], padding, strict=True))))
        more = [dim_max(h - p, 0) for h, p in zip(high, padding, strict=True)]
        wide = _padded(b, ones, (0,) * len(kernel), more)
        counts = _windows(b, wide, kernel, stride, dilation, sizes)
        count = counts[0]
        for v in counts[1:]:
            count = b("add", count, v)
        return b("div", total, count)
    return b("div", total, combine(ones, 0.0))


LEGAL_SPATIAL: dict[str, Callable[[Builder, Node], Value | None]] = {
    "conv": _conv, "conv_transpose": _conv_transpose, "max_pool": _pool, "avg_pool": _pool,
}  # fmt: skip
