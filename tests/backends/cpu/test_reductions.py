"""Reductions, norms, softmax, running sums and index reductions over every axis, on the CPU against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from case_table import LOWER, SIZES, Table
from graph_harness import B, Env, S, Sketch

from planish.backends.cpu import isa
from planish.compiler.graph import Value
from planish.compiler.ops import REDUCTIONS
from planish.compiler.types import DType

F32, F64, F16, BF16, I64, I32, BOOL = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i64", "i32", "bool"))
TABLE = Table()
FULL_ROWS: tuple[Env, ...] = tuple(e for e in SIZES if e["b"])  # the maximum of nothing is an error in PyTorch

for _op in REDUCTIONS:

    @TABLE.each(**{_op[7:]: _op})
    def last(g: Sketch, op: str) -> list[Value]:
        x = g.input(B, S, dtype=BOOL if op in ("reduce_any", "reduce_all") else F32)
        return [g(op, x, axes=(-1,), keepdim=True), g(op, x, axes=(1,))]

    @TABLE.each(**{_op[7:]: _op})
    def middle(g: Sketch, op: str) -> list[Value]:
        x = g.input(B, S, 6, dtype=BOOL if op in ("reduce_any", "reduce_all") else F32)
        return [g(op, x, axes=(1,), keepdim=True), g(op, x, axes=(-2,))]

    @TABLE.each(**{_op[7:]: _op})
    def everything(g: Sketch, op: str) -> list[Value]:
        x = g.input(B, S, 2, dtype=BOOL if op in ("reduce_any", "reduce_all") else F32)
        return [g(op, x, axes=(0, 1, 2)), g(op, x, axes=(0, 1, 2), keepdim=True)]


@TABLE.each(ends=(0, 2), tail=(1, 2), head=(0, 1), reversed=(2, 0), negative=(-1, 0))
def mean_over(g: Sketch, axes: tuple[int, ...]) -> list[Value]:
    x = g.input(B, 4, S)
    return [g("reduce_mean", x, axes=axes), g("reduce_sum", x, axes=axes, keepdim=True)]


@TABLE.each(one=(1,), two=(1, 2), first=(0,))
def down_columns(g: Sketch, axes: tuple[int, ...]) -> list[Value]:
    x = g.input(B, S, 3, 20)
    return [g("reduce_mean", x, axes=axes), g("reduce_sum", x, axes=axes, keepdim=True)]


@TABLE.each(mask=(B, S, 1), scalar=(1,), columns=(20,), everywhere=(B, S, 20))
def weighted_columns(g: Sketch, shape: tuple) -> list[Value]:
    x, factor = g.input(B, S, 20), g.input(*shape)
    pooled = g("reduce_sum", g("mul", x, factor), axes=(1,))
    kept = g("mul", factor, x)  # somebody else wants the product, too
    return [pooled, g("reduce_mean", kept, axes=(1,)), kept]


@TABLE.each(**{str(d): d for d in (F64, BF16, F16, I64, I32, DType.i8, DType.u8, BOOL)})
def reduce_type(g: Sketch, dtype: DType) -> list[Value]:
    x = g.input(B, 11, dtype=dtype, low=0, high=30)
    ops = ["reduce_sum", "reduce_max", "reduce_min", "reduce_any", "reduce_all"]
    if dtype.is_float:
        ops.append("reduce_mean")
    return [g(op, x, axes=(-1,), keepdim=bool(i % 2)) for i, op in enumerate(ops)]


def with_specials(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rows that hold a NaN, an infinity, both infinities, nothing but minus infinity."""
    x = rng.standard_normal(shape).astype(np.float32)
    if x.size:
        rows = x.reshape(-1, shape[-1])
        for i, numbers in enumerate(((np.nan,), (np.inf,), (np.inf, -np.inf))):
            rows[i % len(rows), : len(numbers)] = numbers[: shape[-1]]
        rows[3 % len(rows)] = -np.inf
    return x


