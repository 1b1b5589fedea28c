"""int8 and int4 weights end to end: the QDQ forms become integer linears, which compute what the interpreter says.

Given equal int8 rows the int32 sums of each group, and the f32 arithmetic behind them, are equal on every ISA level: results
of ``w4a8`` are compared to the bit.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from graph_harness import B, Compiled, S, Sketch, compile_sketches, optimised
from kernel_harness import RUNNABLE

from planish.backends.cpu.backend import BACKEND
from planish.compiler.errors import PassError
from planish.compiler.graph import Graph, Value
from planish.compiler.interpret import interpret
from planish.compiler.ops import cost
from planish.compiler.target import find_target
from planish.compiler.types import DType, TensorType, bf16_to_float, float_to_bf16

SIZES = [{"b": b, "s": 3} for b in (0, 1, 2, 5, 9, 21)]


def as_bf16(g: Sketch, x: Value) -> Value:
    """x rounded to bf16, as activations of a16 are."""
    return g("cast", g("cast", x, dtype=DType.bf16), dtype=DType.f32)


def as_int8(g: Sketch, x: Value) -> Value:
    """x quantised row by row."""
    return g("dequantize", *g.both("quantize_dynamic", x))


def weight(g: Sketch, n: int, k: int, dtype: DType, groups: int = 1, rounded: bool = True) -> Value:
    """A quantised weight; rounded: its scales are bf16 numbers."""
    rng = np.random.default_rng(n * k + groups)
    low, high = (-127, 128) if dtype is DType.i8 else (-8, 8)
    q = g.graph.add_constant(rng.integers(low, high, (n, k)).astype(np.int8), f"q{len(g.graph)}", dtype)
    scale = rng.uniform(0.001, 0.01, (n, groups)).astype(np.float32)
    return g("dequantize", q, g.const(bf16_to_float(float_to_bf16(scale)) if rounded else scale))


def sketches() -> dict[str, Sketch]:
    made: dict[str, Sketch] = {}

    def new(name: str) -> Sketch:
        made[name] = Sketch()
        return made[name]

    for n, k in ((5, 7), (48, 64), (100, 129)):
        g = new(f"w8a16_{n}_{k}")
        g.output(g("linear", as_bf16(g, g.input(B, k)), weight(g, n, k, DType.i8), g.random(n)))
    for form, act in (("w4a16", as_bf16), ("w4a8", as_int8)):
        for n, k, size in ((5, 32, 32), (49, 96, 32), (100, 192, 64), (33, 384, 128), (16, 160, 160)):
            g = new(f"{form}_{n}_{k}_{size}")
            g.output(g("linear", act(g, g.input(B, k)), weight(g, n, k, DType.i4, k // size), g.random(n)))

    def transformer(name: str, act: object, dtype: DType, groups: int) -> None:
        """A norm in front, which is fused; GELU on the sums; a residual and a norm on whole rows behind."""
        g = new(name)
        x = g.input(B, S, 64)
        normed = g("layer_norm", x, g.random(64), g.random(64), axes=1, eps=1e-5)
        h = g("gelu", g("linear", act(g, normed), weight(g, 96, 64, dtype, groups), g.random(96)))  # type: ignore[operator]
        y = g("add", g("linear", act(g, h), weight(g, 64, 96, dtype, groups and 3 * groups // 2), g.random(64)), x)  # type: ignore[operator]
        y = g("layer_norm", y, g.random(64), g.random(64), axes=1, eps=1e-5)
        g.output(y, as_int8(g, y))
        g.rough = [DType.bf16, DType.bf16]

    transformer("block_w8a16", as_bf16, DType.i8, 1)
    transformer("block_w4a16", as_bf16, DType.i4, 2)
    transformer("block_w4a8", as_int8, DType.i4, 2)

    g = new("bf16_before")
    x = g.input(B, 64, dtype=DType.bf16)
    g.output(g("linear", g("cast", x, dtype=DType.f32), weight(g, 20, 64, DType.i4, 1)))

    g = new("rows_that_are_shared")  # by linears whose kernels want the bytes differently
    x = as_int8(g, g("relu", g.input(B, 64)))
    g.output(*(g("linear", x, weight(g, 20, 64, d, c)) for d, c in ((DType.i8, 1), (DType.i4, 2))))

    g = new("special_rows")
    x = g.input(B, 64, data=special_rows)
    g.output(g("linear", as_int8(g, x), weight(g, 20, 64, DType.i4, 2), g.random(20)))

    g = new("given_rows")
    q, scale = g.input(B, 96, dtype=DType.i8, low=-128, high=128), g.input(B, 1)
    g.output(g("linear", g("dequantize", q, scale), weight(g, 40, 96, DType.i4, 3, rounded=False), g.random(40)))
    return made


def special_rows(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = rng.standard_normal(shape).astype(np.float32)
    if shape[0] > 2:
        x[0], x[1, 3], x[2, 5] = 0, np.nan, np.inf
    return x


NAMES = sorted(sketches())
#: Few kernels, which every level builds; the others on the highest alone.
SIMPLE = [n for n in NAMES if n.startswith(("w8a16", "w4a16", "w4a8", "given"))]
CASES = [(n, level) for level in RUNNABLE for n in (NAMES if level == RUNNABLE[-1] else SIMPLE)]


@cache
def compiled(level: str, threads: int = 1) -> Compiled:
    made = sketches()
    wanted = {name: made[name] for name, its in CASES if its == level}
    return compile_sketches(wanted, level, threads=threads, per_object=100)


@pytest.mark.parametrize(("name", "level"), CASES)
def test_the_model_is_the_interpreter(name: str, level: str) -> None:
    for env in SIZES:
        compiled(level).check(name, env, slack=4.0 if name.startswith("block") else 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_two_threads(name: str) -> None:
    for env in SIZES[1:]:
        compiled(RUNNABLE[-1], 2).check(name, env, slack=4.0 if name.startswith("block") else 1.0)


@pytest.mark.parametrize("name", NAMES)
def test_no_linear_is_left_in_float(name: str) -> None:
    graph = compiled(RUNNABLE[-1]).graphs[name]
    nodes = [n for node in graph.nodes for n in (node.regions[0].nodes if node.regions else [node])]
    assert any(n.op == "qlinear" for n in nodes) and not any(n.op in ("linear", "matmul") for n in nodes)


@pytest.mark.parametrize("name", [n for n in SIMPLE if n.startswith(("w4a8", "given"))])
def test_int4_with_int8_rows_is_equal_on_every_level(name: str) -> None:
    """The rows are quantised alike (``given_rows`` has them given), so nothing may differ in the last bit."""
    for env in SIZES[1:]:
        inputs = sketches()[name].inputs(env)
        (want,) = interpret(compiled(RUNNABLE[0]).graphs[name], inputs)
        for level in RUNNABLE:
            np.testing.assert_array_equal(compiled(level).run(name, env)[0], want, err_msg=level)


# -- what no kernel takes ------------------------------------------------------------------------------------------------
def unusual() -> dict[str, Sketch]:
    """Forms that are linears on dequantised weights instead: slower, and right."""
    made: dict[str, Sketch] = {}

    def new(name: str) -> Sketch:
        made[name] = Sketch()
        return made[name]

    g = new("groups_of_16")
    g.output(g("linear", as_bf16(g, g.input(B, 64)), weight(g, 6, 64, DType.i4, 4), g.random(6)))
    g = new("int8_in_groups")
    g.output(g("linear", as_bf16(g, g.input(B, 64)), weight(g, 6, 64, DType.i8, 2)))
    g = new("int8_rows_and_int8_in_groups")
    g.output(g("linear", as_int8(g, g.input(B, 64)), weight(g, 6, 64, DType.i8, 2)))
    g = new("a_weight_that_others_read")
    w = weight(g, 6, 64, DType.i4, 2)
    g.output(g("linear", as_bf16(g, g.input(B, 64)), w), g("relu", w))
    return made


def float_rows() -> dict[str, Sketch]:
    """int4 weights whose x is to be taken as it is, in f32: as the sum of two bf16 tensors."""
    made: dict[str, Sketch] = {name: Sketch() for name in ("weights_alone", "one_scale_for_x", "a_zero_point")}
    g = made["weights_alone"]
    g.output(g("linear", g.input(B, 64), weight(g, 6, 64, DType.i4, 2), g.random(6)))
    g = made["one_scale_for_x"]
    scale = g.const(np.float32(0.03))
    x = g("dequantize", g("quantize", g.input(B, 64), scale), scale)
    g.output(g("linear", x, weight(g, 6, 64, DType.i4, 2)))
    g = made["a_zero_point"]
    q = g.const(np.random.default_rng(0).integers(-8, 8, (6, 64)), DType.i4)
    zero = g.const(np.random.default_rng(1).integers(-3, 3, (6, 2)), DType.i8)
    w = g("dequantize", q, g.const(np.random.default_rng(2).uniform(0.1, 0.2, (6, 2))), zero)
    g.output(g("linear", as_bf16(g, g.input(B, 64)), w))
    return made


@cache
def compiled_unusual() -> Compiled:
    return compile_sketches({**unusual(), **float_rows()}, RUNNABLE[-1], per_object=100)


@pytest.mark.parametrize("name", sorted(unusual()))
def test_what_no_kernel_takes_is_computed_in_float(name: str) -> None:
    for env in SIZES:
        compiled_unusual().check(name, env)
    launches = compiled_unusual().programs[name].launches
    assert {launch.precision for launch in launches} == {"f32"}


@pytest.mark.parametrize("name", sorted(float_rows()))
def test_int4_weights_are_read_as_they_are_by_f32_rows(name: str) -> None:
    for env in SIZES:
        compiled_unusual().check(name, env)
    program = compiled_unusual().programs[name]
    assert [one.precision for one in program.launches].count("w4a16-g32") == 1
    assert sum(w.nbytes for w in program.weights) < 6 * 64 * 4  # f32 weights would need as much


# -- what reports and costs say ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("act", "dtype", "groups", "name"),
    [(as_bf16, DType.i8, 1, "w8a16"), (as_bf16, DType.i4, 2, "w4a16"), (as_bf16, DType.i4, 4, "w4a16-g64"),
     (as_int8, DType.i4, 8, "w4a8-g32"), (as_int8, DType.i4, 2, "w4a8"), (as_int8, DType.i4, 1, "w4a8-g256")],
)  # fmt: skip
def test_a_launch_is_called_by_its_precision(act: object, dtype: DType, groups: int, name: str) -> None:
    g = Sketch()
    g.output(g("linear", act(g, g.input(B, 256)), weight(g, 8, 256, dtype, groups)))  # type: ignore[operator]
    program = BACKEND.lower(optimised(g.graph, RUNNABLE[-1]), find_target(f"cpu:{RUNNABLE[-1]}"))
    (launch,) = program.launches
    assert launch.precision == name
    columns = 16 if RUNNABLE[-1].startswith("avx512") else 8  # eight, padded to whole vectors
    stored = sorted(w.nbytes for w in program.weights)
    assert stored == sorted([columns * 256, 4 * 8] if dtype is DType.i8 else [columns * 128, columns * groups * 2])


def test_scales_that_are_no_bf16_stay_f32() -> None:
    for rounded, size in ((True, 2), (False, 4)):
        g = Sketch()
        g.output(g("linear", as_bf16(g, g.input(B, 256)), weight(g, 16, 256, DType.i4, 8, rounded)))
        program = BACKEND.lower(optimised(g.graph, RUNNABLE[-1]), find_target(f"cpu:{RUNNABLE[-1]}"))
        assert sorted(w.nbytes for w in program.weights) == sorted([16 * 128, 16 * 8 * size])


def test_int4_weights_count_half_a_byte() -> None:
    g = Sketch()
    q, scales = g.const(np.zeros((8, 64)), DType.i4), g.const(np.ones((8, 2), np.float32), DType.bf16)
    y = g("qlinear", g.input(3, 64, dtype=DType.bf16), None, q, scales)
    assert y.node is not None
    assert cost(y.node).bytes == 3 * 64 * 2 + 8 * 64 // 2 + 8 * 2 * 2 + 3 * 8 * 4
    assert cost(y.node).flops == 2 * 3 * 8 * 64


def test_operands_that_do_not_fit_are_refused() -> None:
    def refused(match: str, *, x: DType = DType.i8, k: int = 64, scale: tuple[int, ...] | None = (3, 1), w: DType = DType.i4,
                groups: tuple[int, ...] = (8, 2), zero: bool = False) -> None:  # fmt: skip
        graph = Graph()
        operands: list[Value | None] = [graph.add_input("x", TensorType(x, (3, k)))]
        operands.append(None if scale is None else graph.add_input("s", TensorType(DType.f32, scale)))
        operands.append(graph.add_constant(np.zeros((8, 64), np.int8), "w", w))
        operands += [graph.add_constant(np.ones(groups, np.float32), "t"), None]
        if zero:
            operands.append(graph.add_constant(np.zeros((), np.int8), "z"))
        with pytest.raises(PassError, match=match):
            graph.insert("qlinear", operands)

    refused("must be i8 with a scale or bf16 without", x=DType.f32)
    refused("must be i8 with a scale or bf16 without", x=DType.bf16)
    refused("must be i8 with a scale or bf16 without", scale=None)
    refused("differ in their last dimension", k=32)
    refused("is neither one number", scale=(3,))
    refused("is neither one number", scale=())
    refused("one for each output and group", groups=(8,))
    refused("one for each output and group", groups=(8, 3))
    refused("one for each output and group", groups=(4, 2))
    refused("zero point only where", zero=True)
    refused("zero point only where", zero=True, x=DType.bf16, scale=None, w=DType.i8, groups=(8,))
