"""Random graphs over the whole op table: the interpreter against ONNX Runtime, at several sizes each.

``make fuzz`` draws 510 for each precision behind the target's passes, CI 30; ``tests/test_fuzz.py`` has more.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from graph_harness import near
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_harness import Session, difference
from random_graphs import example_inputs, graphs
from random_sketch import random_sketch

from planish.backends.onnx.backend import BACKEND
from planish.compiler.graph import Graph
from planish.compiler.instruments import Verify
from planish.compiler.interpret import interpret
from planish.compiler.ops import OPS
from planish.compiler.pass_protocol import PassContext
from planish.compiler.plan import Plan
from planish.compiler.target import find_target
from planish.compiler.tolerance import MODEL, relative_distance
from planish.compiler.types import DType
from planish.driver import preset
from planish.passes.precision import PLAN

#: How many graphs the long tests draw, over what CI draws.
MORE = int(os.environ.get("PLANISH_FUZZ", "1"))
CPU = find_target("onnx:cpu")
SIZES = ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 2, "s": 33})


def check(seed: int) -> None:
    """The graph of ``seed`` gives the same in both; the bounds on its numbers are what ``random_sketch`` sees to."""
    sketch = random_sketch(seed)
    session = Session(sketch.graph)
    for env in SIZES:
        why = difference(session, sketch, env, slack=20.0, floor=1.0)
        assert why is None, f"seed {seed} {why}"


_FUZZ = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(_FUZZ, max_examples=50)
@given(st.integers(0, 10**6))
def test_random_graphs(seed: int) -> None:
    check(seed)


#: Passes of the target change what these mean, and say so: per row becomes per tensor, bf16 becomes another float.
_CHANGED = ("quantize_dynamic", "qlinear")
#: Precisions in which a linear rounds to int8 what two executions may compute with another last bit, which can end a step apart;
#: MatMulNBits does so inside of ONNX Runtime.
_ROUNDED = ("w8a8-dynamic", "w8a16", "w4a16-g32")


def check_passes(seed: int, precision: str | None) -> None:
    """Behind all passes of the target and in the forms that the provider runs fast: ONNX Runtime gives what the interpreter
    gives for the graph that was lowered and, where no precision is given up, for the graph as written."""
    sketch = random_sketch(seed)
    graph = sketch.graph.copy()
    preset(CPU).run(graph, PassContext(target=CPU, data={PLAN: Plan.of(precision)}), [Verify()])
    session = Session(graph, unit=BACKEND.lower(graph, CPU))
    ops = {n.op for n in sketch.graph.nodes}
    same = precision is None and ops.isdisjoint(_CHANGED)
    for env in SIZES:
        inputs = sketch.inputs(env)
        got, lowered, written = session(inputs), interpret(graph, inputs), interpret(sketch.graph, inputs)
        for i, (value, rough) in enumerate(zip(sketch.graph.outputs, sketch.rough or (), strict=True)):
            why = near(lowered[i], got[i], value.dtype, 20.0, rough, 1.0)
            if why is not None and precision in _ROUNDED and value.dtype is DType.f32:
                # sums of products may cancel, so small results are held to the size of what was summed
                apart = relative_distance(np.append(lowered[i], 1.0), np.append(got[i], 1.0))
                assert apart <= MODEL[DType.i8], f"seed {seed} at {env}, output {i}"
                continue
            assert why is None, f"seed {seed} at {env}, output {i}, as lowered: {why}"
            why = near(written[i], got[i], value.dtype, 20.0, rough, 1.0) if same else None
            assert why is None, f"seed {seed} at {env}, output {i}, as written: {why}"


@pytest.mark.parametrize("precision", [None, "w8a8-dynamic", "w8a16", "w4a16-g32"])
@settings(_FUZZ, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_random_graphs_behind_passes(precision: str | None, seed: int) -> None:
    check_passes(seed, precision)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "w8a8-dynamic", "w8a16"])
@settings(_FUZZ, max_examples=30 * MORE)
@given(seed=st.integers(0, 10**9))
def test_many_random_graphs_behind_passes(precision: str | None, seed: int) -> None:
    check_passes(seed, precision)


def test_graphs_reach_most_of_the_vocabulary() -> None:
    ops = {n.op for seed in range(200) for n in random_sketch(seed).graph.nodes}
    assert len(ops) > 60
    assert ops <= set(OPS)


@settings(_FUZZ, max_examples=25)
@given(graphs(regions=False))
def test_untamed_graphs_are_models_of_the_same_types(graph: Graph) -> None:
    """Names that need quoting, outputs that are inputs or come twice, constants of every type: what a session gives has the
    types and sizes that the interpreter gives; numbers that may jump are not compared."""
    session = Session(graph)
    inputs = example_inputs(graph)
    for value, a, b in zip(graph.outputs, interpret(graph, inputs), session(inputs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), value
        if value.node is None or (value.node.op == "constant" and value.dtype is not DType.bf16):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("seed", "precision"), [(387221, "w8a8-dynamic"), (659063637, None), (166, "w8a8-dynamic"), (11750, "w8a16")]
)
def test_what_crashed_or_was_refused_once(seed: int, precision: str | None) -> None:
    check_passes(seed, precision)
