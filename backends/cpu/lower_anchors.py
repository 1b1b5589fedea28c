"""Linears, matmuls and attention, with the prologue and the epilogues that were fused around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...codegen.program import Ref
from ...codegen.specs import AttentionSpec, LinearSpec, MatmulSpec, Operand, RowProgram
from ...compiler.dims import Dim, product
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.types import DType, float_to_bf16
from . import packing
from .lower_rows import Access, ProgramBuilder
from .narrow_weights import Compute, compute_of, group_size, precision_of, weight_refs
from .regions import LINEARS, Region
from .static_int8 import constants, is_static
from .steps import REDUCING, TRANSCENDENTAL, StepWriter
from .views import View, fold_axes

if TYPE_CHECKING:
    from .lower import Lowering

NULL = Ref(None)


class FlatBuilder(ProgramBuilder):
    """A program over the flattened rows of a linear: every operand has one row stride."""

    def operand(self, value: Value, view: View, strides: tuple[Dim, ...] | None = None) -> int:
        if flat_strides(self.space, self.strides_over(view)) is None:
            view = self.low.materialise(value)
        return super().operand(value, view, strides)

    def flat(self) -> tuple[RowProgram, list[Ref], list[Dim], list[Dim]]:
        """(program, pointers, strides of the operands, extra dims)."""
        operands, tail = [], []
        for access in self.accesses:
            found = flat_strides(self.space, access.strides)
            if found is None:
                raise LoweringError(f"an operand of shape {access.view.shape} has no single row stride")
            row, inner = found
            lone = self.space[-1] == 1  # one element per row: where values vary, it is a row of one
            kind = "unit" if inner == 1 or lone else "broadcast" if inner == 0 else "strided"
            kind = "constant" if access.constant else kind
            operands.append(Operand(access.storage, kind, access.index))  # type: ignore[arg-type]
            tail.append(row)
            if kind == "strided":
                tail.append(inner)
            if access.index is not None:
                tail.extend([access.gather_stride, access.rows])
        inner_size = self.space[-1] if isinstance(self.space[-1], int) else None
        program = RowProgram(tuple(operands), tuple(self.writer.steps), 1, inner_size, len(self.extra))
        return program, [self.low.ref(a.view, a.size) for a in self.accesses], tail, list(self.extra)


def flat_strides(space: Sequence[Dim], strides: Sequence[Dim]) -> tuple[Dim, Dim] | None:
    """(row stride, inner stride) over the flattened rows of ``space``; None if there is no single row stride."""
    folded = fold_axes(space[:-1], strides[:-1])
    return None if folded is None else (folded[1], strides[-1])


def _row_view(low: Lowering, value: Value) -> tuple[View, Dim, Dim]:
    """``value`` as rows with one stride and a contiguous last axis: (view, rows, stride); copied where it is not."""
    view = low.view(value)
    folded = view.rows()
    if folded is None or (view.strides[-1] != 1 and view.shape[-1] != 1):
        view = low.materialise(value)
        folded = view.rows()
    assert folded is not None
    stride = view.shape[-1] if all(d == 1 for d in view.shape[:-1]) else folded[1]
    return view, folded[0], stride


def split_at(nodes: Sequence[Node], anchor: Node) -> tuple[list[Node], list[Node]]:
    at = list(nodes).index(anchor)
    return list(nodes[:at]), list(nodes[at + 1 :])


def _second_stage(anchor: Node, after: Sequence[Node]) -> tuple[int, Value | None]:
    """The cut in front of a static quantisation that a long chain of steps precedes: two loops over the tile are quicker."""
    at = next((i for i, n in enumerate(after) if n.op == "quantize"), 0)
    if at and any(n.op in TRANSCENDENTAL for n in after[:at]):
        inside = {anchor.output, *(v for n in after[:at] for v in n.outputs)}
        crossing = {v for n in after[at:] for v in n.operands if v in inside}
        if len(crossing) == 1 and all(v.dtype is DType.f32 for v in crossing):
            return at, crossing.pop()
    return len(after), None


def _tile_cut(anchor: Node, after: Sequence[Node], linear: bool) -> tuple[int, Value | None]:
    """How many of the nodes behind the anchor run on the accumulators, and the value that whole rows go on with.

    Returns:
        (count, value); value None when everything runs on the accumulators.
    """
    first = next((i for i, n in enumerate(after) if n.op in REDUCING), None)
    if first is None:
        return _second_stage(anchor, after) if linear else (len(after), None)
    for count in range(first, -1, -1):
        inside = {anchor.output, *(v for n in after[:count] for v in n.outputs)}
        crossing = {v for n in after[count:] for v in n.operands if v in inside}
        if len(crossing) <= 1:
            return count, crossing.pop() if crossing else None
    raise AssertionError("with nothing on the accumulators only the anchor's result can pass to the rows")


def lower_linear(low: Lowering, region: Region, anchor: Node) -> None:
    """A linear of any compute type with prologue, tile epilogue and row epilogue."""
    before, after = split_at(region.nodes, anchor)
    quantised = anchor.op == "qlinear"
    weight_at, bias_at = (2, 4) if quantised else (1, 2)
    compute, size = compute_of(anchor), group_size(anchor)
    n, k = (d for d in anchor.inputs[weight_at].shape)  # type: ignore[union-attr]
    space = anchor.output.shape
    fast = compute != "f32"
    weights = _weights(low, region, anchor, weight_at, compute)

    prologue, x_refs, x_dims = _prologue(low, region, anchor, before, compute, fast)
    bias = anchor.inputs[bias_at] if len(anchor.inputs) > bias_at else None
    tile, row = epilogues(low, region, anchor, after, bias, fast)
    programs, pointers, strides, extra = flattened(prologue, tile, row)
    assert programs[1] is not None
    static = compute == "w8a8" and is_static(anchor)
    scales: Literal["f32", "bf16"] = "bf16" if size is not None and anchor.inputs[3].dtype is DType.bf16 else "f32"  # type: ignore[union-attr]
    spec = LinearSpec(compute, any_width(programs[1]), programs[0], programs[2], static=static, scales=scales)
    sizes = [product(space[:-1]), n, k, x_dims, *strides, *extra, *([] if size is None else [size])]
    low.launch(region, spec, [*x_refs, *weights, *pointers], sizes, precision_of(compute, size, static))


def any_width(program: RowProgram) -> RowProgram:
    """``program`` for rows of any length: fewer kernels are built."""
    return replace(program, inner_size=None)


def epilogues(
    low: Lowering, region: Region, anchor: Node, after: Sequence[Node], bias: Value | None, fast: bool,
    factor: View | None = None,
) -> tuple[FlatBuilder, FlatBuilder | None]:  # fmt: skip
    """The programs behind the sums of ``anchor``, with room for the results: (on the accumulators, on whole rows).

    Args:
        factor: f32 for each column that the sums are multiplied with first.
    """
    space = anchor.output.shape
    tile = FlatBuilder(low, space, StepWriter(fast))
    count, carried = _tile_cut(anchor, after, anchor.op in LINEARS)
    tile.writer.env[anchor.output] = "acc"
    if factor is not None:
        tile.accesses.append(Access("f32", 4, factor, tile.strides_over(factor)))
        scale = tile.writer.emit("load", len(tile.accesses) - 1)
        tile.writer.env[anchor.output] = tile.writer.emit("mul", "acc", scale)
    if bias is not None:
        real = region.outer[bias]
        tile.read(real)
        sums = tile.writer.env[anchor.output]
        tile.writer.env[anchor.output] = tile.writer.emit("add", sums, tile.writer.env[real])
    rounded = anchor.output.dtype is DType.bf16 and any(anchor.output in node.operands for node in after)
    if rounded:
        tile.writer.env[anchor.output] = tile.writer.emit("cast", tile.writer.env[anchor.output], mode="bf16")
    tile.run(after[:count], region.outer)
    on_tile = {anchor.output, *(v for node in after[:count] for v in node.outputs)}
    targets = {inside: value for inside, value in region.results if value.use_count or value in low.graph.outputs}
    views = {inside: _room(low, tile, value) for inside, value in targets.items()}
    for inside, value in targets.items():
        if inside in on_tile:
            tile.store(value, views[inside], inside)
    if carried is None and count == len(after):
        return tile, None
    row = FlatBuilder(low, space, StepWriter(fast))
    if carried is not None:
        tile.writer.store(-1, tile.writer.env[carried])
        row.writer.env[carried] = "row"
    row.run(after[count:], region.outer)
    for inside, value in targets.items():
        if inside not in on_tile:
            row.store(value, views[inside], inside)
    return tile, row


def _room(low: Lowering, rows: FlatBuilder, value: Value) -> View:
    """Where a result of ``rows`` goes: into the concatenation that reads it, or in the order that its reader wants, if its
    rows have one stride there."""
    place = low.home(value)
    if place is None and (order := low.preferred_order(value)) is not None:
        place = low.allocate(value, order)
    if place is not None and flat_strides(rows.space, rows.strides_over(place)) is not None:
        return place
    return low.allocate(value)


def flattened(
    *builders: FlatBuilder | None,
) -> tuple[list[RowProgram | None], list[Ref], list[Dim], list[Dim]]:
    """The programs of an anchor, their pointers, the strides of their operands, and their extra dims, in order."""
    programs: list[RowProgram | None] = []
    pointers: list[Ref] = []
    strides: list[Dim] = []
    extra: list[Dim] = []
    for builder in builders:
        if builder is None:
            programs.append(None)
            continue
        program, refs, tail, more = builder.flat()
        programs.append(program)
        pointers.extend(refs)
        strides.extend(tail)
        extra.extend(more)
    return programs, pointers, strides, extra


def _prologue(
    low: Lowering, region: Region, anchor: Node, before: list[Node], compute: Compute, fast: bool
) -> tuple[FlatBuilder | None, list[Ref], Dim]:
    """The prologue (None if x is read from memory), the pointers to x (and its scales), and x's leading dimension."""
    x = anchor.inputs[0]
    assert x is not None
    quantised = compute in ("w8a8", "w4a8")
    if before:
        builder = FlatBuilder(low, x.shape, StepWriter(fast))
        builder.run(before, region.outer)
        builder.writer.store(-1, builder.writer.env[x])
        if quantised and not is_static(anchor):
            builder.writer.store(-2, builder.writer.env[anchor.inputs[1]])  # type: ignore[index]
        return builder, [NULL] * (2 if quantised else 1), x.shape[-1]
    view, _, stride = _row_view(low, region.outer[x])
    refs = [low.ref(view, x.dtype.size)]
    if quantised:
        if is_static(anchor):
            refs.append(NULL)
        else:
            scales = low.materialise(region.outer[anchor.inputs[1]])  # type: ignore[index]
            refs.append(low.ref(scales, 4))
        if compute == "w8a8" and low.storage(region.outer[x]) != "i8b":
            view = biased_copy(low, region.outer[x], view, region.owner)
            refs[0], stride = low.ref(view, 1), x.shape[-1]
    return None, refs, stride


