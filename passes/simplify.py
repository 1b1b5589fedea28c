"""One spelling per idea: local simplifications, a function per op.

Each function looks at one node and returns what its (only) output can be replaced by, or None. New nodes are inserted in
front of the node. All keep the meaning exactly, NaN and infinity included; what only nearly keeps it does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..compiler import dims
from ..compiler.dims import Expr
from ..compiler.graph import Graph, Node, Value
from ..compiler.ops import BINARY, COMPARE, UNARY
from ..compiler.types import DType
from .facts import integer_range, sequence, uniform
from .grids import grid
from .masks import before_the_batch
from .view_chains import raised_slice, raised_transpose, shortened, sunk_fold, sunk_norm, turned_linear

Simplify = Callable[[Graph, Node], "Value | None"]


def _add(graph: Graph, node: Node, op: str, inputs: list[Value | None], **attrs: object) -> Value:
    return graph.derive(node, op, inputs, attrs, hint=node.output.name)


def _full(graph: Graph, node: Node, value: object) -> Value:
    return _add(graph, node, "full", [], value=value, shape=node.output.shape, dtype=node.output.dtype)


def _spread(graph: Graph, node: Node, value: Value) -> Value:
    """``value`` in the shape of the node's output."""
    return value if value.shape == node.output.shape else _add(graph, node, "expand", [value], shape=node.output.shape)


def _reshape(graph: Graph, node: Node) -> Value | None:
    x = node.inputs[0]
    assert x is not None
    if x.shape == node.output.shape:
        return x
    inner = x.node
    if inner is not None and inner.op == "reshape":
        return _add(graph, node, "reshape", [inner.inputs[0]], shape=node.output.shape)
    if inner is not None and inner.op == "full":
        return _full(graph, node, inner.attrs["value"])
    if inner is not None and inner.op == "expand":
        return _reshape_of_expand(graph, node, inner)
    if inner is not None and inner.op == "linear" and x.type.rank == 2 and x.use_count == 1:
        return _unflattened_linear(graph, node, inner)
    if inner is not None and inner.op == "transpose":
        moved = [i for i, p in enumerate(inner.attrs["perm"]) if x.shape[i] != 1]
        if [inner.attrs["perm"][i] for i in moved] == sorted(inner.attrs["perm"][i] for i in moved):
            return _add(graph, node, "reshape", [inner.inputs[0]], shape=node.output.shape)
    return shortened(graph, node)


def _unflattened_linear(graph: Graph, node: Node, linear: Node) -> Value | None:
    """reshape(linear(x)) of flattened rows as linear(reshape(x)): what follows then has the shape of the residual stream."""
    x, shape = linear.inputs[0], node.output.shape
    assert x is not None
    if len(shape) < 3 or shape[-1] != linear.output.shape[-1] or linear.output in graph.outputs:
        return None
    rows = _add(graph, node, "reshape", [x], shape=(*shape[:-1], x.shape[-1]))
    return graph.insert(
        "linear", [rows, *linear.inputs[1:]], linear.attrs, before=node, name=linear.name, location=linear.location,
        sources=linear.sources, hint=node.output.name,
    ).output  # fmt: skip


def _reshape_of_expand(graph: Graph, node: Node, expand: Node) -> Value | None:
    """reshape(expand(x)) as expand(reshape(x)) where the reshape only adds or drops axes of size 1."""
    source = expand.inputs[0]
    assert source is not None
    kept = [d for d in expand.output.shape if d != 1]
    if kept != [d for d in node.output.shape if d != 1]:
        return None
    offset = expand.output.type.rank - source.type.rank
    sizes = iter([source.shape[i - offset] if i >= offset else 1 for i, d in enumerate(expand.output.shape) if d != 1])
    shape = tuple(1 if d == 1 else next(sizes) for d in node.output.shape)
    return _spread(graph, node, _add(graph, node, "reshape", [source], shape=shape))


