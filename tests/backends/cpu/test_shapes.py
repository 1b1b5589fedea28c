"""Views, copies, lookups, generated values and odd shapes on the CPU against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from case_table import LOWER, Table
from graph_harness import B, S, Sketch

from planish.backends.cpu import isa
from planish.compiler.dims import dim_min, floordiv
from planish.compiler.graph import Value
from planish.compiler.types import DType

F32, F64, F16, BF16, I64, I32, BOOL = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i64", "i32", "bool"))
ALL = (F32, F64, BF16, F16, I64, I32, DType.i16, DType.i8, DType.u8, BOOL)
TABLE = Table()


@TABLE.each(reverse=(2, 1, 0), swap=(0, 2, 1), roll=(1, 2, 0), back=(2, 0, 1), front=(1, 0, 2))
def transpose(g: Sketch, perm: tuple[int, ...]) -> list[Value]:
    x = g.input(B, S, 6)
    y = g("transpose", x, perm=perm)
    return [y, g("tanh", y), g("transpose", g("neg", x), perm=perm)]


@TABLE.each(**{str(d): d for d in ALL})
def copies_of(g: Sketch, dtype: DType) -> list[Value]:
    x = g.input(B, S, 3, dtype=dtype, low=0)
    turned = g("transpose", x, perm=(1, 0, 2))
    whole = g("concat", x, g("slice", x, axis=2, start=1, end=2), axis=2)
    return [turned, whole, g("pad", x, low=(0, 1, 0), high=(0, 0, 2), value=1), g("slice", x, axis=2, end=3, step=2)]


@TABLE.case
def reshapes(g: Sketch) -> list[Value]:
    x = g.input(B, S, 12)
    turned = g("transpose", x, perm=(1, 0, 2))
    return [
        g("reshape", x, shape=(B * S, 12)), g("reshape", x, shape=(B, S, 3, 4)), g("reshape", x, shape=(B, S * 12)),
        g("reshape", turned, shape=(S, B * 12)), g("reshape", g("exp", turned), shape=(S * B * 12,)),
        g("reshape", x, shape=(B, 1, S, 1, 12)), g("reshape", g("reshape", turned, shape=(S * B, 12)), shape=(S, B, 6, 2)),
    ]  # fmt: skip


@TABLE.case
def heads_and_back(g: Sketch) -> Value:
    x = g.input(B, S, 12)
    heads = g("transpose", g("reshape", x, shape=(B, S, 3, 4)), perm=(0, 2, 1, 3))
    return g("reshape", g("transpose", g("tanh", heads), perm=(0, 2, 1, 3)), shape=(B, S, 12))


@TABLE.each(first=(0, 0, 2), middle=(1, 3, 9), last=(2, 5, 6))
def slices(g: Sketch, where: tuple[int, int, int]) -> list[Value]:
    axis, start, end = where
    x = g.input(4, 11, 8)
    return [
        g("slice", x, axis=axis, start=start, end=end), g("neg", g("slice", x, axis=axis - 3, start=start, end=end)),
        g("slice", x, axis=axis, start=start, end=end, step=2), g("slice", x, axis=axis, start=start, end=start),
        g("slice", g("slice", x, axis=axis, start=1, end=4), axis=axis, start=1, end=2),
        g("slice", g("slice", x, axis=axis, start=0, end=4, step=2), axis=axis, start=1, end=2, step=3),
    ]  # fmt: skip


@TABLE.case
def symbolic_slices(g: Sketch) -> list[Value]:
    x = g.input(B, 2 * S + 1, 3)
    return [
        g("slice", x, axis=1, start=S, end=2 * S), g("slice", x, axis=1, start=0, end=2 * S, step=2),
        g("slice", x, axis=1, start=1, end=2 * S + 1, step=3), g("slice", x, axis=1, start=0, end=dim_min(S, 4)),
        g("slice", x, axis=1, start=0, end=floordiv(S, 2)),
    ]  # fmt: skip


@TABLE.case
def slice_of_every_op(g: Sketch) -> list[Value]:
    x = g.input(B, S, 10)
    q = g("slice", x, axis=2, start=0, end=5)
    k = g("slice", x, axis=2, start=5, end=10)
    return [
        g("mul", q, g("sigmoid", k)),
        g("softmax", k),
        g("reshape", q, shape=(B * S, 5)),
        g("reduce_sum", q, axes=(1,)),
    ]


@TABLE.each(first=0, middle=1, last=-1)
def concat(g: Sketch, axis: int) -> list[Value]:
    x, y = g.input(B, S, 5), g.input(B, S, 5)
    turned = g("transpose", g.input(5, S, B), perm=(2, 1, 0))
    return [
        g("concat", x, y, axis=axis), g("concat", x, x, y, axis=axis), g("concat", x, turned, axis=axis),
        g("tanh", g("concat", g("neg", x), g("exp", y), axis=axis)),
    ]  # fmt: skip


@TABLE.case
def concat_of_expanded(g: Sketch) -> list[Value]:
    token = g("expand", g.random(1, 1, 5), shape=(B, 1, 5))
    rows = g.input(B, S, 5)
    return [
        g("concat", token, rows, axis=1),
        g("concat", rows, g("full", value=2.5, shape=(B, S, 1), dtype=F32), axis=2),
    ]


@TABLE.case
def concat_of_ranges(g: Sketch) -> list[Value]:
    x = g.input(S, dtype=I64)
    return [
        g("concat", g("arange", end=S), x, axis=0),
        g("concat", x, g.const(np.arange(4)), g("full", value=S, shape=(2,), dtype=I64), axis=0),
    ]


@TABLE.each(zero=0.0, one=1.0, low=-float("inf"), half=-2.5)
def pad(g: Sketch, value: float) -> list[Value]:
    x = g.input(B, S, 4)
    return [
        g("pad", x, low=(0, 0, 1), high=(0, 0, 2), value=value), g("pad", x, low=(0, 2, 0), high=(0, 0, 0), value=value),
        g("pad", x, low=(1, 0, 0), high=(0, 3, 0), value=value),
        g("neg", g("pad", g("tanh", x), low=(0, 1, 1), high=(2, 1, 1), value=value)),
    ]  # fmt: skip


@TABLE.case
def crop(g: Sketch) -> list[Value]:
    x = g.input(B, S, 9)
    return [
        g("pad", x, low=(0, 0, -2), high=(0, 0, -1)), g("pad", x, low=(0, 0, -2), high=(0, 0, 3)),
        g("pad", x, low=(0, 1, 3), high=(0, 0, -4), value=7.0),
    ]  # fmt: skip


@TABLE.case
def expand(g: Sketch) -> list[Value]:
    x = g.input(B, 1, 4)
    g.input(S)
    return [
        g("expand", x, shape=(B, S, 4)), g("expand", x, shape=(3, B, 1, 4)), g("add", g("expand", x, shape=(B, S, 4)), x),
        g("reshape", g("expand", x, shape=(B, S, 4)), shape=(B * S, 4)), g("expand", g.input(), shape=(B, S)),
        g("reduce_sum", g("expand", x, shape=(B, S, 4)), axes=(1,)),
    ]  # fmt: skip


@TABLE.case
def embedding(g: Sketch) -> list[Value]:
    table, ids = g.random(10, 6), g.input(B, S, dtype=I64, low=-10, high=10)
    positive = g.input(B, S, dtype=I64, low=0, high=10)
    lone = g.input(dtype=I64, low=0, high=10)
    return [
        g("embedding", table, positive), g("tanh", g("embedding", table, positive)), g("embedding", table, lone),
        g("add", g("embedding", table, positive), g("slice", table, axis=0, end=1)), g("gather", table, ids, axis=0),
        g("layer_norm", g("embedding", table, positive), None, None), g("embedding", g.random(10, 1), positive),
    ]  # fmt: skip


@TABLE.case
def lookup_in_a_computed_table(g: Sketch) -> list[Value]:
    x, ids = g.input(6, 8), g.input(B, dtype=I64, low=0, high=6)
    table = g("neg", x)
    picked = g("gather", table, g("minimum", g("add", ids, g.const(np.int64(1))), g.const(np.int64(5))), axis=0)
    return [
        picked,
        g("embedding", g("exp", x), ids),
        g("mul", table, g.input(6, 1)),
        g("gather", g.input(7), g.input(dtype=I64, low=0, high=7), axis=0),
    ]


@TABLE.case
def three_embeddings(g: Sketch) -> Value:
    words, kinds = g.random(10, 16), g.random(2, 16)
    ids, types = g.input(B, S, dtype=I64, low=0, high=10), g.input(B, S, dtype=I32, low=0, high=2)
    positions = g("slice", g.random(512, 16), axis=0, end=S)
    total = g("add", g("add", g("embedding", words, ids), g("embedding", kinds, types)), positions)
    return g("layer_norm", total, g.random(16), g.random(16))


@TABLE.each(first=0, middle=1, last=2)
def gather(g: Sketch, axis: int) -> list[Value]:
    x = g.input(6, 6, 6)
    one, two = g.input(S, dtype=I64, low=-6, high=6), g.input(B, 2, dtype=I32, low=0, high=6)
    lone = g.input(dtype=I64, low=0, high=6)
    return [
        g("gather", x, one, axis=axis), g("gather", x, two, axis=axis), g("gather", x, lone, axis=axis),
        g("exp", g("gather", x, one, axis=axis - 3)), g("gather", g("transpose", x, perm=(2, 0, 1)), two, axis=axis),
    ]  # fmt: skip


@TABLE.each(**{str(d): d for d in (F64, BF16, I64, DType.i8, BOOL)})
def gather_type(g: Sketch, dtype: DType) -> list[Value]:
    x, ids = g.input(5, 7, dtype=dtype, low=0), g.input(B, dtype=I64, low=0, high=5)
    return [g("gather", x, ids, axis=0), g("gather", x, ids, axis=1)]


@TABLE.case
def gather_constant_ids(g: Sketch) -> list[Value]:
    x = g.input(B, 6, 4)
    return [
        g("gather", x, g.const(np.array([3, 0, 5])), axis=1), g("gather", x, g.const(np.array([1, 2, 3])), axis=1),
        g("gather", x, g.const(np.array([0, 2, 4])), axis=1), g("gather", x, g.const(np.array([2, 2])), axis=1),
        g("gather", x, g.const(np.array(-1)), axis=1), g("gather", x, g.const(np.array([3, 2, 1])), axis=2),
        g("gather", x, g.const(np.array([[-2, -1]])), axis=-1),
    ]  # fmt: skip


@TABLE.case
def gather_by_range(g: Sketch) -> list[Value]:
    x = g.input(B, 2 * S, 4)
    run = g("arange", end=S)
    return [
        g("gather", x, run, axis=1), g("gather", x, g("add", run, g.const(np.int64(0))), axis=1),
        g("gather", x, g("arange", start=S, end=2 * S), axis=1), g("gather", x, g("arange", end=2 * S, step=2), axis=1),
    ]  # fmt: skip


@TABLE.each(first=0, middle=1, last=2)
def take_along(g: Sketch, axis: int) -> list[Value]:
    x = g.input(5, 5, 5)
    shape = [5, 5, 5]
    shape[axis] = 3
    return [
        g("take_along", x, g.input(5, 5, 5, dtype=I64, low=0, high=5), axis=axis),
        g("take_along", x, g.input(*shape, dtype=I64, low=0, high=5), axis=axis - 3),
        g("take_along", g("transpose", x, perm=(1, 2, 0)), g.input(2, 3, 4, dtype=I64, low=0, high=5), axis=axis),
    ]  # fmt: skip


@TABLE.case
def generated(g: Sketch) -> list[Value]:
    x = g.input(B, S)
    run = g("arange", end=S)
    column = g("reshape", run, shape=(S, 1))
    mask = g("le", run, column)
    return [
        run, mask, g("where", mask, g.const(0.0), g.const(-1e9)), g("full", value=3.5, shape=(B, S), dtype=F32),
        g("full", value=S, shape=(B,), dtype=I64), g("add", x, g("full", value=B * S + 1, shape=(), dtype=F32)),
        g("mul", x, g("cast", run, dtype=F32)), g("arange", start=2, end=S + 2, step=1),
        g("arange", start=B, end=B + 7, step=3, dtype=I32), g("full", value=True, shape=(S,), dtype=BOOL),
        g("arange", start=B, end=B + 1), g("add", g.input(S, 1), g("cast", g("arange", start=S, end=S + 1), dtype=F32)),
        g("arange", start=0.5, end=3.0, step=0.5, dtype=F32), g("arange", start=9, end=-1, step=-2),
    ]  # fmt: skip


@TABLE.case
def generated_along_other_axes(g: Sketch) -> list[Value]:
    x = g.input(B, S, 4)
    run = g("arange", end=S)
    return [
        g("add", x, g("cast", g("reshape", run, shape=(S, 1)), dtype=F32)),
        g("mul", g("cast", g("reshape", g("arange", end=B), shape=(B, 1, 1)), dtype=F32), x),
        g("reduce_sum", g("mul", g("cast", g("reshape", run, shape=(1, S, 1)), dtype=F32), x), axes=(-1,)),
        g("transpose", g("sub", g("expand", g("reshape", run, shape=(S, 1)), shape=(S, S)), run), perm=(1, 0)),
    ]  # fmt: skip


@TABLE.case
def generated_and_broadcast(g: Sketch) -> list[Value]:
    """A sequence of one number is that number everywhere, whichever axis it is broadcast along."""
    x = g.input(B, S, 1)
    one = g("arange", start=5, end=6)
    half = g("arange", start=0.5, end=1.0, step=0.5, dtype=F32)
    return [
        g("add", x, g("cast", g("reshape", one, shape=(1, 1)), dtype=F32)), g("mul", x, g("cast", one, dtype=F32)),
        g("add", g("reshape", one, shape=(1, 1)), g("reshape", g("arange", end=S), shape=(S, 1))),
        g("add", g.input(B, S), g("reshape", half, shape=(1, 1))), g("add", g.input(B, S), half),
        g("add", one, g.input(B, 3, dtype=I64)),
    ]  # fmt: skip


@TABLE.case
def rank_zero(g: Sketch) -> list[Value]:
    x = g.input()
    return [
        g("tanh", x), g("add", x, x), g("reshape", x, shape=(1, 1)), g("expand", x, shape=(B,)), g("cast", x, dtype=F64),
        g("mul", x, g.input(B, S)), g("where", g("gt", x, g.const(0.0)), x, g.const(9.0)),
        g("softmax", g("reshape", x, shape=(1,))),
    ]  # fmt: skip


@TABLE.case
def size_one(g: Sketch) -> list[Value]:
    x, y = g.input(1, B, 1), g.input(1, 1, S)
    return [
        g("mul", x, y), g("transpose", x, perm=(1, 0, 2)), g("softmax", x), g("reduce_sum", x, axes=(2,)),
        g("reduce_max", y, axes=(0, 1)), g("layer_norm", y, None, None, eps=0.1), g("concat", x, x, axis=2),
    ]  # fmt: skip


@TABLE.case
def empty(g: Sketch) -> list[Value]:
    x = g.input(B, 0)
    return [
        x, g("tanh", x), g("reduce_sum", x, axes=(1,)), g("concat", x, g.input(B, 2), axis=1), g("transpose", x, perm=(1, 0)),
        g("pad", x, low=(0, 1), high=(0, 1), value=2.0), g("linear", x, g.random(3, 0), g.random(3)),
    ]  # fmt: skip


@TABLE.case
def outputs_of_every_kind(g: Sketch) -> list[Value]:
    x = g.input(B, S)
    y = g("tanh", x)
    constant = g.random(3, 2)
    return [
        x, y, y, constant, constant, g("transpose", x, perm=(1, 0)), g("slice", y, axis=1, end=0), x,
        g("reshape", y, shape=(S * B,)), g("full", value=1, shape=(2,), dtype=DType.u8), g("arange", end=B),
        g("transpose", constant, perm=(1, 0)), g("expand", constant, shape=(2, 3, 2)),
    ]  # fmt: skip


@TABLE.case
def outputs_that_feed_others(g: Sketch) -> list[Value]:
    x = g.input(B, S)
    a = g("exp", x)
    b = g("neg", a)
    c = g("add", b, x)
    return [c, a, b, g("mul", a, c)]


@TABLE.case
def dead_and_shared(g: Sketch) -> list[Value]:
    x = g.input(B, S)
    g.input(B)  # nobody reads it
    g("exp", g("add", x, x))  # nor this
    twice = g("add", x, x)
    return [twice, g("mul", g("add", x, x), twice)]


@TABLE.case
def chains_that_cross(g: Sketch) -> list[Value]:
    """Neither chain may be moved in front of what it reads of the other."""
    x, y = g.input(B, S, 6), g.input(B, S, 6)
    a = g("exp", x)
    column = g("reduce_sum", a, axes=(1,), keepdim=True)
    c = g("mul", a, g("tanh", column))
    d = g("add", y, c)
    total = g("reduce_sum", d, axes=(0, 1, 2))
    return [g("add", g("mul", a, d), column), g("mul", total, c)]


@pytest.mark.parametrize("name", TABLE.sketches)
def test_shapes(name: str) -> None:
    TABLE.check(name, isa.detect())


LARGE = ("transpose_swap", "transpose_reverse", "concat_first", "concat_last", "pad_one", "reshapes", "three_embeddings",
         "generated_along_other_axes", "expand")  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_large_shapes(name: str) -> None:
    """Enough rows that the work is cut into tasks and tiles."""
    TABLE.check(name, isa.detect(), ({"b": 64, "s": 512}, {"b": 61, "s": 257}))


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_shapes_at_lower_levels(level: str) -> None:
    TABLE.check_all(level)