def biased_copy(low: Lowering, value: Value, view: View, owner: Node) -> View:
    """int8 rows as the biased bytes that the dot product reads."""
    dense = View.dense(low.buffer(f"{value.name}.biased", "arena", value.type.bytes), value.shape)
    low.copy(view, dense, DType.i8, "i8", owner, "i8b")
    return dense


def _weights(low: Lowering, region: Region, anchor: Node, at: int, compute: Compute) -> list[Ref]:
    """Packed weights (and column scales and compensation): constants of the artifact."""
    if compute in ("w8a16", "w4a16", "w4a8"):
        return weight_refs(low, region, anchor, compute)
    weight = region.outer[anchor.inputs[at]]  # type: ignore[index]
    array = low.graph.array(weight)
    if array is None:
        raise LoweringError("the weight is not a constant", "use matmul for a product of two run-time tensors")
    ref = weight.node.attrs["ref"]  # type: ignore[union-attr]
    isa = low.isa
    if compute == "w8a8" and is_static(anchor):
        number = low.weight(("w8a8", ref), f"{ref}.w8", lambda: packing.packed(array, compute, isa))
        return [Ref(number), *constants(low, region, anchor, ref, [array])]
    if compute == "w8a8":
        sums = packing.compensation(array, isa)
        number = low.weight(("w8a8", ref), f"{ref}.w8", lambda: packing.packed(array, compute, isa))
        comp = low.weight(("comp", ref), f"{ref}.comp", lambda: sums)
        scale_value = region.outer[anchor.inputs[3]]  # type: ignore[index]
        scale = low.graph.array(scale_value)
        if scale is None:
            raise LoweringError("the scales of the weight are not constant")
        scale_ref = scale_value.node.attrs["ref"]  # type: ignore[union-attr]
        padded = np.zeros(sums.shape[0], np.float32)
        padded[: array.shape[0]] = np.broadcast_to(scale.reshape(-1), (array.shape[0],))
        scales = low.weight(("scale", scale_ref, array.shape[0]), f"{scale_ref}.columns", lambda: padded)
        return [Ref(number), Ref(scales), Ref(comp)]
    if compute == "bf16":
        bits = array if array.dtype == np.uint16 else float_to_bf16(array)
        return [Ref(low.weight(("bf16", ref), f"{ref}.bf16", lambda: packing.packed(bits, compute, isa)))]
    return [Ref(low.weight(("f32", ref), f"{ref}.f32", lambda: packing.packed(array, compute, isa)))]


