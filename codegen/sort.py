"""Sorting rows: ``SortSpec`` to C++ text.

Elements become unsigned keys that order as they do. Short rows are sorted by insertion; long ones by radix, least significant
byte first (Knuth, The Art of Computer Programming 3, 5.2.5), which is stable and linear; of a long row whose first few elements
are asked for, those alone are kept sorted while it is read once.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim
from .operations import BYTES, ELEMENT, NATURAL
from .render import template
from .specs import SortSpec

#: Elements that pay for waking another worker.
GRAIN = 2048


def render(spec: SortSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``."""
    natural = NATURAL[spec.dtype]
    wide = natural in ("f64", "i64")
    signed = natural[0] == "i" and spec.dtype != "u8"
    return template(
        "cpu/sort.cpp.j2",
        spec=spec,
        name=name,
        element=ELEMENT[spec.dtype],
        natural=natural,
        real=natural[0] == "f",
        wide=wide,
        key="uint64_t" if wide else "uint32_t",
        key_bytes=8 if wide else 4,
        flip=f" ^ K(1) << {63 if wide else 31}" if signed else "",
        grain=GRAIN,
    )


def scratch_bytes(spec: SortSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Private memory of one worker, in bytes: two lists of items, one per element of a row."""
    item = 16 if BYTES[spec.dtype] == 8 else 8
    return dims[spec.outer_rank] * (2 * item)
