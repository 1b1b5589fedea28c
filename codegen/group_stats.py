"""The statistics of a group normalisation over channels-last tensors: ``GroupStatsSpec`` to C++ text."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim
from .operations import ELEMENT
from .render import template
from .specs import GroupStatsSpec


def scratch_bytes(spec: GroupStatsSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """No private memory."""
    return 0


def render(spec: GroupStatsSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``."""
    return template(
        "cpu/group_stats.cpp.j2", kernel=name, summary="factor and summand of every channel, from its group's statistics",
        element=ELEMENT[spec.x], eps=repr(spec.eps),
    )  # fmt: skip
