"""What is known without running the model, against what running it says."""

from __future__ import annotations

import numpy as np
import pytest
from graph_harness import B, S, Sketch
from hypothesis import given
from hypothesis import strategies as st

from planish.compiler.dims import evaluate
from planish.compiler.graph import Value
from planish.compiler.interpret import interpret
from planish.compiler.types import DType, bf16_to_float
from planish.passes.facts import as_stored, integer_range, sequence, uniform

F32, F64, F16, BF16, I64, I32, I8, BOOL = (DType(n) for n in ("f32", "f64", "f16", "bf16", "i64", "i32", "i8", "bool"))
ENV = {"b": 3, "s": 5}


def run(g: Sketch, value: Value) -> np.ndarray:
    """The elements of ``value``."""
    if not g.graph.inputs:
        g.input(B), g.input(S)
    g.output(value)
    return interpret(g.graph, g.inputs(ENV))[0]


# -- one repeated value ------------------------------------------------------------------------------------------------
def test_constants_and_fills_are_uniform() -> None:
    g = Sketch()
    assert uniform(g.graph, g.const(np.full((3, 2), 2.5))) == 2.5
    assert uniform(g.graph, g.const(np.array([True, True]))) is True
    assert uniform(g.graph, g("full", value=S, shape=(2,), dtype=I64)) == S
    assert uniform(g.graph, g.const(np.array([1, 2]))) is None
    assert uniform(g.graph, g.const(np.zeros((0, 3)))) is None
    assert uniform(g.graph, g.const(np.array([np.nan, np.nan]))) is None
    assert uniform(g.graph, g.input(B)) is None
    assert uniform(g.graph, None) is None


def test_views_and_lookups_of_a_uniform_value_are_uniform() -> None:
    g = Sketch()
    x = g("full", value=7, shape=(4, 1), dtype=I64)
    wide = g("expand", x, shape=(4, S))
    seen = g("slice", g("transpose", wide, perm=(1, 0)), axis=1, start=1, end=3)
    assert uniform(g.graph, seen) == 7
    assert uniform(g.graph, g("gather", x, g.input(B, dtype=I64), axis=0)) == 7
    assert uniform(g.graph, g("cast", seen, dtype=F32)) == 7.0


@pytest.mark.parametrize("dtype", [F32, F16, BF16, F64, I8, BOOL])
def test_a_fill_is_what_its_type_holds(dtype: DType) -> None:
    """0.1 in bf16 is not 0.1, and a cast sees the difference."""
    g = Sketch()
    number = g("full", value=0.1 if dtype.is_float else 1, shape=(2,), dtype=dtype)
    known = uniform(g.graph, number)
    assert known is not None
    held = run(g, number)
    held = bf16_to_float(held) if dtype is BF16 else held
    assert float(held[0]) == float(known)  # type: ignore[arg-type]
    wide = uniform(g.graph, g("cast", number, dtype=F64))
    assert wide == float(held[0])


@pytest.mark.parametrize(
    ("number", "dtype", "want"), [(300, I8, 44), (2.7, I64, 2), (0.5, BOOL, True), (1e10, F16, np.inf)]
)
def test_numbers_wrap_truncate_and_overflow(number: float, dtype: DType, want: float) -> None:
    assert as_stored(number, dtype) == want
    assert type(as_stored(number, dtype)) is type(want) or dtype.is_float


# -- ranges ------------------------------------------------------------------------------------------------------------
@st.composite
def integers(draw: st.DrawFn, g: Sketch, depth: int = 3) -> Value:
    """An integer expression of constants, ranges and dimensions."""
    if depth == 0 or draw(st.booleans()):
        kind = draw(st.sampled_from(["constant", "full", "dim", "arange"]))
        if kind == "constant":
            return g.const(np.array(draw(st.lists(st.integers(-9, 9), min_size=5, max_size=5))))
        if kind == "arange":
            return g("arange", start=draw(st.integers(-4, 4)), end=S, step=draw(st.sampled_from([1, 2])))
        return g("full", value=S if kind == "dim" else draw(st.integers(-9, 9)), shape=(), dtype=I64)
    op = draw(st.sampled_from(["add", "sub", "mul", "maximum", "minimum", "slice", "cast"]))
    x = draw(integers(g, depth - 1))
    if op == "cast":
        return g("cast", g("cast", x, dtype=I32), dtype=I64)
    if op == "slice":
        return g("slice", x, axis=0, end=1) if x.type.rank else x
    return g(op, x, draw(integers(g, depth - 1)))


