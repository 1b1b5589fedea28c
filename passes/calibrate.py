"""Run example inputs through the graph and gather, input by input, what weight methods need; memory stays bounded.

Data streams: a batch runs up to the last input that is looked at, holding only what later nodes still read, and leaves sketches
of fixed size behind: a sample of rows, a histogram for each channel. Second moments (``K x K``, for GPTQ) are the one thing
that may grow as large as the weights, so inputs take turns: as many as fit a quarter of the model's size are gathered in one
sweep over the batches, what their weights become is computed and kept, and their moments are dropped before the next sweep.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.graph import Graph, Node, Value
from ..compiler.pass_protocol import PassContext
from .observers.histogram import ChannelHistograms, Histogram
from .recipe import Request, Statistics, make_recipe, needs, recipe_key
from .weights.hessian import SecondMoment
from .weights.store import WeightStore, digest
from .windows import windows

Batches = Sequence[Mapping[str, np.ndarray]]

#: Rows kept of an input: a sample, and of a static one those that reach furthest.
MOST_ROWS, MOST_EXTREMES = 256, 64
#: Part of the model's size that the second moments of one sweep may take.
_SHARE = 0.25


def calibrate(
    graph: Graph,
    requests: Iterable[Request],
    batches: Batches,
    store: WeightStore,
    context: PassContext | None = None,
    *,
    share: float = _SHARE,
) -> None:
    """Make what ``requests`` ask for and put it in ``store``; what is there already is not made again, and where all of it is,
    nothing runs.

    Args:
        graph: the float graph; left alone.
        requests: nodes that read one value, and how they are to be computed.
        batches: inputs by name, as many as there are; each is run at most once per sweep.
        store: takes statistics and recipes; what it holds of other data is dropped.
        context: for progress.
        share: the part of the model's size that the second moments of a sweep may take.

    Raises:
        UsageError: an input is missing or of the wrong shape, or a NaN or an infinity reaches what is to be quantised.
    """
    context = context or PassContext()
    store.use(data_digest(batches))
    order = {node: i for i, node in enumerate(graph.nodes)}
    waiting = sorted(
        (r for r in requests if recipe_key(graph, r, store) not in store),
        key=lambda r: order.get(r.value.node, -1) if r.value.node is not None else -1,
    )
    if not batches:
        return
    for request in [r for r in waiting if not needs(graph, r).rows]:  # the rows of a table, whatever looks them up
        waiting.remove(request)
        store.get(recipe_key(graph, request, store), partial(make_recipe, graph, request, None))
    model = sum(a.nbytes for a in graph.constants.values())
    sweeps = list(_sweeps(graph, waiting, share * model))
    for number, sweep in enumerate(sweeps):
        gatherers = {key: _Gatherer.of(graph, rs, key) for key, rs in _by_input(graph, sweep).items()}
        fresh = {key: g for key, g in gatherers.items() if g.wants_anything(store)}
        if fresh:
            label = "calibrating" if len(sweeps) == 1 else f"calibrating {number + 1}/{len(sweeps)}"
            _run(graph, list(fresh.values()), batches, context, label)
        done = 0
        for key, rs in _by_input(graph, sweep).items():
            gatherer = gatherers.pop(key)
            statistics = gatherer.finish(store, fresh.pop(key, None) is not None)
            for request in rs:
                context.at(request.nodes[0])
                context.advance("quantising", done, len(sweep))
                store.get(recipe_key(graph, request, store), partial(make_recipe, graph, request, statistics))
                done += 1
        context.advance("quantising", done, len(sweep))


def data_digest(batches: Batches) -> str:
    """A name for the data of ``batches``."""
    return digest(*(np.asarray(batch[name]) for batch in batches for name in sorted(batch)))


def _by_input(graph: Graph, requests: Iterable[Request]) -> dict[tuple, list[Request]]:
    """Requests that want the same statistics stand together."""
    found: dict[tuple, list[Request]] = {}
    for request in requests:
        found.setdefault(request.statistics_key(graph), []).append(request)
    return found


def _sweeps(graph: Graph, requests: Sequence[Request], most: float) -> Iterator[list[Request]]:
    """Requests in turns, such that the second moments of a turn take at most ``most`` bytes (one input at least)."""
    sweep: list[Request] = []
    held = 0
    for group in _by_input(graph, requests).values():
        wanted = group[0].channels ** 2 * 4 if any(needs(graph, r).moment for r in group) else 0
        if sweep and wanted and held + wanted > most:
            yield sweep
            sweep, held = [], 0
        sweep.extend(group)
        held += wanted
    if sweep:
        yield sweep


@dataclass
class _Gatherer:
    """What is gathered of one input.

    Attributes:
        value: the input.
        key: under which the store keeps its statistics.
        conv: the convolution whose windows are sampled; None for rows of the last axis.
        statistics: so far.
        rng: chooses rows; seeded by the key, so that the choice depends on nothing else.
    """

    value: Value
    key: tuple
    conv: Node | None
    wants_histogram: bool
    moment: SecondMoment | None
    statistics: Statistics
    rng: np.random.Generator

    @staticmethod
    def of(graph: Graph, requests: Sequence[Request], key: tuple) -> _Gatherer:
        asked = [needs(graph, r) for r in requests]
        first = requests[0]
        conv = first.nodes[0] if first.nodes[0].op == "conv" else None
        return _Gatherer(
            first.value, key, conv, any(n.histogram for n in asked),
            SecondMoment(first.channels) if any(n.moment for n in asked) else None,
            Statistics(), np.random.default_rng(zlib.crc32(repr(key).encode())),
        )  # fmt: skip

    def wants_anything(self, store: WeightStore) -> bool:
        """Whether the store lacks something; what it has is taken from there."""
        if ("statistics", *self.key) in store:
            held: Statistics = store.get(("statistics", *self.key), Statistics)
            has = not self.wants_histogram or held.channels is not None or held.tensor is not None
            if has and self.moment is None:
                self.statistics = held
                return False
        return True

    def finish(self, store: WeightStore, gathered: bool) -> Statistics:
        """The statistics; all but the second moment stay in the store."""
        found = self.statistics
        if gathered:
            key = ("statistics", *self.key)
            store.drop(key)
            store.get(key, lambda: replace(found, moment=None))
        if self.moment is not None:
            found.moment = self.moment.take()
            self.moment = None
        return found

    def add(self, array: np.ndarray) -> None:
        """Count what one batch gave."""
        if not array.size:
            return
        array = array.astype(np.float32, copy=False)
        if self.conv is not None:
            low, high = np.array([array.min()]), np.array([array.max()])
            self._check(low, high)
            sample = windows(array, self.conv, MOST_ROWS, self.rng)
            seen = array.size // array.shape[1]
            if self.statistics.tensor is None:
                self.statistics.tensor = Histogram()
            self.statistics.tensor.add(array)
        else:
            rows = array.reshape(-1, array.shape[-1])
            low, high, seen = rows.min(axis=0), rows.max(axis=0), len(rows)
            self._check(low, high)
            sample = rows if seen <= MOST_ROWS else rows[self.rng.choice(seen, MOST_ROWS, replace=False)]
            if self.wants_histogram:
                if self.statistics.channels is None:
                    self.statistics.channels = ChannelHistograms(rows.shape[1])
                self.statistics.channels.add(rows)
            if self.moment is not None:
                self.moment.add(rows)
        self.statistics.merge(sample, low, high, seen, self.rng, MOST_ROWS)
        if self.wants_histogram and self.conv is None:
            self.statistics.keep_extremes(rows, MOST_EXTREMES)

    def _check(self, low: np.ndarray, high: np.ndarray) -> None:
        if not np.isfinite(low).all() or not np.isfinite(high).all():
            reader = next((u.name for u in self.value.users if u.name), f"%{self.value.name}")
            raise UsageError(f"the example data gives NaN or infinity in front of {reader}",
                             "calibrate on data that the model can process")  # fmt: skip


def _run(graph: Graph, gatherers: Sequence[_Gatherer], batches: Batches, context: PassContext, label: str) -> None:
    """One sweep: every batch through the part of the graph that the gatherers' inputs need."""
    from ..compiler.interpret import Interpreter, ordered_inputs, to_numpy, to_torch

    part, twins = _prefix(graph, [g.value for g in gatherers])
    wanted: dict[Node, list[tuple[int, _Gatherer]]] = {}
    given: list[tuple[int, _Gatherer]] = []
    places = {value: i for i, value in enumerate(part.inputs)}
    for gatherer in gatherers:
        twin = twins[gatherer.value]
        if twin.node is None:
            given.append((places[twin], gatherer))
        else:
            wanted.setdefault(twin.node, []).append((twin.node.outputs.index(twin), gatherer))

    def hook(node: Node, operands: object, outcome: tuple) -> None:
        for place, gatherer in wanted.get(node, ()):
            gatherer.add(to_numpy(outcome[place]))

    interpreter = Interpreter(part, hook)
    for done, batch in enumerate(batches):
        context.advance(label, done, len(batches))
        arrays = ordered_inputs(graph, batch)
        for place, gatherer in given:
            gatherer.add(np.asarray(arrays[place]))
        if wanted:
            interpreter([to_torch(a, v.dtype) for a, v in zip(arrays, part.inputs, strict=True)])
    context.advance(label, len(batches), len(batches))


def _prefix(graph: Graph, values: Sequence[Value]) -> tuple[Graph, dict[Value, Value]]:
    """A copy of what computes ``values``, and where each is in it. Values that another one is computed from are no outputs, so
    that they live no longer than they are read."""
    part = graph.copy()
    twins = dict(zip([*graph.inputs, *graph.states], [*part.inputs, *part.states], strict=True))
    for mine, theirs in zip(graph.nodes, part.nodes, strict=True):
        twins.update(zip(mine.outputs, theirs.outputs, strict=True))
    ends = list(dict.fromkeys(twins[v] for v in values))
    part.outputs = ends
    part.sweep()
    part.outputs = [v for v in ends if not v.users]
    return part, {v: twins[v] for v in values}
