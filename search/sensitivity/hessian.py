"""Sensitivity from the trace of the Hessian: curvature in the mean times the energy of the error.

HAWQ-V2 (Dong et al. 2019, arXiv:1911.03852) ranks layers by the mean trace of the loss's Hessian times the squared error
of quantisation. Here the Hessian is that of the loss in a unit's outputs (so that errors of activations count as those of
weights do) at the float model, where the gradient vanishes and it equals ``J^T H J`` exactly. Its trace is Hutchinson's estimate
(1990) of ``H^1/2 J J^T H^1/2``, which has the same trace and costs one backward pass for a random vector, for all units at once.
Compared with ``fisher`` it forgets in which direction an error points.
"""

from __future__ import annotations

from typing import ClassVar

from .fisher import Fisher


class Hessian(Fisher):
    """Second order by the mean eigenvalue of the curvature."""

    name: ClassVar[str] = "hessian"
    second_order: ClassVar[str] = "trace"
