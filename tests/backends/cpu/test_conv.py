"""Convolutions, transposed convolutions and pools with what is fused around them, on the CPU against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from case_table import LOWER, Table
from graph_harness import B, S, Sketch, optimised

from planish.backends.cpu import isa
from planish.backends.cpu.backend import BACKEND
from planish.compiler.errors import LoweringError
from planish.compiler.graph import Value
from planish.compiler.target import find_target
from planish.compiler.types import DType

F32, F64, F16, BF16, I32 = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i32"))
TABLE = Table()
SAME = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


def weight(g: Sketch, n: int, k: int) -> Value:
    return g.const(np.random.default_rng(n * 1000 + k).standard_normal((n, k)) / np.sqrt(k))


CONVS: dict[str, tuple[tuple, tuple, dict]] = {
    "patch": ((B, 3, 8, 12), (10, 3, 4, 4), {"stride": (4, 4)}),
    "patch_ragged": ((B, 3, 9, 14), (10, 3, 4, 4), {"stride": (4, 4)}),
    "patch_oblong": ((B, 3, 8, 12), (10, 3, 2, 4), {"stride": (2, 4)}),
    "patch_symbolic": ((B, 3, 4 * S, 8), (10, 3, 4, 4), {"stride": (4, 4)}),
    "pointwise": ((B, 6, 5, 7), (10, 6, 1, 1), {}),
    "pointwise_strided": ((B, 6, 5, 7), (10, 6, 1, 1), {"stride": (2, 3)}),
    "pointwise_padded": ((B, 6, 5, 7), (10, 6, 1, 1), {"padding": (1, 2)}),
    "pointwise_padded_strided": ((B, 6, 5, 7), (4, 6, 1, 1), {"padding": (1, 1), "stride": (2, 2)}),
    "three": ((B, 4, 6, 7), (5, 4, 3, 3), {}),
    "three_padded": ((B, 4, 6, 7), (5, 4, 3, 3), {"padding": (1, 1)}),
    "three_strided": ((B, 4, 6, 7), (5, 4, 3, 3), {"padding": (1, 1), "stride": (2, 2)}),
    "three_dilated": ((B, 4, 8, 9), (5, 4, 3, 3), {"padding": (2, 1), "dilation": (2, 3)}),
    "three_symbolic": ((B, 4, S, 7), (5, 4, 3, 3), {"padding": (1, 1)}),
    "depthwise": ((B, 4, 6, 7), (4, 1, 3, 3), {"padding": (1, 1), "groups": 4}),
    "depthwise_strided": ((B, 4, 6, 7), (4, 1, 3, 3), {"stride": (2, 1), "groups": 4}),
    "depthwise_twice": ((B, 4, 6, 7), (8, 1, 3, 3), {"padding": (1, 1), "groups": 4}),
    "grouped": ((B, 6, 5, 5), (9, 2, 3, 3), {"padding": (1, 1), "groups": 3}),
    "one_d": ((B, 5, S), (7, 5, 3), {"padding": (1,)}),
    "one_d_strided": ((B, 5, S + 4), (7, 5, 3), {"stride": (2,)}),
    "one_d_depthwise": ((B, 5, S), (5, 1, 3), {"padding": (1,), "groups": 5}),
    "three_d": ((B, 2, 4, 5, 6), (3, 2, 2, 3, 3), {"padding": (0, 1, 1)}),
    "three_d_depthwise": ((B, 3, 4, 5, 6), (3, 1, 2, 3, 3), {"padding": (1, 1, 0), "stride": (1, 2, 1), "groups": 3}),
    "padded_behind": ((B, 4, 6, 7), (5, 4, 2, 4), {"padding": (0, 1), "padding_high": (1, 2)}),
    "depthwise_behind": ((B, 4, 6, 7), (4, 1, 2, 4), {"padding": (0, 1), "padding_high": (1, 2), "groups": 4}),
    "wide": ((B, 3, 20, 23), (50, 3, 5, 5), {"padding": (2, 2), "stride": (2, 2)}),
    "deep": ((B, 70, 5, 6), (37, 70, 3, 3), {"padding": (1, 1)}),
    "grouped_wide": ((B, 40, 5, 6), (80, 20, 3, 3), {"padding": (1, 1), "groups": 2}),
    "depthwise_wide": ((B, 83, 9, 12), (83, 1, 5, 3), {"padding": (2, 1), "dilation": (1, 2), "groups": 83}),
    "window_larger_than_x": ((B, 4, 2, 3), (5, 4, 5, 5), {"padding": (2, 2)}),
}  # fmt: skip


@TABLE.each(**CONVS)
def conv(g: Sketch, case: tuple[tuple, tuple, dict]) -> list[Value]:
    shape, kernel, attrs = case
    spatial = len(shape) - 2
    attrs = {"stride": (1,) * spatial, "padding": (0,) * spatial, "dilation": (1,) * spatial, **attrs}
    x, w = g.input(*shape), g.random(*kernel)
    return [g("conv", x, w, g.random(kernel[0]), **attrs), g("relu", g("conv", x, w, None, **attrs))]


@TABLE.each(f64=F64, f16=F16, bf16=BF16)
def conv_type(g: Sketch, dtype: DType) -> list[Value]:
    x, attrs = g.input(B, 4, 6, 7, dtype=dtype), {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    return [
        g("conv", x, g.random(5, 4, 3, 3, dtype=dtype), g.random(5, dtype=dtype), **attrs),
        g("conv", x, g.random(4, 1, 3, 3, dtype=dtype), g.random(4, dtype=dtype), **attrs, groups=4),
        g("conv", x, g.random(8, 1, 3, 3, dtype=dtype), g.random(8, dtype=dtype), **attrs, groups=4),
    ]  # fmt: skip


@TABLE.each(f16=F16, bf16=BF16)
def conv_with_f32_result(g: Sketch, dtype: DType) -> list[Value]:
    x, attrs = g.input(B, 4, 6, 7, dtype=dtype), {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    return [
        g("conv", x, g.random(6, 2, 3, 3, dtype=dtype), None, **attrs, groups=2, out_dtype=F32),
        g("conv", x, g.random(4, 1, 3, 3, dtype=dtype), g.random(4), **attrs, groups=4, out_dtype=F32),
    ]  # fmt: skip


@TABLE.case
def convs_in_a_row(g: Sketch) -> Value:
    attrs = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    x = g.input(B, 4, 8, 8)
    y = g(
        "relu",
        g(
            "batch_norm",
            g("conv", x, g.random(6, 4, 3, 3), None, **attrs),
            g.random(6),
            g.random(6),
            g.random(6),
            g.const(np.ones(6)),
        ),
    )
    y = g("add", y, g("relu", g("conv", y, g.random(6, 6, 3, 3), g.random(6), **attrs)))
    y = g("max_pool", y, kernel=(2, 2), stride=(2, 2), padding=(0, 0))
    return g("linear", g("reduce_mean", y, axes=(2, 3)), weight(g, 3, 6), g.random(3))


@TABLE.each(
    plain=((2, 2), (2, 2), (0, 0)),
    overlap=((3, 3), (2, 2), (1, 1)),
    oblong=((1, 3), (1, 2), (0, 1)),
    ragged=((2, 3), (2, 3), (0, 0)),
)
def pool(g: Sketch, case: tuple) -> list[Value]:
    kernel, stride, padding = case
    x, attrs = g.input(B, 3, 7, 8), {"kernel": kernel, "stride": stride, "padding": padding}
    return [
        g("max_pool", x, **attrs), g("avg_pool", x, **attrs), g("avg_pool", x, **attrs, count_include_pad=False),
        g("avg_pool", g.input(B, 3, 7, S + 3), **attrs, count_include_pad=False),
    ]  # fmt: skip


@TABLE.case
def pool_of_one_axis(g: Sketch) -> list[Value]:
    x = g.input(B, 3, S + 2)
    attrs = {"kernel": (3,), "stride": (1,), "padding": (1,)}
    return [
        g("max_pool", x, **attrs),
        g("avg_pool", x, **attrs),
        g("max_pool", g.input(B, 3, 9), **attrs, dilation=(2,)),
    ]


CEILED = {
    "last_window_starts_behind": ((3, 2), (2, 3), (1, 1)), "ragged": ((2, 3), (3, 2), (0, 1)), "whole": ((2, 2), (2, 2), (0, 0)),
}  # fmt: skip


@TABLE.each(**CEILED)
def pool_ceiled(g: Sketch, case: tuple) -> list[Value]:
    kernel, stride, padding = case
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": True}
    x, y = g.input(B, 19, 7, 8), g.input(B, 3, S + 6, 8)
    return [
        g("max_pool", x, **attrs), g("avg_pool", x, **attrs), g("avg_pool", x, **attrs, count_include_pad=False),
        g("avg_pool", x, **attrs, divisor=5), g("max_pool", y, **attrs), g("avg_pool", y, **attrs),
    ]  # fmt: skip


@TABLE.each(f64=F64, f16=F16, bf16=BF16)
def pool_type(g: Sketch, dtype: DType) -> list[Value]:
    x = g.input(B, 5, 7, 8, dtype=dtype)
    attrs = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    return [
        g("max_pool", x, **attrs), g("avg_pool", x, **attrs, count_include_pad=False),
        g("avg_pool", x, **attrs, ceil_mode=True), g("max_pool", x, **attrs, ceil_mode=True, dilation=(2, 1)),
    ]  # fmt: skip


@TABLE.case
def pool_of_integers(g: Sketch) -> Value:
    return g("max_pool", g.input(B, 3, 7, dtype=I32), kernel=(3,), stride=(2,), padding=(1,), ceil_mode=True)


@TABLE.case
def pool_of_numbers_that_are_none(g: Sketch) -> list[Value]:
    """NaN and infinities come through as in torch."""

    def data(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        return rng.choice(np.array([np.nan, np.inf, -np.inf, 1, 2, 3, -4], np.float32), size)

    x = g.input(B, 3, 6, 7, data=data)
    attrs = {"kernel": (2, 3), "stride": (2, 2), "padding": (1, 1)}
    return [g("max_pool", x, **attrs), g("avg_pool", x, **attrs)]


# -- transposed convolution ------------------------------------------------------------------------------------------------
TRANSPOSED: dict[str, tuple[tuple, tuple, dict]] = {
    "doubling": ((B, 6, 5, 7), (6, 4, 2, 2), {"stride": (2, 2)}),
    "overlapping": ((B, 6, 5, 7), (6, 20, 4, 4), {"stride": (2, 2), "padding": (1, 1)}),
    "ragged": ((B, 6, 5, 7), (6, 4, 3, 3), {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)}),
    "dilated": ((B, 6, 5, 7), (6, 4, 3, 2), {"stride": (2, 1), "padding": (1, 1), "dilation": (2, 3)}),
    "gaps": ((B, 6, 5, 7), (6, 70, 1, 2), {"stride": (3, 4)}),
    "cropped": ((B, 6, 5, 7), (6, 4, 2, 2), {"padding": (2, 1)}),
    "symbolic": ((B, 5, S), (5, 7, 3), {"stride": (2,), "padding": (1,), "output_padding": (1,)}),
    "three_d": ((B, 3, 2, 3, 4), (3, 4, 2, 3, 2), {"stride": (2, 2, 1), "padding": (0, 1, 0)}),
    "grouped": ((B, 6, 5, 7), (6, 2, 3, 3), {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 0), "groups": 3}),
    "depthwise": ((B, 6, 5, S), (6, 1, 4, 4), {"stride": (2, 2), "padding": (1, 1), "groups": 6}),
    "grouped_cropped": ((B, 4, 5, 7), (4, 3, 2, 2), {"padding": (2, 1), "groups": 2}),
}  # fmt: skip


@TABLE.each(**TRANSPOSED)
def conv_transpose(g: Sketch, case: tuple[tuple, tuple, dict]) -> list[Value]:
    shape, kernel, attrs = case
    space = len(shape) - 2
    zeros, ones = (0,) * space, (1,) * space
    attrs = {"stride": ones, "padding": zeros, "output_padding": zeros, "dilation": ones, **attrs}
    x, w = g.input(*shape), g.random(*kernel)
    bias = g.random(kernel[1] * attrs.get("groups", 1))
    return [g("relu", g("conv_transpose", x, w, bias, **attrs)), g("conv_transpose", x, w, None, **attrs)]


@TABLE.each(f16=F16, bf16=BF16)
def conv_transpose_type(g: Sketch, dtype: DType) -> list[Value]:
    x = g.input(B, 4, 6, 7, dtype=dtype)
    attrs = {"stride": (2, 2), "padding": (1, 1), "output_padding": (0, 1), "dilation": (1, 1)}
    return [
        g("conv_transpose", x, g.random(4, 5, 3, 3, dtype=dtype), g.random(5, dtype=dtype), **attrs),
        g("conv_transpose", x, g.random(4, 1, 3, 3, dtype=dtype), g.random(4, dtype=dtype), **attrs, groups=4, out_dtype=F32),
    ]  # fmt: skip


# -- what follows the layout -------------------------------------------------------------------------------------------------
def image(g: Sketch, channels: int = 8) -> Value:
    """A value that lies channels-last: the result of a convolution."""
    return g("conv", g.input(B, 3, 6, 7), g.random(channels, 3, 3, 3), None, **SAME)


@TABLE.case
def filters_computed_at_run_time(g: Sketch) -> list[Value]:
    w = g.input(6, 2, 3, 3)
    x = g.input(B, 4, 6, 7)
    return [g("conv", x, w, None, **SAME, groups=2), g("conv", g.input(B, 2, 6, 7), w, g.random(6), **SAME)]


@TABLE.each(f32=F32, bf16=BF16)
def transposed_filters_computed_at_run_time(g: Sketch, dtype: DType) -> list[Value]:
    attrs = {"stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2), "dilation": (1, 2)}
    x, w = g.input(B, 4, 6, S, dtype=dtype), g.input(4, 3, 3, 2, dtype=dtype)
    bias = g.random(6, dtype=dtype)
    return [g("conv_transpose", x, w, bias, **attrs, groups=2), g("conv_transpose", x, w, None, **attrs, out_dtype=F32)]


@TABLE.case
def squeeze_excite(g: Sketch) -> Value:
    y = g("hardswish", image(g))
    mean = g("reduce_mean", y, axes=(2, 3), keepdim=True)
    w = g("sigmoid", g("conv", mean, g.random(8, 8, 1, 1), g.random(8), stride=(1, 1), padding=(0, 0), dilation=(1, 1)))
    return g("add", g("mul", y, w), g.input(B, 8, 6, 7))


@TABLE.case
def joins_pads_and_slices(g: Sketch) -> list[Value]:
    y, z = image(g), image(g, 5)
    both = g("concat", y, g("slice", z, axis=1, start=1, end=4), axis=1)
    padded = g("pad", both, low=(0, 0, 1, 0), high=(0, 0, 0, 2), value=0.0)
    conv = g("conv", padded, g.random(4, 11, 3, 3), None, **SAME)
    return [conv, g("pad", y, low=(0, 1, 0, 0), high=(0, 0, 0, 0), value=2.0), g("concat", y, g("relu", y), axis=2)]


@TABLE.case
def reductions_of_an_image(g: Sketch) -> list[Value]:
    y = image(g)
    return [
        g("reduce_mean", y, axes=(2, 3)), g("reduce_sum", y, axes=(-1, -2), keepdim=True), g("reduce_max", y, axes=(2, 3)),
        g("reduce_mean", y, axes=(1,), keepdim=True), g("reduce_min", y, axes=(3,)), g("reduce_sum", y, axes=(2,), keepdim=True),
        g("argmax", y, axis=1, keepdim=False), g("argmax", y, axis=1, keepdim=True), g("argmin", y, axis=2, keepdim=False),
        g("softmax", y, axis=1), g("log_softmax", y, axis=-1),
    ]  # fmt: skip


@TABLE.case
def norms_of_an_image(g: Sketch) -> list[Value]:
    y = image(g)
    three = g("conv", g.input(B, 3, S), g.random(6, 3, 3), None, stride=(1,), padding=(1,), dilation=(1,))
    return [
        g("silu", g("group_norm", y, g.random(8), g.random(8), groups=2, eps=1e-5)),
        g("group_norm", y, None, None, groups=8, eps=1e-3), g("group_norm", three, g.random(6), None, groups=1, eps=1e-5),
        g("batch_norm", y, g.random(8), g.random(8), g.random(8), g.const(np.linspace(0.5, 2, 8)), eps=1e-5),
    ]  # fmt: skip


@TABLE.case
def resampling_of_an_image(g: Sketch) -> list[Value]:
    """Matrices along the axes of space: two neighbours mixed, and more."""
    y = image(g)
    two = np.zeros((9, 6), np.float32)
    for i in range(9):
        two[i, i // 2], two[i, min(i // 2 + 1, 5)] = 0.25 + 0.5 * (i % 2), 0.5
    more = np.random.default_rng(0).standard_normal((4, 7))
    ids = g.const(np.arange(12) // 2, DType.i64)
    tall = g("reshape", g("matmul", g.const(two), y), shape=(B, 8, 9, 7))
    return [
        tall, g("linear", tall, g.const(more)), g("matmul", g.const(np.random.default_rng(1).standard_normal((3, 6))), y),
        g("gather", y, ids, axis=2), g("conv", g("gather", y, ids, axis=2), g.random(4, 8, 3, 3), None, **SAME),
    ]  # fmt: skip


@TABLE.case
def tokens_and_images(g: Sketch) -> list[Value]:
    """An image flattened to tokens, and tokens put back into an image."""
    y = image(g)
    tokens = g("transpose", g("reshape", y, shape=(B, 8, 42)), perm=(0, 2, 1))
    tokens = g("gelu", g("linear", tokens, weight(g, 10, 8), g.random(10)))
    back = g("reshape", g("transpose", tokens, perm=(0, 2, 1)), shape=(B, 10, 6, 7))
    return [g("conv", back, g.random(10, 1, 3, 3), g.random(10), **SAME, groups=10), tokens]


@pytest.mark.parametrize("name", TABLE.sketches)
def test_convolutions(name: str) -> None:
    TABLE.check(name, isa.detect(), slack=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_convolutions_at_lower_levels(level: str) -> None:
    TABLE.check_all(level, slack=3.0)


# -- what becomes of it ------------------------------------------------------------------------------------------------------
def launches(g: Sketch, *outputs: Value) -> list[str]:
    """The labels of the kernels that a sketch becomes."""
    g.output(*outputs)
    graph = optimised(g.graph, isa.detect())
    return [launch.label for launch in BACKEND.lower(graph, find_target("cpu")).launches]


def test_between_convolutions_nothing_is_copied() -> None:
    g = Sketch()
    x = g("relu", g("batch_norm", image(g), g.random(8), g.random(8), g.random(8), g.const(np.ones(8)), eps=1e-5))
    y = g("relu", g("conv", x, g.random(8, 8, 3, 3), g.random(8), **SAME))
    z = g("add", g("conv", y, g.random(8, 8, 1, 1), None, stride=(1, 1), padding=(0, 0), dilation=(1, 1)), x)
    pooled = g("reduce_mean", g("relu", z), axes=(2, 3))
    assert launches(g, pooled) == ["copy", "conv+relu", "conv+relu", "linear+add+relu", "avg_pool"]


def test_a_skip_connection_is_written_where_it_is_joined() -> None:
    g = Sketch()
    first = g("relu", image(g))
    deep = g("max_pool", first, kernel=(2, 2), stride=(2, 2), padding=(0, 0), ceil_mode=True)
    up = {"stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)}
    wide = g("slice", g("conv_transpose", deep, g.random(8, 4, 2, 2), None, **up), axis=3, start=0, end=7)
    last = g("conv", g("concat", wide, first, axis=1), g.random(4, 12, 3, 3), None, **SAME)
    found = launches(g, g("reduce_max", last, axes=(2, 3)))
    assert found.count("copy") == 2, found  # the input, and the part that was cropped


def test_padding_in_front_becomes_part_of_the_convolution() -> None:
    g = Sketch()
    y = g("pad", image(g), low=(0, 0, 0, 1), high=(0, 0, 1, 2), value=0.0)
    assert "copy" not in launches(g, g("reduce_max", g("conv", y, g.random(4, 8, 3, 3), None, **SAME), axes=(2, 3)))[1:]


def test_a_transposed_convolution_in_f64_is_refused() -> None:
    g = Sketch()
    attrs = {"stride": (1,), "padding": (0,), "output_padding": (0,), "dilation": (1,)}
    x, w = g.input(B, 3, 5, dtype=DType.f64), g.input(3, 4, 2, dtype=DType.f64)
    with pytest.raises(LoweringError, match="is in f64"):
        launches(g, g("conv_transpose", x, w, None, **attrs))
