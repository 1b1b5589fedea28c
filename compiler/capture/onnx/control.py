"""If, Loop and Scan where they fold away or unroll: a graph of the IR runs straight through.

A branch whose condition is known is read in the place of the If. Where it is not, both branches are computed and one result is
selected, which is the same as long as neither can fail. A loop that ends after a number of steps that is known becomes these
steps; where it may end earlier, what it carries is kept from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto

from ...dims import Expr
from ...graph import Node, Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer, NotConstant, symbols_of
from .registry import NOT_TENSORS, op
from .sequences import joined
from .types import dtype_of

#: Steps of a loop, and nodes that they become, up to which it is unrolled.
MOST_STEPS, MOST_NODES = 1024, 20_000
#: Nodes of two branches up to which both are computed.
MOST_BRANCHES = 256
#: Ops that fail where an id is outside of its axis: a branch that is not taken may well hold such ids.
_MAY_FAIL = frozenset({"gather", "take_along", "embedding", "scatter", "put_along"})


# -- If --------------------------------------------------------------------------------------------------------------------
@op("If")
def if_(at: Importer, condition: Value, *, then_branch: GraphProto, else_branch: GraphProto) -> Sequence[Any]:
    verdict = truth(at, condition)
    if verdict is not None:
        return at.body(then_branch if verdict else else_branch, at.scope)
    count = len(at.graph)
    taken, other = at.body(then_branch, at.scope), at.body(else_branch, at.scope)
    added = list(at.graph.nodes)[count:]
    _check_selectable(at, condition, taken, other, added)
    chosen = at.reshape(condition, ())
    return [_select(at, chosen, a, b) for a, b in zip(taken, other, strict=True)]


def truth(at: Importer, condition: Value) -> bool | None:
    """What a condition is, None where that is known at run time alone."""
    known = at.known(condition)
    if known is None or known.size != 1 or isinstance(known.reshape(-1)[0], Expr):
        return None
    return bool(known.reshape(-1)[0])


def _check_selectable(
    at: Importer, condition: Value, taken: Sequence[Any], other: Sequence[Any], added: Sequence[Node]
) -> None:
    sources = at.sources(condition)
    sizes = [] if sources else at.sizes(condition)
    why = f" as it depends on {', '.join(sizes)}" if sizes else ""
    for a, b in zip(taken, other, strict=True):
        if isinstance(a, NOT_TENSORS) or isinstance(b, NOT_TENSORS):
            raise NotConstant(
                f"its condition is not known{why}, and its branches give sequences or optionals", sources, sizes
            )
        if a.type != b.type:
            raise NotConstant(
                f"its condition is not known{why}, and its branches give {a.type} or {b.type}", sources, sizes
            )
    if condition.type.elements != 1:
        raise Unsupported(f"its condition is {condition.type}, and not one truth value")
    if len(added) > MOST_BRANCHES:
        raise NotConstant(
            f"its condition is not known{why}, and its branches are too large to compute both ({len(added)} nodes)",
            sources,
        )
    risky = next((n for n in added if n.op in _MAY_FAIL and at.array(n.inputs[1]) is None), None)
    if risky is not None:
        raise NotConstant(
            f"its condition is not known{why}, and a branch that is not taken might fail (at {risky.name})",
            sources,
            sizes,
        )


def _select(at: Importer, condition: Value, a: Value, b: Value) -> Value:
    return a if a is b else at.emit("where", condition, a, b)


# -- Loop ------------------------------------------------------------------------------------------------------------------
@op("Loop", sequences=True)
def loop(
    at: Importer, trips: Value | None = None, condition: Value | None = None, *carried: Any, body: GraphProto
) -> Sequence[Any]:
    most = _trips(at, trips)
    alive: Value | None = None  # whether the loop still runs, where that is known at run time alone
    verdict = True if condition is None else truth(at, condition)
    if verdict is None:
        alive = condition
    held: list[Any] = list(carried)
    scanned: list[list[Value]] = [[] for _ in body.output[1 + len(held) :]]
    step, before = 0, len(at.graph)
    while verdict is not False and (most is None or step < most):
        if step >= MOST_STEPS or len(at.graph) - before > MOST_NODES:
            raise Unsupported(f"it takes more than {step} steps, which is too many to unroll")
        if alive is not None and most is None:
            raise NotConstant("how often it runs depends on the data", at.sources(alive))
        number = at.constant(np.asarray(step, np.int64), DType.i64, "step")
        going = at.constant(np.asarray(True), DType.bool, "going")
        start = len(at.graph)
        again, *results = at.body(body, at.scope, [number, going, *held])
        new, made = results[: len(held)], results[len(held) :]
        if alive is not None:
            if scanned:
                raise NotConstant("how many results it collects depends on the data", at.sources(alive))
            _check_selectable(at, alive, held, new, list(at.graph.nodes)[start:])
            new = [_select(at, at.reshape(alive, ()), a, b) for a, b in zip(new, held, strict=True)]
        held = new
        for have, more in zip(scanned, made, strict=True):
            have.append(more)
        verdict = truth(at, again)
        if verdict is None and (most is None or step + 1 < most):
            now = at.reshape(again, ())
            alive = now if alive is None else at.emit("logical_and", at.reshape(alive, ()), now)
        step += 1
    outputs = body.output[1 + len(held) :]
    return [*held, *(_stacked(at, have, o) for have, o in zip(scanned, outputs, strict=True))]


def _trips(at: Importer, trips: Value | None) -> int | None:
    if trips is None:
        return None
    (count,) = at.dims(trips, "the number of its steps")
    if isinstance(count, Expr):
        raise NotConstant(f"it takes as many steps as {count}, a size that varies", (), symbols_of([count]))
    return max(int(count), 0)


def _stacked(at: Importer, steps: Sequence[Any], info: Any, axis: int = 0) -> Value:
    """What every step gave, along a new axis."""
    if any(isinstance(s, NOT_TENSORS) for s in steps):
        raise Unsupported("it collects sequences or optionals")
    if steps:
        return joined(at, steps, axis, True)
    tensor = info.type.tensor_type  # no step was taken: only the file says what there would have been
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        raise Unsupported("it takes no step, and the shape of what it would collect is not known")
    dtype = dtype_of(tensor.elem_type)
    shape = [d.dim_value for d in tensor.shape.dim]
    shape.insert(axis % (len(shape) + 1), 0)
    return at.constant(np.zeros(shape, dtype.numpy), dtype, "none")


# -- Scan ------------------------------------------------------------------------------------------------------------------
@op("Scan", since=9)
def scan(
    at: Importer, *operands: Value, body: GraphProto, num_scan_inputs: int, scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None, scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
) -> Sequence[Value]:  # fmt: skip
    split = len(operands) - num_scan_inputs
    held, walked = list(operands[:split]), operands[split:]
    outputs = body.output[split:]
    axes = scan_input_axes or [0] * len(walked)
    backwards = scan_input_directions or [0] * len(walked)
    out_axes = scan_output_axes or [0] * len(outputs)
    out_backwards = scan_output_directions or [0] * len(outputs)
    lengths = {x.shape[axis] for x, axis in zip(walked, axes, strict=True)}
    if len(lengths) != 1:
        raise Unsupported(f"it walks along sizes that differ: {', '.join(map(str, lengths))}")
    (length,) = lengths
    if isinstance(length, Expr):
        raise NotConstant(f"it takes as many steps as {length}, a size that varies", (), symbols_of([length]))
    scanned: list[list[Value]] = [[] for _ in outputs]
    before = len(at.graph)
    for step in range(length):
        if step >= MOST_STEPS or len(at.graph) - before > MOST_NODES:
            raise Unsupported(f"it takes {length} steps, which are too many to unroll")
        slices = [
            _element(at, x, axis, length - 1 - step if back else step)
            for x, axis, back in zip(walked, axes, backwards, strict=True)
        ]
        results = at.body(body, at.scope, [*held, *slices])
        held = results[:split]
        for have, more, back in zip(scanned, results[split:], out_backwards, strict=True):
            have.insert(0 if back else len(have), more)
    return [
        *held, *(_stacked(at, have, o, axis) for have, o, axis in zip(scanned, outputs, out_axes, strict=True))
    ]  # fmt: skip


def _element(at: Importer, x: Value, axis: int, place: int) -> Value:
    axis %= x.type.rank
    part = at.slice(x, axis, place, place + 1)
    return at.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))
