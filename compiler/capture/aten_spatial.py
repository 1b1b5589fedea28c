"""ATen ops that slide over axes of space: convolution, transposed convolution, pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..dims import Dim, divide_exactly, floordiv
from ..graph import Value
from .aten_anchor import optional
from .aten_resample import adaptive_average
from .lowering import Lowering, aten
from .symbols import Unsupported


def _per_axis(value: Any, spatial: int) -> tuple[Any, ...]:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * spatial if len(values) == 1 else values)


def _integers(name: str, values: Sequence[Any]) -> tuple[int, ...]:
    if not all(isinstance(v, int) for v in values):
        raise Unsupported(f"a {name} that varies is not supported")
    return tuple(values)


def convolution(
    b: Lowering, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Value:
    """A convolution; ``padding`` may be the text ``same`` or ``valid``, and the batch may be missing."""
    spatial = weight.type.rank - 2
    single = x.type.rank == weight.type.rank - 1
    if single:
        x = b.reshape(x, (1, *x.shape))
    steps, gaps = _integers("stride", _per_axis(stride, spatial)), _integers("dilation", _per_axis(dilation, spatial))
    high: tuple[int, ...] | None = None
    if padding == "same":
        total = [g * (k - 1) for g, k in zip(gaps, _integers("kernel", weight.shape[2:]), strict=True)]
        margins = tuple(t // 2 for t in total)
        if any(t % 2 for t in total):
            high = tuple(t - t // 2 for t in total)
    else:
        margins = (0,) * spatial if padding == "valid" else _integers("padding", _per_axis(padding, spatial))
    attrs = {"stride": steps, "padding": margins, "dilation": gaps, "groups": groups, "padding_high": high}
    result = optional(b, "conv", x, weight, bias, **attrs)
    return b.reshape(result, result.shape[1:]) if single else result


@aten("conv1d", "conv2d", "conv3d", "conv1d.padding", "conv2d.padding", "conv3d.padding")
def _conv(
    b: Lowering, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Value:
    return convolution(b, input, weight, bias, stride, padding, dilation, groups)


@aten("convolution", "_convolution")
def _convolution(
    b: Lowering, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, **_: Any,
) -> Value:  # fmt: skip
    if transposed:
        return conv_transpose(b, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(b, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose(
    b: Lowering, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, output_padding: Any, groups: int,
    dilation: Any,
) -> Value:  # fmt: skip
    """A transposed convolution; the batch may be missing."""
    spatial = weight.type.rank - 2
    single = x.type.rank == weight.type.rank - 1
    if single:
        x = b.reshape(x, (1, *x.shape))
    given = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    attrs = {name: _integers(name.replace("_", " "), _per_axis(value, spatial)) for name, value in given.items()}
    result = optional(b, "conv_transpose", x, weight, bias, **attrs, groups=groups)
    return b.reshape(result, result.shape[1:]) if single else result


@aten("conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose(
    b: Lowering, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> Value:  # fmt: skip
    return conv_transpose(b, input, weight, bias, stride, padding, output_padding, groups, dilation)


# -- pooling ----------------------------------------------------------------------------------------------------------
_SPATIAL = {"1d": 1, "2d": 2, "3d": 3}


def _windows(b: Lowering, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> dict[str, Any]:
    spatial = _SPATIAL[b.op.replace("_with_indices", "")[-2:]]
    sizes = _integers("kernel", _per_axis(kernel, spatial))
    steps = _integers("stride", _per_axis(stride, spatial)) if stride else sizes
    margins = _integers("padding", _per_axis(padding, spatial))
    return {"kernel": sizes, "stride": steps, "padding": margins, "ceil_mode": ceil_mode}


def _pooled(b: Lowering, op: str, x: Value, windows: dict[str, Any], **more: Any) -> Value:
    single = x.type.rank == len(windows["kernel"]) + 1
    result = b.emit(op, b.reshape(x, (1, *x.shape)) if single else x, **windows, **more)
    return b.reshape(result, result.shape[1:]) if single else result


@aten("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(
    b: Lowering, self: Value, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    windows = _windows(b, kernel_size, stride, padding, ceil_mode)
    gaps = _integers("dilation", _per_axis(dilation, len(windows["kernel"])))
    result = _pooled(b, "max_pool", self, windows, dilation=None if set(gaps) == {1} else gaps)
    return [result, None] if "with_indices" in b.op else result


@aten("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(
    b: Lowering, self: Value, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None = None,
) -> Value:  # fmt: skip
    windows = _windows(b, kernel_size, stride, padding, ceil_mode)
    return _pooled(b, "avg_pool", self, windows, count_include_pad=count_include_pad, divisor=divisor_override)


@aten("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
      "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")  # fmt: skip
def _adaptive_pool(b: Lowering, self: Value, output_size: Any) -> Any:
    name = b.op
    spatial = _SPATIAL[name[-2:]]
    wanted = _per_axis(output_size, spatial)
    axes = tuple(range(self.type.rank - spatial, self.type.rank))
    largest = "max" in name
    sizes = [self.shape[a] for a in axes]
    parts = [divide_exactly(s, w) for s, w in zip(sizes, wanted, strict=True)]
    if all(w == 1 for w in wanted):
        result = b.emit("reduce_max" if largest else "reduce_mean", self, axes=axes, keepdim=True)
    elif all(w == s for w, s in zip(wanted, sizes, strict=True)):
        result = self
    elif all(isinstance(p, int) for p in parts):
        windows = {"kernel": tuple(parts), "stride": tuple(parts), "padding": (0,) * spatial, "ceil_mode": False}
        result = _pooled(b, "max_pool" if largest else "avg_pool", self, windows)
    elif all(p is not None for p in parts):
        result = _cells(b, self, wanted, parts, largest)
    elif not all(isinstance(w, int) for w in wanted):  # torch's own way of writing it out would keep the example's size
        raise Unsupported("adaptive pooling to a size that varies with the data is not supported")
    elif largest or not all(isinstance(d, int) for d in sizes):
        result = _uneven(b, self, wanted, axes, "reduce_max" if largest else "reduce_mean")
    else:
        result = adaptive_average(b, self, wanted)
    return [result, None] if largest else result


def _cells(b: Lowering, x: Value, wanted: Sequence[Dim], parts: Sequence[Any], largest: bool) -> Value:
    """Equal windows whose size varies: every axis apart into cells, which are reduced."""
    lead = x.shape[: x.type.rank - len(wanted)]
    split = [d for pair in zip(wanted, parts, strict=True) for d in pair]
    axes = tuple(len(lead) + 1 + 2 * i for i in range(len(wanted)))
    apart = b.reshape(x, (*lead, *split))
    return b.emit("reduce_max" if largest else "reduce_mean", apart, axes=axes, keepdim=False)


def _uneven(b: Lowering, x: Value, wanted: Sequence[int], axes: Sequence[int], op: str) -> Value:
    """Windows of unequal size, reduced one axis after the other."""
    for axis, count in zip(axes, wanted, strict=True):
        size = x.shape[axis]
        ends = [(floordiv(size * i, count), floordiv(size * (i + 1) + count - 1, count)) for i in range(count)]
        cells = [b.slice(x, axis, first, last) for first, last in ends]
        parts = [b.emit(op, cell, axes=(axis,), keepdim=True) for cell in cells]
        x = parts[0] if count == 1 else b.emit("concat", *parts, axis=axis)
    return x
