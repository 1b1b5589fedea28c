"""Linears, matmuls and attention with what is fused around them, on the CPU against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from case_table import LOWER, Table
from graph_harness import B, S, Sketch

from planish.backends.cpu import isa
from planish.compiler.graph import Value
from planish.compiler.types import DType

F32, F64, F16, BF16, I64, I32, BOOL = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i64", "i32", "bool"))
TABLE = Table()


def weight(g: Sketch, n: int, k: int, dtype: DType = F32) -> Value:
    return g.const(np.random.default_rng(n * 1000 + k).standard_normal((n, k)) / np.sqrt(k), dtype)


# -- linears -----------------------------------------------------------------------------------------------------------
@TABLE.each(rank1=(24,), rank2=(B, 24), rank3=(B, S, 24), rank4=(B, 2, S, 24))
def linear(g: Sketch, shape: tuple) -> list[Value]:
    x = g.input(*shape)
    g.input(B, S)
    return [g("linear", x, weight(g, 10, 24), g.random(10)), g("linear", x, weight(g, 33, 24))]


@TABLE.each(n1=(1, 24), k1=(24, 1), prime=(37, 53), tiles=(64, 64), wide=(130, 16))
def linear_size(g: Sketch, shape: tuple[int, int]) -> Value:
    return g("linear", g.input(B, S, shape[1]), weight(g, *shape), g.random(shape[0]))


@TABLE.case
def linear_of_a_transpose(g: Sketch) -> list[Value]:
    x = g.input(24, B, S)
    turned = g("transpose", x, perm=(1, 2, 0))
    return [
        g("linear", turned, weight(g, 8, 24), g.random(8)),
        g("linear", g("transpose", x, perm=(2, 1, 0)), weight(g, 8, 24)),
    ]


@TABLE.case
def linear_of_a_slice(g: Sketch) -> list[Value]:
    x = g.input(B, S + 1, 50)
    return [
        g("linear", g("slice", x, axis=2, start=10, end=34), weight(g, 8, 24), g.random(8)),
        g("linear", g("slice", x, axis=1, start=1, end=S + 1), weight(g, 8, 50), g.random(8)),
        g("linear", g("slice", x, axis=2, start=0, end=48, step=2), weight(g, 8, 24)),
        g("linear", g("reshape", g("slice", x, axis=1, start=0, end=1), shape=(B, 50)), weight(g, 8, 50)),
    ]  # fmt: skip


@TABLE.case
def linear_of_an_expand(g: Sketch) -> Value:
    x = g.input(B, 1, 24)
    g.input(S)
    return g("linear", g("expand", x, shape=(B, S, 24)), weight(g, 8, 24), g.random(8))


@TABLE.each(
    batch=(1, S, 20),
    row=(B, 1, 20),
    last=(20,),
    whole=(B, S, 20),
    column=(B, S, 1),
    rank2=(S, 20),
    rank0=(),
    one=(1, 1, 1),
)
def linear_residual(g: Sketch, shape: tuple) -> list[Value]:
    """A residual that broadcasts over some of the rows and columns of a linear's result."""
    y = g("linear", g.input(B, S, 12), weight(g, 20, 12), g.random(20))
    return [g("add", y, g.input(*shape))]


@TABLE.case
def linear_row_epilogues(g: Sketch) -> list[Value]:
    x, r = g.input(B, S, 24), g.input(B, S, 40)
    h = g("add", g("linear", x, weight(g, 40, 24), g.random(40)), r)
    y = g("layer_norm", h, g.random(40), g.random(40))
    q, scale = g.both("quantize_dynamic", y)
    return [y, h, g("dequantize", q, scale)]


@TABLE.case
def linear_softmax_and_reductions(g: Sketch) -> list[Value]:
    y = g("linear", g.input(B, S, 24), weight(g, 17, 24), g.random(17))
    z = g("linear", g.input(B, S, 24), weight(g, 9, 24))
    return [
        g("softmax", y),
        g("reduce_max", z, axes=(-1,), keepdim=True),
        g("argmax", z, axis=-1),
        g("softmax", z, axis=1),
    ]


