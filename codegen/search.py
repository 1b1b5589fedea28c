"""Searching in sorted numbers: ``SearchSpec`` to C++ text."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim
from .operations import ELEMENT
from .render import template
from .specs import SearchSpec

#: Searches that pay for waking another worker.
GRAIN = 1024


def render(spec: SearchSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``."""
    return template("cpu/search.cpp.j2", spec=spec, name=name, element=ELEMENT[spec.dtype], grain=GRAIN)


def scratch_bytes(spec: SearchSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Private memory of one worker: none."""
    return 0