def _transpose(graph: Graph, node: Node) -> Value | None:
    x, perm = node.inputs[0], node.attrs["perm"]
    assert x is not None
    if list(perm) == list(range(len(perm))):
        return x
    long = [p for p in perm if x.shape[p] != 1]
    if long == sorted(long) or x.type.elements == 0:
        return _add(graph, node, "reshape", [x], shape=node.output.shape)
    inner = x.node
    if inner is not None and inner.op == "transpose":
        return _add(graph, node, "transpose", [inner.inputs[0]], perm=tuple(inner.attrs["perm"][p] for p in perm))
    if inner is not None and inner.op == "full":
        return _full(graph, node, inner.attrs["value"])
    if inner is not None and inner.op == "expand" and inner.inputs[0].type.rank == x.type.rank:  # type: ignore[union-attr]
        return _spread(graph, node, _add(graph, node, "transpose", [inner.inputs[0]], perm=perm))
    raised = raised_transpose(graph, node)
    return shortened(graph, node) if raised is None else raised


def _expand(graph: Graph, node: Node) -> Value | None:
    x = node.inputs[0]
    assert x is not None
    if x.shape == node.output.shape:
        return x
    if x.node is not None and x.node.op == "expand":
        return _add(graph, node, "expand", [x.node.inputs[0]], shape=node.output.shape)
    if x.node is not None and x.node.op == "full":
        return _full(graph, node, x.node.attrs["value"])
    return None


def _slice(graph: Graph, node: Node) -> Value | None:
    x, attrs = node.inputs[0], node.attrs
    assert x is not None
    axis = attrs["axis"] % x.type.rank
    if attrs["start"] == 0 and attrs["end"] == x.shape[axis] and attrs["step"] == 1:
        return x
    inner = x.node
    if inner is None:
        return None
    if inner.op == "full":
        return _full(graph, node, inner.attrs["value"])
    if inner.op == "slice" and inner.attrs["axis"] % x.type.rank == axis and inner.attrs["step"] == 1 == attrs["step"]:
        start = inner.attrs["start"]
        return _add(
            graph, node, "slice", [inner.inputs[0]], axis=axis, start=start + attrs["start"], end=start + attrs["end"]
        )
    if inner.op == "expand":
        source = inner.inputs[0]
        assert source is not None
        at = axis - (x.type.rank - source.type.rank)
        if at < 0 or source.shape[at] == 1:
            return _spread(graph, node, source)
    if inner.op == "concat" and inner.attrs["axis"] % x.type.rank == axis and attrs["step"] == 1:
        offset: dims.Dim = 0
        for part in inner.operands:
            if attrs["start"] == offset and attrs["end"] == offset + part.shape[axis]:
                return part
            offset = offset + part.shape[axis]
    return raised_slice(graph, node)


def _concat(graph: Graph, node: Node) -> Value | None:
    parts = [v for v in node.operands if v.shape[node.attrs["axis"]] != 0]
    if len(parts) == 1:
        return parts[0]
    axis, rank = node.attrs["axis"], node.output.type.rank
    flat: list[Value] = []
    for v in parts:
        nested = v.node is not None and v.node.op == "concat" and v.use_count == 1 and v not in graph.outputs
        same = nested and v.node.attrs["axis"] % rank == axis % rank  # type: ignore[union-attr]
        flat.extend(v.node.operands if same else [v])  # type: ignore[union-attr]
    if flat and (len(flat) != len(node.inputs) or flat != node.operands):
        return _add(graph, node, "concat", list(flat), axis=axis)
    return None


def _pad(graph: Graph, node: Node) -> Value | None:
    return node.inputs[0] if not any(node.attrs["low"]) and not any(node.attrs["high"]) else None


def _cast(graph: Graph, node: Node) -> Value | None:
    x, dtype = node.inputs[0], node.attrs["dtype"]
    assert x is not None
    if x.dtype is dtype:
        return x
    inner = x.node
    if inner is None:
        return None
    if inner.op == "full":
        value = uniform(graph, node.output)
        return None if value is None else _full(graph, node, value)
    if inner.op == "cast" and _widens(inner.inputs[0].dtype, x.dtype):  # type: ignore[union-attr]
        return _add(graph, node, "cast", [inner.inputs[0]], dtype=dtype)
    if inner.op == "expand":
        return _spread(graph, node, _add(graph, node, "cast", [inner.inputs[0]], dtype=dtype))
    if inner.op == "concat" and x.use_count == 1 and x not in graph.outputs:  # round where the parts are made
        parts: list[Value | None] = [_add(graph, node, "cast", [v], dtype=dtype) for v in inner.operands]
        return _add(graph, node, "concat", parts, axis=inner.attrs["axis"])
    return None


