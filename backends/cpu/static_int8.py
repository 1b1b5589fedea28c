"""Linears and convolutions on statically quantised int8: the constants that their kernels read.

The sums of the kernel are of ``(x + 128) * w`` where the dot product takes an unsigned operand, else of ``x * w``; they start
at what makes them sums of ``(x - zero) * w``, so that a zero point costs nothing at run time. The scale of x is multiplied into
the scales of the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...codegen.linear import MAX_K_INT8, MAX_K_SHIFTED, tile_shape
from ...codegen.program import Ref
from ...codegen.specs import ISA_LEVELS
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from . import packing
from .regions import Region

if TYPE_CHECKING:
    from .lower import Lowering


def is_static(anchor: Node) -> bool:
    """Whether ``anchor`` is an int8 product whose x has one constant scale."""
    return anchor.op == "qconv" or (anchor.op == "qlinear" and not anchor.inputs[1].type.rank)  # type: ignore[union-attr]


def starting_sums(weight: np.ndarray, zero: int, isa: str) -> np.ndarray:
    """What the sums of a static int8 product start at, for ``weight`` int8 ``[N, K]`` and the zero point of x: int32
    ``[N padded to whole vectors]``, wrapped around where it does not fit (the sums themselves do).

    Raises:
        LoweringError: ``weight`` has so many columns that an int32 sum could overflow, or holds -128.
    """
    packing.compensation(weight[:, :MAX_K_INT8], isa)  # checks
    if weight.shape[1] > (MAX_K_SHIFTED if zero else MAX_K_INT8):
        raise LoweringError(f"an int8 product over {weight.shape[1]} inputs could overflow its int32 sums")
    unsigned = ISA_LEVELS.index(isa) >= ISA_LEVELS.index("avx512-vnni")
    sums = -(zero + (128 if unsigned else 0)) * weight.sum(axis=1, dtype=np.int64)
    return _padded(sums.astype(np.int32), isa)


def _padded(columns: np.ndarray, isa: str) -> np.ndarray:
    return np.pad(columns, (0, -len(columns) % tile_shape("w8a8", isa).lanes))


def zero_point(low: Lowering, region: Region, anchor: Node) -> int:
    """The zero point of the x of an int8 product."""
    zero = anchor.inputs[5] if len(anchor.inputs) > 5 else None
    return 0 if zero is None else int(_array(low, region, zero, "zero point of x").reshape(()))


def column_scales(low: Lowering, region: Region, anchor: Node) -> np.ndarray:
    """The scale of x times those of the weight, f32 ``[N]``."""
    x_scale = _array(low, region, anchor.inputs[1], "scale of x").reshape(())
    scales = _array(low, region, anchor.inputs[3], "scales of the weight").reshape(-1)
    outputs = anchor.inputs[2].shape[0]  # type: ignore[union-attr]
    return np.broadcast_to((x_scale * scales).astype(np.float32), (outputs,))


def constants(low: Lowering, region: Region, anchor: Node, ref: str, blocks: Sequence[np.ndarray]) -> list[Ref]:
    """The column scales and the starting sums of a product, padded to whole vectors for every group.

    Args:
        ref: what the constants are called after.
        blocks: the weight of every group, int8 ``[N, K]``.
    """
    zero, scales = zero_point(low, region, anchor), column_scales(low, region, anchor)
    sums = np.concatenate([starting_sums(block, zero, low.isa) for block in blocks])
    columns = np.concatenate([_padded(part, low.isa) for part in np.split(scales, len(blocks))])
    scale_refs = tuple(_ref(region, v) for v in (anchor.inputs[1], anchor.inputs[3]))
    return [
        Ref(low.weight(("static scale", ref, len(blocks), scale_refs), f"{ref}.columns", lambda: columns)),
        Ref(low.weight(("static sums", ref, len(blocks), zero), f"{ref}.sums", lambda: sums)),
    ]


def _ref(region: Region, value: Value | None) -> str:
    return str(region.outer[value].node.attrs["ref"])  # type: ignore[index, union-attr]


def _array(low: Lowering, region: Region, value: Value | None, what: str) -> np.ndarray:
    array = None if value is None else low.graph.array(region.outer[value])
    if array is None:
        raise LoweringError(f"the {what} is not constant")
    return array