@given(st.data())
def test_ranges_hold(data: st.DataObject) -> None:
    g = Sketch()
    g.input(B), g.input(S)
    try:
        value = data.draw(integers(g))
    except Exception as error:
        if "broadcast" in str(error):  # [s] with [5]
            return
        raise
    found = integer_range(g.graph, value)
    if found is not None:
        held = run(g, value)
        assert found[0] <= held.min()
        assert held.max() <= found[1]


def test_ranges_follow_the_bounds_of_symbols() -> None:
    g = Sketch()
    assert integer_range(g.graph, g("arange", end=S)) == (0, 511)
    assert integer_range(g.graph, g("full", value=S - 1, shape=(), dtype=I64)) == (-1, 511)
    assert integer_range(g.graph, g("sub", g("arange", end=S), g.const(np.array([[1], [3]])))) == (-3, 510)
    assert integer_range(g.graph, g.input(B, dtype=I64)) is None
    assert integer_range(g.graph, g("full", value=1.0, shape=(), dtype=F32)) is None


# -- sequences ---------------------------------------------------------------------------------------------------------
@st.composite
def runs(draw: st.DrawFn, g: Sketch) -> Value:
    """An arithmetic sequence behind views and shifts."""
    if draw(st.booleans()):
        x = g("arange", start=draw(st.sampled_from([0, 2, S])), end=S * 2 + 2, step=draw(st.sampled_from([1, 2, 3])))
    else:
        start, step = draw(st.integers(-3, 3)), draw(st.sampled_from([-2, -1, 0, 1, 3]))
        x = g.const(start + step * np.arange(4))
    for _ in range(draw(st.integers(0, 4))):
        rank = x.type.rank
        match draw(st.sampled_from(["add", "sub", "column", "expand", "transpose", "slice", "cast"])):
            case "add":
                shift = g("full", value=draw(st.sampled_from([3, S])), shape=(), dtype=I64)
                x = g("add", shift, x) if draw(st.booleans()) else g("add", x, shift)
            case "sub":
                x = g("sub", x, g.const(np.int64(draw(st.integers(-3, 3)))))
            case "column" if rank == 1:
                x = g("reshape", x, shape=draw(st.sampled_from([(x.shape[0], 1), (1, x.shape[0]), (1, x.shape[0], 1)])))
            case "expand":
                x = g("expand", x, shape=(2, *(3 if d == 1 else d for d in x.shape)))
            case "transpose":
                x = g("transpose", x, perm=draw(st.permutations(range(rank))))
            case "slice":
                axis = draw(st.integers(0, rank - 1))
                x = (
                    g("slice", x, axis=axis, start=0, end=1)
                    if draw(st.booleans()) or x.shape[axis] in (1, 2, 3)
                    else g("slice", x, axis=axis, start=1, end=x.shape[axis], step=draw(st.sampled_from([1, 2])))
                )
            case "cast":
                x = g("cast", g("cast", x, dtype=I32), dtype=I64)
    return x


@given(st.data())
def test_sequences_are_what_they_say(data: st.DataObject) -> None:
    g = Sketch()
    g.input(B), g.input(S)
    value = data.draw(runs(g))
    found = sequence(g.graph, value)
    if found is None:
        return
    held = run(g, value)
    length = evaluate(found.length, ENV)
    assert held.shape[found.axis] == length
    line = evaluate(found.start, ENV) + found.step * np.arange(length)
    shape = [1] * held.ndim
    shape[found.axis] = length
    np.testing.assert_array_equal(held, np.broadcast_to(line.reshape(shape), held.shape))


def test_sequences_are_seen_through_views() -> None:
    g = Sketch()
    column = g("reshape", g("arange", end=S), shape=(S, 1))
    found = sequence(g.graph, g("transpose", g("add", column, g.const(np.int64(2))), perm=(1, 0)))
    assert found is not None
    assert (found.start, found.step, found.axis, found.length) == (2, 1, 1, S)
    assert sequence(g.graph, g.const(np.array([1, 2, 4]))) is None
    assert sequence(g.graph, g.const(np.array([[1, 2], [3, 4]]))) is None
    assert sequence(g.graph, g.input(S, dtype=I64)) is None
    assert sequence(g.graph, g("arange", start=0.0, end=3.0, step=0.5, dtype=F32)) is None


def test_one_element_repeated_is_no_sequence() -> None:
    g = Sketch()
    one = g("slice", g("arange", end=S), axis=0, start=0, end=1)
    assert sequence(g.graph, one) is not None
    assert sequence(g.graph, g("expand", one, shape=(3,))) is None
