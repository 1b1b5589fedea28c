"""Every op of the vocabulary, from its samples, as an ONNX model in ONNX Runtime, against the interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
from onnx_harness import Session, difference
from op_samples import BF16, F16, F32, F64, I8, I16, I32, SAMPLES, U8, Sample, packs

from planish.backends.onnx.backend import BACKEND
from planish.backends.onnx.emitter import EMITTERS
from planish.compiler.dims import symbol
from planish.compiler.errors import LoweringError
from planish.compiler.graph import Graph, Symbol
from planish.compiler.ops import OPS
from planish.compiler.target import Target
from planish.compiler.types import DType, TensorType

SIZES = ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 2, "s": 67})
#: Ops whose samples the reference refuses for u8, which has no negative numbers to divide by.
_NOT_U8 = frozenset({"div", "floordiv", "mod", "fmod"})
#: Ops that cannot be written in ONNX, with the reason in a word; kept short.
REFUSED: dict[str, str] = {"fused": "a region is of backends that generate kernels"}


def other_types(one: Sample) -> Sample:
    """The sample in the types that it leaves out but the op is defined for."""
    more = [F64, F16] if F32 in one.dtypes and BF16 in one.dtypes else []
    if I32 in one.dtypes:
        more += [I16, I8, *([] if one.op in _NOT_U8 else [U8])]
    return replace(one, dtypes=tuple(d for d in more if d not in one.dtypes))


PACKS = packs(SAMPLES)
WIDER = packs([s for s in map(other_types, SAMPLES) if s.dtypes])


@pytest.mark.parametrize("name", PACKS)
def test_samples(name: str) -> None:
    sketch, labels, slack = PACKS[name]
    session = Session(sketch.graph)
    for env in SIZES:
        why = difference(session, sketch, env, slack=slack)
        assert why is None, f"{labels} {why}"


@pytest.mark.parametrize("name", WIDER)
def test_samples_in_other_types(name: str) -> None:
    sketch, labels, slack = WIDER[name]
    session = Session(sketch.graph)
    for env in SIZES[:1]:
        why = difference(session, sketch, env, slack=slack)
        assert why is None, f"{labels} {why}"


@pytest.mark.parametrize(
    "name", [n for n in WIDER if "f16" in n and "topk" not in n]
)  # where NaN stands is the provider's
def test_f16_without_casts(name: str) -> None:
    """As providers get it that compute in f16 (the CPU's puts casts of its own around every op)."""
    sketch, labels, slack = WIDER[name]
    session = Session(sketch.graph, provider="CUDAExecutionProvider")
    why = difference(session, sketch, SIZES[0], slack=2 * slack)
    assert why is None, f"{labels} {why}"


@pytest.mark.parametrize("name", PACKS)
def test_samples_as_written(name: str) -> None:
    """Without ONNX Runtime's own rewrites, for the newest opset that it reads."""
    sketch, labels, slack = PACKS[name]
    session = Session(sketch.graph, optimize=False, opset=23)
    why = difference(session, sketch, SIZES[0], slack=slack)
    assert why is None, f"{labels} {why}"


@pytest.mark.parametrize("name", [n for n in PACKS if "f32" in n])
def test_the_oldest_opset(name: str) -> None:
    sketch, labels, slack = PACKS[name]
    session = Session(sketch.graph, opset=20)
    why = difference(session, sketch, SIZES[0], slack=slack)
    assert why is None, f"{labels} {why}"


def test_every_op_is_written_or_refused() -> None:
    vocabulary = {name for name in OPS if "::" not in name} - {"constant"}
    assert vocabulary - set(EMITTERS) == set(REFUSED)
    assert not set(EMITTERS) - vocabulary


def test_support_is_what_lowering_says() -> None:
    target = Target("onnx", "CPUExecutionProvider")
    for sketch, _, _ in PACKS.values():
        for node in sketch.graph.nodes:
            assert BACKEND.supports(node, target) is None


def test_a_region_is_refused_by_name() -> None:
    graph = Graph()
    graph.symbols["s"] = Symbol("s", 1, 4)
    x = graph.add_input("x", TensorType(DType.f32, (symbol("s"),)))
    body = Graph("body")
    body.outputs = [body.insert("relu", [body.add_input("x", x.type)]).output]
    node = graph.insert("fused", [x], regions=[body], name="encoder.fusion")
    graph.outputs = node.outputs
    target = Target("onnx", "CPUExecutionProvider")
    assert "fused" in (BACKEND.supports(node, target) or "")
    with pytest.raises(LoweringError, match=r"encoder\.fusion"):
        BACKEND.lower(graph, target)