def lower_attention(low: Lowering, region: Region, anchor: Node) -> None:
    """Attention over strided q, k and v; the result lies in the order its reader wants."""
    if len(region.nodes) != 1:
        raise LoweringError("nothing can be fused into attention")
    q, k, v = (region.outer[i] for i in anchor.inputs[:3])  # type: ignore[index]
    mask = anchor.inputs[3] if len(anchor.inputs) > 3 else None
    views = []
    for value in (q, k, v):
        view = low.view(value)
        if view.strides[-1] != 1 and view.shape[-1] != 1:
            view = low.materialise(value)
        views.append(view)
    head, width = q.shape[-1], v.shape[-1]
    if not isinstance(head, int) or not isinstance(width, int):
        raise LoweringError("the head size must be known at compile time")
    if q.dtype not in (DType.f32, DType.bf16):
        raise LoweringError(f"there is no attention kernel for {q.dtype}")
    ((_, result),) = region.results
    order = low.preferred_order(result)
    if order is not None and order[-1] != len(order) - 1:  # the kernel stores rows
        order = None
    out = low.allocate(result, order)
    kind: Literal["none", "bias", "bool"] = "none"
    mask_ref, mask_strides = NULL, [0, 0, 0, 0]
    if mask is not None:
        real = region.outer[mask]
        kind = "bool" if real.dtype is DType.bool else "bias"
        if real.dtype not in (DType.bool, DType.f32):
            raise LoweringError(f"a mask of {real.dtype} reached the backend")
        view = low.view(real)
        mask_ref = low.ref(view, real.dtype.size)
        lead = 4 - len(view.shape)
        mask_strides = [0 if i < lead or view.shape[i - lead] == 1 else view.strides[i - lead] for i in range(4)]  # type: ignore[misc]
    causal = bool(anchor.attrs["causal"])
    spec = AttentionSpec(
        "bf16" if q.dtype is DType.bf16 else "f32", head, width, low.storage(q), low.storage(result), kind, causal,
        float(anchor.attrs["scale"]), anchor.attrs["empty_row"],
    )  # fmt: skip
    sizes: list[Dim] = [q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2]]
    for view in (*views, out):
        sizes.extend(0 if d == 1 else s for d, s in zip(view.shape[:3], view.strides[:3], strict=True))
    sizes.extend([*mask_strides, anchor.attrs["causal_offset"]])
    pointers = [*(low.ref(view, value.dtype.size) for view, value in zip(views, (q, k, v), strict=True)), mask_ref,
                low.ref(out, result.dtype.size)]  # fmt: skip
    low.launch(region, spec, pointers, sizes, spec.compute)


