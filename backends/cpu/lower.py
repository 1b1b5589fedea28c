"""lower: the fused graph to a ``Program`` - one launch per region, views read through, weights packed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...codegen.program import Buffer, Launch, Port, Program, Ref
from ...codegen.render import scratch_bytes
from ...codegen.specs import KernelSpec, Storage
from ...compiler.deferred import Constant, Deferred
from ...compiler.dims import Dim, product
from ...compiler.errors import LoweringError
from ...compiler.graph import Graph, Node, Value
from ...compiler.ops import Cost, cost
from ...compiler.types import DType
from ...passes.batching import batch_symbol
from ...passes.fusion import SOURCES, VIEWS
from .custom_ops import cpp_op, lower_custom
from .lower_anchors import lower_attention, lower_linear, lower_matmul
from .lower_conv import lower_conv, lower_fold, lower_group_stats, lower_pool
from .lower_order import ORDER
from .lower_recurrent import lower_recurrent
from .lower_rows import copy_program, fill_program, lower_lookup_elements, lower_rows
from .regions import CONVS, LOOKUPS, WINDOWS, Region, anchor_name
from .views import View, contiguous_strides


class Lowering:
    """The state of lowering one graph."""

    def __init__(self, graph: Graph, isa: str) -> None:
        self.graph = graph
        self.isa = isa
        symbols = {s.name: (s.lower, s.upper) for s in graph.symbols.values()}
        self.program = Program(symbols, [], [], isa=isa, batch=batch_symbol(graph))
        self.views: dict[Value, View] = {}
        self._constants: dict[Any, int] = {}
        self._weight_end = 0
        self.reader: Node | None = None  # what is being lowered; None: the outputs

    # -- memory -------------------------------------------------------------------------------------------------------
    def buffer(self, name: str, kind: Any, size: Dim, offset: int = 0) -> int:
        """Append a buffer and return its number."""
        self.program.buffers.append(Buffer(name, kind, size, offset))
        return len(self.program.buffers) - 1

    def weight(self, key: Any, name: str, make: Callable[[], Constant]) -> int:
        """The buffer of a packed constant; made once per ``key``."""
        if key not in self._constants:
            made = make()
            array = made if isinstance(made, Deferred) else np.ascontiguousarray(made)
            offset = -(-self._weight_end // 64) * 64
            self._weight_end = offset + array.nbytes
            self.program.weights.append(array)
            self._constants[key] = self.buffer(name, "weight", array.nbytes, offset)
        return self._constants[key]

    def storage(self, value: Value) -> Storage:
        """How elements of ``value`` are stored: int8 that only int8 linears read is biased by 128 (see ``specs``)."""
        if value.dtype is DType.i8 and self._stays_inside(value) and biased(value):
            return "i8b"
        if value.dtype is DType.i4:
            return "i8"  # a constant that no linear has packed
        return value.dtype.value  # type: ignore[return-value]

    def _stays_inside(self, value: Value) -> bool:
        """Whether no output of the graph is ``value``, what it is a view of, or another view of that."""
        whole = _whole(value)
        return all(_whole(v) is not whole for v in self.graph.outputs)

    def view(self, value: Value) -> View:
        """Where ``value`` lies; views, constants and generated values come about when first asked for."""
        if value not in self.views:
            node = value.node
            assert node is not None
            if node.op in VIEWS:
                self._view_node(node)
                return self.views[value]
            if node.op in ("full", "arange"):
                lower_rows(self, Region.of(node))
                return self.views[value]
            if node.op != "constant":
                raise LoweringError(f"{node!r} was not lowered")
            ref = node.attrs["ref"]
            number = self.weight(("raw", ref), ref, lambda: self.graph.constants[ref])
            self.views[value] = View.dense(number, value.shape)
        return self.views[value]

    def allocate(self, value: Value, order: Sequence[int] | None = None) -> View:
        """Memory for a result: the caller's buffer if it is an output of the graph, else a place in the arena.

        Args:
            value: the result.
            order: axes in storage order, slowest first; None is row-major.
        """
        size = value.type.elements * value.dtype.size
        slot = next(
            (p for p, o in zip(self.program.outputs, self.graph.outputs, strict=True) if _behind(o) is value), None
        )
        if slot is not None and order is None and not self._written(slot.buffer):
            view = View.dense(slot.buffer, value.shape)
        else:
            number = self.buffer(value.name, "arena", size)
            order = tuple(range(value.type.rank)) if order is None else tuple(order)
            stored = contiguous_strides([value.shape[a] for a in order])
            strides = [stored[order.index(a)] for a in range(value.type.rank)]
            view = View(number, value.shape, tuple(strides))
        self.views[value] = view
        return view

    def home(self, value: Value) -> View | None:
        """The place of ``value`` inside a concatenation that reads it; None if there is no such place.

        What is computed there need not be copied there.
        """
        path: list[Node] = []
        inner = value
        while inner not in self.graph.outputs and inner.use_count:
            user = next((u for u in inner.users if u.op == "concat"), inner.users[0])
            if user.op == "concat":  # the others read it there: any kernel reads through strides
                break
            if user.op != "reshape" or inner.use_count > 1:
                return None
            path.append(user)
            inner = user.output
        else:
            return None
        if value.dtype is DType.i8:  # how bytes are stored depends on who reads them
            return None
        if user.output not in self.views:
            whole = self.home(user.output)
            if whole is None:
                self.allocate(user.output, self.preferred_order(user.output))
            else:
                self.views[user.output] = whole
        place: View | None = self.place(user, inner)
        for node in reversed(path):
            source = node.inputs[0]
            assert source is not None
            place = None if place is None else place.reshape(source.shape)
        if place is not None:
            self.views[value] = place
        return place

    def place(self, concat: Node, part: Value) -> View:
        """Where ``part`` lies in the result of a concatenation."""
        axis, start = concat.attrs["axis"] % concat.output.type.rank, 0
        for other in concat.operands:
            if other is part:
                break
            start = start + other.shape[axis]  # type: ignore[assignment]
        return self.views[concat.output].slice(axis, start, part.shape[axis], 1)

    def _written(self, buffer: int) -> bool:
        return any(v.buffer == buffer for v in self.views.values())

    def preferred_order(self, value: Value) -> tuple[int, ...] | None:
        """The storage order that makes the only use of ``value``, a transpose, row-major."""
        users = value.users
        if value in self.graph.outputs or not users or any(u.op != "transpose" for u in users):
            return None
        perms = {tuple(u.attrs["perm"]) for u in users}
        return perms.pop() if len(perms) == 1 else None

    def ref(self, view: View, storage_bytes: int) -> Ref:
        """A pointer to the first element of a view."""
        return Ref(view.buffer, view.offset * storage_bytes)

    # -- launches -----------------------------------------------------------------------------------------------------
    def launch(
        self, region: Region, spec: KernelSpec, pointers: Sequence[Ref], sizes: Sequence[Dim], precision: str = "f32",
        moved: Dim | None = None,
    ) -> None:  # fmt: skip
        """Append a kernel call, with scratch if the kernel needs some.

        Args:
            moved: bytes, of a launch that only copies or fills; None counts the work of the region's owner.
        """
        dims_: list[Dim] = list(sizes)
        private = scratch_bytes(spec, dims_, self.isa)
        scratch = None
        if private != 0:
            scratch = self.buffer(f"scratch{len(self.program.launches)}", "scratch", private)
        dims_.append(private)
        total = cost(region.owner) if moved is None else Cost(0, moved)
        label = region.label if moved is None else "copy"
        reason = "" if moved is None else why_copied(region.owner, self.reader)
        self.program.launches.append(
            Launch(
                spec, tuple(pointers), tuple(dims_), label, scratch, region.sources, precision, total.flops, total.bytes,
                reason, region.anchor_sources,
            )
        )  # fmt: skip

    def copy(
        self, source: View, to: View, dtype: DType, storage: Storage, owner: Node, to_storage: Storage | None = None
    ) -> None:
        """Launch a copy between two views of the same shape."""
        lower_rows_copy(self, source, to, dtype, storage, owner, to_storage or storage)

    def materialise(self, value: Value) -> View:
        """A row-major copy of ``value`` (itself, where it lies so already)."""
        view = self.view(value)
        if view.is_dense:
            return view
        number = self.buffer(f"{value.name}.dense", "arena", value.type.bytes)
        dense = View.dense(number, value.shape)
        assert value.node is not None
        self.copy(view, dense, value.dtype, self.storage(value), value.node)
        self.views[value] = dense
        return dense

    # -- the walk -----------------------------------------------------------------------------------------------------
    def run(self) -> Program:
        """Lower the whole graph.

        Raises:
            LoweringError: a node has no kernel; names it.
        """
        graph, program = self.graph, self.program
        for value in graph.inputs:
            number = self.buffer(value.name, "input", value.type.bytes)
            program.inputs.append(Port(value.name, value.dtype, value.shape, number))
            self.views[value] = View.dense(number, value.shape)
        for value in graph.states:
            number = self.buffer(value.name, "state", value.type.bytes)
            program.states.append(Port(value.name, value.dtype, value.shape, number))
            self.views[value] = View.dense(number, value.shape)
        names = graph.meta.get("output_names") or [v.name for v in graph.outputs]
        for name, value in zip(names, graph.outputs, strict=True):
            number = self.buffer(f"out.{name}", "output", value.type.bytes)
            program.outputs.append(Port(name, value.dtype, value.shape, number))
        for node in graph.nodes:
            self.reader = node
            try:
                self._node(node)
            except LoweringError as error:
                where = f" ({node.location})" if node.location else ""
                raise LoweringError(f"{node.op} {node.name}{where}: {error.message}", error.hint) from None
        self.reader = None
        for port, value in zip(program.outputs, graph.outputs, strict=True):
            view = self.view(value)
            if view.buffer != port.buffer:
                owner = value.node if value.node is not None else Node("copy", [], {}, (), value.name, None, ())
                self.copy(
                    view,
                    View.dense(port.buffer, value.shape),
                    value.dtype,
                    self.storage(value),
                    owner,
                    value.dtype.value,  # type: ignore[arg-type]
                )
        return program

    def _node(self, node: Node) -> None:
        if (
            node.op in SOURCES
            or node.op in VIEWS
            or not any(v.use_count or v in self.graph.outputs for v in node.outputs)
        ):
            return
        if node.op == "concat":
            self._concat(node)
        elif node.op == "pad":
            self._pad(node)
        elif node.op == "group_stats":
            lower_group_stats(self, node)
        elif node.op == "recurrent":
            lower_recurrent(self, node)
        elif (own := cpp_op(node)) is not None:
            lower_custom(self, node, own)
        elif node.op in ORDER:
            ORDER[node.op](self, node)
        elif node.op in LOOKUPS and _varies_along_row(node):
            lower_lookup_elements(self, Region.of(node))
        else:
            region = Region.of(node)
            anchor = region.anchor
            if anchor is None:
                lower_rows(self, region)
            elif anchor.op in ("linear", "qlinear"):
                lower_linear(self, region, anchor)
            elif anchor.op == "attention":
                lower_attention(self, region, anchor)
            elif anchor.op in CONVS:
                lower_conv(self, region, anchor)
            elif anchor.op == "fold":
                lower_fold(self, region, anchor)
            elif anchor.op in WINDOWS:
                lower_pool(self, region, anchor)
            else:
                lower_matmul(self, region, anchor)

    def _view_node(self, node: Node) -> None:
        (source,) = node.operands
        view = self.view(source)
        result: View | None
        if node.op == "reshape":
            result = view.reshape(node.output.shape) or self.materialise(source).reshape(node.output.shape)
        elif node.op == "transpose":
            result = view.transpose(node.attrs["perm"])
        elif node.op == "expand":
            result = view.expand(node.output.shape)
        else:
            axis = node.attrs["axis"] % source.type.rank
            result = view.slice(axis, node.attrs["start"], node.output.shape[axis], node.attrs["step"])
        assert result is not None, f"{node!r}: a row-major value can be seen in any shape"
        self.views[node.output] = result

    def _concat(self, node: Node) -> None:
        if node.output not in self.views:
            self.allocate(node.output, self.preferred_order(node.output))
        whole, start = self.views[node.output], 0
        axis = node.attrs["axis"] % node.output.type.rank
        for part in node.operands:
            length = part.shape[axis]
            target = whole.slice(axis, start, length, 1)
            if not self.view(part).covers(target):
                self.copy(self.view(part), target, part.dtype, self.storage(part), node)
            start = start + length  # type: ignore[assignment]

    def _pad(self, node: Node) -> None:
        (source,) = node.operands
        if any(isinstance(d, int) and d < 0 for d in (*node.attrs["low"], *node.attrs["high"])):
            raise LoweringError("negative padding reached the backend")
        whole = self.allocate(node.output)
        spec_value = node.attrs["value"]
        lower_fill(self, whole, node.output, spec_value, node)
        inner = whole
        for axis, low in enumerate(node.attrs["low"]):
            inner = inner.slice(axis, low, source.shape[axis], 1)
        self.copy(self.view(source), inner, source.dtype, self.storage(source), node)


def why_copied(owner: Node, reader: Node | None) -> str:
    """Why data that ``owner`` yields is copied for ``reader`` (None: for an output), for the report."""
    if owner.op == "concat":
        return "concat puts its parts side by side in memory"
    if owner.op == "pad":
        return "pad makes room around its operand in memory"
    if reader is None:
        return f"an output has to lie in order, and {owner.op} alone moves nothing"
    anchor = Region.of(reader).anchor
    name = reader.op if anchor is None else anchor_name(anchor)
    if reader.op == "fused" and anchor is None:
        name = Region.of(reader).label
    if owner is reader or owner.op not in VIEWS:
        return f"{name} reads its operand in another order than it lies in"
    return f"{name} reads its operand in order, and {owner.op} in front of it alone moves nothing"


def _behind(value: Value) -> Value:
    """What ``value`` only reshapes: both lie in memory alike."""
    while value.node is not None and value.node.op == "reshape" and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    return value


def _varies_along_row(node: Node) -> bool:
    """Whether the ids of a lookup change along the last axis of the result, so that rows cannot be copied whole."""
    if node.op == "take_along":
        return True
    if node.op == "embedding":
        return False
    x = node.inputs[0]
    assert x is not None
    return node.attrs["axis"] % x.type.rank == x.type.rank - 1


def biased(value: Value) -> bool:
    """Whether an int8 value is only ever the x of int8 linears (which read it biased by 128)."""
    value = _whole(value)
    node = value.node
    made = node is not None and (
        node.op in ("quantize_dynamic", "quantize") or (node.op == "fused" and value.dtype is DType.i8)
    )
    return made and bool(value.users) and all(_reads_biased(user, value) for user in value.users)


def _whole(value: Value) -> Value:
    """What ``value`` is a view of."""
    while value.node is not None and value.node.op in VIEWS and value.node.inputs[0] is not None:
        value = value.node.inputs[0]
    return value


def _reads_biased(user: Node, value: Value) -> bool:
    if user.op in ("qlinear", "qconv"):
        weight = user.inputs[2]
        return (
            user.inputs[0] is value
            and user.inputs.count(value) == 1
            and weight is not None
            and weight.dtype is DType.i8
        )
    if user.op in VIEWS:
        return bool(user.output.users) and all(_reads_biased(u, user.output) for u in user.output.users)
    if user.op != "fused":
        return False
    body = user.regions[0]
    inner = [i for i, v in zip(body.inputs, user.inputs, strict=True) if v is value]
    return all(_reads_biased(n, i) for i in inner for n in i.users) and all(i not in body.outputs for i in inner)


def lower_rows_copy(
    low: Lowering, source: View, to: View, dtype: DType, storage: Storage, owner: Node, to_storage: Storage
) -> None:
    """A copy as a row program of one load and one store."""
    program, sizes = copy_program(source, to, storage, to_storage)
    width = dtype.size
    region = Region(owner, (owner,), {}, ())
    pointers = [low.ref(source, width), low.ref(to, width)]
    low.launch(region, program, pointers, sizes, moved=2 * product(to.shape) * width)


def lower_fill(low: Lowering, view: View, value: Value, number: object, owner: Node) -> None:
    """Write one number everywhere in a view."""
    program, sizes = fill_program(view, value.dtype, number)
    pointers = [low.ref(view, value.dtype.size)]
    low.launch(Region(owner, (owner,), {}, ()), program, pointers, sizes, moved=value.type.bytes)


def lower(graph: Graph, isa: str) -> Program:
    """Lower ``graph`` for an ISA level.

    Raises:
        LoweringError: the CPU backend has no kernel for a node; names it and its source line.
    """
    return Lowering(graph, isa).run()
