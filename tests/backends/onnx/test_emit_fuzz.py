"""Random graphs over the whole op table: the interpreter against ONNX Runtime, at several sizes each."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_harness import Session, difference
from random_graphs import example_inputs, graphs
from random_sketch import random_sketch

from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.ops import OPS
from planish.compiler.types import DType

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


@pytest.mark.slow
@settings(_FUZZ, max_examples=2000)
@given(st.integers(0, 10**9))
def test_many_random_graphs(seed: int) -> None:
    check(seed)


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
