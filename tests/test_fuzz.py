"""Random graphs from the op table: interpreted as written and behind the default passes, compiled for the CPU, and run by ONNX
Runtime.

Every pass is followed by the verifier. What fails here becomes a case of its own in ``tests/backends`` or ``tests/passes``.
``make fuzz`` draws 2,040 of them, CI 120.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import numpy as np
import pytest
from graph_harness import Compiled, compile_sketches, near, optimised
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx_harness import Session, difference
from random_sketch import random_sketch

from planish.backends.cpu import isa
from planish.backends.cpu.backend import BACKEND
from planish.codegen.unit import render_unit
from planish.compiler.interpret import interpret
from planish.compiler.target import find_target

SIZES = ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 2, "s": 33})
QUICK = 24
#: How many graphs the long test draws, over what CI draws; those of one draw share shared objects.
MORE = int(os.environ.get("PLANISH_FUZZ", "1"))
TOGETHER = 24


def check(seeds: Sequence[int], level: str, runtime: bool = False) -> None:
    """Compile the graphs of ``seeds`` and compare, with ONNX Runtime too if ``runtime``; reports every seed that fails."""
    sketches = {f"seed{seed}": random_sketch(seed) for seed in seeds}
    compiled: Compiled = compile_sketches(sketches, level, per_object=12, threads=2)
    sessions = {name: Session(sketch.graph) for name, sketch in sketches.items()} if runtime else {}
    failures = []
    for name in sketches:
        for env in SIZES:
            try:
                compiled.check(name, env, slack=20.0, floor=1.0)
                if sessions:
                    why = difference(sessions[name], sketches[name], env, slack=20.0, floor=1.0)
                    assert why is None, f"ONNX Runtime {why}"
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


def test_what_differed_once() -> None:
    check([228427425, 673830755, 728710657], isa.detect(), runtime=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_the_interpreter_the_cpu_and_onnx_runtime_agree(part: int) -> None:
    """What makes the floats of two of them differ is rounding alone; everything else is equal."""

    @settings(
        max_examples=MORE, deadline=None, database=None, derandomize=True, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 10**9))
    def draw(seed: int) -> None:
        check(random.Random(5 * seed + part).sample(range(10**9), TOGETHER), isa.detect(), runtime=True)

    draw()


@pytest.mark.slow
@pytest.mark.parametrize("level", isa.available()[:-1])
def test_random_graphs_at_lower_levels(level: str) -> None:
    check(range(2000, 2020), level)
