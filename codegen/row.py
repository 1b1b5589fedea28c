"""Row kernels: a ``RowProgram`` alone, parallel over its rows (and over columns where nothing is reduced)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..compiler.dims import Dim, dim_min, floordiv
from .expression import Context, Declared, Place, declare, row_place, written
from .operations import BYTES, ELEMENT, NATURAL
from .render import template
from .row_plan import RowPlan
from .specs import Operand, RowProgram

#: Elements of a row program that pay for waking another worker.
GRAIN = 8192
#: Columns of the tiles in which operands are read that lie the other way round; their rows fill a cache line.
TILE_COLUMNS = 128
#: The longest rows that are turned whole, where a reduction needs all of the row; and what separates their starts, so
#: that rows whose length is a power of two do not fall into the same sets of the cache.
TURNED_LENGTH, TURNED_GAP = 4096, 16
LINE_BYTES = 64


def render(spec: RowProgram, isa: str, name: str) -> str:
    """The C++ text of a row kernel.

    Raises:
        LoweringError: the program has a step without a kernel.
    """
    spec = as_bits(spec)
    plan = RowPlan(spec, isa)
    rank = spec.outer_rank
    declarations, names, _, dim = declare(spec, "x", 0, rank + 1)
    extra = [f"e{i}" for i in range(spec.extra_dims)]
    declarations += [f"const int64_t {text} = d[{dim + i}];" for i, text in enumerate(extra)]
    outer = [f"i{axis}" for axis in range(rank)]
    places = [row_place(names, n, outer) for n in range(len(names))]
    splits = not plan.reduces and not plan.kept
    context = Context(
        places={n: Place(f"r{n}", place.stride) for n, place in enumerate(places)},
        begin="begin" if splits else "0",
        end="end" if splits else "length",
        outer=outer,
        extra=extra,
    )
    arguments = [
        *(f"{declaration.split(' = ')[0].replace('* const ', '* ')}" for declaration in declarations),
        *(f"const int64_t size{axis}" for axis in range(rank)),
        "const int64_t length",
    ]
    crossing = _crossing(spec) if rank else []
    tile_rows = _tile_rows(spec, crossing)
    pitch = str(TILE_COLUMNS) if splits else "pitch"
    turn = [line for n in crossing for line in _turn(n, names[n], places[n], spec.operands[n], tile_rows, splits)]
    if crossing and not splits:
        turn.insert(0, f"const int64_t pitch = (length + 15) / 16 * 16 + {TURNED_GAP};")
    return template(
        "cpu/row.cpp.j2",
        name=name,
        rank=rank,
        sizes=[f"size{axis}" for axis in range(rank)],
        outer=outer,
        declarations=declarations,
        arguments=arguments,
        argument_names=[text.split()[-1] for text in arguments],
        worker_bytes=f"d[{dim + len(extra)}]",
        pointers=[place.pointer for place in places],
        ahead=_ahead(names, outer),
        advance=_advance(rank),
        turn=turn,
        tile_pointers=[
            f"t{n} + (row - first) * {pitch}{' - begin' if splits else ''}" if n in crossing else place.pointer
            for n, place in enumerate(places)
        ],
        body=plan.emit(context),
        tile_body=RowPlan(_upright(spec, crossing), isa).emit(replace(context, scratch="kept")) if crossing else [],
        splits=splits,
        grain=GRAIN,
        crossing=[names[n] for n in crossing],
        tile_rows=tile_rows,
        tile_columns=TILE_COLUMNS,
        turned_length=TURNED_LENGTH,
    )


def as_bits(spec: RowProgram) -> RowProgram:
    """``spec`` with 16-bit floats moved as bits where all it does is copy them: exact for every pattern, and quicker."""
    sources = {step.result: step.args[0] for step in spec.steps if step.op == "load"}
    for step in spec.steps:
        if step.op == "store":
            number, value = step.args
            if value not in sources or spec.operands[int(number)].dtype != spec.operands[int(sources[value])].dtype:
                return spec
        elif step.op != "load":
            return spec
    operands = tuple(replace(o, dtype="i16") if o.dtype in ("bf16", "f16") else o for o in spec.operands)
    steps = tuple(
        replace(step, domain=NATURAL[operands[int(step.args[0])].dtype]) if step.op == "load" else step
        for step in spec.steps
    )
    return replace(spec, operands=operands, steps=steps)


#: Rows between a looked-up row and the one being computed, and the most bytes of it that are fetched ahead.
_ROWS_AHEAD, _BYTES_AHEAD = 1, 4096


def _ahead(names: Sequence[Declared], outer: Sequence[str]) -> str:
    """The statement that fetches looked-up rows of a table before they are needed: they lie anywhere, so no hardware
    foresees them. Empty where nothing is looked up."""
    if not outer or all(n.operand.index is None for n in names):
        return ""
    later = [*outer[:-1], f"({outer[-1]} + {_ROWS_AHEAD})"]
    fetched = [
        f"prefetch_row({row_place(names, i, later).pointer}, length, {_BYTES_AHEAD});"
        for i, n in enumerate(names) if n.operand.index is not None and n.operand.inner == "unit"
    ]  # fmt: skip
    return f"if ({later[-1]} < size{len(outer) - 1}) {{ {' '.join(fetched)} }}" if fetched else ""


def _advance(rank: int) -> str:
    """The statement that steps the outer indices to the next row."""
    text = "i0++;"
    for axis in range(1, rank):
        text = f"if (++i{axis} == size{axis}) {{ i{axis} = 0; {text} }}"
    return text


def _turn(number: int, names: Declared, place: Place, operand: Operand, rows: int, splits: bool) -> list[str]:
    """Statements that read a tile of an operand whose elements are adjacent across rows.

    A tile of some columns stands on the stack; a tile of whole rows at the front of the scratch memory.
    """
    tile, stride, element = f"t{number}", names.inner, ELEMENT[operand.dtype]
    if splits:
        arguments = f"{stride}, last - first, end - begin, {tile}, {TILE_COLUMNS}"
        return [
            f"alignas(64) {element} {tile}[{rows * TILE_COLUMNS}];",
            f"read_transposed({place.pointer} + begin * {stride}, {arguments});",
        ]
    return [
        f"{element}* const {tile} = ({element}*)kept;",
        f"kept += {rows} * pitch * sizeof({element});",
        f"read_transposed({place.pointer}, {stride}, last - first, length, {tile}, pitch);",
    ]


def _crossing(spec: RowProgram) -> list[int]:
    """Operands that are read with a stride, if they can be turned upright through tiles: no write has a stride."""
    strided = [n for n, operand in enumerate(spec.operands) if operand.inner == "strided"]
    if any(n in written(spec) or spec.operands[n].index is not None for n in strided):
        return []
    return strided


def _tile_rows(spec: RowProgram, crossing: Sequence[int]) -> int:
    return max(16, LINE_BYTES // min((BYTES[spec.operands[n].dtype] for n in crossing), default=LINE_BYTES))


def _upright(spec: RowProgram, crossing: Sequence[int]) -> RowProgram:
    """``spec`` with the operands ``crossing`` read from tiles, in which neighbours along the row are adjacent."""
    return replace(
        spec, operands=tuple(replace(o, inner="unit") if n in crossing else o for n, o in enumerate(spec.operands))
    )


def scratch_bytes(spec: RowProgram, dims: Sequence[Dim], isa: str) -> Dim:
    """Bytes of private memory per worker: what :class:`RowPlan` keeps of one row, and whole rows that are turned."""
    spec = as_bits(spec)
    plan, length, crossing = RowPlan(spec, isa), dims[spec.outer_rank], _crossing(spec)
    total = plan.scratch_bytes(length)
    if crossing and spec.outer_rank and (plan.reduces or plan.kept):
        total = RowPlan(_upright(spec, crossing), isa).scratch_bytes(length) + total
        pitch = floordiv(dim_min(length, TURNED_LENGTH) + 15, 16) * 16 + TURNED_GAP
        for n in crossing:
            total = total + pitch * (_tile_rows(spec, crossing) * BYTES[spec.operands[n].dtype])
    return total
