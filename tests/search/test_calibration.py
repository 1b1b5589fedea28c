"""Which samples are calibrated on, and which losses are estimated on."""

from __future__ import annotations

import numpy as np

from planish.compiler.dims import symbol
from planish.compiler.graph import Graph, Symbol
from planish.compiler.target import Capabilities
from planish.compiler.types import DType, TensorType
from planish.search.calibration import MOST, ROWS_PER_CHANNEL, calibrated_on, estimated_on
from planish.search.samples import Samples, load_samples
from planish.search.units import find_units

LINEAR = Capabilities({"linear": ("f32", "w8a8")})


def model(width: int, tokens: int | None = None) -> Graph:
    g = Graph()
    g.symbols = {"b": Symbol("b", 1, 64)}
    shape = (symbol("b"), width) if tokens is None else (symbol("b"), tokens, width)
    x = g.add_input("x", TensorType(DType.f32, shape))
    w = g.add_constant(np.ones((8, width), np.float32), "w")
    g.outputs = [g.insert("linear", [x, w], name="l").output]
    return g


def data(graph: Graph, count: int) -> Samples:
    (x,) = graph.inputs
    shape = tuple(int(d) for d in x.shape[1:])
    return load_samples([np.full(shape, i, np.float32) for i in range(count)], graph)


def count(graph: Graph, given: int, least: int) -> int:
    return len(calibrated_on(data(graph, given), graph, find_units(graph, LINEAR), least, 0))


def test_lone_rows_take_more_samples_than_long_ones() -> None:
    assert count(model(64), 1000, 16) == 64 * ROWS_PER_CHANNEL
    assert count(model(64, tokens=16), 1000, 16) == 16
    assert count(model(64), 100, 16) == 100, "all there are"
    assert count(model(4096), MOST + 10, 16) == MOST


def test_losses_are_estimated_on_others_where_there_are_enough() -> None:
    graph = model(8)
    samples = data(graph, 60)
    used = samples.sample(40)
    assert not set(estimated_on(samples, used, 20, 0).ids) & set(used.ids)
    assert len(estimated_on(samples, used, 30, 0)) == 30
