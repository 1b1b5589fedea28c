"""Linear kernels: ``LinearSpec`` to C++ text.

The product runs in register tiles of ``rows x vectors`` accumulators over weights packed in panels of ``vectors`` vectors
(``templates/cpu/linear_tile.hpp.j2``; layout: ``backends/cpu/packing``). Around the tiles (``linear_drive.hpp.j2``) rows are
taken in blocks: the prologue computes the block's x into private scratch, every panel is multiplied with the tile program on
the sums, and the row program finishes complete rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..compiler.dims import Dim
from ..compiler.errors import LoweringError
from .expression import REDUCTIONS, Context, Declared, Place, declare, emit_lanes, row_place
from .operations import Typed
from .render import LANES, template
from .row_plan import RowPlan
from .specs import ISA_LEVELS, LinearSpec, Operand, RowProgram, Storage
from .window import GEOMETRY_DIMS
from .window import header as window_header

#: Raised when the packed layout changes; part of the layout's name.
LAYOUT_VERSION = 1

#: Values of k that lie together in a packed weight: what meets in one 32-bit lane of a dot product; of int4, a word.
STEP = {"f32": 1, "bf16": 2, "w8a8": 4, "w8a16": 4, "w4a16": 8, "w4a8": 8}

#: Products whose weights have a scale for each group of k; groups are multiples of so many values.
GROUPED, GROUP_STEP = ("w4a16", "w4a8"), 32

#: What a kernel is given beside x, in order.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "f32": ("weight",), "bf16": ("weight",), "w8a8": ("row_scale", "weight", "column_scale", "compensation"),
    "w8a16": ("weight", "column_scale"), "w4a16": ("weight", "group_scale"), "w4a8": ("row_scale", "weight", "group_scale"),
}  # fmt: skip

_X_BYTES = {"f32": 4, "bf16": 2, "w8a8": 1, "w8a16": 2, "w4a16": 2, "w4a8": 1}
_X_STORAGE: dict[str, Storage] = {
    "f32": "f32", "bf16": "bf16", "w8a8": "i8b", "w8a16": "bf16", "w4a16": "bf16", "w4a8": "i8",
}  # fmt: skip

#: The longest int8 row whose sums, and whose compensation of -128 * (sum of weights), fit int32.
MAX_K_INT8 = (2**31 - 1) // (128 * 127)

#: The same for int8 values less a zero point, which lie in [-255, 255].
MAX_K_SHIFTED = (2**31 - 1) // (255 * 127)

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
    rows = _ROWS[isa][{"w8a16": "bf16", "w4a16": "bf16", "w4a8": "w8a8"}.get(compute, compute)]
    return TileShape(rows, 3 if LANES[isa] == 16 else 2, LANES[isa])


def _row_pitch(size: int) -> int:
    """Bytes from one scratch row to the next, as ``gemm::row_pitch`` has it."""
    lines = -(-size // 64) * 64
    return lines if lines % 512 else lines + 64


def _plans(spec: LinearSpec, isa: str) -> tuple[RowPlan | None, RowPlan | None]:
    """How the rows of the prologue and of the row program are processed."""
    before = after = None
    if spec.prologue is not None:
        targets = {-1: Operand(_X_STORAGE[spec.compute])}
        if not spec.static:
            targets[-2] = Operand("f32", "broadcast")
        before = RowPlan(spec.prologue, isa, targets=targets)
    if spec.row is not None and not second_stage(spec):
        after = RowPlan(spec.row, isa, inputs={"row": Operand("f32")})
    return before, after


def second_stage(spec: LinearSpec) -> bool:
    """Whether the steps behind the tile need no whole rows, and run over each tile again while it is in the first-level cache.

    A long chain of steps in one loop keeps too few of its instructions waiting at once; two shorter loops overlap better.
    """
    return spec.row is not None and not any(step.op in REDUCTIONS for step in spec.row.steps)


def _room(plan: RowPlan | None, isa: str) -> tuple[int, int]:
    """Bytes of private memory of a row program: a constant, and bytes per element of the row rounded up to vectors."""
    if plan is None:
        return 0, 0
    lanes = LANES[isa]
    one, two = plan.scratch_bytes(lanes), plan.scratch_bytes(2 * lanes)
    assert isinstance(one, int) and isinstance(two, int)
    return 2 * one - two, -(-(two - one) // lanes)


def _rooms(spec: LinearSpec, isa: str) -> list[tuple[int, int]]:
    return [_room(plan, isa) for plan in _plans(spec, isa)]


def scratch_bytes(spec: LinearSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Private memory of one worker, in bytes: rows of x, their scales and row data, and room for the row programs.

    N and K, the second and third of ``dims``, must be known, and the last, the size of the groups, where there are any.

    Raises:
        LoweringError: the weight's shape is not known at compile time.
    """
    n, k = dims[1], dims[2]
    if not isinstance(n, int) or not isinstance(k, int):
        raise LoweringError(
            f"a linear of {n} x {k} has a weight of unknown shape", "weights are packed at compile time"
        )
    lanes = LANES[isa]
    room = max(c + e * -(-size // lanes) * lanes for (c, e), size in zip(_rooms(spec, isa), (k, n), strict=True))
    row = 0
    if spec.prologue is not None or spec.patches:
        row += _row_pitch(k * _X_BYTES[spec.compute]) + 4
    if spec.row is not None and not second_stage(spec):
        row += _row_pitch(n * 4)
    beside = 0  # what a row takes of the cache, but not of this memory
    if spec.compute == "w4a8":
        size = dims[-1]
        assert isinstance(size, int)
        row += 4 * (k // size)  # the sums of x over each group
        beside = k if spec.prologue is None else 0
    rows = min(max(BLOCK_BYTES // (row + beside), LEAST_ROWS), MOST_ROWS) // 8 * 8 if row else 0
    return -(-row * rows // 64) * 64 + -(-room // 64) * 64


def tile_header(isa: str) -> str:
    """The register tiles and the loops around them; guarded, so that each kernel of a unit may bring it."""
    context = _tile_context(isa)
    names = ("linear_tile", "linear_narrow", "linear_drive")
    return "".join(template(f"cpu/{name}.hpp.j2", **context) for name in names)


def _tile_context(isa: str) -> dict[str, Any]:
    index = ISA_LEVELS.index(isa)
    return {
        "lanes": LANES[isa], "vectors": tile_shape("f32", isa).vectors,
        "avx2": index >= 1, "avx512": index >= 2, "bf16": index >= 3,
        **{f"{compute}_rows": tile_shape(compute, isa).rows for compute in STEP},
        "x_bytes": BLOCK_BYTES, "least_rows": LEAST_ROWS, "rows_per_worker": ROWS_PER_WORKER,
        "serial_work": SERIAL_WORK, "serial_rows": SERIAL_ROWS,
    }  # fmt: skip


def tiles(compute: str, isa: str, scales: str = "f32") -> dict[str, str]:
    """The register tiles of a compute type: what all kernels that multiply alike have in common, by name.

    Args:
        scales: how the scales of groups are stored.
    """
    shape, product = tile_shape(compute, isa), _product(compute, scales)
    sizes, name = {"rows": shape.rows, "vectors": shape.vectors}, f"tiles_{compute.upper()}"
    text = template("cpu/linear_tile.hpp.j2", **_tile_context(isa))
    if compute not in ("f32", "bf16", "w8a8"):
        text += template("cpu/linear_narrow.hpp.j2", **_tile_context(isa))
    if compute in GROUPED:
        return {
            f"{name}_{scales}": text
            + template("cpu/linear_group_tiles.cpp.j2", product=product, lanes=shape.lanes, **sizes)
        }
    return {name: text + template("cpu/linear_tiles.cpp.j2", product=product, **sizes)}


def shared(spec: LinearSpec, isa: str) -> dict[str, str]:
    """The text that a kernel of ``spec`` is linked with, by name: compiled once for all that need it."""
    return tiles(spec.compute, isa, spec.scales)


def _product(compute: str, scales: str) -> str:
    """The C++ type of a product."""
    name = compute.upper()
    return f"{name}<{'uint16_t' if scales == 'bf16' else 'float'}>" if compute in GROUPED else name


def render(spec: LinearSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``, after the tiles and loops it stands on.

    Raises:
        LoweringError: a step has no kernel, the tile reduces, or an int8 row is too long for int32 sums.
    """
    if spec.compute == "w8a8" and spec.k is not None and spec.k > MAX_K_INT8:
        raise LoweringError(
            f"an int8 linear over {spec.k} inputs could overflow its int32 sums", f"limit: {MAX_K_INT8}"
        )
    given = _ARGUMENTS[spec.compute]
    arguments = {name: "nullptr" for names in _ARGUMENTS.values() for name in names}
    arguments |= {name: f"p[{1 + i}]" for i, name in enumerate(given)}
    programs = (("a", spec.prologue), ("t", spec.tile), ("r", spec.row))
    declarations: list[str] = []
    names: dict[str, list[Declared]] = {}
    pointer, dim = 1 + len(given), 4
    for prefix, program in programs:
        if program is not None:
            lines, names[prefix], pointer, dim = declare(program, prefix, pointer, dim)
            declarations += lines
    extra: dict[str, list[str]] = {}
    for prefix, program in programs:
        count = 0 if program is None else program.extra_dims
        extra[prefix] = [f"{prefix}_dim{i}" for i in range(count)]
        declarations += [f"const int64_t {prefix}_dim{i} = d[{dim + i}];" for i in range(count)]
        dim += count
    geometry, group = dim, dim + GEOMETRY_DIMS + 2
    dim += (GEOMETRY_DIMS + 2 if spec.patches else 0) + (2 if spec.grouped else 0)
    group_size, dim = ("0", dim) if spec.compute not in GROUPED else (f"d[{dim}]", dim + 1)
    before, after = _plans(spec, isa)
    prologue: list[str] = []
    epilogue: list[str] = []
    late = _late(spec, names["r"], extra["r"]) if second_stage(spec) else []
    if spec.prologue is not None and before is not None:
        own: dict[int | str, Place] = {-1: Place(f"(({_X_STORAGE[spec.compute]}*)x)"), -2: Place("scale")}
        prologue = before.emit(_row_context(spec.prologue, names["a"], extra["a"], own, "K"))
    if spec.row is not None and after is not None:
        epilogue = after.emit(_row_context(spec.row, names["r"], extra["r"], {"row": Place("data")}, "N"))
    context = {
        "kernel": name, "summary": _summary(spec), "product": _product(spec.compute, spec.scales),
        "declarations": declarations, "arguments": arguments, "group_size": group_size,
        "static": "true" if spec.static else "false",
        "has_prologue": "true" if spec.prologue or spec.patches else "false",
        "has_row": "true" if after else "false", "late": late, "patches": spec.patches, "grouped": spec.grouped,
        "geometry_dim": geometry, "channels_dim": geometry + GEOMETRY_DIMS, "group_dim": group,
        "columns": " + group * gemm::round_up(N, VL)" if spec.compute == "w8a8" and spec.grouped else "",
        "tile": _tile(spec, names["t"], extra["t"]),
        "prologue": prologue, "epilogue": epilogue, "rooms": _rooms(spec, isa), "scratch_dim": dim,
    }  # fmt: skip
    windows = window_header(isa) if spec.patches else ""
    text: str = tile_header(isa) + windows + template("cpu/linear.cpp.j2", **context)
    return text


def _summary(spec: LinearSpec) -> str:
    kind = ("static " if spec.static else "") + ("convolution" if spec.patches else "linear")
    parts = [f"{kind} {spec.compute}: {len(spec.tile.steps)} steps on the tile"]
    if spec.prologue is not None:
        parts.insert(0, f"{len(spec.prologue.steps)} steps before the")
    if spec.row is not None:
        parts.append(f"{len(spec.row.steps)} on whole rows")
    return ", ".join(parts) if spec.prologue is None else " ".join(parts[:2]) + "".join(f", {p}" for p in parts[2:])


def _places(program: RowProgram, names: list[Declared]) -> dict[int | str, Place]:
    return {i: row_place(names, i, ["row"]) for i in range(len(program.operands))}


def _tile(spec: LinearSpec, names: list[Declared], extra: list[str]) -> list[str]:
    column = "(first + column)" if spec.grouped else "column"
    data = f"(data - {column})" if second_stage(spec) else "data"
    context = Context(
        places={**_places(spec.tile, names), -1: Place(data)}, inputs={"acc": Typed("acc", "f32")},
        column=column, count="n", length="N", outer=["row"], extra=extra,
    )  # fmt: skip
    return emit_lanes(spec.tile, context, {-1: Operand("f32")} if spec.row is not None else {})


def _late(spec: LinearSpec, names: list[Declared], extra: list[str]) -> list[str]:
    assert spec.row is not None
    context = Context(
        places=_places(spec.row, names), inputs={"row": Typed("value", "f32")},
        column="(first + column)" if spec.grouped else "column", count="n", length="N", outer=["row"], extra=extra,
    )  # fmt: skip
    return emit_lanes(spec.row, context)


def _row_context(
    program: RowProgram, names: list[Declared], extra: list[str], own: dict[int | str, Place], length: str
) -> Context:
    return Context(places={**_places(program, names), **own}, length=length, outer=["row"], extra=extra, scratch="room")
