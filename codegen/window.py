"""Kernels that slide a window over a channels-last tensor: depthwise convolution, pooling, the fold of a transposed one.

Lanes are channels, so that every tap is one contiguous load; four neighbouring positions share the weights of a tap
(``templates/cpu/window.hpp.j2``). The same header gathers windows as rows of a product for a dense convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim
from .expression import Context, Place, declare, emit_lanes, row_place
from .operations import ELEMENT, Typed
from .render import template
from .specs import ISA_LEVELS, WindowSpec

#: Numbers of the geometry among the dims: six per axis, and the strides of x.
GEOMETRY_DIMS = 22

#: Below this many steps (elements times taps) a task is not worth waking a worker for.
SERIAL_WORK = 32 * 1024

_OPS = {"depthwise": "Depthwise", "max": "Largest", "mean": "Mean", "fold": ""}


def header(isa: str) -> str:
    """The geometry of windows and the loops over them; guarded, so that each kernel of a unit may bring it."""
    index = ISA_LEVELS.index(isa)
    return template("cpu/window.hpp.j2", avx2=index >= 1, avx512=index >= 2, serial_work=SERIAL_WORK)


def scratch_bytes(spec: WindowSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """No private memory."""
    return 0


def render(spec: WindowSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``, after the loops it stands on.

    Raises:
        LoweringError: a step has no kernel, or the tile reduces.
    """
    declarations, names, _, dim = declare(spec.tile, "t", 2, 3 + GEOMETRY_DIMS)
    extra = [f"t_dim{i}" for i in range(spec.tile.extra_dims)]
    declarations += [f"const int64_t {text} = d[{dim + i}];" for i, text in enumerate(extra)]
    places: dict[int | str, Place] = {i: row_place(names, i, ["row"]) for i in range(len(spec.tile.operands))}
    context = Context(
        places=places, inputs={"acc": Typed("acc", "f32")}, column="column", count="n", length="channels", outer=["row"],
        extra=extra,
    )  # fmt: skip
    text: str = header(isa) + template(
        "cpu/window.cpp.j2", kernel=name, summary=f"{spec.kind} over windows: {len(spec.tile.steps)} steps behind it",
        kind=spec.kind, op=_OPS[spec.kind], element=ELEMENT[spec.x], declarations=declarations,
        tile=emit_lanes(spec.tile, context),
    )  # fmt: skip
    return text
