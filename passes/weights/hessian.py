"""Second moments of the rows that reach a linear: the Hessian of its squared output error (as GPTQ and its kin call it)."""

from __future__ import annotations

import numpy as np


class SecondMoment:
    """The mean of ``x^T x`` over all rows that streamed by, in f32.

    Attributes:
        rows: how many there were.
    """

    def __init__(self, channels: int) -> None:
        self.rows = 0
        self._sum = np.zeros((channels, channels), np.float32)

    def add(self, x: np.ndarray) -> None:
        """Count the rows f32 ``[M, K]``."""
        import torch

        rows = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        with torch.no_grad():
            torch.from_numpy(self._sum).addmm_(rows.T, rows)
        self.rows += len(x)

    def take(self) -> np.ndarray:
        """The mean f32 ``[K, K]``; it is handed over, and nothing may be counted after."""
        self._sum /= np.float32(max(self.rows, 1))
        return self._sum

    @property
    def bytes(self) -> int:
        """What it holds."""
        return self._sum.nbytes


def smoothed(moment: np.ndarray, scale: np.ndarray | None, noise: np.ndarray) -> np.ndarray:
    """The second moment f32 ``[K, K]`` of ``x / scale`` plus independent rounding errors of variance ``noise`` f32 ``[K]``."""
    found = moment.copy() if scale is None else moment / np.multiply.outer(scale, scale)
    found[np.diag_indices_from(found)] += noise
    return found
