"""Row programs as C++ text: the steps of a tile on registers, and whole rows in passes separated by reductions.

Two entries. Both take *places*: the C++ texts with which the surrounding kernel reaches each operand.

**Lanes** - elementwise steps on one vector that is already in a register (the tile epilogue of a matrix product)::

    context = Context(
        places={0: Place("t0 + (m + i) * t0_s0"), 1: Place("t1 + (m + i) * t1_s0")},   # pointers to column 0 of the row
        inputs={"acc": Typed("acc[i][j]", "f32")},
        column="n0 + j * VL",              # the column of lane 0
        count="full",                      # or the name of a Tail
    )
    lines = emit_lanes(tile, context)      # ["const vf bias_ = load(t0 + (m + i) * t0_s0 + (n0 + j * VL), full);", ...]

An operand that is the same for every row has row stride 0, so nothing is special about a bias. A ``broadcast`` operand is
one scalar per row: its place points at that scalar.

**Rows** - a whole row in memory, reductions included (prologue, row epilogue, the row kernel itself), by
:class:`~planish.codegen.row_plan.RowPlan`::

    plan = RowPlan(program, isa, inputs={"row": Operand("f32")}, targets={-1: Operand("i8b"), -2: Operand("f32", "broadcast")})
    context = Context(
        places={0: Place("r0"), 1: Place("r1"), "row": Place("tile_row"), -1: Place("x_row"), -2: Place("scales + m")},
        length="N",
        scratch="row_scratch",             # 64-byte aligned, plan.scratch_bytes(N) bytes, private to the worker
    )
    lines = plan.emit(context)             # statements that process that one row; declare nothing outside their block

``declare`` writes the declarations that turn a kernel's ``p`` and ``d`` into named pointers and strides; ``row_place``
addresses one row of an operand declared that way, gathers included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..compiler.errors import LoweringError
from .operations import ELEMENT, NATURAL, VECTOR, Typed, convert, elementwise, literal
from .specs import Operand, RowProgram, Step

REDUCTIONS = frozenset({"sum", "prod", "max", "min", "any", "all", "absmax"})
Key = int | str


@dataclass(frozen=True)
class Place:
    """Where one operand lies for the row at hand.

    Attributes:
        pointer: a typed C++ pointer to the row's element 0 (or to the row's only element for ``broadcast``).
        stride: the distance of two neighbours, in elements, for a ``strided`` operand.
    """

    pointer: str
    stride: str = ""


@dataclass(frozen=True)
class Context:
    """C++ texts that the emitted statements stand on.

    Attributes:
        places: by operand number (negative ones are the targets of fused stores) or name of a virtual input.
        inputs: virtual inputs that are values in registers.
        column: inner index of lane 0; count: ``full`` or a Tail (lanes alone).
        begin, length: the row's elements are [begin, length); only programs without reductions may begin after 0.
        outer: the outer indices, for ``outer`` steps; extra: the extra dims.
        scratch: pointer to private memory of :meth:`RowPlan.scratch_bytes`.
    """

    places: Mapping[Key, Place] = field(default_factory=dict)
    inputs: Mapping[str, Typed] = field(default_factory=dict)
    column: str = "j"
    count: str = "n"
    begin: str = "0"
    end: str = ""
    length: str = "length"
    outer: Sequence[str] = ()
    extra: Sequence[str] = ()
    scratch: str = "scratch"


@dataclass(frozen=True)
class Declared:
    """The C++ names of one operand's arguments: its pointer, outer strides, inner stride, gather stride and row count."""

    operand: Operand
    pointer: str
    strides: tuple[str, ...]
    inner: str = ""
    gather: str = ""
    rows: str = ""


def written(program: RowProgram) -> set[int]:
    """Numbers of the operands that a program stores to."""
    return {int(step.args[0]) for step in program.steps if step.op == "store"}


def declare(
    program: RowProgram, prefix: str, pointer: int, dim: int, p: str = "p", d: str = "d"
) -> tuple[list[str], list[Declared], int, int]:
    """Name the arguments of a program's operands.

    Args:
        prefix: of the names: operand 0 becomes ``<prefix>0``, its outer strides ``<prefix>0_s0``, ``<prefix>0_s1`` ...
        pointer, dim: positions in ``p`` and ``d`` of the first operand's pointer and first stride.

    Returns:
        The declarations, the names per operand, and the next free positions in ``p`` and ``d``.
    """
    lines, names, stores = [], [], written(program)
    for number, operand in enumerate(program.operands):
        name = f"{prefix}{number}"
        kind = f"{'' if number in stores else 'const '}{ELEMENT[operand.dtype]}*"
        lines.append(f"{kind} const {name} = ({kind}){p}[{pointer + number}];")
        if operand.inner == "constant":
            lines.append(f"const {NATURAL[operand.dtype]} {name}_once = load1({name});")
        wanted = [f"{name}_s{axis}" for axis in range(program.outer_rank)]
        strides = tuple(wanted)
        inner = f"{name}_inner" if operand.inner == "strided" else ""
        gather, rows = (f"{name}_gather", f"{name}_rows") if operand.index is not None else ("", "")
        for text in (*strides, inner, gather, rows):
            if text:
                lines.append(f"const int64_t {text} = {d}[{dim}];")
                dim += 1
        names.append(Declared(operand, name, strides, inner, gather, rows))
    return lines, names, pointer + len(program.operands), dim