@TABLE.case
def linear_epilogue_chain(g: Sketch) -> Value:
    y = g("linear", g.input(B, S, 24), weight(g, 17, 24), g.random(17))
    return g("mul", g("gelu", y), g("sigmoid", g("mul", y, g.const(1.5))))


@TABLE.case
def linear_used_twice(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    y = g("linear", x, weight(g, 24, 24), g.random(24))
    return [g("tanh", y), y, g("add", y, x), g("linear", y, weight(g, 5, 24))]


@TABLE.case
def linear_prologues(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    normed = g("layer_norm", x, g.random(24), g.random(24))
    wide = g("linear", normed, weight(g, 30, 24), g.random(30))
    gelu = g("linear", g("gelu", x), weight(g, 7, 24))
    scaled = g("linear", g("mul", x, g.input(B, S, 1)), weight(g, 7, 24))
    shifted = g("linear", g("add", x, g.input(1, S, 24)), weight(g, 7, 24))
    return [wide, gelu, scaled, shifted]


@TABLE.case
def linear_prologue_that_is_an_output(g: Sketch) -> list[Value]:
    normed = g("layer_norm", g.input(B, S, 24), g.random(24), g.random(24))
    return [g("linear", normed, weight(g, 6, 24)), normed]


@TABLE.case
def linears_in_a_row(g: Sketch) -> Value:
    x = g.input(B, S, 24)
    h = g("linear", g("layer_norm", x, g.random(24), g.random(24)), weight(g, 48, 24), g.random(48))
    return g("add", x, g("linear", g("gelu", h), weight(g, 24, 48), g.random(24)))


@TABLE.case
def linear_shared_weight(g: Sketch) -> list[Value]:
    w, x, y = weight(g, 24, 24), g.input(B, S, 24), g.input(S, 24)
    return [g("linear", x, w), g("linear", y, w), g("linear", g("linear", y, w, g.random(24)), w), g("mul", w, w)]


@TABLE.case
def linear_of_run_time_weight(g: Sketch) -> list[Value]:
    x, w = g.input(B, S, 12), g.input(9, 12)
    return [g("linear", x, w, g.input(9)), g("linear", g("tanh", x), g("neg", w)), g("linear", g.input(12), w)]


@TABLE.case
def linear_of_run_time_bias(g: Sketch) -> Value:
    return g("linear", g.input(B, S, 12), weight(g, 9, 12), g("tanh", g.input(9)))


@TABLE.each(f64=F64, f16=F16, bf16=BF16)
def linear_type(g: Sketch, dtype: DType) -> list[Value]:
    x = g.input(B, S, 24, dtype=dtype)
    y = g("linear", x, weight(g, 10, 24, dtype), g.random(10, dtype=dtype))
    return [y, g("tanh", y), g("linear", g("relu", x), weight(g, 6, 24, dtype))]


@TABLE.case
def linear_bf16_with_f32_result(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    y = g("linear", g("cast", x, dtype=BF16), weight(g, 24, 24, BF16), g.random(24), out_dtype=F32)
    z = g("cast", g("gelu", y), dtype=BF16)
    return [g("add", g("linear", z, weight(g, 24, 24, BF16), None, out_dtype=F32), x), y]


@TABLE.case
def linear_int8(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    q, scale = g.both("quantize_dynamic", x)
    outputs = []
    for n in (8, 33):
        w = g.random(n, 24, dtype=DType.i8, low=-127, high=128)
        wide = g("dequantize", w, g.const(np.linspace(0.001, 0.1, n).reshape(n, 1)))
        outputs.append(g("linear", g("dequantize", q, scale), wide, g.random(n)))
    return [*outputs, g("add", g("dequantize", q, scale), g.const(1.0))]


@TABLE.case
def linear_int8_whose_rows_are_an_output(g: Sketch) -> list[Value]:
    """Rows that int8 linears alone read are stored in another form, which nobody outside may see."""
    outputs: list[Value] = []
    for shape in ((B, S, 24), (B, 16)):
        q, scale = g.both("quantize_dynamic", g.input(*shape))
        w = g.random(8, int(shape[-1]), dtype=DType.i8, low=-127, high=128)
        y = g("qlinear", q, scale, w, g.const(np.full(8, 0.02)), g.random(8))
        outputs += [y, q, scale] if shape[-1] == 24 else [y, g("reshape", q, shape=(16 * B,))]
    return outputs


@TABLE.case
def linear_int8_one_scale(g: Sketch) -> list[Value]:
    """One scale for all columns, shared by weights of different sizes."""
    q, scale = g.both("quantize_dynamic", g.input(B, S, 24))
    one = g.const(np.full(1, 0.02))
    weights = [g.random(n, 24, dtype=DType.i8, low=-127, high=128) for n in (8, 40)]
    return [g("qlinear", q, scale, w, one) for w in weights]


@TABLE.case
def linear_over_nothing(g: Sketch) -> list[Value]:
    x = g.input(B, 0)
    return [
        g("linear", x, g.random(3, 0), g.random(3)),
        g("linear", g.input(B, 4), g.random(0, 4)),
        g("linear", x, g.random(3, 0)),
    ]


@TABLE.case
def mlp_without_rows(g: Sketch) -> Value:
    x = g.input(0, 8)
    return g("softmax", g("linear", g("relu", g("linear", x, weight(g, 6, 8), g.random(6))), weight(g, 3, 6)))


# -- matmul ------------------------------------------------------------------------------------------------------------
@TABLE.case
def matmul(g: Sketch) -> list[Value]:
    a, b = g.input(B, S, 12), g.input(B, 12, S)
    return [
        g("tanh", g("matmul", a, g.input(B, 12, 1))), g("add", g("matmul", g.input(1, 12), g.input(12, 1)), g.input(1, 1)),
        g("matmul", a, b), g("matmul", a, g.input(12, 7)), g("matmul", g.input(5, 12), b),
        g("matmul", g.input(B, 1, S, 12), g.input(1, 3, 12, S)), g("matmul", b, a),
    ]  # fmt: skip


@TABLE.case
def matmul_of_views(g: Sketch) -> list[Value]:
    a, b = g.input(B, S, 3, 8), g.input(B, S, 3, 8)
    q, k = (g("transpose", v, perm=(0, 2, 1, 3)) for v in (a, b))
    scores = g("matmul", q, g("transpose", k, perm=(0, 1, 3, 2)))
    return [scores, g("matmul", g("softmax", g("mul", scores, g.const(0.35))), k)]


@TABLE.case
def matmul_epilogues(g: Sketch) -> list[Value]:
    a, b = g.input(B, 3, S, 8), g.input(B, 3, 8, S)
    y = g("matmul", a, b)
    masked = g("add", g("mul", y, g.const(0.5)), g.input(B, 1, 1, S))
    return [masked, g("tanh", g("add", g("matmul", b, a), g.input(8))), g("cast", g("matmul", a, b), dtype=BF16)]


@TABLE.case
def matmul_with_two_results(g: Sketch) -> list[Value]:
    y = g("matmul", g.input(B, S, 8), g.input(B, 8, S))
    return [y, g("exp", y), g("gt", y, g.const(0.0))]


@TABLE.case
def matmul_by_a_constant(g: Sketch) -> list[Value]:
    x = g.input(B, S, 12)
    return [
        g("matmul", x, g.random(12, 9)),
        g("add", g("matmul", x, g.random(12, 4)), g.random(4)),
        g("matmul", g.random(5, 12), g("transpose", x, perm=(0, 2, 1))),
    ]


@TABLE.each(f64=F64, f16=F16, bf16=BF16, i64=I64, i32=I32)
def matmul_type(g: Sketch, dtype: DType) -> list[Value]:
    y = g("matmul", g.input(B, S, 8, dtype=dtype), g.input(B, 8, 5, dtype=dtype))
    return [y, g("add", y, y)]


@TABLE.case
def matmul_bf16_with_f32_result(g: Sketch) -> Value:
    return g("matmul", g.input(B, S, 8, dtype=BF16), g.input(B, 8, 5, dtype=BF16), out_dtype=F32)


@TABLE.case
def matmul_over_symbolic_length(g: Sketch) -> list[Value]:
    a, b = g.input(4, B), g.input(B, 6)
    return [g("matmul", a, b), g("add", g("matmul", g.input(3, 2, S), g.input(S, 3)), g.random(3))]


# -- attention ---------------------------------------------------------------------------------------------------------
def heads(g: Sketch, length, count: int = 2, size: int = 8, dtype: DType = F32) -> Value:  # type: ignore[no-untyped-def]
    """[batch, heads, sequence, size] as models make it: a view of [batch, sequence, heads * size]."""
    x = g.input(B, length, count * size, dtype=dtype)
    return g("transpose", g("reshape", x, shape=(B, length, count, size)), perm=(0, 2, 1, 3))


@TABLE.each(
    plain={},
    causal={"causal": True},
    offset={"causal": True, "causal_offset": 2},
    zero={"causal": True, "empty_row": "zero"},
)
def attention(g: Sketch, attrs: dict) -> list[Value]:
    q, k, v = heads(g, S), heads(g, S), heads(g, S, size=12)
    y = g("attention", q, k, v, scale=0.35, **attrs)
    return [g("reshape", g("transpose", y, perm=(0, 2, 1, 3)), shape=(B, S, 24)), g("attention", k, q, v, scale=1.0)]


@TABLE.each(batch=(B, 1, 1, S), full=(B, 2, S, S), shared=(1, 1, S, S), row=(1, 1, 1, S))
def attention_mask(g: Sketch, shape: tuple) -> list[Value]:
    q, k, v = heads(g, S), heads(g, S), heads(g, S)
    return [
        g("attention", q, k, v, g.input(*shape), scale=0.3),
        g("attention", q, k, v, g.input(*shape, dtype=BOOL), scale=0.3, empty_row="zero"),
    ]  # fmt: skip


@TABLE.each(f64=F64, f16=F16, bf16=BF16)
def attention_type(g: Sketch, dtype: DType) -> list[Value]:
    q, k, v = (heads(g, S, count, dtype=dtype) for count in (4, 2, 2))
    return [
        g("attention", q, k, v, g.input(B, 1, 1, S, dtype=dtype), scale=0.3),
        g("attention", q, k, v, g.input(B, 1, S, S, dtype=BOOL), scale=0.3, empty_row="zero", causal=True, causal_offset=1),
    ]  # fmt: skip


@TABLE.case
def attention_groups_and_lengths(g: Sketch) -> list[Value]:
    q, k, v = heads(g, 3, 4), heads(g, S + 1, 2), heads(g, S + 1, 2)
    return [
        g("attention", q, k, v, scale=0.3),
        g("attention", q, g("slice", k, axis=1, end=1), g("slice", v, axis=1, end=1), scale=0.3),
    ]


@TABLE.case
def attention_of_a_merged_linear(g: Sketch) -> Value:
    x = g.input(B, S, 16)
    parts = [g("linear", x, g.random(16, 16), g.random(16)) for _ in range(3)]
    q, k, v = (g("transpose", g("reshape", p, shape=(B, S, 2, 8)), perm=(0, 2, 1, 3)) for p in parts)
    y = g("attention", q, k, v, scale=0.35)
    return g(
        "linear", g("reshape", g("transpose", y, perm=(0, 2, 1, 3)), shape=(B, S, 16)), weight(g, 16, 16), g.random(16)
    )


@pytest.mark.parametrize("name", TABLE.sketches)
def test_anchors(name: str) -> None:
    fast = name == "linear_bf16_with_f32_result"  # may use the low-precision class of GELU
    TABLE.check(name, isa.detect(), slack=600.0 if fast else 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_anchors_at_lower_levels(level: str) -> None:
    TABLE.check_all(level, slack=600.0)
