"""Round to nearest, with the scale that loses least: the last step of every method, and a method of its own.

The scale is that of the greatest magnitude or, of a few smaller ones, that of the least mean squared error (Nagel et al. 2021,
arXiv:2106.08295, section 3.1), each channel of the input weighted by its energy where calibration data tells it: the error of
the output if channels were independent. i4 has one level more below zero than above, so its scale takes the sign that puts
the greatest weight of a group there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...compiler.precision import Scheme
from ...compiler.types import DType, bf16_to_float, float_to_bf16
from . import QuantisedWeight, Reaching

#: Parts of the scale of the greatest magnitude that are tried.
SHRINKS = {DType.i8: (1.0, 0.97, 0.94, 0.91, 0.87, 0.82), DType.i4: tuple(1.0 - 0.04 * i for i in range(13))}
#: Elements of a weight that are searched at a time, which bounds what is held beside it.
PIECE = 1 << 18


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise ``weight`` f32 ``[N, K]`` to int8 per row (output channel).

    Returns:
        int8 ``[N, K]`` in [-127, 127], and the f32 scales ``[N, 1]`` (amax / 127; 0 for a row of zeros).
    """
    amax = np.abs(weight).max(axis=1, keepdims=True).astype(np.float32)
    inverse = np.divide(np.float32(127.0), amax, out=np.zeros_like(amax), where=amax > 0)
    q = np.clip(np.rint(weight * inverse), -127, 127).astype(np.int8)
    return q, amax / np.float32(127.0)


def fake_quantize_rows(x: np.ndarray) -> np.ndarray:
    """What ``x`` f32 ``[M, K]`` becomes when each row goes through int8 and back."""
    q, scale = quantize_rows(x)
    return q.astype(np.float32) * scale


def dtype_of(scheme: Scheme) -> DType:
    """``i8`` or ``i4``."""
    return DType(scheme.dtype)


def limits(dtype: DType) -> tuple[int, int]:
    """The least and the greatest value of a weight."""
    return (-8, 7) if dtype is DType.i4 else (-127, 127)


def greatest_scales(weight: np.ndarray, scheme: Scheme) -> np.ndarray:
    """The scales f32 ``[N, groups]`` under which the greatest magnitude of each group is kept; 0 for a group of zeros."""
    grouped = weight.reshape(len(weight), -1, scheme.group_size or weight.shape[1])
    if dtype_of(scheme) is DType.i8:
        return stored_scales(np.abs(grouped).max(axis=2) / np.float32(127.0), scheme)
    low, high = grouped.min(axis=2), grouped.max(axis=2)
    return stored_scales(np.where(-low >= high, low, high) / np.float32(-8.0), scheme)


def stored_scales(scale: np.ndarray, scheme: Scheme) -> np.ndarray:
    """``scale`` as it is stored: those of groups are bf16 numbers, of which kernels read two bytes each, so that the weights
    are rounded to multiples of just these."""
    return bf16_to_float(float_to_bf16(scale)) if scheme.group_size else scale


def searched_scales(weight: np.ndarray, scheme: Scheme, energy: np.ndarray | None = None) -> np.ndarray:
    """The scales f32 ``[N, groups]`` of the least squared error, of :data:`SHRINKS` times the greatest.

    Args:
        weight: f32 ``[N, K]``.
        scheme: i8 or i4; by group if it has a size, else by row.
        energy: f32 ``[K]``, how much the error of each channel counts; None is all alike.
    """
    dtype = dtype_of(scheme)
    size = scheme.group_size or weight.shape[1]
    full = greatest_scales(weight, scheme)
    best = full.copy()
    counts = None if energy is None else np.ascontiguousarray(energy.reshape(-1, size), np.float32)
    step = max(1, PIECE // weight.shape[1])
    for start in range(0, len(weight), step):
        rows = weight[start : start + step].reshape(-1, weight.shape[1] // size, size)
        least = np.full(rows.shape[:2], np.inf, np.float32)
        for part in SHRINKS[dtype]:
            scale = stored_scales(full[start : start + step] * np.float32(part), scheme)
            lost = _rounded(rows, scale[:, :, None], dtype)
            lost *= scale[:, :, None]
            lost -= rows
            np.square(lost, out=lost)
            error = lost.sum(axis=2) if counts is None else np.einsum("ngk,gk->ng", lost, counts)
            better = error < least
            least = np.where(better, error, least)
            best[start : start + step] = np.where(better, scale, best[start : start + step])
    return best


def _rounded(rows: np.ndarray, scale: np.ndarray, dtype: DType) -> np.ndarray:
    inverse = np.divide(np.float32(1.0), scale, out=np.zeros_like(scale), where=scale != 0)
    q = rows * inverse
    np.rint(q, out=q)
    return np.clip(q, *limits(dtype), out=q)


def round_to(weight: np.ndarray, scale: np.ndarray, dtype: DType) -> np.ndarray:
    """``weight`` f32 ``[N, K]`` rounded to multiples of ``scale`` f32 ``[N, groups]``: int8 ``[N, K]``."""
    rows, groups = scale.shape
    return _rounded(weight.reshape(rows, groups, -1), scale[:, :, None], dtype).astype(np.int8).reshape(weight.shape)


@dataclass(frozen=True)
class RoundToNearest:
    """Round to nearest with the best of the scales above: by the error of the output where there is calibration data, else by
    the error of the weight."""

    name: str = "rtn"
    wants_hessian: bool = False
    smooths: bool = False

    def quantize(self, weight: np.ndarray, reaching: Reaching | None, scheme: Scheme) -> QuantisedWeight:
        """See :class:`Method`; the remark says which scale was taken."""
        dtype = dtype_of(scheme)
        if reaching is None or not len(reaching.exact):
            scale = searched_scales(weight, scheme)
            return QuantisedWeight(round_to(weight, scale, dtype), scale, dtype, self.name)
        found: list[tuple[float, QuantisedWeight]] = []
        for scale in (greatest_scales(weight, scheme), searched_scales(weight, scheme, reaching.energy())):
            made = QuantisedWeight(round_to(weight, scale, dtype), scale, dtype, self.name)
            found.append((reaching.error(weight, made.dequantised()), made))
        return min(found, key=lambda pair: pair[0])[1]


METHOD = RoundToNearest()
