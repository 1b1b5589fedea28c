"""The contract on numbers, a line at a time, through compiled graphs at every ISA level this machine runs.

What kernels alone keep is tested beside them (``tests/codegen``); here stand the promises a whole graph makes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from graph_harness import B, Compiled, S, Sketch, compile_sketches, optimised
from kernel_harness import RUNNABLE

from planish.backends.cpu import isa as levels
from planish.backends.cpu.backend import BACKEND
from planish.codegen.specs import RowProgram
from planish.compiler.errors import LoweringError
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.target import find_target
from planish.compiler.types import DType, TensorType, bf16_to_float, float_to_bf16

ENV = {"b": 7, "s": 3}
#: x * (127 / amax) lies half way between two steps.
HALVES = np.array([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5, 126.5, -126.5, -127.0], np.float32)


def fixed(array: np.ndarray):  # type: ignore[no-untyped-def]
    return lambda rng, shape: np.broadcast_to(array, shape).copy()


def special_rows(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Rows 1 to 4 hold a NaN, an infinity, minus infinity, nothing but zeros."""
    x = rng.standard_normal(shape).astype(np.float32)
    x[1, 3], x[2, 0], x[3, -1], x[4] = np.nan, np.inf, -np.inf, 0
    return x


def int8_linear(g: Sketch, x, n: int, k: int):  # type: ignore[no-untyped-def]
    """What the quantize pass writes for a linear under w8a8-dynamic."""
    q, scale = g.both("quantize_dynamic", x)
    weight = g.random(n, k, dtype=DType.i8, low=-127, high=128)
    wide = g("dequantize", weight, g.const(np.full((n, 1), 0.01, np.float32)))
    return g("linear", g("dequantize", q, scale), wide, g.random(n))


def sketches() -> dict[str, Sketch]:
    made: dict[str, Sketch] = {}

    def new(name: str) -> Sketch:
        made[name] = Sketch()
        return made[name]

    g = new("rounding")
    x = g.input(HALVES.size, data=fixed(HALVES))
    g.output(*g.both("quantize_dynamic", x))

    g = new("zero_rows")
    q, scale = g.both("quantize_dynamic", g.input(B, S, 9, data=fixed(np.zeros(1, np.float32))))
    g.output(q, scale)

    g = new("special_rows")
    x = g.input(B, 24, data=special_rows)
    g.output(int8_linear(g, x, 10, 24))

    g = new("special_rows_behind_a_norm")
    x = g.input(B, 24, data=special_rows)
    normed = g("layer_norm", x, g.random(24), g.random(24))
    y = g("gelu", int8_linear(g, normed, 32, 24))
    g.output(int8_linear(g, y, 24, 32), y)

    g = new("special_values_in_f32")
    x = g.input(B, 24, data=special_rows)
    g.output(g("linear", x, g.random(10, 24), g.random(10)), g("matmul", x, g.input(24, 5)))

    for n, k in ((5, 3), (16, 64), (37, 1031), (130, 257)):
        g = new(f"accumulators_{n}_{k}")
        q = g.input(B, k, dtype=DType.i8, low=-127, high=128)
        wide = g.input(B, k, dtype=DType.i8, data=lambda rng, shape: np.full(shape, 127, np.int8))
        one = g.input(B, 1, data=fixed(np.ones(1, np.float32)))
        weight = g.random(n, k, dtype=DType.i8, low=-127, high=128)
        lowest = g.const(np.full((n, k), -127, np.int8), DType.i8)
        ones = g.const(np.ones(n, np.float32))
        g.output(g("qlinear", q, one, weight, ones), g("qlinear", wide, one, lowest, ones))

    g = new("bf16_linear")
    x = g.input(B, 200, dtype=DType.bf16)
    g.output(g("linear", x, g.random(40, 200, dtype=DType.bf16), None))

    g = new("static")
    x = g.input(6, data=fixed(np.array([0.5, 1.5, 1e9, -1e9, np.nan, -2.5], np.float32)))
    scale, zero = g.const(np.float32(1.0)), g.const(3, DType.i8)
    g.output(
        g("quantize", x, scale),
        g("quantize", x, scale, zero),
        g("quantize", x, scale, g.const(7, DType.u8), dtype=DType.u8),
    )
    return made