def lower_matmul(low: Lowering, region: Region, anchor: Node) -> None:
    """A product of two run-time tensors with an elementwise epilogue."""
    before, after = split_at(region.nodes, anchor)
    if before:
        raise LoweringError("a matmul has no prologue")
    a, b = (region.outer[i] for i in anchor.inputs)  # type: ignore[index]
    space = anchor.output.shape
    batch = space[:-2]
    dtype = {DType.f16: None}.get(a.dtype, a.dtype.value)
    if dtype not in ("f32", "bf16", "f64", "i32", "i64"):
        raise LoweringError(f"there is no matmul kernel for {a.dtype}")
    builder = ProgramBuilder(low, space, StepWriter(a.dtype is DType.bf16))
    builder.writer.env[anchor.output] = "acc"
    builder.run(after, region.outer)
    tail: list[Dim] = []

    def strides(view: View) -> list[Dim]:
        lead = len(batch) - (len(view.shape) - 2)
        wide = [0 if i < lead or view.shape[i - lead] == 1 else view.strides[i - lead] for i in range(len(batch))]
        return [*wide, *view.strides[-2:]]

    a_view, b_view = low.view(a), low.view(b)
    results = [(inside, value) for inside, value in region.results if value.use_count or value in low.graph.outputs]
    (inside, result), others = results[0], results[1:]
    out = low.allocate(result, low.preferred_order(result))
    for other_inside, other in others:
        builder.store(other, low.allocate(other), other_inside)
    builder.writer.store(-1, builder.writer.env[inside])
    operands = []
    for access in builder.accesses:
        lone = space[-1] == 1
        kind = "unit" if access.strides[-1] == 1 or lone else "broadcast" if access.strides[-1] == 0 else "strided"
        operands.append(Operand(access.storage, kind, access.index))  # type: ignore[arg-type]
        tail.extend(access.strides)
    program = RowProgram(tuple(operands), tuple(builder.writer.steps), max(len(space) - 1, 1), None, len(builder.extra))
    spec = MatmulSpec(dtype, len(batch), program, low.storage(result))  # type: ignore[arg-type]
    refs = [low.ref(a_view, a.dtype.size), low.ref(b_view, b.dtype.size), low.ref(out, result.dtype.size)]
    refs.extend(low.ref(access.view, access.size) for access in builder.accesses)
    sizes = [
        *batch,
        space[-2],
        space[-1],
        a.shape[-1],
        *strides(a_view),
        *strides(b_view),
        *strides(out),
        *tail,
        *builder.extra,
    ]
    low.launch(region, spec, refs, sizes, dtype if dtype in ("bf16",) else "f32")