def row_place(names: Sequence[Declared], number: int, outer: Sequence[str]) -> Place:
    """The place of operand ``number`` in the row whose outer indices are ``outer`` (one text per outer dimension).

    The text of a gather reads its row number and calls ``checked_row`` with ``host``; bind it to a variable where it is
    used more than once.
    """
    me = names[number]
    if me.operand.inner == "constant":
        return Place(f"{me.pointer}_once")
    terms = [me.pointer, *(f"{index} * {stride}" for index, stride in zip(outer, me.strides, strict=True))]
    if me.operand.index is not None:
        source = names[me.operand.index]
        if source.operand.inner != "broadcast":
            raise LoweringError("a gather needs one row number per row")
        index = row_place(names, me.operand.index, outer).pointer
        terms.append(f"checked_row(to_i64(load1({index})), {me.rows}, host) * {me.gather}")
    return Place(" + ".join(terms), me.inner)


_RESERVED = re.compile(r"[^0-9A-Za-z]")


class Names:
    """C++ identifiers for the results of steps: the result's own name, cleaned, with a trailing underscore."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}

    def __call__(self, result: str) -> str:
        if result not in self._given:
            base = _RESERVED.sub("_", result)
            base = f"v{base}" if not base[:1].isalpha() else base
            name, taken = f"{base}_", set(self._given.values())
            while name in taken:
                name += "x"
            self._given[result] = name
        return self._given[result]


def load_text(operand: Operand, place: Place, column: str, count: str) -> Typed:
    """The value of an operand at ``column``: lanes, or the row's scalar for ``broadcast``."""
    domain = NATURAL[operand.dtype]
    if operand.inner == "constant":
        return Typed(place.pointer, domain, uniform=True)
    if operand.inner == "broadcast":
        return Typed(f"load1({place.pointer})", domain, uniform=True)
    if operand.inner == "strided":
        at = f"{place.pointer} + ({column}) * {place.stride}"
        return Typed(f"load_strided({at}, {place.stride}, {count})", domain)
    return Typed(f"load({place.pointer} + {column}, {count})", domain)


def store_text(operand: Operand, place: Place, value: Typed, column: str, count: str) -> str:
    """The statement that stores ``value``, which must be uniform for a ``broadcast`` operand."""
    value = convert(value, NATURAL[operand.dtype])
    if operand.inner == "broadcast":
        if not value.uniform:
            raise LoweringError("a value that varies along the row cannot be stored as one element per row")
        return f"store1({place.pointer}, {value.text});"
    if operand.inner == "strided":
        at = f"{place.pointer} + ({column}) * {place.stride}"
        return f"store_strided({at}, {place.stride}, {value.lanes}, {count});"
    return f"store({place.pointer} + {column}, {value.lanes}, {count});"


def evaluate(step: Step, args: Sequence[Typed], context: Context) -> Typed:
    """The expression of a step that neither loads, stores nor reduces."""
    match step.op:
        case "inner":
            value = Typed(f"(to_i64(iota()) + i64({context.column}))", "i64")
        case "outer":
            value = Typed(f"i64({context.outer[int(step.args[0])]})", "i64", uniform=True)
        case "length":
            value = Typed(f"i64({context.length})", "i64", uniform=True)
        case "dim":
            value = Typed(f"i64({context.extra[int(step.args[0])]})", "i64", uniform=True)
        case _:
            return elementwise(step.op, args, step.domain, step.mode)
    return convert(value, step.domain)


def constant(value: int | float) -> Typed:
    """A number among a step's arguments; its domain follows its spelling and adapts to what it meets."""
    if isinstance(value, bool):
        return literal(value, "bool")
    return literal(value, "i64" if isinstance(value, int) else "f32")


def bind(name: str, value: Typed) -> str:
    """A declaration that gives ``value`` a name."""
    return f"const {value.domain if value.uniform else VECTOR[value.domain]} {name} = {value.text};"


def emit_lanes(program: RowProgram, context: Context, targets: Mapping[Key, Operand] | None = None) -> list[str]:
    """The statements of an elementwise program for one vector of lanes.

    Args:
        program: steps without reductions; its virtual inputs are values in ``context.inputs``.
        context: places of every operand the steps touch, ``column`` and ``count``.
        targets: operands with numbers outside the program's own (``-1``: a row buffer), by number.

    Raises:
        LoweringError: a reduction, or an op without a kernel.
    """
    operands: dict[Key, Operand] = {**dict(enumerate(program.operands)), **(targets or {})}
    values, names, lines = dict(context.inputs), Names(), []
    for step in program.steps:
        if step.op in REDUCTIONS:
            raise LoweringError(f"the step '{step.op}' reduces whole rows and cannot stand in a tile")
        if step.op == "store":
            key = int(step.args[0])
            value = argument(step.args[1], step, values)
            lines.append(store_text(operands[key], context.places[key], value, context.column, context.count))
            continue
        if step.op == "load":
            key = int(step.args[0])
            value = convert(load_text(operands[key], context.places[key], context.column, context.count), step.domain)
        else:
            arguments = [] if step.op in ("outer", "dim") else [argument(a, step, values) for a in step.args]
            value = evaluate(step, arguments, context)
        if value.number is None:
            lines.append(bind(names(step.result), value))
            value = Typed(names(step.result), value.domain, value.uniform)
        values[step.result] = value
    return lines


def argument(arg: str | int | float, step: Step, values: Mapping[str, Typed]) -> Typed:
    """An argument of a step: an earlier result, or a constant."""
    if not isinstance(arg, str):
        return constant(arg)
    if arg not in values:
        raise LoweringError(f"the step '{step.op}' reads '{arg}', which no earlier step defines")
    return values[arg]
