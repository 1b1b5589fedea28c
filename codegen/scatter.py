"""Writes by index: ``ScatterSpec`` to C++ text."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim
from .operations import ELEMENT, NATURAL
from .render import template
from .specs import ScatterSpec

#: Writes that pay for waking another worker.
GRAIN = 4096


def render(spec: ScatterSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``."""
    return template(
        "cpu/scatter.cpp.j2",
        spec=spec,
        name=name,
        element=ELEMENT[spec.dtype],
        index=ELEMENT[spec.index],
        write=_write(spec),
        grain=GRAIN,
    )


def _write(spec: ScatterSpec) -> str:
    """The statement that combines ``source[from]`` with ``out[at]``."""
    if spec.reduce == "none":
        return "out[at] = source[from];"
    natural = NATURAL[spec.dtype]
    a, b = "a", "b"
    if natural == "bool":
        combined = f"{a} {'|' if spec.reduce in ('sum', 'max') else '&'} {b}"
    elif spec.reduce in ("sum", "prod"):
        sign = "+" if spec.reduce == "sum" else "*"
        # Integers wrap around, which signed C++ integers must not.
        combined = f"{a} {sign} {b}" if natural[0] == "f" else f"{natural}(uint64_t({a}) {sign} uint64_t({b}))"
    else:
        combined = f"{b} {'>' if spec.reduce == 'max' else '<'} {a} ? {b} : {a}"
        if natural[0] == "f":
            combined = f"{a} != {a} ? {a} : {b} != {b} ? {b} : {combined}"
    return f"const {natural} a = load1(out + at), b = load1(source + from); store1(out + at, {natural}({combined}));"


def scratch_bytes(spec: ScatterSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Private memory of one worker: none."""
    return 0
