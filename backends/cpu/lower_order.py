"""Running reductions, sorting, searching and writes by index: one kernel each, over strided operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...codegen.program import Ref
from ...codegen.specs import KernelSpec, ScanSpec, ScatterSpec, SearchSpec, SortSpec
from ...compiler.dims import Dim, dim_min
from ...compiler.graph import Node, Value
from ...passes.facts import uniform
from .lower_rows import fill_program
from .regions import Region
from .views import View, collapse

if TYPE_CHECKING:
    from .lower import Lowering

_SCANS = {"cumsum": "sum", "cumprod": "prod", "logcumsumexp": "logsumexp", "cummax": "max", "cummin": "min"}
Strides = list[Dim]


class Walk:
    """How a kernel walks its operands: outer axes (merged where every operand has one stride for them), then inner ones.

    Args:
        sizes: of the outer axes.
        operands: per operand its strides along the outer axes and along the inner ones.
    """

    def __init__(self, sizes: Sequence[Dim], operands: Sequence[tuple[Strides, Strides]]) -> None:
        self.sizes, outer = collapse(sizes, [outer for outer, _ in operands])
        self.strides = [d for own, (_, inner) in zip(outer, operands, strict=True) for d in (*own, *inner)]

    @property
    def rank(self) -> int:
        return len(self.sizes)


def _padded(view: View | None, rank: int) -> tuple[Dim, ...]:
    """Strides of a view (zeros where there is none); a rank-0 value counts as one element."""
    return (0,) * rank if view is None else view.strides or (0,)


def _split(strides: Sequence[Dim], inner: Sequence[int]) -> tuple[Strides, Strides]:
    """Strides of the other axes in order, and of ``inner``."""
    return [s for a, s in enumerate(strides) if a not in inner], [strides[a] for a in inner]


def _results(low: Lowering, node: Node) -> list[View | None]:
    """Memory for each result that anybody reads."""
    return [low.allocate(v) if v.use_count or v in low.graph.outputs else None for v in node.outputs]


def _refs(low: Lowering, pairs: Sequence[tuple[View | None, Value]]) -> list[Ref]:
    return [Ref(None) if view is None else low.ref(view, value.dtype.size) for view, value in pairs]


def _launch(low: Lowering, node: Node, spec: KernelSpec, refs: list[Ref], sizes: Sequence[Dim]) -> None:
    low.launch(Region.of(node), spec, refs, sizes)


def lower_scan(low: Lowering, node: Node) -> None:
    """A running reduction; columns beside the axis run together."""
    (x,) = node.operands
    shape = x.shape or (1,)
    rank, axis = len(shape), node.attrs["axis"] % len(shape)
    source, results = low.view(x), _results(low, node)
    column = rank - 1 if axis != rank - 1 else None
    inner = [axis] if column is None else [axis, column]
    operands = [_split(_padded(view, rank), inner) for view in (source, *results)]
    walk = Walk(
        [d for a, d in enumerate(shape) if a not in inner],
        [(outer, steps if column is not None else [*steps, 0]) for outer, steps in operands],
    )
    spec = ScanSpec(_SCANS[node.op], low.storage(x), walk.rank)  # type: ignore[arg-type]
    refs = _refs(low, [(source, x), *zip(results, node.outputs, strict=True)])
    _launch(low, node, spec, refs, [*walk.sizes, shape[axis], 1 if column is None else shape[column], *walk.strides])


def lower_sort(low: Lowering, node: Node) -> None:
    """``sort`` and ``topk``: rows along the axis."""
    (x,) = node.operands
    shape = x.shape or (1,)
    rank, axis = len(shape), node.attrs["axis"] % len(shape)
    source, results = low.view(x), _results(low, node)
    walk = Walk(
        [d for a, d in enumerate(shape) if a != axis],
        [_split(_padded(view, rank), [axis]) for view in (source, *results)],
    )
    descending = node.attrs["largest"] if node.op == "topk" else node.attrs["descending"]
    count = node.attrs["k"] if node.op == "topk" else shape[axis]
    spec = SortSpec(low.storage(x), bool(descending), walk.rank)
    refs = _refs(low, [(source, x), *zip(results, node.outputs, strict=True)])
    _launch(low, node, spec, refs, [*walk.sizes, shape[axis], count, *walk.strides])


def lower_search(low: Lowering, node: Node) -> None:
    """``searchsorted``: one row of sorted numbers for all, or one for each row."""
    edges, x = node.operands
    shape = x.shape or (1,)
    rank = len(shape)
    edges_view, view, (result,) = low.view(edges), low.view(x), _results(low, node)
    lead = (0,) * (rank - 1) if edges.type.rank == 1 else edges_view.strides[:-1]
    walk = Walk(
        shape[:-1],
        [
            ([*lead], [edges_view.strides[-1]]),
            *(_split(_padded(v, rank), [rank - 1]) for v in (view, result)),
        ],
    )
    spec = SearchSpec(low.storage(x), bool(node.attrs["right"]), node.attrs["dtype"].value, walk.rank)
    refs = _refs(low, [(edges_view, edges), (view, x), (result, node.output)])
    _launch(low, node, spec, refs, [*walk.sizes, edges.shape[-1], shape[-1], *walk.strides])


def lower_scatter(low: Lowering, node: Node) -> None:
    """``scatter`` (as legalised: x is [outer, rows, columns], the ids one row) and ``put_along``: a copy, written into."""
    x, ids, source = node.operands
    elements = node.op == "put_along"
    rank, axis = x.type.rank, node.attrs["axis"] % x.type.rank
    views = [low.view(ids), low.view(source)]
    (out,) = _results(low, node)
    assert out is not None
    _fill(low, x, out, node)
    column = rank - 1 if axis != rank - 1 else None
    inner = [axis] if column is None else [axis, column]
    if elements:
        strides = [_split(v.strides, inner) for v in (*views, out)]
        strides = [(outer, steps if column is not None else [*steps, 0]) for outer, steps in strides]
    else:
        strides = [([0], [*views[0].strides, 0]), *(_split(v.strides, inner) for v in (views[1], out))]
    # The ids may cover a part of x; a size that is larger at run time must not reach beyond it.
    wanted = ids.shape if elements else source.shape
    shape = [d if a == axis or d == x.shape[a] else dim_min(d, x.shape[a]) for a, d in enumerate(wanted)]
    walk = Walk([d for a, d in enumerate(shape) if a not in inner], strides)
    spec = ScatterSpec(low.storage(x), low.storage(ids), node.attrs["reduce"], elements, walk.rank)
    columns: Dim = 1 if column is None else shape[column]
    refs = _refs(low, [(views[0], ids), (views[1], source), (out, node.output)])
    _launch(low, node, spec, refs, [*walk.sizes, shape[axis], columns, x.shape[axis], *walk.strides])


def _fill(low: Lowering, x: Value, out: View, node: Node) -> None:
    """``out`` as x is: one number everywhere, or a copy."""
    number = uniform(low.graph, x)
    if number is None or (isinstance(number, float) and number != number):
        low.copy(low.view(x), out, x.dtype, low.storage(x), node)
        return
    program, sizes = fill_program(out, x.dtype, number)
    region = Region(node, (node,), {}, ())
    low.launch(region, program, [low.ref(out, x.dtype.size)], sizes, moved=x.type.bytes)


#: Ops that are a kernel of their own -> how each is lowered.
ORDER: dict[str, Callable[[Lowering, Node], None]] = {
    **dict.fromkeys(_SCANS, lower_scan),
    "sort": lower_sort,
    "topk": lower_sort,
    "searchsorted": lower_search,
    "scatter": lower_scatter,
    "put_along": lower_scatter,
}
