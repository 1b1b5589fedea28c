"""Emitters of convolution, pooling and what folds windows back.

ONNX wants the channels second: where they are last, axes are exchanged around the operator. ONNX Runtime convolves and
averages in f32; f64 and integers go window cell by window cell through products of matrices, which are exact. Its MaxPool
does not hand NaN on; that is left as it is, since a second pass over the data would cost as much as the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as places
from math import prod

from ...compiler.dims import Dim, dim_max, dim_min, product
from ...compiler.graph import Node
from ...compiler.ops import conv_output
from ...compiler.types import DType
from .calculation import Calculation
from .emit_elementwise import only_input
from .emitter import Emitter, emits


def _channels_second(at: Emitter, name: str, rank: int, last: bool) -> str:
    """``name`` with its channels second, where they are last."""
    return at.op("Transpose", [name], perm=[0, rank - 1, *range(1, rank - 1)], dtype=at.dtype(name)) if last else name


def _channels_last(at: Emitter, name: str, rank: int, last: bool) -> str:
    """``name``, whose channels are second, with them last where that is wanted."""
    return at.op("Transpose", [name], perm=[0, *range(2, rank), 1], dtype=at.dtype(name)) if last else name


def _second(shape: Sequence[Dim], last: bool) -> tuple[Dim, ...]:
    """The shape with channels second."""
    return (shape[0], shape[-1], *shape[1:-1]) if last else tuple(shape)


def _padded(at: Emitter, x: str, low: Sequence[Dim], high: Sequence[Dim], value: float, dtype: DType) -> str:
    """``x`` with cells of ``value`` around its axes of space."""
    if not any(d != 0 for d in (*low, *high)):
        return x
    return at.compute(
        "Pad", [x], dtype, rest=[at.dims([0, 0, *low, 0, 0, *high]), at.scalar(value, at.work(dtype, "Pad"))]
    )


def _cells(
    at: Emitter, x: str, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], counts: Sequence[Dim]
) -> list[str]:
    """For each cell of a window, that cell of every window: strided slices of ``x`` [batch, channels, *space]."""
    axes = at.ints(*range(2, 2 + len(kernel)))
    found = []
    for place in places(*(range(k) for k in kernel)):
        first = [i * d for i, d in zip(place, dilation, strict=True)]
        end = [f + (n - 1) * s + 1 for f, n, s in zip(first, counts, stride, strict=True)]
        found.append(at.op("Slice", [x, at.ints(*first), at.dims(end), axes, at.ints(*stride)], dtype=at.dtype(x)))
    return found


@emits("conv")
def _conv(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    rank, last = node.output.type.rank, node.attrs["channels_last"]
    out = node.attrs["out_dtype"] or dtype
    work = at.work(dtype, "Conv") if dtype.is_float and dtype is not DType.f64 else dtype
    operands = [None if v is None else at.cast(at.name(v), work) for v in node.inputs[1:]]
    if work is DType.f32 or work is DType.f16:
        filters, bias = operands[0], operands[1] if len(operands) > 1 else None
        return at.cast(convolved(at, node, at.cast(x, work), filters, bias, node.operands[1].shape[2:], work), out)
    result = _conv_by_cells(at, node, _channels_second(at, at.cast(x, work), rank, last), operands, work)
    return _channels_last(at, at.cast(result, out), rank, last)


def convolved(
    at: Emitter, node: Node, x: str, filters: str | None, bias: str | None, kernel: Sequence[Dim], dtype: DType
) -> str:  # fmt: skip
    """Conv with the attributes of ``node`` on tensors of ``dtype``, in which ONNX Runtime convolves; the channels of ``x`` and
    of the result lie where the node has them."""
    rank, last = node.output.type.rank, node.attrs["channels_last"]
    low, high = node.attrs["padding"], node.attrs["padding_high"] or node.attrs["padding"]
    result = at.op(
        "Conv", [_channels_second(at, x, rank, last), filters, bias], strides=list(node.attrs["stride"]),
        pads=[*low, *high], group=node.attrs["groups"], dilations=list(node.attrs["dilation"]), kernel_shape=list(kernel),
        dtype=dtype,
    )  # fmt: skip
    return _channels_last(at, result, rank, last)


def _conv_by_cells(at: Emitter, node: Node, x: str, operands: Sequence[str | None], dtype: DType) -> str:
    """The sum over the cells of a window of (weights of the cell) times (that cell of every window), for each group."""
    weight, bias = operands[0], operands[1] if len(operands) > 1 else None
    assert weight is not None
    attrs, sizes = node.attrs, node.operands[1].shape
    given = _second(node.operands[0].shape, attrs["channels_last"])
    outputs = _second(node.output.shape, attrs["channels_last"])
    groups, (out, inner), kernel = attrs["groups"], sizes[:2], [int(k) for k in sizes[2:]]  # type: ignore[arg-type]
    x = _padded(at, x, attrs["padding"], attrs["padding_high"] or attrs["padding"], 0, dtype)
    positions = product(outputs[2:])
    c = Calculation(at, dtype)
    total: str | None = None
    for number, cell in enumerate(_cells(at, x, kernel, attrs["stride"], attrs["dilation"], outputs[2:])):
        columns = at.reshape(cell, (given[0], groups, inner, positions))
        flat = at.reshape(weight, (out, inner, prod(kernel)), sizes)
        rows = at.op("Gather", [flat, at.scalar(number, DType.i64)], axis=2, dtype=dtype)
        part = c("MatMul", at.reshape(rows, (groups, out // groups, inner)), columns)
        total = part if total is None else c("Add", total, part)
    assert total is not None
    result = at.reshape(total, outputs)
    if bias is None:
        return result
    return c("Add", result, at.reshape(bias, (out, *(1 for _ in kernel)), (out,)))


@emits("conv_transpose")
def _conv_transpose(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    rank, last = node.output.type.rank, node.attrs["channels_last"]
    work = at.work(dtype, "ConvTranspose")
    operands = [None if v is None else at.cast(at.name(v), work) for v in node.inputs[1:]]
    result = at.op(
        "ConvTranspose", [_channels_second(at, at.cast(x, work), rank, last), *operands], group=node.attrs["groups"],
        strides=list(node.attrs["stride"]), pads=[*node.attrs["padding"], *node.attrs["padding"]], dtype=work,
        output_padding=list(node.attrs["output_padding"]), dilations=list(node.attrs["dilation"]),
        kernel_shape=list(node.operands[1].shape[2:]),
    )  # fmt: skip
    return _channels_last(at, at.cast(result, node.attrs["out_dtype"] or dtype), rank, last)


@emits("fold")
def _fold(at: Emitter, node: Node) -> str:
    """Col2Im, whose columns are [batch, channels * taps, positions]."""
    x, dtype = only_input(at, node)
    shape, outputs = node.operands[0].shape, node.output.shape
    kernel = node.attrs["kernel"]
    work, taps, channels = at.work(dtype, "Col2Im"), prod(kernel), outputs[-1]
    columns = at.reshape(at.cast(x, work), (shape[0], product(shape[1:-1]), taps, channels))
    columns = at.op("Transpose", [columns], perm=[0, 3, 2, 1], dtype=work)
    columns = at.reshape(columns, (shape[0], channels * taps, product(shape[1:-1])))
    result = at.op(
        "Col2Im", [columns, at.dims(outputs[1:-1]), at.ints(*kernel)], strides=list(node.attrs["stride"]),
        pads=[*node.attrs["padding"], *node.attrs["padding"]], dilations=list(node.attrs["dilation"]), dtype=work,
    )  # fmt: skip
    return _channels_last(at, at.cast(result, dtype), len(outputs), True)


@emits("max_pool")
def _max_pool(at: Emitter, node: Node) -> str:
    """With ``ceil_mode`` the cells that the last windows reach over the end are padded here: the operator's own rule for
    which of them count has changed between opsets."""
    x, dtype = only_input(at, node)
    rank, last = node.output.type.rank, node.attrs["channels_last"]
    kernel, stride, low = (list(node.attrs[k]) for k in ("kernel", "stride", "padding"))
    dilation = list(node.attrs["dilation"] or (1 for _ in kernel))
    work = at.work(dtype, "MaxPool") if dtype.is_float or dtype in (DType.i8, DType.u8) else DType.f64
    name = _channels_second(at, at.cast(x, work), rank, last)
    sizes = _second(node.operands[0].shape, last)[2:]
    pads = [*low, *low]
    if node.attrs["ceil_mode"]:
        beyond = _reach(node, sizes, kernel, stride, low, dilation)
        if all(isinstance(b, int) for b in beyond):
            pads = [*low, *(max(int(b), 0) for b in beyond)]  # type: ignore[arg-type]
        else:
            least = -float("inf") if work.is_float else {DType.i8: -128, DType.u8: 0}[work]
            name, pads = _padded(at, name, low, beyond, least, work), [0] * (2 * len(kernel))
    if any(p >= k for p, k in zip(pads, [*kernel, *kernel], strict=True)):  # the operator wants windows to touch x
        least = -float("inf") if work.is_float else {DType.i8: -128, DType.u8: 0}[work]
        name, pads = _padded(at, name, pads[: len(kernel)], pads[len(kernel) :], least, work), [0] * (2 * len(kernel))
    result = at.op("MaxPool", [name], kernel_shape=kernel, strides=stride, pads=pads, dilations=dilation, dtype=work)
    return _channels_last(at, at.cast(result, dtype), rank, last)


def _reach(
    node: Node,
    sizes: Sequence[Dim],
    kernel: Sequence[int],
    stride: Sequence[int],
    low: Sequence[int],
    dilation: Sequence[int],
) -> list[Dim]:
    """Along each axis, how many cells behind the end the last window reaches."""
    beyond: list[Dim] = []
    for i, size in enumerate(sizes):
        count = conv_output(size, kernel[i], stride[i], low[i], dilation[i], ceil=node.attrs["ceil_mode"])
        end = (count - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - size - low[i]

        beyond.append(dim_max(end, 0))
    return beyond


@emits("avg_pool")
def _avg_pool(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    rank, last = node.output.type.rank, node.attrs["channels_last"]
    kernel, stride, low = (list(node.attrs[k]) for k in ("kernel", "stride", "padding"))
    divisor = node.attrs["divisor"]
    exact = dtype is DType.f64 or not dtype.is_float
    work = dtype if exact else at.work(dtype, "AveragePool")
    name = _channels_second(at, at.cast(x, work), rank, last)
    if exact or node.attrs["ceil_mode"]:
        result = _average_by_sums(at, node, name, work)
    else:
        result = at.op(
            "AveragePool", [name], kernel_shape=kernel, strides=stride, pads=[*low, *low], dtype=work,
            count_include_pad=int(node.attrs["count_include_pad"] or divisor is not None),
        )  # fmt: skip
        if divisor is not None:
            result = Calculation(at, work)("Mul", result, prod(kernel) / divisor)
    return _channels_last(at, at.cast(result, dtype), rank, last)


def _average_by_sums(at: Emitter, node: Node, x: str, dtype: DType) -> str:
    """The sum of every window over how many of its cells count; where a window reaches over the end, those beyond the
    padding never do."""
    kernel, stride, low = (list(node.attrs[k]) for k in ("kernel", "stride", "padding"))
    ones = [1] * len(kernel)
    shape = _second(node.operands[0].shape, node.attrs["channels_last"])
    counts = _second(node.output.shape, node.attrs["channels_last"])[2:]
    beyond = _reach(node, shape[2:], kernel, stride, low, ones)
    c = Calculation(at, dtype)

    def sums(cells: list[str]) -> str:
        total = cells[0]
        for cell in cells[1:]:
            total = c("Add", total, cell)
        return total

    total = sums(_cells(at, _padded(at, x, low, beyond, 0, dtype), kernel, stride, ones, counts))
    if node.attrs["divisor"] is not None:
        return c("Div", total, node.attrs["divisor"])
    inside = at.op("ConstantOfShape", [at.dims((1, 1, *shape[2:]))], value=at.fill(1, dtype), dtype=dtype)
    if node.attrs["count_include_pad"]:
        within = [dim_min(b, p) for b, p in zip(beyond, low, strict=True)]
        inside = _padded(at, inside, low, within, 1, dtype)
        inside = _padded(at, inside, [0] * len(low), [b - w for b, w in zip(beyond, within, strict=True)], 0, dtype)
    else:
        inside = _padded(at, inside, low, beyond, 0, dtype)
    return c("Div", total, sums(_cells(at, inside, kernel, stride, ones, counts)))
