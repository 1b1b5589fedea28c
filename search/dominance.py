"""Candidates that no plan would want: something finer costs no more. They are dropped before anybody asks what they lose."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.precision import Precision, Scheme, find_precision
from ..compiler.quantities import seconds as duration
from ..compiler.quantities import size
from .cost import Choice, CostTable
from .units import Unit

#: A finer candidate may take this much longer and still makes the coarser one pointless: less than could be measured.
TIE = 1.005
_BITS = {"f32": 32.0, "bf16": 16.0, "f16": 16.0, "fp8": 7.0, "i8": 8.0, "i4": 4.0}


def fineness(scheme: Scheme) -> float:
    """A number that orders the ways to store a tensor: bits, and among equal bits how many values share a scale."""
    bits = _BITS.get(scheme.dtype, 0.0)
    if scheme.is_float:
        return bits
    if scheme.granularity == "group":
        return bits + 1.0 / (1.0 + scheme.group_size)
    return bits + {"row": 0.01, "channel": 0.001, "tensor": 0.0}.get(str(scheme.granularity), 0.0)


def finer(a: Precision, b: Precision) -> bool:
    """Whether ``a`` stores both weight and activation at least as finely as ``b``, and one of them more finely."""
    weight = fineness(a.weight) - fineness(b.weight)
    activation = fineness(a.activation) - fineness(b.activation)
    return weight >= 0 and activation >= 0 and weight + activation > 0


def pointless(units: Sequence[Unit], costs: CostTable, objective: str) -> dict[Choice, str]:
    """Candidates for which a finer one costs no more, with the reason in words.

    Args:
        units: with their candidates; what was never timed is left alone.
        costs: measured.
        objective: ``latency``: seconds count; ``size``: bytes; ``latency then size``: both.
    """
    seconds, found = costs.seconds, dict[Choice, str]()
    for unit in units:
        known = [p for p in unit.candidates if (unit.name, p) in seconds]
        for p in known:
            for q in known:
                if p == q or (unit.name, q) in found or not finer(find_precision(q), find_precision(p)):
                    continue
                own, other = (unit.name, p), (unit.name, q)
                no_slower = objective == "size" or seconds[other] <= seconds[own] * TIE
                no_larger = objective == "latency" or costs.bytes[other] <= costs.bytes[own]
                if no_slower and no_larger:
                    by, with_ = (
                        (size(int(costs.bytes[own])), size(int(costs.bytes[other])))
                        if objective == "size"
                        else (duration(seconds[own]), duration(seconds[other]))
                    )
                    found[own] = f"{unit.name} in {p} takes {by}, {q}, which is finer, takes {with_}: not tried"
                    break
    return found
