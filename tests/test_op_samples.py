"""Every op of the vocabulary, from its samples: types, interpretation, CPU kernels."""

from __future__ import annotations

import pytest
import torch
from case_table import LOWER
from graph_harness import Sketch, compile_sketches, shape_of
from op_samples import SAMPLES, STRUCTURE, fewer, packs
from torch._subclasses.fake_tensor import FakeTensorMode

from planish.backends.cpu import isa
from planish.compiler.interpret import Interpreter, to_torch
from planish.compiler.ops import OPS, schema
from planish.compiler.reference import REFERENCE, TORCH

SIZES = ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 2, "s": 67})
PACKS = packs()
FEWER = packs(fewer())


def test_every_op_has_a_sample() -> None:
    assert {s.op for s in SAMPLES} | STRUCTURE >= {name for name in OPS if "::" not in name}


def test_every_attribute_has_a_sample_that_sets_it() -> None:
    used = {(s.op, name) for s in SAMPLES for name in s.attrs}
    others = {"out_dtype", "padding_high", "channels_last", "ceil_mode", "divisor", "causal_offset", "ref", "shape"}
    missing = [
        f"{name}.{attribute}"
        for name, spec in OPS.items()
        for attribute in spec.attributes
        if (name, attribute) not in used and attribute not in others and name not in STRUCTURE and "::" not in name
    ]
    assert not missing


@pytest.mark.parametrize("name", PACKS)
def test_types_are_those_of_the_reference(name: str) -> None:
    sketch = PACKS[name][0]
    for env in SIZES:
        inputs = sketch.inputs(env)
        tensors = [to_torch(inputs[v.name], v.dtype) for v in sketch.graph.inputs]
        with torch.no_grad():
            results = Interpreter(sketch.graph)(tensors, env)
        for value, result in zip(sketch.graph.outputs, results, strict=True):
            assert (TORCH[value.dtype], shape_of(value, env)) == (result.dtype, tuple(result.shape)), value


@pytest.mark.parametrize("name", PACKS)
def test_types_are_those_of_torch_without_data(name: str) -> None:
    sketch, env = PACKS[name][0], SIZES[0]
    with FakeTensorMode() as mode:
        tensors = [torch.empty(shape_of(v, env), dtype=TORCH[v.dtype]) for v in sketch.graph.inputs]
        interpreter = Interpreter(sketch.graph)
        for node in sketch.graph.nodes:
            if node.op == "constant":
                array = sketch.graph.constants[node.attrs["ref"]]
                key = (id(sketch.graph), node.attrs["ref"])
                interpreter._constants[key] = mode.from_tensor(to_torch(array, node.attrs["dtype"]))
        results = interpreter(tensors, env)
    for value, result in zip(sketch.graph.outputs, results, strict=True):
        assert (TORCH[value.dtype], shape_of(value, env)) == (result.dtype, tuple(result.shape)), value


Packs = dict[str, tuple[Sketch, list[str], float]]


def failures(packs: Packs, level: str) -> list[str]:
    """What differs from the interpreter at a level."""
    compiled = compile_sketches(
        {name: pack[0] for name, pack in packs.items()}, level, threads=2, per_object=len(packs)
    )
    found = []
    for name, (_, labels, slack) in packs.items():
        for env in SIZES:
            try:
                compiled.check(name, env, slack=slack)
            except Exception as error:  # all of them are wanted, not the first
                found.append(f"{name} ({', '.join(f'{i}: {op}' for i, op in enumerate(labels))}): {error}")
                break
    return found


@pytest.mark.parametrize("level", [isa.detect(), *(pytest.param(level, marks=pytest.mark.slow) for level in LOWER)])
def test_a_kernel_of_every_op(level: str) -> None:
    found = failures(FEWER, level)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_every_kernel() -> None:
    found = failures(PACKS, isa.detect())
    assert not found, "\n".join(found)


def test_references_take_attributes_and_operands() -> None:
    assert set(REFERENCE) >= set(OPS) - STRUCTURE - {name for name in OPS if "::" in name}
    assert all(schema(s.op).inputs or not s.operands for s in SAMPLES)
