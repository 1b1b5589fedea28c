"""ATen ops that resample along axes of fixed size: interpolation, adaptive average pooling.

All of them are linear along each axis by itself, so torch is asked once for what it makes of the unit vectors, and the op
becomes a ``gather`` (nearest neighbour) or a product with that small constant matrix, per axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..dims import product
from ..graph import Value
from ..types import DType
from .lowering import Lowering, aten
from .scalars import low_precision
from .symbols import Unsupported
from .weights import to_numpy

Resample = Callable[[torch.Tensor], torch.Tensor]


def along_axis(b: Lowering, x: Value, axis: int, weights: torch.Tensor) -> Value:
    """``x`` with ``weights`` ([new size, old size], f32) applied along ``axis``."""
    if torch.equal(weights, torch.eye(*weights.shape)):
        return x
    if bool((((weights == 1) | (weights == 0)).all()) & (weights.sum(1) == 1).all()):
        ids = b.graph.add_constant(to_numpy(weights.argmax(1)), f"resample.{b.node.name}.{axis}")
        return b.emit("gather", x, ids, axis=axis)
    matrix = b.graph.add_constant(to_numpy(weights), f"resample.{b.node.name}.{axis}")
    rank, matrix = x.type.rank, b.cast(matrix, x.dtype)
    if axis == rank - 1:
        return b.emit("linear", x, matrix)
    flat = b.reshape(x, (*x.shape[: axis + 1], product(x.shape[axis + 1 :])))
    return b.reshape(b.emit("matmul", matrix, flat), (*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :]))


def resample(b: Lowering, x: Value, spatial: int, op: Callable[[torch.Tensor, int], torch.Tensor]) -> Value:
    """``op(unit vectors, k)`` along each of the last ``spatial`` axes.

    Args:
        b: the walk.
        x: what is resampled.
        spatial: how many axes.
        op: resamples a tensor [n, 1, ...] along its k-th spatial axis; the others stay 2 long (torch mistakes a size of 1
            for another memory layout).
    """
    wide = b.cast(x, DType.f32) if low_precision(x.dtype) else x
    for k in range(spatial):
        axis = x.type.rank - spatial + k
        size = x.shape[axis]
        if not isinstance(size, int):
            raise Unsupported("resampling along a size that varies is not supported")
        units = torch.eye(size).reshape(size, 1, *(size if i == k else 1 for i in range(spatial)))
        twice = units.expand(size, 1, *(size if i == k else 2 for i in range(spatial))).contiguous()
        result = op(twice, k).movedim(2 + k, 1).flatten(2)[:, :, 0]
        wide = along_axis(b, wide, axis, result.T.contiguous())
    return b.cast(wide, x.dtype)


@aten(*(f"upsample_{kind}.vec" for kind in ("linear1d", "bilinear2d", "trilinear3d", "bicubic2d", "nearest1d", "nearest2d",
                                            "nearest3d")),
      *(f"_upsample_{kind}.vec" for kind in ("nearest_exact1d", "nearest_exact2d", "nearest_exact3d", "bilinear2d_aa",
                                             "bicubic2d_aa")))  # fmt: skip
def _upsample(
    b: Lowering, input: Value, output_size: Sequence[Any] | None, scale_factors: Sequence[float] | None,
    align_corners: bool | None = None,
) -> Value:  # fmt: skip
    spatial = input.type.rank - 2
    target: Any = b.node.target
    if output_size is not None and not all(isinstance(s, int) for s in output_size):
        raise Unsupported("resampling to a size that varies is not supported")
    flags = [] if align_corners is None else [align_corners]

    def one(units: torch.Tensor, k: int) -> torch.Tensor:
        size = None if output_size is None else [output_size[i] if i == k else 2 for i in range(spatial)]
        scale = None if scale_factors is None else [scale_factors[i] if i == k else 1.0 for i in range(spatial)]
        return target(units, size, *flags, scale)

    return resample(b, input, spatial, one)


def adaptive_average(b: Lowering, x: Value, sizes: Sequence[int]) -> Value:
    """Adaptive average pooling to any fixed ``sizes``."""
    pool = {1: torch.nn.functional.adaptive_avg_pool1d, 2: torch.nn.functional.adaptive_avg_pool2d,
            3: torch.nn.functional.adaptive_avg_pool3d}[len(sizes)]  # fmt: skip

    def one(units: torch.Tensor, k: int) -> torch.Tensor:
        return pool(units, [s if i == k else 2 for i, s in enumerate(sizes)])  # type: ignore[operator, arg-type]

    return resample(b, x, len(sizes), one)
