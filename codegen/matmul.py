"""Products of two run-time tensors: ``MatmulSpec`` to C++ text.

f32 and bf16 run in the register tiles of a linear (``templates/cpu/linear_tile.hpp.j2``): one panel of columns of the
right-hand side at a time is packed into private scratch, whatever its strides. f64 and integers take plain loops over vectors
of columns; integers wrap around.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler.dims import Dim, floordiv
from ..compiler.errors import LoweringError
from .expression import Context, Declared, Place, emit_lanes, row_place, written
from .linear import SERIAL_WORK, STEP, tile_header, tile_shape, tiles
from .operations import ELEMENT, NATURAL, VECTOR, Typed
from .render import template
from .specs import MatmulSpec, Operand

_PRODUCT = {"f32": "F32", "bf16": "BF16"}
_BYTES = {"f32": 4, "bf16": 2}


def scratch_bytes(spec: MatmulSpec, dims: Sequence[Dim], isa: str) -> Dim:
    """Private memory of one worker, in bytes: a packed panel, and the rows of one tile of a strided left-hand side."""
    if spec.dtype not in _PRODUCT:
        return 0
    step, shape = STEP[spec.dtype], tile_shape(spec.dtype, isa)
    padded = floordiv(dims[spec.batch_rank + 2] + (step - 1), step) * step
    return padded * (_BYTES[spec.dtype] * (shape.vectors * shape.lanes + shape.rows))


def shared(spec: MatmulSpec, isa: str) -> dict[str, str]:
    """The text that a kernel of ``spec`` is linked with, by name: compiled once for all that need it."""
    return tiles(spec.dtype, isa) if spec.dtype in _PRODUCT else {}


def render(spec: MatmulSpec, isa: str, name: str) -> str:
    """The C++ text of the kernel ``name``, after the tiles and loops it stands on.

    Raises:
        LoweringError: a step has no kernel, the tile reduces, or gathers.
    """
    rank, product = spec.batch_rank, _PRODUCT.get(spec.dtype)
    if any(operand.index is not None for operand in spec.tile.operands):
        raise LoweringError("the tile program of a matmul cannot gather")
    declarations = [f"const int64_t M = d[{rank}], N = d[{rank + 1}], K = d[{rank + 2}];"]
    names, dim = [], rank + 3 + 2 * (rank + 2)
    stores = written(spec.tile)
    for number in (-1, *range(len(spec.tile.operands))):
        operand = Operand(spec.out) if number == -1 else spec.tile.operands[number]
        label = "c" if number == -1 else f"t{number}"
        kind = f"{'' if number in stores else 'const '}{ELEMENT[operand.dtype]}*"
        declarations.append(f"{kind} const {label} = ({kind})p[{3 + number}];")
        strides = tuple(f"{label}_s{axis}" for axis in range(rank + 1))
        for stride in (*strides, f"{label}_inner"):
            declarations.append(f"const int64_t {stride} = d[{dim}];")
            dim += 1
        names.append(Declared(operand, label, strides, f"{label}_inner"))
    extra = [f"d{i}" for i in range(spec.tile.extra_dims)]
    declarations += [f"const int64_t d{i} = d[{dim + i}];" for i in range(len(extra))]
    acc = NATURAL[spec.dtype]
    context = {
        "kernel": name, "summary": f"matmul {spec.dtype}: {len(spec.tile.steps)} steps on the tile", "rank": rank,
        "element": "uint16_t" if spec.dtype == "bf16" else spec.dtype, "vector": VECTOR[acc], "product": product,
        "declarations": declarations, "tile": _tile(spec, names, extra, strided=False),
        "tile_strided": _tile(spec, names, extra, strided=True), "scratch_dim": dim + len(extra), "serial_work": SERIAL_WORK,
    }  # fmt: skip
    drive = template("cpu/matmul_drive.hpp.j2", serial_work=SERIAL_WORK)
    text: str = tile_header(isa) + drive + template("cpu/matmul.cpp.j2", **context)
    return text


def _tile(spec: MatmulSpec, names: list[Declared], extra: list[str], strided: bool) -> list[str]:
    outer = [*(f"at[{axis}]" for axis in range(spec.batch_rank)), "row"]
    places: dict[int | str, Place] = {number - 1: row_place(names, number, outer) for number in range(len(names))}
    context = Context(
        places=places, inputs={"acc": Typed("acc", NATURAL[spec.dtype])}, column="column", count="n", length="N",
        outer=outer, extra=extra,
    )  # fmt: skip
    return emit_lanes(spec.tile, context, {-1: Operand(spec.out, "strided" if strided else "unit")})