def _widens(narrow: DType, wide: DType) -> bool:
    """Whether every value of ``narrow`` is exact in ``wide``."""
    exact = {
        DType.bool: set(DType), DType.u8: {DType.i16, DType.i32, DType.i64, DType.f32, DType.f64},
        DType.i8: {DType.i16, DType.i32, DType.i64, DType.f32, DType.f64},
        DType.i16: {DType.i32, DType.i64, DType.f32, DType.f64},
        DType.i32: {DType.i64, DType.f64}, DType.f16: {DType.f32, DType.f64}, DType.bf16: {DType.f32, DType.f64},
        DType.f32: {DType.f64},
    }  # fmt: skip
    return wide in exact.get(narrow, set())


def _where(graph: Graph, node: Node) -> Value | None:
    condition, a, b = node.inputs
    known = uniform(graph, condition)
    if known is not None:
        chosen = a if known else b
        assert chosen is not None
        return _spread(graph, node, chosen)
    if a is b and a is not None:
        return _spread(graph, node, a)
    return None


def _identity_operand(op: str, dtype: DType, side: int, number: object) -> bool:
    """Whether ``op`` with ``number`` at ``side`` returns its other operand unchanged, whatever that is."""
    if isinstance(number, Expr):
        return False
    if op == "mul":
        return number == 1
    if op == "div":
        return side == 1 and number == 1 and dtype.is_float
    if op == "add":  # x + 0.0 turns -0.0 into 0.0, x + -0.0 does not; both compare equal, which the contract allows
        return number == 0 and number is not False
    if op == "sub":
        return side == 1 and number == 0
    if op == "pow":
        return side == 1 and number == 1
    if op == "logical_and":
        return bool(number)
    if op in ("logical_or", "logical_xor"):
        return not number
    if op == "bitwise_and":
        return dtype is DType.bool and bool(number)
    if op in ("bitwise_or", "bitwise_xor"):
        return not number
    return False


def _binary(graph: Graph, node: Node) -> Value | None:
    a, b = node.inputs
    assert a is not None and b is not None
    dtype = node.output.dtype
    known = uniform(graph, a), uniform(graph, b)
    for side in (0, 1):
        number = known[side]
        if number is not None and _identity_operand(node.op, a.dtype, side, number):
            other = node.inputs[1 - side]
            assert other is not None
            return _spread(graph, node, other)
        if number is not None and dtype is DType.bool and not isinstance(number, Expr):
            absorbs = {"logical_and": False, "bitwise_and": False, "logical_or": True, "bitwise_or": True}
            if node.op in absorbs and bool(number) is absorbs[node.op]:
                return _full(graph, node, absorbs[node.op])
    if node.op in ("logical_and", "logical_or", "bitwise_and", "bitwise_or", "maximum", "minimum") and a is b:
        return a
    if known[0] is not None and known[1] is not None and node.output.dtype is not DType.bf16:
        folded = _fold_numbers(node.op, known[0], known[1], a.dtype)
        if folded is not None:
            return _full(graph, node, folded)
    decided = _compare(graph, node) if node.op in COMPARE else None
    if decided is None:
        decided = _narrow_operands(graph, node)
    if decided is None:
        decided = _sink_past_number(graph, node) or before_the_batch(graph, node)
    return sunk_fold(graph, node) if decided is None else decided


