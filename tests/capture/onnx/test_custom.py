"""Operators of a domain of one's own: named where nobody knows them, and read once they are registered."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

import planish
from planish import CppKernel, register_op
from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.custom_ops import custom_op, forget, registered
from planish.compiler.errors import CaptureError, UsageError
from planish.compiler.interpret import interpret
from planish.compiler.plugins import load_ops
from planish.testing import parse_graph, print_graph

X = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for op in registered():
        if op.name.startswith("com.acme::"):  # what installed plugins brought is imported only once
            forget(op)


def model(op: str, outputs: int = 1, **attrs: Any) -> ModelProto:
    """relu, an operator of ``com.acme``, and neg of its results."""
    names = [f"y{i}" for i in range(outputs)]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(op, ["r"], names, domain="com.acme", name="/head/cap", **attrs),
        *(helper.make_node("Neg", [n], [f"z{n}"]) for n in names),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_empty_tensor_value_info(f"z{n}") for n in names],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def ran(proto: ModelProto, x: np.ndarray = X) -> list[np.ndarray]:
    """What the compiled artifact gives; the interpreter gives the same before any pass."""
    captured = capture_onnx(proto)
    assert print_graph(parse_graph(print_graph(captured.graph), captured.graph.constants)) == print_graph(
        captured.graph
    )
    before = interpret(captured.graph, {"x": x})
    with planish.compile(proto, check_each_pass=True).load() as compiled:
        after = list(compiled(x=x).values())
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    return after


CAP = -2.0 * np.tanh(np.maximum(X, 0) / 2.0)


def test_unknown_operators_are_named_with_the_way_out() -> None:
    with pytest.raises(
        CaptureError, match=r"an operator that cannot be read: com\.acme::SoftCap at /head/cap"
    ) as caught:
        capture_onnx(model("SoftCap", cap=2.0))
    assert caught.value.hint == (
        "say what it computes: planish.register_op('com.acme::SoftCap', kernel, schema='(Tensor x) -> Tensor'), in a file "
        "that --ops names or in a plugin; see docs/onnx-in.md"
    )


def test_an_expression() -> None:
    op = register_op("com.acme::SoftCap", "cap * tanh(x / cap)", schema="(Tensor x, float cap=5.0) -> Tensor")
    assert op.op == "com.acme.SoftCap"
    assert custom_op("com.acme.SoftCap") is op
    np.testing.assert_allclose(ran(model("SoftCap", cap=2.0))[0], CAP, rtol=1e-5, atol=1e-6)
    default = ran(model("SoftCap"))[0]
    np.testing.assert_allclose(default, -5.0 * np.tanh(np.maximum(X, 0) / 5.0), rtol=1e-5, atol=1e-6)


def test_a_function_of_several_results() -> None:
    """Its types, sizes that vary included, are those of what it builds."""

    def halves(op: Any, x: Any, axis: int) -> Any:
        half = x.shape[axis] // 2
        return tuple(op.slice(x, axis=axis, start=i * half, end=(i + 1) * half) for i in (0, 1))

    register_op("com.acme::Halves", halves, schema="(Tensor x, int axis) -> (Tensor, Tensor)")
    proto = model("Halves", 2, axis=1)
    assert [v.shape[1] for v in capture_onnx(proto).graph.outputs] == [3, 3]
    first, second = ran(proto)
    np.testing.assert_array_equal(first, -np.maximum(X, 0)[:, :3])
    np.testing.assert_array_equal(second, -np.maximum(X, 0)[:, 3:])


def test_cpp() -> None:
    kernel = CppKernel(
        "#include <cstdint>\n"
        "void twice(const float* x, const int64_t* sizes, float* y, const int64_t*, int64_t begin, int64_t end) {\n"
        "    for (int64_t i = begin * sizes[1]; i < end * sizes[1]; ++i) y[i] = 2 * x[i];\n"
        "}\n",
        "twice", parallel=1,
    )  # fmt: skip
    schema = "(Tensor x) -> Tensor"
    with pytest.raises(UsageError, match="has a C\\+\\+ kernel and no infer, and there is no torch op to take it from"):
        register_op("com.acme::Twice", kernel, schema=schema)
    register_op("com.acme::Twice", kernel, schema=schema, infer="x", reference=lambda x: torch.add(x, x))
    np.testing.assert_array_equal(ran(model("Twice"))[0], -2 * np.maximum(X, 0))


@pytest.mark.parametrize(
    ("schema", "attrs", "message"),
    [
        ("(Tensor x) -> Tensor", {"cap": 2.0}, "its attribute 'cap' is not in the schema it was registered with"),
        ("(Tensor x, float cap) -> Tensor", {}, "it has no attribute 'cap'"),
        ("(Tensor x, Tensor z) -> Tensor", {}, "its input 'z' is absent"),
    ],
)
def test_a_node_that_does_not_fit(schema: str, attrs: dict[str, Any], message: str) -> None:
    register_op("com.acme::SoftCap", "tanh(x)", schema=schema)
    with pytest.raises(CaptureError, match=message):
        capture_onnx(model("SoftCap", **attrs))


@pytest.mark.parametrize(
    ("name", "schema", "message"),
    [
        ("SoftCap", "(Tensor x) -> Tensor", "names no operator"),
        ("com.acme::SoftCap", "(Tensr x) -> Tensor", "the schema of the op com.acme::SoftCap cannot be read"),
        ("com.acme::SoftCap", "(Tensor(a!) x) -> Tensor", "writes to its arguments"),
        ("com.acme::SoftCap", "(Tensor x) -> int", "returns int"),
        ("com.acme::SoftCap", "nothing", "the schema of the op com.acme::SoftCap cannot be read"),
    ],
)
def test_registrations_that_make_no_sense(name: str, schema: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        register_op(name, "tanh(x)", schema=schema)


def test_a_plugin_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = ModuleType("acme_planish")
    schema = "(Tensor x, float cap) -> Tensor"
    code = f"import planish\nplanish.register_op('com.acme::SoftCap', 'cap * tanh(x / cap)', schema={schema!r})"
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "acme_planish", module)
    load_ops([EntryPoint("acme", "acme_planish", "planish.ops")])
    np.testing.assert_allclose(ran(model("SoftCap", cap=2.0))[0], CAP, rtol=1e-5, atol=1e-6)
