"""Linear kernels: ``LinearSpec`` to C++ text.

The product runs in register tiles of ``rows x vectors`` accumulators over weights packed in panels of ``vectors`` vectors
(``templates/cpu/linear_tile.hpp.j2``; layout: ``backends/cpu/packing``). Around the tiles (``linear_drive.hpp.j2``) rows are
taken in blocks: the prologue computes the block's x into private scratch, every panel is multiplied with the tile program on
the sums, and the row program finishes complete rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..compiler.dims import Dim
from ..compiler.errors import LoweringError
from .render import LANES, template
from .specs import ISA_LEVELS, LinearSpec

#: Raised when the packed layout changes; part of the layout's name.
LAYOUT_VERSION = 1

#: Values of k that meet in one 32-bit lane of a dot product.
STEP = {"f32": 1, "bf16": 2, "w8a8": 4}

_X_BYTES = {"f32": 4, "bf16": 2, "w8a8": 1}

#: The longest int8 row whose sums, and whose compensation of -128 * (sum of weights), fit int32.
MAX_K_INT8 = (2**31 - 1) // (128 * 127)

#: A worker takes rows of its own when there are at least this many for each, else columns.
ROWS_PER_WORKER = 24

#: Bytes of x and row data that a block of rows may take: about a third of a second-level cache of 1 MB.
BLOCK_BYTES = 320 * 1024

#: Rows of a block: a block shorter than the first reads the weights too often, one longer than the second gains nothing.
LEAST_ROWS, MOST_ROWS = 32, 256

#: Below this many multiplications (of the whole product), and values (of a pass over rows), other workers are not woken.
SERIAL_WORK, SERIAL_ROWS = 48 * 1024, 8 * 1024


class TileShape(NamedTuple):
    """Accumulators of one register tile: ``rows`` times ``vectors`` of ``lanes`` float32 or int32."""

    rows: int
    vectors: int
    lanes: int


_ROWS = {
    "portable": {"f32": 4, "bf16": 4, "w8a8": 4},
    "avx2": {"f32": 6, "bf16": 4, "w8a8": 4},
    "avx512-vnni": {"f32": 8, "bf16": 8, "w8a8": 8},
    "avx512-bf16": {"f32": 8, "bf16": 8, "w8a8": 8},
}


def tile_shape(compute: str, isa: str) -> TileShape:
    """The register tile of a compute type on an ISA level: 24 of 32, or at most 12 of 16, registers hold sums."""
    return TileShape(_ROWS[isa][compute], 3 if LANES[isa] == 16 else 2, LANES[isa])


def _row_pitch(size: int) -> int:
    """Bytes from one scratch row to the next, as ``gemm::row_pitch`` has it."""
    lines = -(-size // 64) * 64
    return lines if lines % 512 else lines + 64


def block_bytes(spec: LinearSpec, n: int, k: int) -> int:
    """Scratch bytes of one worker for a weight ``[n, k]``: whole rows of x, of its scales and of row data."""
    row = 0
    if spec.prologue is not None:
        row += _row_pitch(k * _X_BYTES[spec.compute]) + 4
    if spec.row is not None:
        row += _row_pitch(n * 4)
    rows = min(max(BLOCK_BYTES // row, LEAST_ROWS), MOST_ROWS) if row else 0
    return -(-row * (rows // 8 * 8) // 64) * 64


def scratch_bytes(spec: LinearSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Private memory of one worker, in bytes; N and K, the second and third of ``dims``, must be known.

    Raises:
        LoweringError: the weight's shape is not known at compile time.
    """
    n, k = dims[1], dims[2]
    if not isinstance(n, int) or not isinstance(k, int):
        raise LoweringError(f"a linear of {n} x {k} has a weight of unknown shape", "weights are packed at compile time")
    return block_bytes(spec, n, k)


def tile_header(isa: str) -> str:
    """The register tiles and the loops around them; guarded, so that each kernel of a unit may bring it."""
    index = ISA_LEVELS.index(isa)
    context = {
        "lanes": LANES[isa], "vectors": tile_shape("f32", isa).vectors,
        "avx2": index >= 1, "avx512": index >= 2, "bf16": index >= 3,
        **{f"{compute}_rows": tile_shape(compute, isa).rows for compute in STEP},
        "x_bytes": BLOCK_BYTES, "least_rows": LEAST_ROWS, "rows_per_worker": ROWS_PER_WORKER,
        "serial_work": SERIAL_WORK, "serial_rows": SERIAL_ROWS,
    }  # fmt: skip
    return template("cpu/linear_tile.hpp.j2", **context) + template("cpu/linear_drive.hpp.j2", **context)
