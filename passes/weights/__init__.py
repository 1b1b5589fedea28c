"""How good low-precision weights are made: one file per method.

A module of this folder with an attribute ``METHOD`` is a method (:class:`Method`); there is nothing else to register.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

import numpy as np

from ...compiler.errors import UsageError
from ...compiler.options import nearest
from ...compiler.precision import Precision, Scheme
from ...compiler.types import DType

__all__ = ["Method", "QuantisedWeight", "Reaching", "default_method", "find_method", "methods"]


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight of small integers.

    Attributes:
        values: int8 ``[N, K]``, in [-127, 127], or in [-8, 7] for i4.
        scale: f32 ``[N, 1]`` (a step per output channel) or ``[N, K / group]``.
        dtype: ``i8`` or ``i4``.
        method: what made it.
        remark: what is worth telling, such as why another method took over; empty if nothing is.
    """

    values: np.ndarray
    scale: np.ndarray
    dtype: DType
    method: str
    remark: str = ""

    def dequantised(self) -> np.ndarray:
        """f32 ``[N, K]``."""
        rows, groups = self.scale.shape
        wide = self.values.reshape(rows, groups, -1).astype(np.float32)
        wide *= self.scale[:, :, None]
        return wide.reshape(self.values.shape)


@dataclass
class Reaching:
    """What is known of the rows that a weight is multiplied with.

    Attributes:
        exact: f32 ``[M, K]``, a sample of rows before they are rounded, smoothed as the weight is.
        rounded: f32 ``[M, K]``, the same as they are multiplied: through int8 or bf16 and back.
        hessian: f32 ``[K, K]``, the mean of ``x^T x`` over all calibration rows, the rounding of the rows counted in; None where
            it was not gathered.
        factors: what a method keeps between weights that the same rows reach (a factorisation of the Hessian).
    """

    exact: np.ndarray
    rounded: np.ndarray
    hessian: np.ndarray | None = None
    factors: dict[str, object] = field(default_factory=dict)

    def energy(self) -> np.ndarray:
        """f32 ``[K]``: the mean square of each channel."""
        if self.hessian is not None:
            return np.diagonal(self.hessian).astype(np.float32)
        return np.square(self.rounded).mean(axis=0, dtype=np.float32)

    def error(self, weight: np.ndarray, quantised: np.ndarray) -> float:
        """Squared error of the outputs when ``weight`` f32 ``[N, K]`` becomes ``quantised``, relative to the outputs' energy."""
        want = self.exact @ weight.T
        lost = float(np.square(self.rounded @ quantised.T - want).sum(dtype=np.float64))
        return lost / (float(np.square(want).sum(dtype=np.float64)) or 1.0)


class Method(Protocol):
    """A way to quantise the weight of a linear.

    Attributes:
        name: what a plan calls it.
        wants_hessian: it needs :attr:`Reaching.hessian`.
        smooths: rounded activations are smoothed before it runs (``smoothquant``).
    """

    name: str
    wants_hessian: bool
    smooths: bool

    def quantize(self, weight: np.ndarray, reaching: Reaching | None, scheme: Scheme) -> QuantisedWeight:
        """Quantise one weight.

        Args:
            weight: f32 ``[N, K]``.
            reaching: the rows it is multiplied with; None without calibration data.
            scheme: ``i8`` by channel, or ``i4`` or ``i8`` by group, whose size divides K.
        """


@cache
def methods() -> dict[str, Method]:
    """The methods there are, by name."""
    modules = [import_module(f".{m.name}", __name__) for m in iter_modules(__path__)]
    found = [module.METHOD for module in modules if hasattr(module, "METHOD")]
    return {method.name: method for method in sorted(found, key=lambda m: m.name)}


def find_method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name not in methods():
        raise UsageError(f"there is no method {name!r} for weights", nearest(name, methods()))
    return methods()[name]


def default_method(precision: Precision, calibrated: bool) -> str:
    """The method for a precision where the plan names none: what four bits lose is worth GPTQ, rounded activations are worth
    smoothing, and both want calibration data."""
    if not calibrated:
        return "rtn"
    if precision.weight.dtype == "i4":
        return "gptq"
    return "rtn" if precision.activation.is_float else "smoothquant"