@TABLE.case
def reductions_of_special_values(g: Sketch) -> list[Value]:
    x = g.input(5, S, data=with_specials)
    return [g(op, x, axes=(-1,)) for op in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")]


@TABLE.case
def softmax_of_special_values(g: Sketch) -> list[Value]:
    x = g.input(5, S, data=with_specials)
    return [g("softmax", x), g("log_softmax", x), g("layer_norm", x, None, None)]


@TABLE.each(last=-1, middle=1, first=0)
def softmax(g: Sketch, axis: int) -> list[Value]:
    x = g.input(B, S, 7)
    return [g("softmax", x, axis=axis), g("log_softmax", x, axis=axis)]


@TABLE.each(f64=F64, bf16=BF16, f16=F16)
def softmax_type(g: Sketch, dtype: DType) -> list[Value]:
    x = g.input(B, S, 19, dtype=dtype)
    return [
        g("softmax", x),
        g("log_softmax", x),
        g("rms_norm", x, g.random(19, dtype=dtype)),
        g("layer_norm", x, None, None),
    ]


@TABLE.each(plain=(False, False), weight=(True, False), bias=(False, True), both=(True, True))
def layer_norm(g: Sketch, affine: tuple[bool, bool]) -> Value:
    return g("layer_norm", g.input(B, S, 33), *(g.random(33) if a else None for a in affine), eps=1e-6)


@TABLE.case
def layer_norm_two_axes(g: Sketch) -> list[Value]:
    x = g.input(B, S, 4, 6)
    return [
        g("layer_norm", x, g.random(4, 6), g.random(4, 6), axes=2),
        g("layer_norm", x, None, g.random(4, 6), axes=2),
    ]


@TABLE.case
def layer_norm_symbolic_row(g: Sketch) -> list[Value]:
    x = g.input(B, 3, S)
    return [g("layer_norm", x, None, None, eps=1e-3), g("layer_norm", x, None, None, axes=2, eps=1e-3)]


@TABLE.case
def rms_norm(g: Sketch) -> list[Value]:
    x = g.input(B, S, 24)
    return [g("rms_norm", x), g("rms_norm", x, g.random(24), eps=1e-5)]


@TABLE.case
def group_norm(g: Sketch) -> list[Value]:
    x, rows = g.input(B, 6, S, 4), g.input(B, 6)
    w, b = g.random(6), g.random(6)
    return [
        g("group_norm", x, w, b, groups=3), g("group_norm", x, None, b, groups=1), g("group_norm", x, w, groups=6),
        g("group_norm", rows, w, b, groups=2),
    ]  # fmt: skip


@TABLE.case
def batch_norm(g: Sketch) -> list[Value]:
    x = g.input(B, 6, S, 4)
    mean, var = g.random(6), g.const(np.linspace(0.5, 3, 6))
    return [
        g("batch_norm", x, g.random(6), g.random(6), mean, var), g("batch_norm", x, None, None, mean, var, eps=1e-3),
        g("batch_norm", g.input(B, 6), g.random(6), None, mean, var),
    ]  # fmt: skip


@TABLE.each(last=-1, middle=1, first=0)
def cumsum(g: Sketch, axis: int) -> list[Value]:
    return [g("cumsum", g.input(B, S, 5), axis=axis), g("cumsum", g.input(B, S, 5, dtype=I64), axis=axis)]


@TABLE.each(last=-1, middle=1, first=0)
def argmax(g: Sketch, axis: int) -> list[Value]:
    x, y = g.input(B, S, 5), g.input(B, S, 5, dtype=I32)  # y holds the same number many times
    return [
        g("argmax", x, axis=axis), g("argmin", x, axis=axis, keepdim=True), g("argmax", y, axis=axis, keepdim=True),
        g("argmin", y, axis=axis),
    ]  # fmt: skip


@TABLE.case
def argmax_of_special_values(g: Sketch) -> list[Value]:
    x = g.input(5, S, data=with_specials)
    return [g("argmax", x, axis=-1), g("argmin", x, axis=-1)]


@TABLE.case
def reduce_of_a_transpose(g: Sketch) -> list[Value]:
    x = g("transpose", g.input(B, 6, S), perm=(2, 0, 1))
    return [
        g("reduce_sum", x, axes=(-1,)),
        g("softmax", x),
        g("reduce_max", x, axes=(2,), keepdim=True),
    ]


@TABLE.case
def reduce_then_use(g: Sketch) -> Value:
    """A mean over the middle, as pooling writes it, that the rest of the graph goes on with."""
    x, mask = g.input(B, S, 8), g.input(B, S, 1)
    total = g("reduce_sum", g("mul", x, mask), axes=(1,))
    count = g("reduce_sum", mask, axes=(1,))
    return g("tanh", g("div", total, g("clamp", count, min=1e-9)))


@TABLE.case
def two_reductions_of_one_row(g: Sketch) -> list[Value]:
    x = g.input(B, S, 40)
    top, total = g("reduce_max", x, axes=(-1,), keepdim=True), g("reduce_sum", x, axes=(-1,), keepdim=True)
    return [g("div", g("sub", x, top), g("add", g("abs", total), g.const(1.0))), top]


@TABLE.case
def norm_of_softmax_of_norm(g: Sketch) -> Value:
    x = g.input(B, S, 31)
    y = g("softmax", g("layer_norm", x, g.random(31), g.random(31)))
    return g("layer_norm", g("add", y, x), None, None)


@TABLE.case
def quantize_dynamic_rows(g: Sketch) -> list[Value]:
    q, scale = g.both("quantize_dynamic", g.input(B, S, 21))
    return [g("dequantize", q, scale), scale]


@TABLE.case
def rank_one(g: Sketch) -> list[Value]:
    x = g.input(S)
    return [
        g("reduce_sum", x, axes=(0,)), g("softmax", x), g("argmax", x, axis=0), g("cumsum", x, axis=0),
        g("layer_norm", x, None, None, eps=1e-2),
    ]  # fmt: skip


@TABLE.case
def no_axes(g: Sketch) -> list[Value]:
    x = g.input(B, S)
    return [g("reduce_sum", x, axes=()), g("tanh", g("reduce_max", x, axes=(), keepdim=True))]


NEED_ROWS = ("max", "min", "argmax", "reduce_type", "argmin")


def sizes_of(name: str) -> tuple[Env, ...]:
    """The sizes at which a case has a meaning."""
    return FULL_ROWS if any(part in name for part in (*NEED_ROWS, "everything")) and "soft" not in name else SIZES


@pytest.mark.parametrize("name", TABLE.sketches)
def test_reductions(name: str) -> None:
    TABLE.check(name, isa.detect(), sizes_of(name))


LARGE = ("mean_over_ends", "middle_sum", "softmax_last", "softmax_middle", "softmax_first", "layer_norm_both", "group_norm",
         "reduce_then_use", "layer_norm_symbolic_row")  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_large_reductions(name: str) -> None:
    TABLE.check(name, isa.detect(), ({"b": 64, "s": 512}, {"b": 61, "s": 257}))


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_reductions_at_lower_levels(level: str) -> None:
    TABLE.check_all(level, sizes_of)
