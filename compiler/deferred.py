"""Arrays that are made when they are read, so that large ones need not all be in memory at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Deferred:
    """An array that ``make`` makes, anew each time it is read (``numpy.asarray``).

    Attributes:
        make: gives the array; pure.
        shape, dtype: what it will have.
    """

    make: Callable[[], np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.make()
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(
                f"an array of {array.dtype}{list(array.shape)} instead of {self.dtype}{list(self.shape)} was made"
            )
        return array if dtype is None else array.astype(dtype, copy=False)


#: An array, or one that is made when it is read.
Constant = np.ndarray | Deferred
