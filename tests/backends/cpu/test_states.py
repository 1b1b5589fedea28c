"""Buffers that live across calls are read in place, by kernels and by the interpreter."""

from __future__ import annotations

import numpy as np
import torch
from graph_harness import load_program, optimised

from planish.backends.cpu.isa import detect
from planish.backends.cpu.lower import lower
from planish.compiler.graph import Graph
from planish.compiler.interpret import Interpreter
from planish.compiler.types import DType, TensorType


def test_a_state_is_read_where_it_lies() -> None:
    graph = Graph("memory")
    x = graph.add_input("x", TensorType(DType.f32, (3, 8)))
    memory = graph.add_state("memory", TensorType(DType.f32, (8,)))
    graph.outputs = [graph.insert("mul", [graph.insert("add", [x, memory]).output, x]).output]
    rng = np.random.default_rng(0)
    given, held = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    (want,) = Interpreter(graph)([torch.from_numpy(given)], states={"memory": torch.from_numpy(held)})
    np.testing.assert_allclose(want.numpy(), (given + held) * given, rtol=1e-6)
    with load_program(lower(optimised(graph, detect()), detect())) as model:
        assert [port.name for port in model.states] == ["memory"]
        states = model.new_states()
        states["memory"][...] = held
        (got,) = model(given, states=states).values()
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)
