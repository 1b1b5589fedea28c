"""Statically quantised linears and convolutions, and low-precision embeddings, on the CPU against the interpreter.

Where only sums, products by scales, biases, ReLU and quantisation follow each other, the two agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from case_table import LOWER, SIZES, Table
from graph_harness import B, S, Sketch, compile_sketches, optimised

from planish.backends.cpu import isa
from planish.backends.cpu.backend import BACKEND
from planish.codegen.linear import MAX_K_SHIFTED
from planish.codegen.program import Program
from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.target import find_target
from planish.compiler.types import DType

BF16, I8, I64 = DType.bf16, DType.i8, DType.i64
EXACT, NEAR = Table(), Table()
SAME = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
POINT = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}


def quantized(g: Sketch, x: Value, scale: float = 0.03, zero: int | None = None) -> Value:
    """What the plan's ``w8a8`` puts around an activation."""
    numbers = [g.const(np.float32(scale))]
    if zero is not None:
        numbers.append(g.const(np.int8(zero), I8))
    return g("dequantize", g("quantize", x, *numbers), *numbers)


def weight(g: Sketch, *shape: int) -> Value:
    """A dequantised weight with a scale for each output."""
    rng = np.random.default_rng(len(g.graph))
    scales = (0.5 + rng.random((shape[0], *(1 for _ in shape[1:])))) / (127 * np.sqrt(np.prod(shape[1:])))
    return g("dequantize", g.const(rng.integers(-127, 128, shape), I8), g.const(scales))


def linear(g: Sketch, x: Value, n: int, scale: float = 0.03, zero: int | None = None) -> Value:
    k = x.shape[-1]
    assert isinstance(k, int)
    return g("linear", quantized(g, x, scale, zero), weight(g, n, k), g.random(n))


