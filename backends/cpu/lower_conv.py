"""Convolutions and pools over channels-last tensors: implicit products over gathered windows, and windows lane by lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...codegen.linear import tile_shape
from ...codegen.program import Ref
from ...codegen.specs import GroupStatsSpec, LinearSpec, WindowSpec
from ...compiler.dims import Dim, product
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.types import DType, bf16_to_float
from . import packing
from .lower_anchors import FlatBuilder, any_width, biased_copy, epilogues, flattened, split_at
from .regions import CONVS, Region
from .static_int8 import column_scales, constants, zero_point
from .views import View, fold_axes

if TYPE_CHECKING:
    from .lower import Lowering

NULL = Ref(None)
Kind = Literal["depthwise", "max", "mean", "fold"]
#: The axes of space of every window kernel: z, y, x.
AXES = 3


def is_depthwise(node: Node) -> bool:
    """Whether ``node`` is a convolution in which every channel has its own filter, and gives one channel."""
    weight = node.inputs[_filters_at(node)]
    assert weight is not None
    return bool(node.attrs["groups"] == weight.shape[0] and weight.shape[1] == 1 and node.attrs["groups"] != 1)


def _filters_at(node: Node) -> int:
    """Which operand the filters are."""
    return 2 if node.op == "qconv" else 1


def has_rows(node: Node) -> bool:
    """Whether programs over whole rows can run behind an anchor over windows."""
    return node.op in CONVS and node.attrs["groups"] == 1


def _behind(region: Region, anchor: Node) -> list[Node]:
    before, after = split_at(region.nodes, anchor)
    if before:
        raise LoweringError(f"nothing can be fused in front of {anchor.op}")
    return after


def _channels_contiguous(low: Lowering, value: Value) -> View:
    view = low.view(value)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else low.materialise(value)


def geometry(
    view: View, outputs: Sequence[Dim], kernel: Sequence[Dim], stride: Sequence[int], dilation: Sequence[int],
    low: Sequence[int],
) -> list[Dim]:  # fmt: skip
    """The dims that tell a kernel how windows lie on ``view``, a channels-last tensor."""
    space = len(outputs)
    missing = AXES - space
    if missing < 0:
        raise LoweringError(f"there is no kernel for windows over {space} axes")
    dims: list[Dim] = [1, 1, 1, 1, 1, 0] * missing
    for i in range(space):
        dims.extend([view.shape[1 + i], outputs[i], kernel[i], stride[i], dilation[i], low[i]])
    strides = [0 if d == 1 else s for d, s in zip(view.shape, view.strides, strict=True)]
    return [*dims, strides[0], *[0] * missing, *strides[1 : 1 + space]]


# -- dense and grouped ----------------------------------------------------------------------------------------------------
def lower_conv(low: Lowering, region: Region, anchor: Node) -> None:
    """A convolution: depthwise lane by lane, any other as a product of gathered windows with packed filters."""
    if is_depthwise(anchor):
        _depthwise(low, region, anchor)
        return
    after = _behind(region, anchor)
    x = region.outer[anchor.inputs[0]]  # type: ignore[index]
    static = anchor.op == "qconv"
    compute: Literal["f32", "bf16", "w8a8"] = "w8a8" if static else "bf16" if x.dtype is DType.bf16 else "f32"
    view = _bytes(low, region, x) if static else _channels_contiguous(low, x)
    weight, array = _filters(low, region, anchor)
    groups, blocks = _blocks(array, anchor.attrs["groups"], tile_shape(compute, low.isa).lanes)
    n, k = blocks[0].shape
    per_group = packing.packed_bytes(compute, n, k, low.isa) // x.dtype.size

    def packed() -> np.ndarray:
        return np.concatenate([np.asarray(packing.packed(block, compute, low.isa)) for block in blocks])

    ref = weight.node.attrs["ref"]  # type: ignore[union-attr]
    number = low.weight(("conv", compute, ref, groups), f"{ref}.{compute}", packed)
    bias = _bias(anchor)
    more = [NULL, Ref(number), *constants(low, region, anchor, ref, blocks)] if static else [Ref(number)]
    tile, row = epilogues(low, region, anchor, after, bias, compute != "f32")
    programs, pointers, strides, extra = flattened(tile, row)
    assert programs[0] is not None
    spec = LinearSpec(
        compute, any_width(programs[0]), None, programs[1], patches=True, grouped=groups > 1, static=static
    )
    out = anchor.output.shape
    windows = [anchor.attrs[name] for name in ("stride", "dilation", "padding")]
    sizes = [
        product(out[:-1]), n, k, 0, *strides, *extra, *geometry(view, out[1:-1], array.shape[2:], *windows),
        x.shape[-1] // groups, 128 + zero_point(low, region, anchor) if static else 0,
        *([groups, per_group] if groups > 1 else []),
    ]  # fmt: skip
    low.launch(region, spec, [low.ref(view, x.dtype.size), *more, *pointers], sizes, compute)


def _bias(anchor: Node) -> Value | None:
    at = _filters_at(anchor) + (2 if anchor.op == "qconv" else 1)
    return anchor.inputs[at] if len(anchor.inputs) > at else None


def _bytes(low: Lowering, region: Region, x: Value) -> View:
    """Channels-last int8 as the biased bytes that kernels read."""
    view = _channels_contiguous(low, x)
    return view if low.storage(x) == "i8b" else biased_copy(low, x, view, region.owner)


def _filters(low: Lowering, region: Region, anchor: Node) -> tuple[Value, np.ndarray]:
    weight = region.outer[anchor.inputs[_filters_at(anchor)]]  # type: ignore[index]
    array = low.graph.array(weight)
    if array is None:
        raise LoweringError("the filters are not constant")
    return weight, array


def _blocks(array: np.ndarray, groups: int, lanes: int) -> tuple[int, list[np.ndarray]]:
    """The filters as one matrix [outputs, taps * channels] per group; (number of groups, matrices).

    Groups that do not fill a vector are joined, with zeros between them, as long as they fit into one: the vector is
    multiplied anyway.
    """
    outputs, channels = array.shape[0] // groups, array.shape[1]
    rows = np.moveaxis(array, 1, -1).reshape(groups, outputs, -1, channels)
    joined = max(m for m in range(1, groups + 1) if groups % m == 0 and (m == 1 or m * outputs <= lanes))
    if joined > 1:
        wide = np.zeros((groups // joined, joined, outputs, rows.shape[2], joined, channels), array.dtype)
        apart = rows.reshape(groups // joined, joined, *rows.shape[1:])
        for m in range(joined):
            wide[:, m, :, :, m] = apart[:, m]
        groups //= joined
        rows = wide
    return groups, [np.ascontiguousarray(block.reshape(-1, block.size // (outputs * joined))) for block in rows]


# -- lane by lane ---------------------------------------------------------------------------------------------------------
def _launch(
    low: Lowering, region: Region, kind: Kind, tile: FlatBuilder, x: Value, view: View, weights: Ref, sizes: list[Dim]
) -> None:
    (program, *_), pointers, strides, extra = flattened(tile)
    assert program is not None
    static = x.dtype is DType.i8
    spec = WindowSpec(kind, "i8b" if static else low.storage(x), any_width(program))
    precision = "w8a8" if static else "bf16" if x.dtype is DType.bf16 else "f32"
    low.launch(region, spec, [low.ref(view, x.dtype.size), weights, *pointers], [*sizes, *strides, *extra], precision)


def _windows(
    low: Lowering, region: Region, anchor: Node, kind: Kind, kernel: Sequence[Dim],
    dilation: Sequence[int], weights: Ref, divisor: int = 0, factor: View | None = None,
) -> None:  # fmt: skip
    after = _behind(region, anchor)
    x = region.outer[anchor.inputs[0]]  # type: ignore[index]
    view = _channels_contiguous(low, x) if factor is None else _bytes(low, region, x)
    tile, _ = epilogues(low, region, anchor, after, _bias(anchor), x.dtype is not DType.f32, factor)
    out = anchor.output.shape
    lies = geometry(view, out[1:-1], kernel, anchor.attrs["stride"], dilation, anchor.attrs["padding"])
    _launch(low, region, kind, tile, x, view, weights, [out[0], out[-1], *lies, divisor])


def _depthwise(low: Lowering, region: Region, anchor: Node) -> None:
    weight, array = _filters(low, region, anchor)
    ref = weight.node.attrs["ref"]  # type: ignore[union-attr]

    def by_tap() -> np.ndarray:
        wide = bf16_to_float(array) if array.dtype == np.uint16 else array
        return np.ascontiguousarray(wide.reshape(array.shape[0], -1).T, np.float32)

    number = low.weight(("depthwise", ref), f"{ref}.taps", by_tap)
    arguments = (array.shape[2:], anchor.attrs["dilation"], Ref(number))
    if anchor.op == "conv":
        _windows(low, region, anchor, "depthwise", *arguments)
        return
    scales = column_scales(low, region, anchor)  # the sums are whole numbers, which f32 holds exactly
    place = low.weight(("depthwise scale", anchor), f"{ref}.columns", lambda: scales)
    shift = 128 + zero_point(low, region, anchor)
    _windows(low, region, anchor, "depthwise", *arguments, shift, View.dense(place, scales.shape))


def lower_pool(low: Lowering, region: Region, anchor: Node) -> None:
    """Largest element or mean of every window."""
    kernel = anchor.attrs["kernel"]
    ones = (1,) * len(kernel)
    if anchor.op == "max_pool":
        _windows(low, region, anchor, "max", kernel, anchor.attrs["dilation"] or ones, NULL)
        return
    divisor = anchor.attrs["divisor"] or (-1 if anchor.attrs["count_include_pad"] else 0)
    _windows(low, region, anchor, "mean", kernel, ones, NULL, divisor)


def lower_fold(low: Lowering, region: Region, anchor: Node) -> None:
    """Every output position sums the taps of the windows that reach it."""
    attrs, out = anchor.attrs, anchor.output.shape
    after = _behind(region, anchor)
    x = region.outer[anchor.inputs[0]]  # type: ignore[index]
    view = _channels_contiguous(low, x)
    tile, _ = epilogues(low, region, anchor, after, None, x.dtype is DType.bf16)
    lies = geometry(view, out[1:-1], attrs["kernel"], attrs["stride"], attrs["dilation"], attrs["padding"])
    _launch(low, region, "fold", tile, x, view, NULL, [out[0], out[-1], *lies, 0])


def lower_group_stats(low: Lowering, node: Node) -> None:
    """The factor and the summand of every channel."""
    x, *affine = node.inputs
    assert x is not None
    view = _channels_contiguous(low, x)
    cells = fold_axes(view.shape[1:-1], view.strides[1:-1])
    if cells is None:
        view = low.materialise(x)
        cells = fold_axes(view.shape[1:-1], view.strides[1:-1])
    assert cells is not None
    weights = [NULL if v is None else low.ref(low.materialise(v), 4) for v in (*affine, *[None] * (2 - len(affine)))]
    results = [low.ref(low.allocate(v), 4) for v in node.outputs]
    sizes = [x.shape[0], cells[0], x.shape[-1], node.attrs["groups"], view.strides[0], cells[1]]
    spec = GroupStatsSpec(low.storage(x), float(node.attrs["eps"]))
    low.launch(Region.of(node), spec, [low.ref(view, x.dtype.size), *weights, *results], sizes)