@cache
def compiled(level: str) -> Compiled:
    return compile_sketches(sketches(), level)


def run(name: str, level: str) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Outputs and inputs of a case."""
    made = compiled(level)
    return made.run(name, ENV), made.sketches[name].inputs(ENV)


# -- quantisation ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", RUNNABLE)
def test_halves_round_to_even(level: str) -> None:
    (q, scale), _ = run("rounding", level)
    assert q.tolist() == [127, 0, 2, 2, 0, -2, -2, 4, 126, -126, -127]
    assert scale.tolist() == [1.0]


@pytest.mark.parametrize("level", RUNNABLE)
def test_rows_of_zeros_stay_zeros(level: str) -> None:
    (q, scale), _ = run("zero_rows", level)
    assert q.shape == (7, 3, 9)
    assert not q.any()
    assert not scale.any()


@pytest.mark.parametrize("level", RUNNABLE)
def test_a_row_with_nan_or_infinity_comes_out_all_nan(level: str) -> None:
    (y,), _ = run("special_rows", level)
    assert np.isnan(y).all(axis=1).tolist() == [False, True, True, True, False, False, False]
    assert np.isnan(y).any(axis=1).tolist() == [False, True, True, True, False, False, False]
    made = compiled(level).sketches["special_rows"].graph
    bias = next(made.array(n.inputs[2]) for n in made.nodes if n.op == "linear")
    np.testing.assert_array_equal(y[4], bias)  # a row of zeros gives the bias


@pytest.mark.parametrize("level", RUNNABLE)
def test_and_so_do_the_layers_behind_it(level: str) -> None:
    outputs, _ = run("special_rows_behind_a_norm", level)
    for y in outputs:
        assert np.isnan(y).all(axis=1).tolist() == [False, True, True, True, False, False, False]
        assert np.isfinite(y[[0, 4, 5, 6]]).all()


@pytest.mark.parametrize("level", RUNNABLE)
def test_static_quantisation_saturates_and_takes_nan_for_the_zero_point(level: str) -> None:
    (plain, shifted, unsigned), _ = run("static", level)
    assert plain.tolist() == [0, 2, 127, -127, 0, -2]
    assert shifted.tolist() == [3, 5, 127, -128, 3, 1]
    assert unsigned.tolist() == [7, 9, 255, 0, 7, 5]


# -- integers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", ["5_3", "16_64", "37_1031", "130_257"])
def test_accumulators_are_equal_at_every_level(size: str) -> None:
    """And equal to the sums in int64: scales of one hand them out as they are, rounded to f32 once."""
    for level in RUNNABLE:
        (random, extreme), inputs = run(f"accumulators_{size}", level)
        graph = compiled(level).sketches[f"accumulators_{size}"].graph
        weights = [graph.array(n.inputs[2]) for n in graph.nodes if n.op == "qlinear"]
        for got, name, weight in zip((random, extreme), ("x0", "x1"), weights, strict=True):
            assert weight is not None
            sums = inputs[name].astype(np.int64) @ weight.astype(np.int64).T
            np.testing.assert_array_equal(got, sums.astype(np.float32), err_msg=level)


def test_the_interpreter_sums_integers_exactly() -> None:
    k = 20_011  # 127 * 127 * k is far beyond 2**24
    q, weight = np.full((1, k), 127, np.int8), np.full((2, k), 127, np.int8)
    weight[1, 0] = 126
    g = Sketch()
    one, ones = g.const(np.ones((1, 1), np.float32)), g.const(np.ones(2, np.float32))
    g.output(g("qlinear", g.const(q, DType.i8), one, g.const(weight, DType.i8), ones))
    want = (q.astype(np.int64) @ weight.astype(np.int64).T).astype(np.float32)
    np.testing.assert_array_equal(interpret(g.graph, [])[0], want)


def test_a_row_that_could_overflow_int32_is_refused() -> None:
    g = Sketch()
    k = (2**31 - 1) // (128 * 127) + 1
    scale, ones = g.input(B, 1), g.const(np.ones(1, np.float32))
    g.output(g("qlinear", g.input(B, k, dtype=DType.i8), scale, g.const(np.ones((1, k)), DType.i8), ones))
    with pytest.raises(LoweringError, match="int32"):
        BACKEND.lower(g.graph, find_target("cpu:portable"))


# -- floats ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", RUNNABLE)
def test_products_pass_nan_and_infinity_on_as_pytorch_does(level: str) -> None:
    outputs, inputs = run("special_values_in_f32", level)
    want = interpret(compiled(level).sketches["special_values_in_f32"].graph, inputs)
    for a, b in zip(want, outputs, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_array_equal(np.isposinf(a), np.isposinf(b))
        np.testing.assert_array_equal(np.isneginf(a), np.isneginf(b))


@pytest.mark.parametrize("level", RUNNABLE)
def test_bf16_products_are_exact_and_rounded_once(level: str) -> None:
    """Within the rounding of the store of the sum in f64 (a sum next to a tie may fall to the other side)."""
    (got,), inputs = run("bf16_linear", level)
    graph = compiled(level).sketches["bf16_linear"].graph
    weight = next(graph.array(n.inputs[1]) for n in graph.nodes if n.op == "linear")
    assert weight is not None
    x, w = bf16_to_float(inputs["x0"]).astype(np.float64), bf16_to_float(weight).astype(np.float64)
    exact = x @ w.T
    spread = np.abs(x) @ np.abs(w.T)
    error = np.abs(bf16_to_float(got) - exact)
    assert (error <= np.abs(exact) * 2.0**-8 * 1.001 + spread * 200 * 2.0**-24).all()
    once = float_to_bf16(exact.astype(np.float32))
    assert (once == got).mean() > 0.98


def test_no_contraction_anywhere() -> None:
    for level in levels.available():
        flags = levels.compiler_flags(level)
        assert "-ffp-contract=off" in flags
        assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations"} & set(flags)


def fast_steps(precision: str | None) -> set[str]:
    """The transcendental steps of low precision in the kernels of a small encoder block, by the kernel's precision."""
    g = Sketch()
    x = g.input(B, S, 16)
    y = g("gelu", g("linear", x, g.random(32, 16), g.random(32)))
    y = g("linear", y, g.random(16, 32), g.random(16))
    g.output(g("softmax", g("tanh", g("layer_norm", g("add", x, y), None, None)), axis=1))
    found = set()
    program = BACKEND.lower(optimised(g.graph, "avx512-bf16", precision), find_target("cpu:avx512-bf16"))
    for launch in program.launches:
        spec = launch.spec
        parts = (
            [spec] if isinstance(spec, RowProgram) else [getattr(spec, p, None) for p in ("prologue", "tile", "row")]
        )
        if any("fast" in step.mode for part in parts if part is not None for step in part.steps):
            found.add(launch.precision)
    return found


def test_low_precision_functions_stand_only_where_the_plan_has_low_precision() -> None:
    assert fast_steps(None) == set()
    assert fast_steps("bf16") == {"bf16"}
    assert fast_steps("w8a8-dynamic") == {"w8a8-dynamic"}


def test_dynamic_quantisation_of_the_interpreter_is_the_contract() -> None:
    """The reference itself, on numbers by hand."""
    graph = Graph("quantise")
    x = graph.add_input("x", TensorType(DType.f32, (3, 3)))
    graph.outputs = list(graph.insert("quantize_dynamic", [x]).outputs)
    rows = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [np.nan, 1.0, 2.0]], np.float32)
    q, scale = interpret(graph, [rows])
    assert q.tolist() == [[64, -127, 32], [0, 0, 0], [0, 0, 0]]
    assert scale[0, 0] == np.float32(2.0) / np.float32(127)
    assert scale[1, 0] == 0
    assert np.isnan(scale[2, 0])
    assert torch.round(torch.tensor(63.5)).item() == 64.0  # half to even, as the contract asks of its reference
