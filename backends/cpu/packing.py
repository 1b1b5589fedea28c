"""Weights of a linear in the order in which its kernel reads them.

A packed weight is a sequence of *panels* of ``vectors * lanes`` output features; a panel is
``[ceil(K / step)][vectors][lanes][step]``: the ``step`` values of k that one dot-product instruction takes lie together, so
the kernel reads a panel once, front to back. The last panel has as many vectors as are left, and only its last vector is
padded. K is padded with zeros to a multiple of ``step``. ``lanes`` depends on the ISA level, ``step`` on the element type.

int4 weights lie two to a byte: the eight values of a step are a word of 32 bits. Their scales, one for each group of k and
each output feature, lie in panels of their own: ``[K / group][vectors][lanes]``. int8 weights that meet bf16 have the inner
two of four values of k swapped. Why they lie as they do is said in ``codegen/templates/cpu/linear_narrow.hpp.j2``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ...codegen.linear import GROUP_STEP, GROUPED, LAYOUT_VERSION, MAX_K_INT8, STEP, tile_shape
from ...compiler.deferred import Deferred
from ...compiler.errors import LoweringError

_DTYPES: dict[str, np.dtype] = {
    "f32": np.dtype(np.float32), "bf16": np.dtype(np.uint16), "w8a8": np.dtype(np.int8), "w8a16": np.dtype(np.int8),
}  # fmt: skip

#: The value of k in each nibble of a word, the lowest first, and what is added to the values.
_NIBBLES = {"w4a16": ((0, 2, 4, 6, 1, 3, 5, 7), 0), "w4a8": ((0, 4, 1, 5, 2, 6, 3, 7), 8)}


def layout_name(compute: str, isa: str) -> str:
    """The name of the layout, for ``TensorType.layout``: equal names, equal bytes."""
    shape = tile_shape(compute, isa)
    kind = "" if compute in ("f32", "bf16", "w8a8") else f".{compute}"
    return f"panel{shape.vectors}x{shape.lanes}k{STEP[compute]}{kind}.v{LAYOUT_VERSION}"


def packed_bytes(compute: str, n: int, k: int, isa: str) -> int:
    """Bytes of the packed form of a weight of shape ``[n, k]``."""
    lanes, step = tile_shape(compute, isa).lanes, STEP[compute]
    if compute in GROUPED:
        return -(-n // lanes) * lanes * k // 2
    return -(-n // lanes) * lanes * -(-k // step) * step * _DTYPES[compute].itemsize


def _check_matrix(weight: np.ndarray) -> None:
    if weight.ndim != 2 or 0 in weight.shape:
        raise LoweringError(f"a weight of shape {list(weight.shape)} is no matrix", "a linear takes [out, in]")


def _pack(weight: np.ndarray, compute: str, isa: str) -> np.ndarray:
    shape, step = tile_shape(compute, isa), STEP[compute]
    _check_matrix(weight)
    weight = np.ascontiguousarray(weight, dtype=_DTYPES[compute])
    n, k = weight.shape
    lanes, vectors, steps = shape.lanes, -(-n // shape.lanes), -(-k // step)
    if n % lanes or k % step:
        weight = np.pad(weight, ((0, -n % lanes), (0, -k % step)))
    if compute == "w8a16":
        weight = np.ascontiguousarray(weight.reshape(-1, steps, 4)[:, :, [0, 2, 1, 3]]).reshape(weight.shape)
    # One element per dot-product group, so that the transposition moves whole groups.
    group: np.dtype = np.dtype(f"u{step * weight.itemsize}")
    return _panels(weight.view(group).reshape(vectors, lanes, steps), shape.vectors).view(_DTYPES[compute])


def _panels(grid: np.ndarray, width: int) -> np.ndarray:
    """``grid`` ``[vectors, lanes, steps]`` in panels of ``width`` vectors, flat: each ``[steps][vectors][lanes]``."""
    vectors, lanes, steps = grid.shape
    whole = vectors // width
    packed = np.empty(grid.size, dtype=grid.dtype)
    cut = whole * width * lanes * steps
    if whole:
        view = packed[:cut].reshape(whole, steps, width, lanes)
        view[...] = grid[: whole * width].reshape(whole, width, lanes, steps).transpose(0, 3, 1, 2)
    if whole * width < vectors:
        packed[cut:].reshape(steps, -1, lanes)[...] = grid[whole * width :].transpose(2, 0, 1)
    return packed


def _pack_w4(weight: np.ndarray, compute: str, isa: str) -> np.ndarray:
    shape, (order, offset) = tile_shape(compute, isa), _NIBBLES[compute]
    n, k = weight.shape
    values = (np.ascontiguousarray(weight).view(np.uint8) + np.uint8(offset) & np.uint8(15)).reshape(n, k // 8, 8)
    words = np.zeros((-(-n // shape.lanes) * shape.lanes, k // 8, 4), np.uint8)
    for byte in range(4):
        words[:n, :, byte] = values[:, :, order[2 * byte]] | values[:, :, order[2 * byte + 1]] << 4
    grid = words.view("<u4").reshape(-1, shape.lanes, k // 8)
    return _panels(grid, shape.vectors).view(np.uint8)


def check_group(k: int, size: int) -> None:
    """Whether kernels take int4 weights over ``k`` inputs in groups of ``size``.

    Raises:
        LoweringError: they do not; says why.
    """
    if size < 1 or k % size or size % GROUP_STEP:
        raise LoweringError(
            f"int4 weights over {k} inputs do not divide into groups of {size}",
            f"the size of a group divides the inputs and is a multiple of {GROUP_STEP}",
        )


def pack_scales(scales: np.ndarray, isa: str) -> np.ndarray:
    """Pack the scales ``[N, groups]`` of an int4 weight, f32, or bf16 as ``uint16``; flat, zero where columns are padded."""
    shape = tile_shape("w4a8", isa)
    n, groups = scales.shape
    padded = np.pad(scales, ((0, -n % shape.lanes), (0, 0)))
    return _panels(padded.reshape(-1, shape.lanes, groups), shape.vectors)


def pack_f32(weight: np.ndarray, isa: str) -> np.ndarray:
    """Pack ``weight`` f32 ``[N, K]``; returns flat f32.

    Raises:
        LoweringError: ``weight`` is no matrix.
    """
    return _pack(weight, "f32", isa)


def pack_bf16(weight: np.ndarray, isa: str) -> np.ndarray:
    """Pack ``weight``, bf16 as ``uint16`` ``[N, K]``; returns flat ``uint16``.

    Raises:
        LoweringError: ``weight`` is no matrix.
    """
    return _pack(weight, "bf16", isa)


def packed(weight: np.ndarray, compute: str, isa: str) -> Deferred:
    """``weight`` ``[N, K]`` packed for a compute type, flat, when it is read: all weights of a model packed, beside those
    that they were packed from, would be twice the model. int4 weights are given as int8 and packed into bytes.

    Raises:
        LoweringError: ``weight`` is no matrix, or int4 weights leave the range or have groups that no kernel takes.
    """
    _check_matrix(weight)
    if compute in GROUPED:
        if weight.dtype != np.int8 or weight.min() < -8 or weight.max() > 7:
            raise LoweringError("an int4 weight leaves the range", "int4 weights are int8 arrays in [-8, 7]")
        check_group(weight.shape[1], GROUP_STEP)
        n, k = weight.shape
        size = packed_bytes(compute, n, k, isa)
        return Deferred(partial(_pack_w4, weight, compute, isa), (size,), np.dtype(np.uint8))
    dtype, (n, k) = _DTYPES[compute], weight.shape
    elements = packed_bytes(compute, n, k, isa) // dtype.itemsize
    return Deferred(partial(_pack, weight, compute, isa), (elements,), dtype)


def pack_w8(weight: np.ndarray, isa: str) -> tuple[np.ndarray, np.ndarray]:
    """Pack ``weight`` int8 ``[N, K]`` in [-127, 127]: the packed weight, flat int8, and its :func:`compensation`.

    Raises:
        LoweringError: see :func:`compensation`.
    """
    sums = compensation(weight, isa)
    return _pack(weight, "w8a8", isa), sums


def compensation(weight: np.ndarray, isa: str) -> np.ndarray:
    """``-128 * sum over k`` of ``weight`` int8 ``[N, K]``, int32 ``[N padded to whole vectors]``: what the kernel starts its
    accumulators with, because it multiplies ``x + 128``.

    Raises:
        LoweringError: ``weight`` is no matrix, holds -128 (symmetric int8 does not, and the int8 product without VNNI is
            exact only without it), or has so many columns that an int32 sum could overflow.
    """
    if weight.dtype != np.int8:
        raise LoweringError(f"a w8a8 weight must be int8, not {weight.dtype}", "quantise it first")
    if weight.ndim == 2 and weight.shape[1] > MAX_K_INT8:
        raise LoweringError(
            f"an int8 linear over {weight.shape[1]} inputs could overflow its int32 sums",
            f"the limit is {MAX_K_INT8} inputs; give this layer another precision",
        )
    if weight.size and int(weight.min()) == -128:
        raise LoweringError("an int8 weight holds -128", "symmetric int8 weights lie in [-127, 127]")
    _check_matrix(weight)
    sums = weight.sum(axis=1, dtype=np.int32)
    return np.pad(-128 * sums, (0, -len(sums) % tile_shape("w8a8", isa).lanes)).astype(np.int32)


#: Packs a float weight for a compute type.
PACK: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {"f32": pack_f32, "bf16": pack_bf16}
