"""Row kernels: a ``RowProgram`` alone, parallel over its rows (and over columns where nothing is reduced)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..compiler.dims import Dim
from .expression import Context, Declared, Place, declare, row_place
from .operations import NATURAL
from .render import template
from .row_plan import RowPlan
from .specs import RowProgram

#: Elements of a row program that pay for waking another worker.
GRAIN = 8192
#: Rows and columns of the tiles in which an operand is read that lies the other way round.
TILE_ROWS, TILE_COLUMNS = 16, 128


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
    rows = [f"auto* const r{n} = {row_place(names, n, outer).pointer};" for n in range(len(names))]
    splits = not plan.reduces and not plan.kept
    context = Context(
        places={n: Place(f"r{n}", name_.inner) for n, name_ in enumerate(names)},
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
        rows=rows,
        body=plan.emit(context),
        splits=splits,
        grain=GRAIN,
        crossing=_crossing(spec, names) if splits and rank else [],
        tile_rows=TILE_ROWS,
        tile_columns=TILE_COLUMNS,
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


def _crossing(spec: RowProgram, names: Sequence[Declared]) -> list[str]:
    """Conditions under which an operand's elements are nearer to each other across rows than along them."""
    last = spec.outer_rank - 1
    return [
        f"(std::abs({n.strides[last]}) < std::abs({n.inner}) && {n.strides[last]} != 0)"
        for n in names
        if n.operand.inner == "strided" and n.operand.index is None
    ]


def scratch_bytes(spec: RowProgram, dims: Sequence[Dim], isa: str) -> Dim:
    """Bytes of private memory per worker: what :class:`RowPlan` keeps of one row."""
    return RowPlan(spec, isa).scratch_bytes(dims[spec.outer_rank])
