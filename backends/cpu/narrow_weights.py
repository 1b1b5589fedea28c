"""Linears whose weights are narrower than what they are multiplied with: which kernel, and the constants that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ...codegen.program import Ref
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.types import DType, float_to_bf16
from . import packing
from .regions import Region

if TYPE_CHECKING:
    from .lower import Lowering

#: Precisions of linears whose weights are narrower than x; the names with nothing behind them mean groups of 128.
NARROW = ("w8a16", "w4a16", "w4a16-g64", "w4a16-g32", "w4a8", "w4a8-g64", "w4a8-g32")

Compute = Literal["f32", "bf16", "w8a8", "w8a16", "w4a16", "w4a8"]

#: By the element types of x and of the weight.
_COMPUTE: dict[tuple[DType, DType], Compute] = {
    (DType.i8, DType.i8): "w8a8", (DType.bf16, DType.i8): "w8a16", (DType.bf16, DType.i4): "w4a16",
    (DType.i8, DType.i4): "w4a8",
}  # fmt: skip


def compute_of(anchor: Node) -> Compute:
    """What the kernel of a ``linear`` or ``qlinear`` computes in.

    Raises:
        LoweringError: there is none for the element type of x.
    """
    x, weight = anchor.inputs[0], anchor.inputs[2 if anchor.op == "qlinear" else 1]
    assert x is not None and weight is not None
    if anchor.op == "qlinear":
        return _COMPUTE[x.dtype, weight.dtype]
    if x.dtype not in (DType.bf16, DType.f32):
        raise LoweringError(f"there is no linear kernel for {x.dtype}", "compile the model in float32")
    return "bf16" if x.dtype is DType.bf16 else "f32"


def group_size(anchor: Node) -> int | None:
    """How many neighbours share a scale of an int4 weight; None for other weights."""
    if anchor.op != "qlinear" or anchor.inputs[2].dtype is not DType.i4:  # type: ignore[union-attr]
        return None
    k, groups = anchor.inputs[2].shape[1], anchor.inputs[3].shape[1]  # type: ignore[union-attr]
    assert isinstance(k, int) and isinstance(groups, int)
    return k // groups


def precision_of(compute: Compute, size: int | None, static: bool) -> str:
    """The precision that a linear kernel belongs to, by name."""
    if compute == "w8a8":
        return "w8a8" if static else "w8a8-dynamic"
    return compute if size in (None, 128) else f"{compute}-g{size}"


def weight_refs(low: Lowering, region: Region, anchor: Node, compute: Compute) -> list[Ref]:
    """The packed weight of a ``w8a16``, ``w4a16`` or ``w4a8`` linear, and the scales of its columns or groups.

    Raises:
        LoweringError: they are not constant, or no kernel takes them.
    """
    (weight, array), (scale, scales) = (_constant(low, region, anchor.inputs[at]) for at in (2, 3))
    isa = low.isa
    number = low.weight((compute, weight), f"{weight}.{compute}", lambda: packing.packed(array, compute, isa))
    size = group_size(anchor)
    if size is None:
        columns = np.ascontiguousarray(np.broadcast_to(scales.reshape(-1), (array.shape[0],)), np.float32)
        return [Ref(number), Ref(low.weight(("columns", scale), f"{scale}.columns", lambda: columns))]
    packing.check_group(array.shape[1], size)
    return [
        Ref(number),
        Ref(low.weight(("groups", scale), f"{scale}.groups", lambda: packing.pack_scales(scales, isa))),
    ]


def _constant(low: Lowering, region: Region, value: Value | None) -> tuple[str, np.ndarray]:
    """The name and the data of an operand."""
    real = None if value is None else region.outer[value]
    array = None if real is None else low.graph.array(real)
    if array is None or real is None or real.node is None:
        raise LoweringError("the weight or its scales are not constant", "use matmul for a product of run-time tensors")
    return str(real.node.attrs["ref"]), array


def exact_bf16(scales: np.ndarray) -> np.ndarray | None:
    """f32 scales as bf16 bits, where that loses nothing: kernels then read half as much of them."""
    bits = np.ascontiguousarray(scales, np.float32).view(np.uint32)
    return None if (bits & 0xFFFF).any() else float_to_bf16(scales)
