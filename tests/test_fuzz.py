"""Random graphs from the op table through the default passes and the CPU: interpreted before, interpreted after, compiled.

Every pass is followed by the verifier. What fails here becomes a case of its own in ``tests/backends/cpu`` or ``tests/passes``.
"""

from __future__ import annotations

import numpy as np
import pytest
from graph_harness import Compiled, compile_sketches, near, optimised
from random_sketch import random_sketch

from planish.backends.cpu import isa
from planish.backends.cpu.backend import BACKEND
from planish.codegen.unit import render_unit
from planish.compiler.interpret import interpret
from planish.compiler.target import find_target

SIZES = ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 2, "s": 33})
QUICK = 24


def check(seeds: range, level: str) -> None:
    """Compile the graphs of ``seeds`` and compare; reports every seed that fails."""
    sketches = {f"seed{seed}": random_sketch(seed) for seed in seeds}
    compiled: Compiled = compile_sketches(sketches, level, per_object=12, threads=2)
    failures = []
    for name in sketches:
        for env in SIZES:
            try:
                compiled.check(name, env, slack=20.0, floor=1.0)
            except Exception as error:  # all of them are wanted, not the first
                failures.append(f"{name}: {type(error).__name__}: {error}")
                break
    assert not failures, "\n".join(failures)


def test_random_graphs() -> None:
    check(range(QUICK), isa.detect())


@pytest.mark.parametrize("precision", [None, "bf16", "w8a8-dynamic"])
def test_passes_keep_the_invariants(precision: str | None) -> None:
    """Through every pass and lowering, without a compiler: many more graphs in the same time."""
    target = find_target("cpu:avx512-bf16")
    for seed in range(100, 130):
        sketch = random_sketch(seed)
        graph = optimised(sketch.graph, target.level, precision)
        render_unit(BACKEND.lower(graph, target))
        if precision is None:
            inputs = sketch.inputs(SIZES[0])
            rough = sketch.rough or []
            pairs = zip(
                interpret(sketch.graph, inputs), interpret(graph, inputs), rough, sketch.graph.outputs, strict=True
            )
            for before, after, least, value in pairs:
                assert near(before, after, value.dtype, 20.0, least, 1.0) is None, seed


def test_graphs_differ() -> None:
    ops = {n.op for seed in range(200) for n in random_sketch(seed).graph.nodes}
    assert len(ops) > 60
    assert np.mean([len(random_sketch(seed).graph) for seed in range(50)]) > 8


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 1120, 60))
def test_more_random_graphs(start: int) -> None:
    check(range(start, start + 60), isa.detect())


@pytest.mark.slow
@pytest.mark.parametrize("level", isa.available()[:-1])
def test_random_graphs_at_lower_levels(level: str) -> None:
    check(range(2000, 2020), level)
