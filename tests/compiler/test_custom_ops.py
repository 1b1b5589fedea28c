"""register_op: what of a torch op's schema becomes what, the three kinds of kernel, and every way of getting it wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import planish
from planish import CppKernel, register_op
from planish.compiler.custom_ops import CustomOp, custom_op, forget, registered
from planish.compiler.errors import CaptureError, PassError, PlanishError, ToolchainError, UsageError
from planish.compiler.interpret import interpret
from planish.compiler.ops import REQUIRED
from planish.compiler.pass_protocol import PassContext
from planish.compiler.plugins import load_ops
from planish.compiler.types import DType, TensorType
from planish.passes.custom import DecomposeCustom
from planish.testing import capture_function, check_op, check_pass, parse_graph, print_graph

LIBRARY = torch.library.Library("test_ops", "DEF")


def define(schema: str, meaning: Callable[..., Any], fake: Callable[..., Any] | None = None) -> None:
    """A torch op of the namespace ``test_ops``."""
    LIBRARY.define(schema)
    name = schema.partition("(")[0]
    LIBRARY.impl(name, meaning, "CPU")
    torch.library.register_fake(f"test_ops::{name}", fake or meaning, lib=LIBRARY)


define("cap(Tensor x, float cap=2.0) -> Tensor", lambda x, cap=2.0: cap * torch.tanh(x / cap))
define("gate(Tensor a, Tensor b) -> Tensor", lambda a, b: torch.where(a > 0, a * b, a.exp() - 1))
define("halves(Tensor x, int axis) -> (Tensor, Tensor)", lambda x, axis: tuple(t.clone() for t in x.chunk(2, axis)))
define("repeat_rows(Tensor x, SymInt times) -> Tensor", lambda x, times: x.unsqueeze(1).repeat(1, times, 1))
define("glued(Tensor[] xs, *, float scale) -> Tensor", lambda xs, *, scale: torch.cat(list(xs), -1) * scale)
define(
    "window(Tensor x, Tensor? bias, int[] taps, float[] weights, bool wrap, int? offset=None, str mode='sum') "
    "-> (Tensor, Tensor)",
    lambda x, bias, taps, weights, wrap, offset=None, mode="sum": _window(x, bias, taps, weights, wrap, offset, mode),
)
define("lookup(Tensor ids, Tensor table, SymInt shift) -> Tensor", lambda ids, table, shift: table[(ids + shift) % 5])
define("mutates(Tensor(a!) x) -> Tensor", lambda x: x.clone())
define("number(Tensor x) -> int", lambda x: 3)
define("known(Tensor x) -> Tensor", torch.clone)
define("made_of_cap(Tensor x) -> Tensor", lambda x: 2 * torch.tanh(x / 2) + 1)
define("itself(Tensor x) -> Tensor", torch.clone)
define("low(Tensor x) -> Tensor", lambda x: x.to(torch.bfloat16))


def _window(
    x: torch.Tensor, bias: torch.Tensor | None, taps: list[int], weights: list[float], wrap: bool, offset: int | None,
    mode: str,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    assert wrap
    assert mode == "sum"
    total = sum(w * x.roll(-t, -1) for t, w in zip(taps, weights, strict=True)) + (offset or 0)
    return total if bias is None else total + bias, (total > 0).to(torch.int32)


WINDOW = r"""
#include <cmath>
#include <type_traits>
template <class T>
static void window(const T* x, const int64_t* sizes, const std::common_type_t<T>* bias, const int64_t* bias_sizes,
                   T* y, const int64_t*,
                   int32_t* sign, const int64_t*, const int64_t* taps, int64_t count, const double* weights, int64_t,
                   bool wrap, const int64_t* offset, const char* mode, int64_t begin, int64_t end) {
    const int64_t width = sizes[1];
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < width; i++) {
            double total = offset ? double(*offset) : 0.0;
            for (int64_t t = 0; t < count; t++) {
                int64_t at = (i + taps[t]) % width;
                if (at < 0) at += width;
                total += weights[t] * x[row * width + at];
            }
            sign[row * width + i] = total > 0 && wrap && mode[0] == 's';
            y[row * width + i] = T(total + (bias ? bias[i % bias_sizes[0]] : T(0)));
        }
}
"""
LOOKUP = """
namespace tables {
void lookup(const int64_t* ids, const int64_t* n, const float* table, const int64_t* t, float* y, const int64_t*, int64_t shift,
            int64_t, int64_t) {
    for (int64_t i = 0; i < n[0]; i++)
        for (int64_t c = 0; c < t[1]; c++) y[i * t[1] + c] = table[(ids[i] + shift) % t[0] * t[1] + c];
}
}
"""
WINDOW_KERNEL = CppKernel(WINDOW, "window", parallel=1)


@pytest.fixture
def register() -> Iterator[Callable[..., CustomOp]]:
    """``register_op`` whose registrations end with the test."""
    made: list[CustomOp] = []

    def add(name: Any, kernel: Any, **options: Any) -> CustomOp:
        made.append(register_op(f"test_ops::{name}" if isinstance(name, str) else name, kernel, **options))
        return made[-1]

    yield add
    for op in made:
        forget(op)


def data(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- the schema -----------------------------------------------------------------------------------------------------------
def test_operands_and_attributes_are_those_of_the_torch_op(register: Callable[..., CustomOp]) -> None:
    op = register("window", WINDOW_KERNEL, version=3, doc="a window")
    assert (op.name, op.op, op.results) == ("test_ops::window", "test_ops.window", 2)
    assert [(p.name, p.optional) for p in op.operands] == [("x", False), ("bias", True)]
    assert [(p.name, p.kind, p.optional, p.default) for p in op.attributes] == [
        ("taps", "ints", False, REQUIRED), ("weights", "floats", False, REQUIRED), ("wrap", "bool", False, REQUIRED),
        ("offset", "int", True, None), ("mode", "str", False, "sum"),
    ]  # fmt: skip
    schema = op.schema()
    assert (schema.inputs, schema.version, schema.doc) == (("x", "bias?"), 3, "a window")
    assert op.origin.startswith(__file__)
    assert custom_op("test_ops.window") is custom_op("test_ops::window") is op


def test_a_graph_with_a_custom_op_is_text_and_back(register: Callable[..., CustomOp]) -> None:
    register("halves", WINDOW_KERNEL)
    graph, examples = capture_function(lambda x: torch.ops.test_ops.halves(x, 1), (data(3, 8),))
    text = print_graph(graph)
    assert 'test_ops.halves(%x) {axis = 1, result_types = [["f32", 3, 4], ["f32", 3, 4]]}' in text
    assert print_graph(parse_graph(text)) == text
    np.testing.assert_array_equal(interpret(graph, examples)[1], examples["x"][:, 4:])


# -- kernels --------------------------------------------------------------------------------------------------------------
def test_an_expression_becomes_ops(register: Callable[..., CustomOp]) -> None:
    register("cap", "cap * tanh(x / cap)")
    register("gate", "where(a > 0, a * b, exp(a) - 2 ** 0)", infer="a")
    graph = check_pass(
        DecomposeCustom(),
        lambda x, y: torch.ops.test_ops.gate(torch.ops.test_ops.cap(x, 3.0), torch.ops.test_ops.cap(y)),
        (data(3, 4), data(3, 4, seed=1)),
    )
    assert sorted(n.op for n in graph.nodes if n.op != "constant") == sorted(
        ["div", "tanh", "mul", "div", "tanh", "mul", "gt", "mul", "exp", "sub", "where"]
    )


def test_a_function_builds_it_from_ops(register: Callable[..., CustomOp]) -> None:
    def halves(op: Any, x: Any, axis: int) -> Any:
        middle = x.shape[axis] // 2
        return op.slice(x, axis=axis, end=middle), op.slice(x, axis=axis, start=middle, end=x.shape[axis])

    def repeat_rows(op: Any, x: Any, times: Any) -> Any:
        lifted = op.reshape(x, shape=(x.shape[0], 1, x.shape[1]))
        return op.expand(lifted, shape=(x.shape[0], times, x.shape[1]))

    register("halves", halves)
    register("repeat_rows", repeat_rows, infer=lambda x, times: TensorType(x.dtype, (x.shape[0], times, x.shape[1])))
    register("glued", lambda op, xs, *, scale: op.mul(op.concat(*xs, axis=-1), scale))
    register("cap", "cap * tanh(x / cap)")
    register("made_of_cap", lambda op, x: op.add(getattr(op, "test_ops.cap")(x, result_types=[["f32", *x.shape]]), 1.0))

    def net(x: torch.Tensor, y: torch.Tensor) -> Any:
        a, b = torch.ops.test_ops.halves(x, 1)
        wide = torch.ops.test_ops.repeat_rows(torch.ops.test_ops.glued([b, a, b], scale=0.5), y.shape[0])
        return torch.ops.test_ops.made_of_cap(wide)

    batch = torch.export.Dim("batch", min=2, max=9)
    args = (data(3, 8), data(4, 2))
    graph = check_pass(DecomposeCustom(), net, args, dynamic_shapes={"x": None, "y": {0: batch}})
    assert not any("." in n.op for n in graph.nodes)


def test_cpp_kernels_take_every_kind_of_argument(register: Callable[..., CustomOp]) -> None:
    """One build: absent and present operands, lists, options, strings, sizes, two element types, several results."""
    register("window", WINDOW_KERNEL, flops=8)
    register("lookup", CppKernel(LOOKUP, "tables::lookup"))

    def net(x: torch.Tensor, bias: torch.Tensor, ids: torch.Tensor, wide: torch.Tensor) -> Any:
        window = torch.ops.test_ops.window
        return (
            window(x.transpose(0, 1), bias, [0, 1, -1], [0.5, 0.25, -1.5], True, 2),
            window(wide, None, [3], [1.0], True),
            torch.ops.test_ops.lookup(ids, x[:, :3] + 1, x.shape[1]),
        )

    rows = torch.export.Dim("rows", min=4, max=500)
    args = (data(5, 300), data(5, seed=1), torch.tensor([0, 4, 2]), data(2, 6).double())
    artifact = check_op(net, args, dynamic_shapes={"x": {1: rows}, "bias": None, "ids": None, "wide": None})
    labels = [launch["label"] for launch in artifact.manifest["units"][0]["launches"]]
    assert labels.count("test_ops.window") == 2
    assert artifact.manifest["ops"]["test_ops.lookup"] == 1
    assert "tables::lookup" in artifact.package.units[0].source


def test_low_precision_is_computed_in_f32(register: Callable[..., CustomOp]) -> None:
    register("window", WINDOW_KERNEL, infer=lambda x, *_: [x, x.with_dtype(DType.i32)])

    def net(x: torch.Tensor) -> Any:
        return torch.ops.test_ops.window(x, None, [0, 1], [0.5, 0.5], True)

    artifact = check_op(net, (data(4, 8).bfloat16(),))
    (node,) = [n for n in artifact.graph.nodes if n.op == "test_ops.window"]
    assert [v.dtype for v in (*node.operands, *node.outputs)] == [DType.f32, DType.f32, DType.i32]


def test_check_op_finds_a_kernel_that_computes_something_else(register: Callable[..., CustomOp]) -> None:
    register("known", "x * 1.001")
    with pytest.raises(AssertionError, match=r"output 0 is off by 0\.001 of its norm"):
        check_op(torch.ops.test_ops.known, (data(3, 4),))


def test_a_constant_operand_is_folded_by_the_reference(register: Callable[..., CustomOp]) -> None:
    register("known", CppKernel("void known();", "known"), reference=lambda x: x + 10)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(4.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ops.test_ops.known(self.table)

    artifact = planish.compile(Net(), torch.zeros(2, 4))
    assert [launch["label"] for launch in artifact.manifest["units"][0]["launches"]] == ["add"]
    np.testing.assert_array_equal(artifact.load()(np.zeros((2, 4), np.float32)), [[10, 11, 12, 13]] * 2)


# -- what goes wrong ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "kernel", "options", "message"),
    [
        ("gone", "x", {}, "torch has no op 'test_ops::gone'"),
        ("cap.wide", "x", {}, "has no overload 'wide' (register test_ops::cap)"),
        ("mutates", "x", {}, "test_ops::mutates writes to its arguments"),
        ("number", "x", {}, "test_ops::number returns int"),
        ("cap", 3, {}, "the kernel of the op test_ops::cap is 3"),
        ("cap", "cap *", {}, "is no expression"),
        ("cap", "cap * y", {}, "uses 'y', which is none of its arguments (its arguments are x, cap)"),
        ("cap", "tahn(x)", {}, "calls 'tahn', which is no elementwise op of planish (did you mean 'tan'?)"),
        ("cap", "softmax(x)", {}, "calls 'softmax', which is no elementwise op"),
        ("cap", "x[0]", {}, "cannot hold 'x[0]'"),
        ("cap", "cap + 1", {}, "uses none of its operands (x)"),
        ("cap", "0 < x < cap", {}, "may compare two things at a time"),
        ("halves", "x", {}, "an expression cannot say what the op test_ops::halves does"),
        ("glued", WINDOW_KERNEL, {}, "cannot take the list of tensors 'xs'"),
        ("cap", "x", {"infer": "y"}, "has no operand 'y' that its result could be like (its operands are x)"),
        ("window", WINDOW_KERNEL, {"infer": "bias"}, "has no operand 'bias'"),
        ("cap", "x", {"infer": 3}, "the infer of the op test_ops::cap is 3"),
        ("cap", "x", {"reference": 3}, "the reference of the op test_ops::cap is 3"),
        ("cap", "x", {"version": 0}, "the version of the op test_ops::cap is 0"),
    ],
)
def test_a_wrong_registration(name: str, kernel: Any, options: dict[str, Any], message: str) -> None:
    before = registered()
    with pytest.raises(UsageError) as caught:
        register_op(f"test_ops::{name}", kernel, **options)
    assert message in str(caught.value)
    assert registered() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("int f();", "g"), "the C++ text holds no function 'g'"),
        (("void f();", "f("), "'f(' is no name of a C++ function"),
        (('#include "mine.h"\nvoid f();', "f"), "includes 'mine.h'"),
        (("void f();", "f", -1), "parallel=-1"),
    ],
)
def test_a_wrong_cpp_kernel(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        CppKernel(*arguments)
    assert message in str(caught.value)


def test_names_clash(register: Callable[..., CustomOp]) -> None:
    first = register("cap", "cap * tanh(x / cap)")
    with pytest.raises(UsageError, match=rf"test_ops::cap is registered twice: at {first.origin} and at .*py:\d+"):
        register_op("test_ops::cap", "x")
    second = register_op("test_ops::cap", "x + 0 * cap", replace=True)
    assert custom_op("test_ops.cap") is second
    forget(second)
    with pytest.raises(UsageError, match="planish captures aten::relu itself"):
        register_op("aten::relu", "maximum(self, 0)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"infer": lambda x, cap: x.with_shape((4, 3))},
            r"its infer says f32\[4, 3\], its fake implementation f32\[3, 4\]",
        ),
        ({"infer": lambda x, cap: 7}, "the infer of the op test_ops::cap returned 7"),
        ({"infer": lambda x, cap: x.shape[9]}, "the infer of the op test_ops::cap failed: IndexError"),
    ],
)
def test_a_wrong_infer(options: dict[str, Any], message: str, register: Callable[..., CustomOp]) -> None:
    register("cap", "x", **options)
    with pytest.raises(CaptureError, match=message) as caught:
        capture_function(lambda x: torch.ops.test_ops.cap(x), (data(3, 4),))
    assert "test_ops.cap" in str(caught.value)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda op, x: op.reshape(x, shape=(12,)), r"gives f32\[12\] where the op gives f32\[3, 4\]"),
        (lambda op, x: (x, x), r"returned \(.+it must return a value"),
        (lambda op, x: op.sofmax(x), "did you mean 'softmax'"),
        (lambda op, x: x + 1, "failed: TypeError"),
        (lambda op, x: getattr(op, "test_ops.itself")(x, result_types=[["f32", 3, 4]]), "is made of the op itself"),
    ],
)
def test_a_wrong_kernel(kernel: Any, message: str, register: Callable[..., CustomOp]) -> None:
    register("itself", kernel)
    graph, _ = capture_function(lambda x: torch.ops.test_ops.itself(x), (data(3, 4),))
    with pytest.raises(PassError, match=message) as caught:
        DecomposeCustom().run(graph, PassContext())
    assert "test_ops::itself" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "\nvoid known(const float*) { nope(); }",
            "C.. kernel of the op test_ops::known does not compile, line 2: .*nope",
        ),
        (
            "void known(const float*) {}",
            "C.. kernel known of the op test_ops::known cannot be called with the op's argum",
        ),
    ],
)
def test_a_kernel_that_does_not_compile(source: str, message: str, register: Callable[..., CustomOp]) -> None:
    register("known", CppKernel(source, "known"))
    with pytest.raises(ToolchainError, match=message):
        planish.compile(_Known(), torch.zeros(2), target="cpu:portable")


@torch.library.custom_op("test_opaque::no_fake", mutates_args=())
def no_fake(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@torch.library.custom_op("test_opaque::writes", mutates_args=("x",))
def writes(x: torch.Tensor) -> None:
    x.add_(1)


def _written(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    writes(y)
    return y


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: no_fake(x * 2), r"the custom op test_opaque::no_fake has no fake implementation at .*:\d+"),
        (_written, r"test_opaque.writes \(a custom op that writes to its arguments"),
    ],
)
def test_ops_that_export_cannot_see_through(fn: Callable[..., Any], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture_function(fn, (data(3),))


class _Known(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.test_ops.known(x)


def test_a_result_that_stays_narrow(register: Callable[..., CustomOp]) -> None:
    register("low", CppKernel("void low();", "low"), infer=lambda x: x.with_dtype(DType.bf16))
    model = torch.nn.Module()
    model.forward = lambda x: torch.ops.test_ops.low(x)
    with pytest.raises(PlanishError, match=r"test_ops::low: its infer says bf16.* kernels compute in f32"):
        planish.compile(model, torch.zeros(2))


# -- plugins --------------------------------------------------------------------------------------------------------------
def point(name: str, loads: Callable[[], object]) -> EntryPoint:
    class Point(EntryPoint):
        def load(self) -> object:
            return loads()

    return Point(name, f"somewhere.{name}", "planish.ops")


def test_plugins_register_ops(register: Callable[..., CustomOp]) -> None:
    loaded: list[str] = []

    def plugin() -> object:
        loaded.append("once")
        return register("cap", "x * cap")

    load_ops([point("good", plugin)])
    load_ops([point("good", plugin)])
    assert loaded == ["once"]
    assert custom_op("test_ops::cap") is not None


def test_broken_plugins(register: Callable[..., CustomOp]) -> None:
    def broken() -> object:
        raise ImportError("no b")

    def clashing() -> object:
        return register_op("test_ops::cap", "x")

    register("cap", "x * cap")
    with pytest.raises(PlanishError, match=r"the plugin somewhere\.a cannot be imported: ImportError: no b"):
        load_ops([point("a", broken)])
    with pytest.raises(UsageError, match="test_ops::cap is registered twice"):
        load_ops([point("b", clashing)])
    with pytest.raises(PlanishError, match=r"the plugin somewhere\.c registers no op"):
        load_ops([point("c", lambda: ModuleType("empty_plugin"))])
