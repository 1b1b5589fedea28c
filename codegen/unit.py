"""A program as C++: preamble, kernels, tables, and the engine that plans and runs it behind the C ABI.

It is one file to a reader and several translation units to a compiler: one per kernel, so that they compile in parallel
and a kernel that an earlier model had is not compiled again, and one for the tables and the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..compiler.dims import Call, Dim, Expr, floordiv, symbol, symbols
from ..compiler.errors import LoweringError
from . import render
from .memory import ALIGNMENT, live_ranges, weight_bytes
from .program import Buffer, Launch, Port, Program
from .specs import KernelSpec, LinearSpec, MatmulSpec, RowProgram, canonical, digest

#: Where the sources of the host lie; read as data, never imported.
RUNTIME = Path(__file__).parent.parent / "runtime"

_KINDS = {
    "input": "kInput",
    "output": "kOutput",
    "weight": "kWeight",
    "state": "kState",
    "arena": "kArena",
    "scratch": "kScratch",
}
_FUNCTIONS = {"floordiv": "floor_div", "mod": "floor_mod", "min": "smaller", "max": "larger"}


@dataclass
class _Context:
    """What ``program.cpp.j2`` reads. Texts are C literals; numbers of values index the table of dimensions."""

    isa: str
    weights_bytes: int
    symbols: list[dict[str, Any]]
    values: list[dict[str, str]] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    shape_values: list[int] = field(default_factory=list)
    shape_starts: list[list[int]] = field(default_factory=list)
    buffers: list[dict[str, Any]] = field(default_factory=list)
    launches: list[dict[str, Any]] = field(default_factory=list)
    pointer_count: int = 0
    dim_count: int = 0
    external_count: int = 0
    batch: int = -1
    streamed_bytes: int = 0
    port_bytes: list[int] = field(default_factory=list)
    port_batched: list[str] = field(default_factory=list)


class _Values:
    """The table of dimensions: equal dimensions share one entry."""

    def __init__(self, order: list[str]) -> None:
        self._position = {name: i for i, name in enumerate(order)}
        self._number: dict[Dim, int] = {}

    def __call__(self, dim: Dim) -> int:
        return self._number.setdefault(dim, len(self._number))

    def entries(self) -> list[dict[str, str]]:
        return [
            {"text": c_dim(dim, self._position), "comment": "" if isinstance(dim, int) else f"  // {dim}"}
            for dim in self._number
        ]


def c_dim(dim: Dim, position: dict[str, int]) -> str:
    """``dim`` as C text over ``s[...]`` in int64; ``position`` gives the number of each symbol."""
    if isinstance(dim, int):
        return f"INT64_C({dim})"
    return " + ".join(
        "*".join(
            [f"INT64_C({coefficient})"] * (coefficient != 1 or not monomial) + [_atom(a, position) for a in monomial]
        )
        for monomial, coefficient in dim.terms
    )


def _atom(atom: str | Call, position: dict[str, int]) -> str:
    if isinstance(atom, str):
        return f"s[{position[atom]}]"
    return f"{_FUNCTIONS[atom.fn]}({', '.join(c_dim(a, position) for a in atom.args)})"


def c_string(text: str) -> str:
    """A C string literal of ``text`` in UTF-8."""
    plain = {0x22: '\\"', 0x5C: "\\\\"}
    return '"' + "".join(plain.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in text.encode()) + '"'


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() and c != "\\" else "?" for c in text)


@dataclass(frozen=True)
class UnitText:
    """The C++ text of a program, in the parts that are compiled on their own.

    Attributes:
        summary: comment lines on what it is.
        includes: the system headers of the kernels.
        abi: ``planish.h``.
        vectors: what every kernel builds on; stands after ``includes`` and ``abi``.
        shared: what several kernels are linked with, by name; stands after ``vectors``.
        kernels: by name, in order of first launch: ``static void k_<digest>(...)`` and the entry point that calls it.
        program: tables and engine; stands after ``abi``.
    """

    summary: str
    includes: str
    abi: str
    vectors: str
    shared: Mapping[str, str]
    kernels: Mapping[str, str]
    program: str

    @property
    def text(self) -> str:
        """All of it as one file, which compiles to the same program."""
        parts = [*self.shared.values(), *self.kernels.values()]
        return "\n".join([self.summary, self.includes, self.abi, self.vectors, *parts, self.program])


def split_unit(
    program: Program,
    *,
    includes: Callable[[str], str] = render.includes,
    vectors: Callable[[str], str] = render.vectors,
    kernel: Callable[[KernelSpec, str], str] = render.render_kernel,
    shared: Callable[[KernelSpec, str], Mapping[str, str]] = render.shared_text,
) -> UnitText:
    """The C++ text of a whole program: what the toolchain builds into a unit.

    Args:
        program: the program; checked first.
        includes, vectors: give what stands before kernels of an ISA level.
        kernel: gives the text of ``static void k_<digest>(...)`` for a spec and an ISA level.
        shared: gives what that is linked with, by name.

    Raises:
        LoweringError: the program contradicts itself.
    """
    check(program)
    parts: dict[str, str] = {}
    kernels: dict[str, str] = {}
    for launch in program.launches:
        name = render.kernel_name(launch.spec)
        if name not in kernels:
            parts.update(shared(launch.spec, program.isa))
            kernels[name] = f"{kernel(launch.spec, program.isa)}\n{render.entry(name)}"
    return UnitText(
        "".join(f"// {line}".rstrip() + "\n" for line in _summary(program)),
        includes(program.isa),
        abi(),
        vectors(program.isa),
        parts,
        kernels,
        render.template("cpu/program.cpp.j2", p=_context(program), declarations=[*map(render.declaration, kernels)]),
    )


def render_unit(program: Program) -> str:
    """The C++ text of a whole program as one file.

    Raises:
        LoweringError: the program contradicts itself.
    """
    return split_unit(program).text


@cache
def abi() -> str:
    """``planish.h``: the interface between units and the runtime."""
    return (RUNTIME / "planish.h").read_text()


@cache
def host_source() -> str:
    """The C++ text of the host, self-contained; it runs on every CPU of its architecture."""
    return (RUNTIME / "host.cpp").read_text().replace('#include "planish.h"\n', abi(), 1)


def _summary(program: Program) -> list[str]:
    ports = [
        f"{role} {port.name}: {port.dtype}[{', '.join(map(str, port.shape))}]"
        for role, group in (("input", program.inputs), ("output", program.outputs), ("state", program.states))
        for port in group
    ]
    return ["A model compiled by planish.", "", f"ISA level {program.isa}.", *map(_comment, ports)]


def _context(program: Program) -> _Context:
    value = _Values(list(program.symbols))
    context = _Context(
        program.isa,
        weight_bytes(program),
        [{"name": c_string(n), "lower": _c_int(lo), "upper": _c_int(hi)} for n, (lo, hi) in program.symbols.items()],
    )
    groups = (program.inputs, program.outputs, program.states)
    for ports, into in zip(groups, (context.inputs, context.outputs, context.states), strict=True):
        starts = []
        for port in ports:
            starts.append(len(context.shape_values))
            context.shape_values += [value(d) for d in port.shape]
            shape = c_string(", ".join(map(str, port.shape)))
            into.append({"name": c_string(port.name), "dtype": port.dtype.value, "shape": shape, "dims": port.shape})
        context.shape_starts.append(starts)
    width = max(1, *map(len, groups))
    context.shape_starts = [row + [0] * (width - len(row)) for row in context.shape_starts]
    place = _places(program)
    for number, (buffer, (first, last)) in enumerate(zip(program.buffers, live_ranges(program), strict=True)):
        context.buffers.append(
            {
                "kind": _KINDS[buffer.kind], "first": first, "last": last, "bytes": value(buffer.bytes),
                "place": place[number], "comment": _comment(f"{buffer.name}: {buffer.bytes} bytes"),
            }
        )  # fmt: skip
    for launch in program.launches:
        context.launches.append(_launch(program, launch, context, value))
    if program.batch is not None:
        context.batch = list(program.symbols).index(program.batch)
    gathered = _gathered(program)
    context.streamed_bytes = sum(
        b.bytes for b in program.buffers if b.kind == "weight" and b.name not in gathered and isinstance(b.bytes, int)
    )
    for port in (*program.inputs, *program.outputs, *program.states):
        batched = program.batch is not None and port.shape[:1] == (symbol(program.batch),)
        context.port_bytes.append(value(program.buffers[port.buffer].bytes))
        context.port_batched.append("true" if batched else "false")
    context.values = value.entries()
    return context


def _places(program: Program) -> list[int]:
    places = [buffer.offset if buffer.kind == "weight" else 0 for buffer in program.buffers]
    for ports in (program.inputs, program.outputs, program.states):
        for number, port in enumerate(ports):
            places[port.buffer] = number
    return places


def _launch(program: Program, launch: Launch, context: _Context, value: _Values) -> dict[str, Any]:
    stride: Dim = 0
    if launch.scratch is not None:
        stride = floordiv(program.buffers[launch.scratch].bytes + ALIGNMENT - 1, ALIGNMENT) * ALIGNMENT
    arguments = [value(d) for d in (*launch.dims, stride)]
    references = [(-1 if r.buffer is None else r.buffer, value(r.offset)) for r in launch.pointers]
    entry = {
        "label": c_string(launch.label),
        "comment": _comment(f"{launch.label} ({type(launch.spec).__name__}, {launch.precision})"),
        "kernel": render.entry_name(render.kernel_name(launch.spec)),
        "references": references,
        "arguments": arguments,
        "pointer": context.pointer_count,
        "dim": context.dim_count,
        "scratch": -1 if launch.scratch is None else launch.scratch,
    }
    context.pointer_count += len(references)
    context.dim_count += len(arguments)
    context.external_count += sum(
        r.buffer is not None and program.buffers[r.buffer].kind in ("input", "output", "state") for r in launch.pointers
    )
    return entry


def _c_int(n: int) -> str:
    return f"INT64_C({n})"


# -- checks ----------------------------------------------------------------------------------------------------------
def check(program: Program) -> None:
    """Hold a program against the contract.

    Raises:
        LoweringError: a port is not on a buffer of its kind, two ports share an input or state buffer, a reference or
            scratch number is out of range, a dimension uses an unknown symbol, weights overlap or are not aligned, or
            the arrays are not those of the weight buffers.
    """
    _check_ports(program)
    _check_weights(program)
    kinds = [buffer.kind for buffer in program.buffers]
    written: set[int] = set()
    for launch in program.launches:
        for ref in launch.pointers:
            if ref.buffer is None:
                continue
            if not 0 <= ref.buffer < len(kinds):
                raise LoweringError(f"the launch '{launch.label}' names buffer {ref.buffer}, which does not exist")
            if kinds[ref.buffer] == "scratch":
                raise LoweringError(f"the launch '{launch.label}' passes a scratch buffer as a pointer")
            written.add(ref.buffer)
        if launch.scratch is not None and (not 0 <= launch.scratch < len(kinds) or kinds[launch.scratch] != "scratch"):
            raise LoweringError(f"the scratch of the launch '{launch.label}' is no scratch buffer")
        for dim in (*launch.dims, *(ref.offset for ref in launch.pointers), launch.flops, launch.bytes):
            _check_dim(program, dim, f"the launch '{launch.label}'")
    for port in program.outputs:
        if port.buffer not in written:
            raise LoweringError(f"no launch touches the output '{port.name}'")


def _check_ports(program: Program) -> None:
    owner: dict[int, str] = {}
    for kind, ports in (("input", program.inputs), ("output", program.outputs), ("state", program.states)):
        for port in ports:
            buffer = program.buffers[port.buffer]
            if buffer.kind != kind:
                raise LoweringError(f"the {kind} '{port.name}' is on a buffer of kind {buffer.kind}")
            if port.buffer in owner:
                raise LoweringError(f"the ports '{owner[port.buffer]}' and '{port.name}' share a buffer")
            owner[port.buffer] = port.name
            for dim in port.shape:
                _check_dim(program, dim, f"the {kind} '{port.name}'")
    for number, buffer in enumerate(program.buffers):
        if buffer.kind in ("input", "output", "state") and number not in owner:
            raise LoweringError(f"the {buffer.kind} buffer '{buffer.name}' belongs to no port")
        _check_dim(program, buffer.bytes, f"the buffer '{buffer.name}'")


def _check_weights(program: Program) -> None:
    weights: list[Buffer] = [b for b in program.buffers if b.kind == "weight"]
    if len(weights) != len(program.weights):
        raise LoweringError(f"there are {len(weights)} weight buffers and {len(program.weights)} arrays")
    end, name = 0, ""
    for buffer, array in zip(sorted(weights, key=lambda b: b.offset), program.weights, strict=True):
        if buffer.bytes != array.nbytes:
            raise LoweringError(f"the weight '{buffer.name}' has {array.nbytes} bytes and its buffer {buffer.bytes}")
        if buffer.offset % ALIGNMENT:
            raise LoweringError(f"the weight '{buffer.name}' is not aligned to {ALIGNMENT} bytes")
        if buffer.offset < end:
            raise LoweringError(f"the weights '{name}' and '{buffer.name}' overlap")
        end, name = buffer.offset + array.nbytes, buffer.name


def _check_dim(program: Program, dim: Dim, where: str) -> None:
    unknown = symbols(dim) - set(program.symbols) if isinstance(dim, Expr) else set()
    if unknown:
        raise LoweringError(f"{where} uses the unknown symbol '{sorted(unknown)[0]}'")


# -- description -----------------------------------------------------------------------------------------------------
def describe(program: Program) -> dict[str, Any]:
    """What the manifest says of a unit, as JSON-able data: ports, symbols, weights index, launches."""
    weights = sorted((b for b in program.buffers if b.kind == "weight"), key=lambda b: b.offset)
    gathered = _gathered(program)
    return {
        "isa": program.isa,
        "symbols": [{"name": name, "min": low, "max": high} for name, (low, high) in program.symbols.items()],
        "inputs": [_port(p) for p in program.inputs],
        "outputs": [_port(p) for p in program.outputs],
        "states": [_port(p) for p in program.states],
        "weights_bytes": weight_bytes(program),
        "weights": [
            {
                "name": b.name, "offset": b.offset, "bytes": a.nbytes, "dtype": str(a.dtype), "shape": list(a.shape),
                "gathered": b.name in gathered,
            }
            for b, a in zip(weights, program.weights, strict=True)
        ],
        "launches": [
            {
                "label": launch.label, "kernel": canonical(launch.spec)["kind"], "digest": digest(launch.spec),  # type: ignore[index]
                "precision": launch.precision, "sources": list(launch.sources),
                "flops": str(launch.flops), "bytes": str(launch.bytes),
            }
            for launch in program.launches
        ],
    }  # fmt: skip


def _gathered(program: Program) -> set[str]:
    """Names of the weights that are only ever looked up row by row, such as embedding tables."""
    looked_up: set[int] = set()
    streamed: set[int] = set()
    for launch in program.launches:
        rows = _indexed_pointers(launch.spec)
        for position, ref in enumerate(launch.pointers):
            if ref.buffer is not None:
                (looked_up if position in rows else streamed).add(ref.buffer)
    return {program.buffers[b].name for b in looked_up - streamed if program.buffers[b].kind == "weight"}


def _indexed_pointers(spec: KernelSpec) -> set[int]:
    """Positions among a kernel's pointers of the operands that are addressed through an index."""
    first, programs = 0, []
    match spec:
        case RowProgram():
            programs = [spec]
        case LinearSpec():
            first = 5 if spec.compute == "w8a8" else 2
            programs = [p for p in (spec.prologue, spec.tile, spec.row) if p is not None]
        case MatmulSpec():
            first, programs = 3, [spec.tile]
    operands = [operand for p in programs for operand in p.operands]
    return {first + i for i, operand in enumerate(operands) if operand.index is not None}


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype.value, "shape": [str(d) for d in port.shape]}