def _fold_numbers(op: str, a: object, b: object, dtype: DType) -> object | None:
    """The value of ``op`` on two repeated numbers where integers (or dimensions) make it exact; None otherwise."""
    if not dtype.is_integer:
        return None
    if isinstance(a, Expr) or isinstance(b, Expr):
        table = {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b}  # type: ignore[operator]
        return table[op]() if op in table else None
    assert isinstance(a, int) and isinstance(b, int)
    exact = {
        "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "maximum": lambda: max(a, b),
        "minimum": lambda: min(a, b), "eq": lambda: a == b, "ne": lambda: a != b, "lt": lambda: a < b, "le": lambda: a <= b,
        "gt": lambda: a > b, "ge": lambda: a >= b,
    }  # fmt: skip
    value = exact[op]() if op in exact else None
    if value is None or isinstance(value, bool):
        return value
    info = np.iinfo(dtype.numpy)
    return value if info.min <= value <= info.max else None


def _compare(graph: Graph, node: Node) -> Value | None:
    """Decide a comparison of integers whose ranges do not overlap."""
    a, b = integer_range(graph, node.inputs[0]), integer_range(graph, node.inputs[1])
    if a is None or b is None:
        return None
    (al, ah), (bl, bh) = a, b
    true = {
        "ge": al >= bh,
        "gt": al > bh,
        "le": ah <= bl,
        "lt": ah < bl,
        "ne": ah < bl or bh < al,
        "eq": al == ah == bl == bh,
    }
    false = {
        "ge": ah < bl,
        "gt": ah <= bl,
        "le": al > bh,
        "lt": al >= bh,
        "ne": al == ah == bl == bh,
        "eq": ah < bl or bh < al,
    }
    if true[node.op]:
        return _full(graph, node, True)
    return _full(graph, node, False) if false[node.op] else None


def _narrow_operands(graph: Graph, node: Node) -> Value | None:
    """Read the source of an ``expand`` instead: elementwise ops broadcast by themselves."""
    changed = False
    inputs: list[Value | None] = []
    for v in node.inputs:
        wide = v is not None and v.node is not None and v.node.op == "expand"
        inputs.append(v.node.inputs[0] if wide else v)  # type: ignore[union-attr]
        changed |= wide
    if not changed:
        return None
    return _spread(graph, node, _add(graph, node, node.op, inputs, **node.attrs))


def _unary(graph: Graph, node: Node) -> Value | None:
    x = node.inputs[0]
    assert x is not None
    if node.op == "logical_not":
        known = uniform(graph, x)
        if known is not None and not isinstance(known, Expr):
            return _full(graph, node, not known)
    if (
        node.op in ("neg", "logical_not")
        and x.node is not None
        and x.node.op == node.op
        and node.output.dtype is x.dtype
    ):
        return x.node.inputs[0] if x.node.inputs[0].dtype is x.dtype else None  # type: ignore[union-attr]
    narrowed = _narrow_operands(graph, node)
    return _sink_reshape(graph, node) if narrowed is None else narrowed


def _gather(graph: Graph, node: Node) -> Value | None:
    """A gather or embedding by a sequence is a slice; by one repeated id, a row spread out."""
    x, ids = node.inputs
    assert x is not None and ids is not None
    axis = node.attrs["axis"] % x.type.rank if node.op == "gather" else 0
    known = uniform(graph, x)
    if known is not None:
        return _full(graph, node, known)
    only = uniform(graph, ids)
    size = x.shape[axis]
    if isinstance(only, int) and not isinstance(only, bool) and isinstance(size, int) and -size <= only < size:
        row = _add(graph, node, "slice", [x], axis=axis, start=only % size, end=only % size + 1)
        shape = (*x.shape[:axis], *(1 for _ in ids.shape), *x.shape[axis + 1 :])
        return _spread(graph, node, _add(graph, node, "reshape", [row], shape=shape))
    run = sequence(graph, ids)
    if run is None:
        return _gather_of_grid(graph, node, x, ids, axis)
    if run.step < 1 or any(d != 1 for i, d in enumerate(ids.shape) if i != run.axis):
        return None
    last = run.start + run.step * (run.length - 1) + 1
    if dims.bounds(run.start, graph.bounds)[0] < 0 or not _fits(graph, last, size):
        return None
    part = _add(graph, node, "slice", [x], axis=axis, start=run.start, end=last, step=run.step)
    return _add(graph, node, "reshape", [part], shape=node.output.shape)


