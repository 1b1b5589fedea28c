"""Recurrent layers: the sequence is walked inside one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...codegen.program import Ref
from ...codegen.recurrent import GATES, block_units
from ...codegen.specs import RecurrentSpec
from ...compiler.dims import Dim
from ...compiler.errors import LoweringError
from ...compiler.graph import Node, Value
from ...compiler.types import DType, bf16_to_float
from ...passes.facts import uniform
from . import packing
from .builder import Builder
from .regions import Region

if TYPE_CHECKING:
    from .lower import Lowering

NULL = Ref(None)


def legal_recurrent(b: Builder, node: Node) -> Value | None:
    """bf16 and f16 are computed in f32; every result is rounded once."""
    if node.outputs[0].dtype not in (DType.bf16, DType.f16):
        return None
    wide = [None if v is None else _widened(b, v) for v in node.inputs]
    twin = b.graph.insert(
        "recurrent", wide, node.attrs, before=node, name=node.name, location=node.location, sources=node.sources
    )
    narrow = [b("cast", v, dtype=old.dtype) for v, old in zip(twin.outputs, node.outputs, strict=True)]
    for old, new in zip(node.outputs[1:], narrow[1:], strict=True):
        b.graph.replace(old, new)
    return narrow[0]


def _widened(b: Builder, value: Value) -> Value:
    """``value`` in f32; a constant stays one, because weights are packed at compile time."""
    array = b.graph.array(value)
    if array is None:
        return b("cast", value, dtype=DType.f32)
    return b.constant(bf16_to_float(array) if value.dtype is DType.bf16 else array.astype(np.float32), value.name)


def packed_gates(weight: np.ndarray, gates: int, isa: str) -> np.ndarray:
    """The weight [gates * hidden, hidden] as panels: for every block of units, one per gate."""
    hidden, width = weight.shape[1], block_units(isa)
    apart = np.asarray(weight, np.float32).reshape(gates, hidden, hidden)
    blocks = [apart[g, at : at + width] for at in range(0, hidden, width) for g in range(gates)]
    return np.concatenate([packing.pack_f32(block, isa) for block in blocks])


def lower_recurrent(low: Lowering, node: Node) -> None:
    """One launch for one layer in one direction."""
    x, weight, *rest = node.inputs
    assert x is not None and weight is not None
    state, bias = rest[:2], rest[2] if len(rest) > 2 else None
    cell, hidden = node.attrs["cell"], weight.shape[1]
    array = low.graph.array(weight)
    if array is None:
        raise LoweringError("the weights of the recurrence are computed at run time")
    if x.dtype is not DType.f32:
        raise LoweringError(f"there is no recurrent kernel for {x.dtype}", "compile the model in float32")
    view = low.view(x)
    if view.strides[2] != 1:
        view = low.materialise(x)
    ref = weight.node.attrs["ref"]  # type: ignore[union-attr]
    packed = low.weight(("recurrent", ref), f"{ref}.gates", lambda: packed_gates(array, GATES[cell], low.isa))
    region = Region.of(node)
    home = low.home(node.outputs[0])
    steps = low.allocate(node.outputs[0], low.preferred_order(node.outputs[0])) if home is None else home
    if steps.strides[2] != 1 and hidden != 1:
        steps = low.allocate(node.outputs[0])
    ends = [NULL, NULL]
    for i, value in enumerate(node.outputs[1:]):
        if value.use_count or value in low.graph.outputs:
            ends[i] = low.ref(low.allocate(value), 4)
    pointers = [low.ref(view, 4), Ref(packed), *(_start(low, v) for v in (*state, *[None] * (2 - len(state)))),
                NULL if bias is None else low.ref(low.materialise(bias), 4), low.ref(steps, 4), *ends]  # fmt: skip
    dims: list[Dim] = [
        x.shape[0],
        x.shape[1],
        hidden,
        *view.strides[:2],
        *steps.strides[:2],
        int(node.attrs["reverse"]),
    ]
    low.launch(region, RecurrentSpec(cell), pointers, dims)


def _start(low: Lowering, value: Value | None) -> Ref:
    """Where an initial state lies; null where it is zero."""
    if value is None or uniform(low.graph, value) == 0:
        return NULL
    return low.ref(low.materialise(value), 4)