def conv(g: Sketch, x: Value, n: int, *kernel: int, scale: float = 0.03, zero: int | None = None, groups: int = 1,
         bias: bool = True, **attrs: tuple[int, ...]) -> Value:  # fmt: skip
    channels, ones = x.shape[1], (1,) * len(kernel)
    assert isinstance(channels, int)
    given = {"stride": ones, "padding": tuple(0 for _ in kernel), "dilation": ones, **attrs}
    w = weight(g, n, channels // groups, *kernel)
    return g("conv", quantized(g, x, scale, zero), w, g.random(n) if bias else None, groups=groups, **given)


# -- linears -----------------------------------------------------------------------------------------------------------
@EXACT.each(none=None, lowest=-128, minus=-7, zero=0, plus=5, highest=127)
def zero_point(g: Sketch, zero: int | None) -> list[Value]:
    x = g.input(B, S, 24)
    hidden = g("relu", linear(g, x, 70, 0.03, zero))
    return [linear(g, hidden, 24, 0.02, zero), hidden]


@EXACT.each(
    n1=(1, 24), k1=(24, 1), ragged=(33, 53), tiles=(64, 64), wide=(130, 16), long=(7, 519), rank1=(24,), rank2=(B, 24),
    rank4=(B, 2, S, 24),
)  # fmt: skip
def shape(g: Sketch, shape: tuple) -> Value:
    if B in shape or len(shape) == 1:
        return linear(g, g.input(*shape), 10, zero=3)
    g.input(B, S)
    return linear(g, g("relu", linear(g, g.input(B, S, shape[1]), shape[1], zero=9)), shape[0], zero=-9)


@EXACT.case
def rows_in_other_places(g: Sketch) -> list[Value]:
    x = g.input(24, B, S)
    turned = g("transpose", x, perm=(1, 2, 0))
    hidden = linear(g, turned, 12, zero=1)
    heads = g("transpose", g("reshape", hidden, shape=(B, S, 3, 4)), perm=(0, 2, 1, 3))
    joined = g("reshape", g("transpose", heads, perm=(0, 2, 1, 3)), shape=(B, S, 12))
    return [linear(g, joined, 7), linear(g, g("slice", hidden, axis=2, start=4, end=12), 5, zero=4)]


@EXACT.case
def shared_by_several(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    hidden = quantized(g, g("relu", linear(g, x, 40)), 0.02, -100)
    return [
        g("linear", hidden, weight(g, 8, 40), None), g("relu", g("linear", hidden, weight(g, 50, 40), g.random(50))), hidden,
    ]  # fmt: skip


@EXACT.case
def bytes_behind_views(g: Sketch) -> Value:
    q = [g.const(np.float32(0.02)), g.const(np.int8(9), I8)]
    hidden = g("quantize", linear(g, g.input(B, S, 24), 36), *q)
    wide = g("dequantize", g("reshape", hidden, shape=(B, S * 2, 18)), *q)
    return g("linear", wide, weight(g, 6, 18), None)


@EXACT.case
def bytes_from_outside(g: Sketch) -> list[Value]:
    q = g.input(B, S, 24, dtype=I8, low=-128, high=128)
    x = g("dequantize", q, g.const(np.float32(0.1)), g.const(np.int8(-3), I8))
    back = g("quantize", g("linear", x, weight(g, 9, 24), None), g.const(np.float32(0.01)), g.const(np.int8(2), I8))
    return [g("linear", x, weight(g, 8, 24), g.random(8)), back]


@EXACT.case
def residual(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    h = g("add", linear(g, x, 24, zero=7), x)
    return [linear(g, h, 33, 0.05), linear(g, g("mul", h, g.input(B, S, 1)), 5, 0.04, -1)]


@EXACT.each(division=True, reciprocal=False)
def one_meaning(g: Sketch, division: bool) -> list[Value]:
    """Values half way between two steps: 1 / scale is rounded, so dividing may go the other way."""
    x = g.input(
        B, 3000, data=lambda rng, size: (rng.integers(-300, 300, size) * np.float32(0.7) / 2).astype(np.float32)
    )
    scale, zero, g_ = g.const(np.float32(0.7)), g.const(np.int8(5), I8), {"division": division}
    columns = g.const(np.linspace(0.5, 2, 3000))
    return [
        g("quantize", x, scale, **g_), g("quantize", x, scale, zero, **g_), g("quantize", x, columns, zero, **g_),
        g("quantize", x, scale, g.const(200, DType.u8), dtype=DType.u8, **g_), g("quantize", x, g.input(B, 1), **g_),
        g("quantize", x, scale, g.const(-9, DType.i16), dtype=DType.i16, **g_), g("dequantize", g("quantize", x, scale), scale),
    ]  # fmt: skip


def special(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    x = rng.standard_normal(size).astype(np.float32)
    flat = x.reshape(-1)
    for at, value in enumerate((np.nan, np.inf, -np.inf, 1e30, -1e30, np.float32(-np.nan))):
        flat[at :: 7 + at] = value
    flat[::11] = np.frombuffer(np.uint32(0x7FC01234).tobytes(), np.float32)  # a NaN that carries bits
    return x


@EXACT.each(symmetric=None, shifted=-31)
def not_finite(g: Sketch, zero: int | None) -> list[Value]:
    x = g.input(B, S, 24, data=special)
    scale = [g.const(np.float32(0.02)), *([] if zero is None else [g.const(np.int8(zero), I8)])]
    return [
        linear(g, x, 9, zero=zero),
        linear(g, g("add", x, linear(g, x, 24)), 6, zero=zero),
        g("quantize", x, *scale),
    ]


@NEAR.case
def feed_forward(g: Sketch) -> list[Value]:
    """The quick GELU of low precision moves a value over a step here and there."""
    x = g.input(B, S, 24)
    wide = quantized(g, g("gelu", linear(g, x, 96, zero=3)), 0.02, -110)
    return [g("linear", wide, weight(g, 24, 96), g.random(24)), wide]


@NEAR.case
def behind_a_norm(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    h = g("add", x, linear(g, x, 24))
    y = g("layer_norm", h, g.random(24), g.random(24))
    out = quantized(g, y, 0.03, 3)
    return [g("linear", out, weight(g, 40, 24), None), g("linear", out, weight(g, 7, 24), g.random(7)), y]


@NEAR.case
def around_attention(g: Sketch) -> Value:
    x = g.input(B, S, 24)
    q, k, v = (g("transpose", g("reshape", linear(g, x, 24), shape=(B, S, 3, 8)), perm=(0, 2, 1, 3)) for _ in range(3))
    y = g("reshape", g("transpose", g("attention", q, k, v, scale=0.3), perm=(0, 2, 1, 3)), shape=(B, S, 24))
    return linear(g, y, 24, 0.02)


# -- convolutions ------------------------------------------------------------------------------------------------------
CONVS: dict[str, tuple[tuple, tuple[int, ...], dict]] = {
    "three": ((B, 4, 6, 7), (5, 3, 3), {"padding": (1, 1)}), "strided": ((B, 4, 9, 7), (5, 3, 3), {**SAME, "stride": (2, 3)}),
    "dilated": ((B, 4, 8, 9), (5, 3, 3), {"padding": (2, 1), "dilation": (2, 3)}),
    "pointwise": ((B, 6, 5, 7), (10, 1, 1), {}), "pointwise_strided": ((B, 6, 5, 7), (10, 1, 1), {"stride": (2, 3)}),
    "pointwise_padded": ((B, 6, 5, 7), (10, 1, 1), {"padding": (1, 2)}),
    "symbolic": ((B, 4, S, 7), (5, 3, 3), {"padding": (1, 1)}),
    "grouped": ((B, 6, 5, 5), (9, 3, 3), {"padding": (1, 1), "groups": 3}),
    "grouped_wide": ((B, 40, 5, 6), (80, 3, 3), {"padding": (1, 1), "groups": 2}),
    "depthwise": ((B, 37, 6, 7), (37, 3, 3), {"padding": (1, 1), "groups": 37}),
    "depthwise_strided": ((B, 4, 6, 7), (4, 3, 3), {"stride": (2, 1), "groups": 4}),
    "depthwise_twice": ((B, 4, 6, 7), (8, 3, 3), {"padding": (1, 1), "groups": 4}),
    "one_d": ((B, 5, S), (7, 3), {"padding": (1,)}), "one_d_depthwise": ((B, 5, S), (5, 3), {"padding": (1,), "groups": 5}),
    "three_d": ((B, 2, 4, 5, 6), (3, 2, 3, 3), {"padding": (0, 1, 1)}),
    "padded_behind": ((B, 4, 6, 7), (5, 2, 4), {"padding": (0, 1), "padding_high": (1, 2)}),
    "deep": ((B, 70, 5, 6), (37, 3, 3), {"padding": (1, 1)}),
    "larger_than_x": ((B, 4, 2, 3), (5, 5, 5), {"padding": (2, 2)}),
}  # fmt: skip


@EXACT.each(**CONVS)
def convolution(g: Sketch, case: tuple[tuple, tuple[int, ...], dict]) -> list[Value]:
    shape, (n, *kernel), attrs = case
    x = g.input(*shape)
    return [
        g("relu", conv(g, x, n, *kernel, zero=17, **attrs)), conv(g, x, n, *kernel, zero=-128, bias=False, **attrs),
        conv(g, x, n, *kernel, **attrs),
    ]  # fmt: skip


@EXACT.case
def chain_of_convolutions(g: Sketch) -> list[Value]:
    x = g.input(B, 3, 9, 11)
    first = g("relu", conv(g, x, 8, 3, 3, zero=4, **SAME))
    lone = g("relu", conv(g, first, 8, 3, 3, groups=8, zero=-128, scale=0.02, **SAME))
    point = conv(g, lone, 20, 1, 1, zero=-128, scale=0.02)
    skip = g("add", point, conv(g, first, 20, 1, 1, zero=-128, scale=0.02))
    small = g("max_pool", g("relu", skip), kernel=(2, 2), stride=(2, 2), padding=(0, 0))
    last = conv(g, small, 5, 3, 3, zero=-128, scale=0.05, stride=(2, 2))
    return [last, g("reduce_max", skip, axes=(2, 3))]


@EXACT.case
def padding_in_front(g: Sketch) -> list[Value]:
    x = g("relu", conv(g, g.input(B, 3, 7, 6), 8, 3, 3, zero=4, **SAME))
    y = g("pad", x, low=(0, 0, 0, 1), high=(0, 0, 1, 2), value=0.0)
    z = g("pad", x, low=(0, 0, 0, 1), high=(0, 0, 1, 2), value=1.0)
    return [conv(g, y, 4, 3, 3, zero=-90, **SAME), conv(g, z, 4, 3, 3, zero=-90, **SAME)]


@EXACT.case
def from_tokens(g: Sketch) -> Value:
    tokens = linear(g, g.input(B, 30, 24), 8)
    image = g("reshape", g("transpose", tokens, perm=(0, 2, 1)), shape=(B, 8, 5, 6))
    return conv(g, image, 10, 3, 3, zero=1, **SAME)


@EXACT.case
def bytes_of_an_image(g: Sketch) -> list[Value]:
    """Convolutions of int8 that no kernel here has quantised."""
    x = g(
        "dequantize",
        g.input(B, 4, 5, 6, dtype=I8, low=-128, high=128),
        g.const(np.float32(0.1)),
        g.const(np.int8(-3), I8),
    )
    return [
        g("conv", x, weight(g, 8, 4, 3, 3), None, **SAME), g("conv", x, weight(g, 4, 1, 3, 3), None, **SAME, groups=4),
        g("conv", x, weight(g, 6, 4, 1, 1), None, **POINT),
    ]  # fmt: skip


# -- embeddings --------------------------------------------------------------------------------------------------------
def tables(g: Sketch, ids: Value, rows: int, width: int) -> list[Value]:
    """Rows of a table in bf16, and in int8 with a scale for each row."""
    rng = np.random.default_rng(rows)
    table, scales = g.const(rng.integers(-127, 128, (rows, width)), I8), g.const(0.001 + 0.01 * rng.random((rows, 1)))
    small = g("gather", g.const(rng.standard_normal((rows, width)), BF16), ids, axis=0)
    return [
        g("cast", small, dtype=DType.f32),
        g("dequantize", g("gather", table, ids, axis=0), g("gather", scales, ids, axis=0)),
    ]


@EXACT.each(narrow=1, ragged=33, wide=384)
def lookup(g: Sketch, width: int) -> list[Value]:
    ids = g.input(B, S, dtype=I64, low=-50, high=50)
    return tables(g, ids, 50, width)


@NEAR.case
def embeddings_summed_and_normed(g: Sketch) -> list[Value]:
    ids, kinds = g.input(B, S, dtype=I64, low=0, high=50), g.input(B, S, dtype=I64, low=0, high=2)
    places = g("gather", g.random(512, 32), g("arange", end=S), axis=0)
    return [
        g("layer_norm", g("add", g("add", word, places), kind), g.random(32), g.random(32))
        for word, kind in zip(tables(g, ids, 50, 32), tables(g, kinds, 2, 32), strict=True)
    ]


@EXACT.case
def embedding_to_int8(g: Sketch) -> list[Value]:
    ids = g.input(B, S, dtype=I64, low=0, high=50)
    return [linear(g, rows, 9, zero=6) for rows in tables(g, ids, 50, 24)]


# -- against the interpreter -------------------------------------------------------------------------------------------
def same(table: Table, name: str, level: str) -> None:
    """Every output equals the interpreter's on the graph as lowered, in which products are of integers, to the last bit."""
    compiled = table.compiled(level)
    for env in SIZES:
        got = compiled.run(name, env)
        want = interpret(compiled.graphs[name], table.sketches[name].inputs(env))
        for number, (a, b) in enumerate(zip(want, got, strict=True)):
            np.testing.assert_array_equal(b, a, err_msg=f"{name} at {env}, output {number}")
    assert all(np.std(b) > 0 for b in compiled.run(name, {"b": 3, "s": 5})), "the outputs are constant"


def near(table: Table, name: str, level: str) -> None:
    """On the graph as written: within a step or two of quantisation here and there, and equal nearly everywhere."""
    compiled = table.compiled(level)
    for env in SIZES:
        want = interpret(table.sketches[name].graph, table.sketches[name].inputs(env))
        for a, b in zip(want, compiled.run(name, env), strict=True):
            a, b = a.astype(np.float64), b.astype(np.float64)
            assert a.shape == b.shape
            size = np.sqrt(np.mean(np.square(a))) if a.size else 0.0
            assert np.abs(a - b).max(initial=0) <= 0.06 * size
            assert np.sqrt(np.mean(np.square(a - b))) <= 0.01 * size if a.size else True


@pytest.mark.parametrize("name", EXACT.sketches)
def test_equal_to_the_interpreter(name: str) -> None:
    same(EXACT, name, isa.detect())
    near(EXACT, name, isa.detect())


@pytest.mark.parametrize("name", NEAR.sketches)
def test_near_the_interpreter(name: str) -> None:
    near(NEAR, name, isa.detect())


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_lower_levels(level: str) -> None:
    for name in EXACT.sketches:
        same(EXACT, name, level)
    for name in NEAR.sketches:
        near(NEAR, name, level)


def test_any_number_of_rows() -> None:
    """The rows that a tile, a block and a worker leave over."""
    g = Sketch()
    g.output(linear(g, g("relu", linear(g, g.input(S, 40), 50, zero=3)), 35, 0.02, -128))
    compiled = compile_sketches({"rows": g}, isa.detect(), threads=2)
    for rows in range(1, 41):
        (got,) = compiled.run("rows", {"b": 1, "s": rows})
        (want,) = interpret(compiled.graphs["rows"], g.inputs({"b": 1, "s": rows}))
        np.testing.assert_array_equal(got, want)


# -- what becomes of it ------------------------------------------------------------------------------------------------
def program(g: Sketch, *outputs: Value) -> Program:
    g.output(*outputs)
    return BACKEND.lower(optimised(g.graph, isa.detect()), find_target("cpu"))


def labels(g: Sketch, *outputs: Value) -> list[str]:
    return [launch.label for launch in program(g, *outputs).launches]


def test_values_are_quantised_where_they_are_made() -> None:
    g = Sketch()
    x = g.input(B, S, 24)
    wide = g("gelu", linear(g, x, 96, zero=3))
    h = g("layer_norm", g("add", x, linear(g, wide, 24)), g.random(24), g.random(24))
    out = quantized(g, h)
    made = program(g, g("linear", out, weight(g, 7, 24), None), g("linear", out, weight(g, 9, 24), None), h)
    assert [launch.label for launch in made.launches] == [
        "quantize+qlinear+gelu+quantize", "qlinear+add+layer_norm+quantize", "qlinear", "qlinear",
    ]  # fmt: skip
    assert {launch.precision for launch in made.launches} == {"w8a8"}


def test_between_convolutions_pass_bytes() -> None:
    g = Sketch()
    x = g("relu", conv(g, g.input(B, 3, 9, 11), 8, 3, 3, zero=4, **SAME))
    x = g("relu", conv(g, x, 8, 3, 3, groups=8, zero=-128, **SAME))
    x = g("relu", conv(g, x, 16, 1, 1, zero=-128))
    made = program(g, g("reduce_mean", conv(g, x, 5, 3, 3, zero=-128, **SAME), axes=(2, 3)))
    kernels = ["quantize", "qconv+relu+quantize", "qconv+relu+quantize", "qlinear+relu+quantize", "qconv", "avg_pool"]
    assert [launch.label for launch in made.launches] == kernels


def test_padding_becomes_part_of_the_convolution() -> None:
    g = Sketch()
    x = g("relu", conv(g, g.input(B, 3, 7, 6), 8, 3, 3, zero=4, **SAME))
    y = g("pad", x, low=(0, 0, 0, 1), high=(0, 0, 1, 2), value=0.0)
    found = labels(g, g("reduce_max", conv(g, y, 4, 3, 3, zero=-90, **SAME), axes=(2, 3)))
    assert "copy" not in found and found[:3] == ["quantize", "qconv+relu+quantize", "qconv"]


def test_layers_share_their_kernels_whatever_their_scales() -> None:
    g = Sketch()
    x = g.input(B, S, 24)
    for i in range(4):
        x = g("gelu", linear(g, x, 24, 0.01 * (i + 1), i - 2))
    specs = {launch.spec for launch in program(g, x).launches[1:-1]}
    assert len(specs) == 1


def notes(g: Sketch, output: Value) -> list[str]:
    g.output(output)
    context = PassContext(target=find_target("cpu"))
    graph = g.graph.copy()
    graph.sweep()
    for one in BACKEND.passes(find_target("cpu"))["legalize"]:
        one.run(graph, context)
    return [note.text for note in context.notes if note.kind == "miss"]


def odd_convolutions(g: Sketch, x: Value) -> Sequence[Value]:
    whole = g("dequantize", g.random(5, 4, 3, 3, dtype=I8), g.const(np.float32(0.1)))
    by_column = g("dequantize", g("quantize", x, g.const(np.linspace(1, 2, 6))), g.const(np.linspace(1, 2, 6)))
    return (
        g("conv", quantized(g, x), whole, g.random(5), **SAME),
        g("conv", by_column, weight(g, 5, 4, 3, 3), None, **SAME),
    )  # fmt: skip


@NEAR.case
def convolutions_without_an_int8_kernel(g: Sketch) -> Sequence[Value]:
    return odd_convolutions(g, g.input(B, 4, 5, 6))


def shifted_weight(g: Sketch, x: Value) -> Value:
    w = g("dequantize", g.random(5, 4, 3, 3, dtype=I8), g.random(5, 1, 1, 1), g.const(np.int8(3), I8))
    return g("conv", quantized(g, x), w, None, **SAME)


@NEAR.case
def a_convolution_whose_weight_has_a_zero_point(g: Sketch) -> Value:
    return shifted_weight(g, g.input(B, 4, 5, 6))


def test_a_weight_with_a_zero_point_gets_an_int8_kernel() -> None:
    g = Sketch()
    y = shifted_weight(g, g.input(B, 4, 5, 6))
    assert any("qconv" in one for one in labels(g, y))
    assert not notes(g, y)


@pytest.mark.parametrize("number", range(2))
def test_what_has_no_int8_kernel_runs_in_float_and_says_so(number: int) -> None:
    g = Sketch()
    told = notes(g, odd_convolutions(g, g.input(B, 4, 5, 6))[number])
    assert len(told) == 1 and "runs in float on dequantised values" in told[0]


def test_a_long_row_with_a_zero_point_runs_in_float() -> None:
    """Its int32 sums could overflow."""
    g = Sketch()
    x = g.input(B, MAX_K_SHIFTED + 1)
    ones = g("dequantize", g.const(np.ones((2, MAX_K_SHIFTED + 1)), I8), g.const(np.full((2, 1), 0.1)))
    assert "qlinear" not in labels(g, g("linear", quantized(g, x, zero=1), ones, None))[-1]


def test_a_table_of_low_precision_is_kept_so() -> None:
    for index, row_bytes in ((0, 64 * 2), (1, 64 + 4)):
        g = Sketch()
        rows = tables(g, g.input(B, S, dtype=I64, low=0, high=500), 500, 64)[index]
        made = program(g, g("layer_norm", g("add", rows, g.input(S, 64)), g.random(64), g.random(64)))
        assert len(made.launches) == 1
        assert sum(w.nbytes for w in made.weights) <= 500 * row_bytes + 2 * 64 * 4


def test_the_capabilities_name_them() -> None:
    can = BACKEND.capabilities(find_target("cpu"))
    assert "w8a8" in can.of("linear") and "w8a8" in can.of("conv") and "w8a16" in can.of("embedding")
