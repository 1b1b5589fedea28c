"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): round one input channel after the other and let the channels that are still to
come make up for the error, as the second moments of the inputs (the Hessian of the squared output error) say they can.

Channels are rounded in the order of falling energy (``act-order``), so that those that count most are rounded while there are
most others left; the scales of all groups are found before (``static groups``), since groups stay neighbours in the kernels'
layout. Updates are applied in blocks, on the Cholesky factor of the inverse of the damped Hessian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...compiler.precision import Scheme
from . import QuantisedWeight, Reaching
from .rtn import METHOD as ROUND_TO_NEAREST
from .rtn import dtype_of, limits, searched_scales

#: Input channels whose errors are passed on within a block before the rest of the weight hears of them. A longer block spends its
#: time on updates of one row, a shorter one on calls.
BLOCK = 32


@dataclass(frozen=True)
class Gptq:
    """GPTQ.

    Attributes:
        damping: what is added to the diagonal of the Hessian, as a part of its mean; ten times more where that is not enough.
        act_order: round the channels of greatest energy first.
    """

    name: str = "gptq"
    wants_hessian: bool = True
    smooths: bool = True
    damping: float = 0.01
    act_order: bool = True

    def quantize(self, weight: np.ndarray, reaching: Reaching | None, scheme: Scheme) -> QuantisedWeight:
        """See :class:`Method`. Rounds to nearest, and says so in the remark, where there is no Hessian, where it is degenerate,
        or where that gives less error on the sample of rows."""
        nearest = ROUND_TO_NEAREST.quantize(weight, reaching, scheme)
        if reaching is None or reaching.hessian is None:
            return _instead(nearest, "rounded to nearest: there is no calibration data for gptq")
        factor = self._factor(reaching)
        if factor is None:
            return _instead(nearest, "rounded to nearest: the calibration data is degenerate for gptq")
        order, upper = factor
        dtype = dtype_of(scheme)
        scale = searched_scales(weight, scheme, reaching.energy())
        values = _round_in_order(weight, scale, scheme.group_size or weight.shape[1], order, upper, limits(dtype))
        made = QuantisedWeight(values, scale, dtype, self.name)
        if reaching.error(weight, made.dequantised()) > reaching.error(weight, nearest.dequantised()):
            return _instead(nearest, "rounded to nearest: gptq did not lower the error")
        return made

    def _factor(self, reaching: Reaching) -> tuple[np.ndarray, np.ndarray] | None:
        """The order of the channels, and the upper Cholesky factor f32 ``[K, K]`` of the inverse of the damped Hessian in that
        order; None where it has none."""
        key = f"{self.name}/{self.damping}/{self.act_order}"
        if key not in reaching.factors:
            assert reaching.hessian is not None
            reaching.factors[key] = self._factorised(reaching.hessian)
        return reaching.factors[key]  # type: ignore[return-value]  # just put there

    def _factorised(self, hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        import torch

        diagonal = np.diagonal(hessian)
        mean = float(diagonal.mean())
        if not np.isfinite(mean) or mean <= 0:
            return None
        order = np.argsort(-diagonal, kind="stable") if self.act_order else np.arange(len(diagonal))
        # H = J L L^T J, with J the reversal, makes J L^-1 J the upper factor of H's inverse: one factorisation and one
        # triangular inverse instead of an inverse and two factorisations.
        backwards = order[::-1].copy()
        reversed_hessian = torch.from_numpy(hessian[np.ix_(backwards, backwards)])
        for damping in (self.damping, 10 * self.damping):
            damped = reversed_hessian.clone()
            damped.diagonal().add_(damping * mean)
            lower, failed = torch.linalg.cholesky_ex(damped)
            if int(failed):
                continue
            inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)), upper=False)
            upper = inverse.flip(0, 1)
            if bool(torch.isfinite(upper).all()):
                return order, upper.numpy()
        return None


def _instead(made: QuantisedWeight, why: str) -> QuantisedWeight:
    return QuantisedWeight(made.values, made.scale, made.dtype, made.method, why)


def _round_in_order(
    weight: np.ndarray, scale: np.ndarray, group: int, order: np.ndarray, upper: np.ndarray, ends: tuple[int, int]
) -> np.ndarray:
    """Int8 ``[N, K]``: the columns of ``weight`` rounded in ``order``, each error passed on to those behind."""
    import torch

    count = len(order)
    # one row per input channel, so that a channel is contiguous
    rest = torch.from_numpy(np.ascontiguousarray(weight.T[order]))
    steps = torch.from_numpy(np.ascontiguousarray(scale.T))
    inverses = torch.where(steps != 0, 1.0 / steps, torch.zeros_like(steps))
    factor = torch.from_numpy(np.ascontiguousarray(upper))
    diagonal = np.diagonal(upper).tolist()
    groups = (order // group).tolist()
    values = torch.empty((count, len(weight)), dtype=torch.int8)
    with torch.no_grad():
        for start in range(0, count, BLOCK):
            end = min(start + BLOCK, count)
            block, errors = rest[start:end], torch.empty((end - start, len(weight)))
            for i in range(start, end):
                row, g = block[i - start], groups[i]
                q = (row * inverses[g]).round_().clamp_(*ends)
                values[i] = q
                lost = errors[i - start]
                torch.addcmul(row, q, steps[g], value=-1, out=lost)
                lost /= diagonal[i]
                if i + 1 < end:
                    block[i + 1 - start :].addr_(factor[i, i + 1 : end], lost, alpha=-1)
            if end < count:
                rest[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    found = np.empty(weight.shape, np.int8)
    found[:, order] = values.numpy().T
    return found


METHOD = Gptq()
