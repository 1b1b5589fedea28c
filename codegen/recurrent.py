"""Recurrent layers: ``RecurrentSpec`` to C++ text.

One kernel walks the whole sequence. The state is multiplied in the register tiles of a linear; the weights of the gates of a
block of units lie together, so that a worker that owns the units needs nothing of the others until the step ends.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim, floordiv
from .linear import SERIAL_WORK, tile_header, tile_shape, tiles
from .render import template
from .specs import RecurrentSpec

#: Gates per hidden unit.
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
#: Rows of the batch with which a worker walks the sequence alone.
ROWS_PER_WORKER = 8


def block_units(isa: str) -> int:
    """Hidden units whose gates are computed together."""
    shape = tile_shape("f32", isa)
    return shape.vectors * shape.lanes


def scratch_bytes(spec: RecurrentSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """The state before and behind a step, and the cell: all workers share those of the first."""
    return floordiv(dims[1] * dims[2] + 15, 16) * 16 * 4 * 3


def shared(spec: RecurrentSpec, isa: str) -> dict[str, str]:
    """The text that a recurrent kernel is linked with, by name: the register tiles."""
    return tiles("f32", isa)


def render(spec: RecurrentSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``, after the tiles it stands on."""
    text: str = tile_header(isa) + template(
        "cpu/recurrent.cpp.j2", kernel=name, summary=f"recurrent layer: {spec.cell}", cell=spec.cell,
        gates=GATES[spec.cell], serial_work=SERIAL_WORK, rows_per_worker=ROWS_PER_WORKER,
    )  # fmt: skip
    return text
