"""Row programs: elementwise bodies, norms, softmax, reductions, embeddings, gathers, copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...codegen.program import Ref
from ...codegen.specs import Operand, RowProgram, Step, Storage
from ...compiler.dims import Dim, Expr
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.types import DType
from ...passes.facts import as_stored, sequence, uniform
from ...passes.fusion import VIEWS
from .regions import LOOKUPS, Region, row_space
from .steps import INTEGERS, REDUCING, Arg, StepWriter, domain
from .views import View, collapse

if TYPE_CHECKING:
    from .lower import Lowering


@dataclass
class Access:
    """One operand while its program is built: the strides over the whole space, and what it is looked up by."""

    storage: Storage
    size: int
    view: View
    strides: tuple[Dim, ...]
    index: int | None = None
    gather_stride: Dim = 0
    rows: Dim = 0
    constant: bool = False


@dataclass
class ProgramBuilder:
    """Operands, steps and extra dims of a row program over ``space``."""

    low: Lowering
    space: tuple[Dim, ...]
    writer: StepWriter = field(default_factory=StepWriter)
    accesses: list[Access] = field(default_factory=list)
    extra: list[Dim] = field(default_factory=list)
    positional: bool = False

    def strides_over(self, view: View) -> tuple[Dim, ...]:
        """Strides of ``view`` along the axes of the space (0 where it broadcasts).

        Raises:
            LoweringError: it does not broadcast to the space.
        """
        offset = len(self.space) - len(view.shape)
        if offset < 0:
            raise LoweringError(f"shape {view.shape} does not fit the space {self.space}")
        return tuple(
            0 if i < offset or view.shape[i - offset] == 1 else view.strides[i - offset] for i in range(len(self.space))
        )

    def operand(self, value: Value, view: View, strides: tuple[Dim, ...] | None = None) -> int:
        """Append an operand and return its number."""
        strides = self.strides_over(view) if strides is None else strides
        self.accesses.append(Access(self.low.storage(value), value.dtype.size, view, strides))
        return len(self.accesses) - 1

    def number(self, value: float | int | bool | Dim, dtype: DType) -> Arg:
        """A constant of the program; a dimension becomes an extra run-time argument."""
        if isinstance(value, Expr):
            self.extra.append(value)
            name = self.writer.emit("dim", len(self.extra) - 1, domain="i64")
            return name if domain(dtype) == "i64" else self.writer.emit("cast", name, domain=domain(dtype))
        stored = as_stored(value, dtype)
        return int(stored) if isinstance(stored, bool) else stored  # type: ignore[return-value]

    def read(self, value: Value) -> None:
        """Make an outside value available to the steps: as a number, as an index, or loaded from memory."""
        graph = self.low.graph
        known = uniform(graph, value)
        if known is not None and not (isinstance(known, float) and known != known):
            self.writer.env[value] = self.number(known, value.dtype)
            return
        if value not in self.low.views and self._positions(value):
            return
        view = self.low.view(value)
        number = self.operand(value, view)
        self.writer.env[value] = self.writer.emit("load", number, domain=domain(value.dtype))

    def generate(self, node: Node) -> None:
        """The elements of a ``full`` or an ``arange``, from nothing."""
        if node.op == "full":
            self.writer.env[node.output] = self.number(node.attrs["value"], node.output.dtype)
        elif not self._positions(node.output):
            start, step = (float(node.attrs[name]) for name in ("start", "step"))
            at: Arg = 0 if node.output.shape[0] == 1 else self._position_along(len(self.space) - 1)
            wide = self.writer.emit("mul", self.writer.emit("cast", at, domain="f64"), step, domain="f64")
            value = self.writer.emit("add", wide, start, domain="f64")
            self.writer.env[node.output] = self.writer.emit("cast", value, domain=domain(node.output.dtype))

    def _position_along(self, axis: int) -> Arg:
        if self.space[axis] == 1:
            return 0
        self.positional = True
        if axis == len(self.space) - 1:
            return self.writer.emit("inner", domain="i64")
        return self.writer.emit("outer", axis, domain="i64")

    def _positions(self, value: Value) -> bool:
        """Compute a sequence (``arange`` seen through views) from the position in the space; False if it is none."""
        run = sequence(self.low.graph, value)
        if run is None or not _generated(value):
            return False
        # a sequence of one number stands at every place of an axis that it is broadcast along
        at: Arg = 0 if run.length == 1 else self._position_along(len(self.space) - value.type.rank + run.axis)
        if run.step != 1:
            at = self.writer.emit("mul", at, run.step, domain="i64")
        if run.start != 0:
            at = self.writer.emit("add", at, self.number(run.start, DType.i64), domain="i64")
        if domain(value.dtype) != "i64":
            at = self.writer.emit("cast", at, domain=domain(value.dtype))
        self.writer.env[value] = at
        return True

    def lookup(self, node: Node, outer: dict[Value, Value]) -> None:
        """An embedding or gather: rows of the table at ids that change only along outer axes."""
        table, ids = outer[node.inputs[0]], outer[node.inputs[1]]  # type: ignore[index]
        view, ids_view = self.low.view(table), self.low.view(ids)
        axis = node.attrs["axis"] % table.type.rank if node.op == "gather" else 0
        rank, ids_rank = node.output.type.rank, ids.type.rank
        lead = len(self.space) - rank
        ids_strides: list[Dim] = [0] * len(self.space)
        strides: list[Dim] = [0] * len(self.space)
        for i in range(ids_rank):
            ids_strides[lead + axis + i] = 0 if ids.shape[i] == 1 else ids_view.strides[i]
        for i in range(table.type.rank):
            if i != axis:
                at = lead + (i if i < axis else i + ids_rank - 1)
                strides[at] = 0 if table.shape[i] == 1 and self.space[at] != 1 else view.strides[i]
        index = self.operand(ids, ids_view, tuple(ids_strides))
        number = self.operand(table, view, tuple(strides))
        access = self.accesses[number]
        access.index, access.gather_stride, access.rows = index, view.strides[axis], table.shape[axis]
        self.writer.env[node.output] = self.writer.emit("load", number, domain=domain(table.dtype))

    def run(self, nodes: Sequence[Node], outer: dict[Value, Value]) -> None:
        """Emit the steps of ``nodes``; ``outer`` maps what they read from outside to values of the graph."""
        env = self.writer.env
        for node in nodes:
            if node.op in LOOKUPS:
                self.lookup(node, outer)
                continue
            if node.op in ("full", "arange"):
                self.generate(node)
                continue
            for value in self.static_scale(node, outer) if node.op == "quantize" else node.operands:
                if value not in env:
                    real = outer[value]
                    if real not in env:
                        self.read(real)
                    env[value] = env[real]
            self.writer.node(node)

    def static_scale(self, node: Node, outer: dict[Value, Value]) -> list[Value]:
        """Load what a ``quantize`` with a constant scale is computed from: as numbers in the program it would make a kernel for
        each layer. Returns the operands that are left to read."""
        x, scale, *rest = node.operands
        zero = rest[0] if rest else None
        arrays = [self.low.graph.array(outer[v]) if v in outer else None for v in (scale, *rest)]
        held = arrays[0]
        if held is None or node.attrs["division"] or any(a is None for a in arrays):
            return node.operands
        refs = tuple(outer[v].node.attrs["ref"] for v in (scale, *rest))  # type: ignore[union-attr]
        with np.errstate(divide="ignore"):
            inverse = np.float32(1.0) / held
        if zero is None or any(a is None or a.size != 1 for a in arrays):
            number = self.low.weight(("inverse", refs[0]), f"{refs[0]}.inverse", lambda: inverse)
            self.writer.inverse[node] = self._load(DType.f32, View.dense(number, held.shape))
            return [x, *rest]
        shift = int(arrays[1].reshape(()))  # type: ignore[union-attr]
        low, high = (bound - shift for bound in INTEGERS[node.output.dtype])
        numbers = np.array([inverse.reshape(()), low, high, 0], np.float32)
        numbers[3:].view(np.int32)[0] = shift
        buffer = self.low.weight(("quantize", refs, node.output.dtype), f"{refs[0]}.quantize", lambda: numbers)
        types = (DType.f32, DType.f32, DType.f32, DType.i32)
        self.writer.known[node] = tuple(self._load(dtype, View(buffer, (), (), i)) for i, dtype in enumerate(types))
        return [x]

    def _load(self, dtype: DType, view: View) -> str:
        access = Access(dtype.value, dtype.size, view, self.strides_over(view), constant=not view.shape)  # type: ignore[arg-type]
        self.accesses.append(access)
        return self.writer.emit("load", len(self.accesses) - 1, domain=domain(dtype))

    def store(self, value: Value, view: View, inside: Value) -> None:
        """Store the step value of ``inside`` to ``view``, which holds ``value``."""
        number = self.operand(value, view)
        self.writer.store(number, self.writer.env[inside])

    # -- finishing ----------------------------------------------------------------------------------------------------
    def finish(self, merge_inner: bool) -> tuple[RowProgram, list[Ref], list[Dim]]:
        """The program, its pointers and its run-time arguments.

        Args:
            merge_inner: no step depends on where a row begins or ends, so axes may fold into the inner one.
        """
        sizes, strides = list(self.space), [list(a.strides) for a in self.accesses]
        if not self.positional:
            sizes, strides = _fold(sizes, strides, merge_inner)
        inner, outer = sizes[-1], sizes[:-1]
        operands, tail = [], []
        for access, steps in zip(self.accesses, strides, strict=True):
            step = steps[-1]
            kind = "broadcast" if step == 0 or inner == 1 else "unit" if step == 1 else "strided"
            operands.append(Operand(access.storage, kind, access.index))  # type: ignore[arg-type]
            tail.extend(steps[:-1])
            if kind == "strided":
                tail.append(step)
            if access.index is not None:
                tail.extend([access.gather_stride, access.rows])
        program = RowProgram(tuple(operands), tuple(self.writer.steps), len(outer), inner if isinstance(inner, int) else None,
                             len(self.extra))  # fmt: skip
        pointers = [self.low.ref(a.view, a.size) for a in self.accesses]
        return program, pointers, [*outer, inner, *tail, *self.extra]


def _generated(value: Value) -> bool:
    """Whether ``value`` is an ``arange`` seen through views, which no memory needs to hold."""
    while value.node is not None and value.node.op in VIEWS and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    return value.node is not None and value.node.op == "arange"


def _fold(sizes: list[Dim], strides: list[list[Dim]], merge_inner: bool) -> tuple[list[Dim], list[list[Dim]]]:
    """Merge axes that every operand walks with one stride; leaves at least one outer axis and the inner one."""
    if merge_inner:
        merged, folded = collapse(sizes, strides)
        short = isinstance(sizes[-1], int) and sizes[-1] < 64
        if len(merged) > 1 or (merged and (short or sum(d != 1 for d in sizes) == 1)):
            return _with_outer(merged, folded)
    outer, rest = collapse(sizes[:-1], [s[:-1] for s in strides])  # whole rows, which workers can share
    return _with_outer([*outer, sizes[-1]], [[*o, s[-1]] for o, s in zip(rest, strides, strict=True)])


def _with_outer(sizes: list[Dim], strides: list[list[Dim]]) -> tuple[list[Dim], list[list[Dim]]]:
    return (sizes, strides) if len(sizes) > 1 else ([1, *sizes], [[0, *s] for s in strides])


def lower_rows(low: Lowering, region: Region) -> None:
    """Lower a region without an anchor to one row program."""
    space = row_space(region.nodes) or (1,)
    builder = ProgramBuilder(low, space)
    builder.run(region.nodes, region.outer)
    whole_rows = any(n.op in REDUCING or n.op in LOOKUPS for n in region.nodes)
    for inside, value in region.results:
        if value.use_count or value in low.graph.outputs:
            place = low.home(value)
            if place is None:
                place = low.allocate(value, low.preferred_order(value))
            builder.store(value, place, inside)
    program, pointers, sizes = builder.finish(merge_inner=not whole_rows)
    low.launch(region, program, pointers, sizes)


def lower_lookup_elements(low: Lowering, region: Region) -> None:
    """A lookup whose ids change along the last axis: every element is a row of one."""
    (node,) = region.nodes
    table, ids = node.inputs
    assert table is not None and ids is not None
    rank = node.output.type.rank
    axis = node.attrs["axis"] % table.type.rank
    builder = ProgramBuilder(low, (*node.output.shape, 1))
    view, ids_view = low.view(table), low.view(ids)
    ids_strides: list[Dim] = [0] * (rank + 1)
    strides: list[Dim] = [0] * (rank + 1)
    first = 0 if node.op == "take_along" else axis
    for i in range(ids.type.rank):
        ids_strides[first + i] = 0 if ids.shape[i] == 1 else ids_view.strides[i]
    for i in range(table.type.rank):
        if i != axis:
            strides[i if node.op == "take_along" or i < axis else i + ids.type.rank - 1] = view.strides[i]
    index = builder.operand(ids, ids_view, tuple(ids_strides))
    number = builder.operand(table, view, tuple(strides))
    access = builder.accesses[number]
    access.index, access.gather_stride, access.rows = index, view.strides[axis], table.shape[axis]
    builder.writer.env[node.output] = builder.writer.emit("load", number, domain=domain(table.dtype))
    target = low.allocate(node.output)
    out = builder.operand(node.output, target, (*target.strides, 0))
    builder.writer.store(out, builder.writer.env[node.output])
    program, pointers, sizes = builder.finish(merge_inner=False)
    low.launch(region, program, pointers, sizes)


def copy_program(source: View, to: View, storage: Storage, to_storage: Storage) -> tuple[RowProgram, list[Dim]]:
    """A copy between views of equal shape: (program, run-time arguments)."""
    shape = to.shape or (1,)
    strides = [list(source.strides or (0,)), list(to.strides or (0,))]
    strides = [[0 if d == 1 else s for d, s in zip(shape, row, strict=True)] for row in strides]
    sizes, folded = _fold(list(shape), strides, True)
    inner = sizes[-1]
    kinds = ["broadcast" if s[-1] == 0 or inner == 1 else "unit" if s[-1] == 1 else "strided" for s in folded]
    kind = domain(DType(storage if storage != "i8b" else "i8"))
    steps = (Step("load", "v1", (0,), kind), Step("store", "", (1, "v1")))
    operands = (Operand(storage, kinds[0]), Operand(to_storage, kinds[1]))  # type: ignore[arg-type]
    program = RowProgram(operands, steps, len(sizes) - 1, inner if isinstance(inner, int) else None)
    tail: list[Dim] = []
    for k, s in zip(kinds, folded, strict=True):
        tail.extend(s[:-1])
        if k == "strided":
            tail.append(s[-1])
    return program, [*sizes, *tail]


def fill_program(view: View, dtype: DType, number: object) -> tuple[RowProgram, list[Dim]]:
    """One number everywhere in a row-major view."""
    steps = (Step("store", "", (0, number)),)  # type: ignore[arg-type]
    shape = view.shape or (1,)
    sizes: list[Dim] = [shape[0] if len(shape) > 1 else 1]
    inner: Dim = 1
    for d in shape[1:] if len(shape) > 1 else shape:
        inner = inner * d
    program = RowProgram((Operand(dtype.value, "unit"),), steps, 1, inner if isinstance(inner, int) else None)  # type: ignore[arg-type]
    return program, [*sizes, inner, inner]
