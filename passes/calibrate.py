"""Run example inputs through the graph and keep what the weight methods need of each linear's input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext


@dataclass
class Statistics:
    """Rows that reached a linear: a bounded sample, and the range of every channel over all of them."""

    rows: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seen: int = 0


def collect(
    graph: Graph,
    values: Iterable[Value],
    batches: Sequence[Mapping[str, np.ndarray]],
    context: PassContext,
    *,
    most_rows: int = 256,
    seed: int = 0,
) -> dict[Value, Statistics]:
    """Interpret ``graph`` on every batch and gather statistics of ``values`` (f32, last axis = channels).

    Memory stays bounded: at most ``most_rows`` rows per value are kept, each row seen with equal chance.

    Raises:
        UsageError: the data holds a NaN or an infinity where a value is to be quantised.
    """
    from ..compiler.interpret import interpret, to_numpy

    wanted = {v.node: v for v in values if v.node is not None}
    given = {v.name: v for v in values if v.node is None}
    rng = np.random.default_rng(seed)
    found: dict[Value, Statistics] = {}

    def add(value: Value, array: np.ndarray) -> None:
        rows = array.reshape(-1, array.shape[-1]).astype(np.float32, copy=False)
        if not rows.size:
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        if not np.isfinite(low).all() or not np.isfinite(high).all():
            raise UsageError(f"the example data gives NaN or infinity in front of {_reader(value)}",
                             "calibrate on data that the model can process")  # fmt: skip
        keep = rows if len(rows) <= most_rows else rows[rng.choice(len(rows), most_rows, replace=False)]
        if value not in found:
            found[value] = Statistics(keep.copy(), low, high, len(rows))
            return
        old = found[value]
        merged = np.concatenate([old.rows, keep])
        chance = np.concatenate(
            [np.full(len(old.rows), old.seen / len(old.rows)), np.full(len(keep), len(rows) / len(keep))]
        )
        if len(merged) > most_rows:
            merged = merged[rng.choice(len(merged), most_rows, replace=False, p=chance / chance.sum())]
        found[value] = Statistics(merged, np.minimum(old.low, low), np.maximum(old.high, high), old.seen + len(rows))

    def hook(node: Node, operands: object, outcome: tuple) -> None:
        value = wanted.get(node)
        if value is not None:
            add(value, to_numpy(outcome[node.outputs.index(value)]))

    for done, batch in enumerate(batches):
        context.advance("calibrating", done, len(batches))
        for name, value in given.items():
            add(value, np.asarray(batch[name]))
        interpret(graph, batch, hook=hook)
    context.advance("calibrating", len(batches), len(batches))
    return found


def _reader(value: Value) -> str:
    return next((u.name for u in value.users if u.name), f"%{value.name}")