def _gather_of_grid(graph: Graph, node: Node, x: Value, ids: Value, axis: int) -> Value | None:
    """By ids that count through several axes row by row: a slice in another shape."""
    found = grid(graph, ids)
    count = None if found is None else found.count
    if found is None or count is None or any(d != 1 for i, d in enumerate(ids.shape) if i not in found.axes):
        return None
    if dims.bounds(found.start, graph.bounds)[0] < 0 or not _fits(graph, found.start + count, x.shape[axis]):
        return None
    part = _add(graph, node, "slice", [x], axis=axis, start=found.start, end=found.start + count)
    return _add(graph, node, "reshape", [part], shape=node.output.shape)


def _fits(graph: Graph, end: dims.Dim, size: dims.Dim) -> bool:
    return end == size or dims.bounds(end - size, graph.bounds)[1] <= 0


def _take_along(graph: Graph, node: Node) -> Value | None:
    known = uniform(graph, node.inputs[0])
    return None if known is None else _full(graph, node, known)


def _linear(graph: Graph, node: Node) -> Value | None:
    """linear(reshape(x)) as reshape(linear(x)) where the reshape only folds or splits rows."""
    x = node.inputs[0]
    assert x is not None
    inner = x.node
    if inner is None or inner.op != "reshape":
        return turned_linear(graph, node)
    source = inner.inputs[0]
    assert source is not None
    if source.type.rank < x.type.rank or source.type.rank < 2 or source.shape[-1] != x.shape[-1] or x.type.rank > 2:
        return None
    y = _add(graph, node, "linear", [source, *node.inputs[1:]], **node.attrs)
    return _add(graph, node, "reshape", [y], shape=node.output.shape)


def _sink_reshape(graph: Graph, node: Node) -> Value | None:
    """unary(reshape(x)) as reshape(unary(x)), so that reshapes meet and cancel."""
    x = node.inputs[0]
    assert x is not None
    if x.node is None or x.node.op != "reshape" or x.use_count > 1:
        return None
    y = _add(graph, node, node.op, [x.node.inputs[0]], **node.attrs)
    return _add(graph, node, "reshape", [y], shape=node.output.shape)


def _sink_past_number(graph: Graph, node: Node) -> Value | None:
    """reshape(x) * number as reshape(x * number), for any binary op: reshapes meet and cancel."""
    for side in (0, 1):
        view, number = node.inputs[side], node.inputs[1 - side]
        assert view is not None and number is not None
        if number.type.rank or view.node is None or view.node.op != "reshape" or view.use_count > 1:
            continue
        inputs = [view.node.inputs[0], number] if side == 0 else [number, view.node.inputs[0]]
        y = _add(graph, node, node.op, inputs, **node.attrs)
        return _add(graph, node, "reshape", [y], shape=node.output.shape)
    return None


def _attention(graph: Graph, node: Node) -> Value | None:
    """Masks: drop what is always true or adds nothing, and read the source of an ``expand``."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None:
        return None
    known = uniform(graph, mask)
    if (mask.dtype is DType.bool and known is True) or (mask.dtype.is_float and known == 0):
        return _add(graph, node, "attention", node.inputs[:3], **node.attrs)
    if mask.node is not None and mask.node.op == "expand":
        source = mask.node.inputs[0]
        assert source is not None
        if source.type.rank < 4:
            source = _add(graph, node, "reshape", [source], shape=(1,) * (4 - source.type.rank) + source.shape)
        return _add(graph, node, "attention", [*node.inputs[:3], source], **node.attrs)
    return None


SIMPLIFY: dict[str, Simplify] = {
    "reshape": _reshape, "transpose": _transpose, "expand": _expand, "slice": _slice, "concat": _concat, "pad": _pad,
    "cast": _cast, "where": _where, "gather": _gather, "embedding": _gather, "take_along": _take_along,
    "attention": _attention, "linear": _linear, "layer_norm": sunk_norm, "rms_norm": sunk_norm,
    **dict.fromkeys((*BINARY, *COMPARE), _binary), **dict.fromkeys(UNARY, _unary),
}  # fmt: skip
