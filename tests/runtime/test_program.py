"""The generated program: dimensions in C, the arena and its twin in Python, the C ABI, sanitizers."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from ctypes import c_int64
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import RUNNABLE
from unit_harness import (
    BATCH,
    SEQ,
    Builder,
    affine_program,
    build_unit,
    chain_program,
    named,
    save,
    source_of,
    unit_part,
)

import planish
from planish.backends.cpu import toolchain
from planish.codegen import memory
from planish.codegen.program import Buffer, Launch, Port, Program, Ref
from planish.codegen.specs import Operand, RowProgram, Step
from planish.codegen.unit import RUNTIME, c_dim, c_string, check, render_unit
from planish.compiler.dims import Dim, dim_max, dim_min, evaluate, floordiv, mod, symbol
from planish.compiler.errors import LoweringError
from planish.compiler.types import DType
from planish.runtime.model import Model


def offsets_in_c(model: Model, buffers: int, **symbols: int) -> tuple[int, list[int]]:
    """Arena bytes and offsets as the generated code plans them."""
    context = model._context()
    env = (c_int64 * max(len(symbols), 1))(*symbols.values())
    size, offsets = c_int64(), (c_int64 * buffers)()
    code = model._library.planish_arena(context.handle, env, ctypes.byref(size), offsets, context.error_pointer)
    assert code == 0
    context.close()
    return size.value, list(offsets)


# -- the planner -------------------------------------------------------------------------------------------------------
intervals = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 300)).map(
        lambda t: (min(t[:2]), max(t[:2]), t[2] * 64)
    ),
    max_size=25,
)


@given(intervals)
def test_live_buffers_never_overlap(buffers: list[tuple[int, int, int]]) -> None:
    plan = memory.place(buffers)
    assert plan.bytes >= plan.live
    for i, (first, last, size) in enumerate(buffers):
        assert plan.offsets[i] % 64 == 0
        assert 0 <= plan.offsets[i] <= plan.bytes - size
        for j, (other_first, other_last, other_size) in enumerate(buffers[:i]):
            if other_first <= last and other_last >= first:
                apart = plan.offsets[i] + size <= plan.offsets[j] or plan.offsets[j] + other_size <= plan.offsets[i]
                assert apart or not size or not other_size


@given(intervals)
def test_memory_is_shared_by_buffers_that_do_not_meet(buffers: list[tuple[int, int, int]]) -> None:
    """One buffer per launch, never alive together: the arena is the largest of them."""
    alone = [(i, i, size) for i, (_, _, size) in enumerate(buffers)]
    assert memory.place(alone).bytes == max((size for _, _, size in alone), default=0)


def test_large_buffers_that_meet_start_apart_within_the_page() -> None:
    plan = memory.place([(0, 3, 8192), (1, 4, 8192), (2, 5, 4096), (0, 5, 12288)])
    assert len({offset % 4096 for offset in plan.offsets}) == 4
    assert plan.bytes <= 36864 + 4 * 4096


def test_a_small_buffer_fills_the_smallest_gap_that_holds_it() -> None:
    # Launch 0 leaves two holes between what stays: 1536 bytes and, further up, 768.
    stays, gone = (0, 2), (0, 0)
    buffers = [(*stays, 2048), (*gone, 1536), (*stays, 1024), (*gone, 768), (*stays, 704), (2, 2, 640)]
    plan = memory.place(buffers)
    assert plan.offsets[5] == plan.offsets[3] == 4608


SIZES: list[Dim] = [
    symbol("n") * 4,
    symbol("n") * symbol("m"),
    floordiv(symbol("n") + 3, 4) * 64,
    dim_max(symbol("m"), 100) * 8,
    mod(symbol("n"), symbol("m")) * 4 + 4,
    dim_min(symbol("n"), symbol("m")) * 40,
    12345,
]


def scattered_program() -> Program:
    """Buffers with sizes of every kind of dimension and staggered lives, and scratch."""
    b = Builder(n=(1, 3000), m=(1, 3000))
    x, y = b.input("x", (symbol("n"),)), b.output("y", (symbol("m"),))
    b.launch("nothing", [x, y], [])
    live: list[int] = []
    for i in range(28):
        live.append(b.arena(f"t{i}", SIZES[i * 5 % len(SIZES)]))
        scratch = b.scratch(f"s{i}", SIZES[(i * 3 + 1) % len(SIZES)]) if i % 4 == 1 else None
        b.launch("nothing", [Ref(v) for v in live], [], scratch)
        live = live[-(i % 5 + 1) :]
    return b.program


def test_the_generated_planner_equals_its_twin(tmp_path: Path) -> None:
    program = scattered_program()
    program.inputs.append(Port("z", DType.f32, (symbol("m"),), len(program.buffers)))
    program.buffers.append(Buffer("z", "input", symbol("m") * 4))
    rng = np.random.default_rng(3)
    with planish.load(save(tmp_path, program), threads=3) as model:
        for _ in range(60):
            env = {"n": int(rng.integers(1, 3000)), "m": int(rng.integers(1, 3000))}
            plan = memory.plan_arena(program, env, workers=3)
            assert offsets_in_c(model, len(program.buffers), **env) == (plan.bytes, list(plan.offsets))
            assert model.arena_bytes(**env) == plan.bytes


# -- dimensions --------------------------------------------------------------------------------------------------------
def dims() -> st.SearchStrategy[Dim]:
    leaves: st.SearchStrategy[Dim] = st.one_of(st.integers(-7, 7), st.sampled_from([symbol("a"), symbol("b")]))

    def wider(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]),
            pair.map(lambda p: p[0] * p[1]),
            pair.map(lambda p: p[0] - p[1]),
            pair.map(lambda p: dim_min(*p)),
            pair.map(lambda p: dim_max(*p)),
            st.tuples(inner, st.integers(1, 9)).map(lambda p: floordiv(*p)),
            st.tuples(inner, st.integers(1, 9)).map(lambda p: mod(*p)),
        )

    return st.recursive(leaves, wider, max_leaves=8)


@settings(max_examples=2, derandomize=True)  # each is a compilation; the same ones every time come from the cache
@given(st.lists(dims(), min_size=60, max_size=60))
def test_dimensions_in_c_mean_what_they_mean_in_python(expressions: list[Dim]) -> None:
    """Through a program whose output shapes are the expressions: ``planish_shape`` evaluates them."""
    b = Builder(a=(-50, 50), b=(-50, 50))
    x = b.input("x", (symbol("a"), symbol("b")))
    b.launch("nothing", [x, b.output("y", tuple(expressions))], [])
    library = ctypes.CDLL(str(build_unit(b.program)))
    shape = (c_int64 * len(expressions))()
    for a, c in [(0, 0), (1, -1), (-50, 50), (37, -13), (-7, -8), (5, 9)]:
        assert library.planish_shape((c_int64 * 2)(a, c), 1, 0, shape) == 0
        assert list(shape) == [evaluate(d, {"a": a, "b": c}) for d in expressions]


def test_c_text() -> None:
    assert c_dim(2 * symbol("a") + 1, {"a": 3}) == "INT64_C(2)*s[3] + INT64_C(1)"
    assert c_string('a"\\\n?é') == '"a\\"\\\\\\012?\\303\\251"'


# -- running -----------------------------------------------------------------------------------------------------------
def chain(x: np.ndarray, length: int = 6) -> np.ndarray:
    first, at = None, x
    for _ in range(length):
        at = at * np.float32(2) + np.float32(1)
        first = at if first is None else first
    return first + at


def test_intermediate_values_survive_as_long_as_they_are_read(tmp_path: Path) -> None:
    with planish.load(save(tmp_path, chain_program())) as model:
        for n in (1, 7, 5000, 64, 7, 1025):  # larger and smaller than before: the arena moves under older plans
            x = np.random.default_rng(n).normal(size=n).astype(np.float32)
            np.testing.assert_array_equal(model(x=x)["y"], chain(x))


def test_more_signatures_than_a_context_remembers(tmp_path: Path) -> None:
    with planish.load(save(tmp_path, chain_program())) as model:
        for _ in range(2):
            for n in range(1, 150):
                x = np.arange(n, dtype=np.float32)
                np.testing.assert_array_equal(model(x)["y"], chain(x))


def test_a_seen_signature_allocates_nothing(tmp_path: Path) -> None:
    """The C heap is the same before and after 1000 calls of three signatures."""
    path = save(tmp_path, chain_program())
    script = f"""
import ctypes, numpy as np, planish
class Info(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks ford keep".split()]
libc = ctypes.CDLL(None); libc.mallinfo2.restype = Info
model = planish.load({str(path)!r}, threads=1)
context = model._context()
runs = []
for n in (100, 5000, 3):
    x, y = np.ones(n, np.float32), np.ones(n, np.float32)
    runs.append((x, y, (ctypes.c_void_p * 1)(x.ctypes.data), (ctypes.c_int64 * 1)(n), (ctypes.c_void_p * 1)(y.ctypes.data)))
def all_of_them(times):
    for _ in range(times):
        for _, _, inputs, symbols, outputs in runs:
            assert model._run(context.handle, inputs, symbols, outputs, None, context.error_pointer) == 0
all_of_them(1)
before = libc.mallinfo2()
all_of_them(1000)
after = libc.mallinfo2()
assert (before.hblkhd, before.hblks) == (after.hblkhd, after.hblks)
print(after.uordblks - before.uordblks)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3000  # bytes; one plan or pointer table per call would be hundreds of thousands


def test_states_live_across_calls(tmp_path: Path) -> None:
    b = Builder(n=(1, 4))
    x, y = b.input("x", (symbol("n"),)), b.output("y", (), DType.i64)
    b.launch("nothing", [x], [])
    b.launch("count", [b.state("calls", (1,)), y], [])
    with planish.load(save(tmp_path, b.program)) as model:
        given = np.zeros(2, np.float32)
        assert [int(model(given)["y"]) for _ in range(3)] == [1, 2, 3]
        mine = model.new_states()
        assert [int(model(given, states=mine)["y"]) for _ in range(2)] == [1, 2]
        assert mine["calls"][0] == 2
        assert int(model(given)["y"]) == 4
        with pytest.raises(planish.InputError, match=r"the state calls has to be an array as new_states\(\) makes it"):
            model(given, states={"calls": np.zeros(1, np.float32)})


def test_timing_covers_every_launch(tmp_path: Path) -> None:
    with planish.load(save(tmp_path, chain_program())) as model:
        found = model.profile(np.ones(5000, np.float32), repeat=3)
        assert [f.label for f in found] == [f"affine.{i}" for i in range(6)] + ["add.6"]
        assert all(f.seconds > 0 for f in found)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_generated_kernels_in_a_program(tmp_path: Path, isa: str) -> None:
    """The real preamble and a real kernel beside the header and the program, at every level: ``y = relu(2 x + 1)``."""
    steps = (
        Step("load", "x", (0,)), Step("mul", "double", ("x", 2.0)), Step("add", "sum", ("double", 1.0)),
        Step("relu", "kept", ("sum",)), Step("store", "", (1, "kept")),
    )  # fmt: skip
    b = Builder(batch=(1, 8), seq=(1, 512))
    b.program.isa = isa
    pointers = Ref(b.input("x", (BATCH, SEQ))), Ref(b.output("y", (BATCH, SEQ)))
    spec = RowProgram((Operand("f32"), Operand("f32")), steps)
    b.program.launches.append(Launch(spec, pointers, (BATCH, SEQ, SEQ, SEQ), "relu", flops=3 * BATCH * SEQ))
    text = render_unit(b.program)
    unit = unit_part(b.program, binary=toolchain.build(text, isa).read_bytes(), source=text)
    with planish.load(save(tmp_path, b.program, units=[unit]), threads=2) as model:
        x = np.random.default_rng(1).normal(size=(5, 301)).astype(np.float32)
        np.testing.assert_array_equal(model(x)["y"], np.maximum(x * np.float32(2) + np.float32(1), 0))
        assert model.profile(x, repeat=2)[0].flops == 3 * 5 * 301


# -- what a program may not be -----------------------------------------------------------------------------------------
def broken(change: str) -> Program:
    program = affine_program()
    match change:
        case "an arena buffer as an output":
            program.buffers[1] = Buffer("y", "arena", BATCH * SEQ * 4)
        case "an output nobody writes":
            program.launches.clear()
        case "a buffer that is not there":
            program.launches.append(Launch(named("nothing"), (Ref(9),), (), "wrong"))
        case "an unknown symbol":
            program.launches.append(Launch(named("nothing"), (), (symbol("q"),), "wrong"))
        case "overlapping weights":
            program.buffers.append(Buffer("w2", "weight", 8, 0))
            program.weights.append(np.zeros(2, np.float32))
        case "an unaligned weight":
            program.buffers[2] = Buffer("w", "weight", 8, 4)
        case "a weight of another size":
            program.weights[0] = np.zeros(3, np.float32)
        case "scratch that is no scratch":
            program.launches.append(Launch(named("nothing"), (), (), "wrong", scratch=0))
        case "two ports on a buffer":
            program.inputs.append(Port("again", DType.f32, (BATCH, SEQ), 0))
    return program


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("an arena buffer as an output", "the output 'y' is on a buffer of kind arena"),
        ("an output nobody writes", "no launch touches the output 'y'"),
        ("a buffer that is not there", "the launch 'wrong' names buffer 9"),
        ("an unknown symbol", "the launch 'wrong' uses the unknown symbol 'q'"),
        ("overlapping weights", "the weights 'w' and 'w2' overlap"),
        ("an unaligned weight", "the weight 'w' is not aligned to 64 bytes"),
        ("a weight of another size", "the weight 'w' has 12 bytes and its buffer 8"),
        ("scratch that is no scratch", "the scratch of the launch 'wrong' is no scratch buffer"),
        ("two ports on a buffer", "the ports 'x' and 'again' share a buffer"),
    ],
)
def test_a_program_that_contradicts_itself(change: str, message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        check(broken(change))


def test_equal_programs_give_equal_text() -> None:
    assert source_of(chain_program()) == source_of(chain_program())


# -- the C ABI, under sanitizers ---------------------------------------------------------------------------------------
MAIN = """
#include "planish.h"
#include <stdio.h>
#include <stdlib.h>
#include <vector>
#define EXPECT(c) if (!(c)) { printf("line %d: %s\\n", __LINE__, #c); return 1; }

int main(int argc, char**) {
  const planish_unit_info* unit = planish_unit_query();
  EXPECT(planish_abi_version() == PLANISH_ABI && unit->abi == PLANISH_ABI && unit->host_abi == PLANISH_HOST_ABI)
  EXPECT(unit->input_count == 1 && unit->output_count == 1 && unit->launch_count == 7 && unit->symbol_count == 1)
  EXPECT(unit->inputs[0].rank == 1 && unit->symbols[0].upper == 5000)
  alignas(64) float weights[16] = {2, 1};
  planish_model* model;
  planish_error error;
  EXPECT(planish_create(nullptr, weights, 8, &model, &error) == PLANISH_WEIGHTS && error.value == 64)
  EXPECT(planish_create(nullptr, (char*)weights + 4, 64, &model, &error) == PLANISH_WEIGHTS)
  EXPECT(planish_create(argc > 1 ? planish_host_table() : nullptr, weights, 64, &model, &error) == PLANISH_OK)
  planish_context* context = planish_context_create(model, 3);
  EXPECT(planish_run_bound(context) == PLANISH_UNBOUND)
  for (int64_t n : {1, 777, 5000, 3, 777, 64, 4999}) {
    std::vector<float> x(n, 1.5f), y(n);
    void *in = x.data(), *out = y.data();
    int64_t shape;
    EXPECT(planish_shape(&n, 1, 0, &shape) == PLANISH_OK && shape == n)
    EXPECT(planish_run(context, &in, &n, &out, nullptr, &error) == PLANISH_OK)
    for (float v : y) EXPECT(v == 4.0f + 159.0f)
    EXPECT(planish_bind(context, &in, &n, &out, nullptr, nullptr) == PLANISH_OK)
    x[n - 1] = 0;
    int64_t other = n == 64 ? 65 : 64, bytes, offsets[16];
    EXPECT(planish_arena(context, &other, &bytes, offsets, nullptr) == PLANISH_OK && bytes > 0)
    EXPECT(planish_run_bound(context) == PLANISH_OK && y[n - 1] == 1.0f + 63.0f)
    void* null = nullptr;
    EXPECT(planish_run(context, &null, &n, &out, nullptr, &error) == PLANISH_NULL && error.where == 0)
    EXPECT(planish_run_bound(context) == PLANISH_UNBOUND)
  }
  int64_t wrong = 5001;
  void* none = nullptr;
  EXPECT(planish_run(context, &none, &wrong, &none, nullptr, &error) == PLANISH_SYMBOL && error.value == 5001)
  planish_destroy(model);  // the context is still good
  planish_context_destroy(context);
  planish_context_destroy(nullptr);
  puts("good");
}
"""


def test_the_c_abi_under_sanitizers(tmp_path: Path) -> None:
    """A C++ program against planish.h, linked with a unit and the host, with and without the host's threads."""
    (tmp_path / "unit.cpp").write_text(source_of(chain_program()))
    (tmp_path / "main.cpp").write_text(MAIN)
    program = tmp_path / "main"
    compiler = toolchain.find_compiler().command
    flags = ["-std=c++17", *toolchain.SANITIZE_FLAGS, "-Wall", "-Wextra", "-Werror", f"-I{RUNTIME}", "-pthread"]
    sources = [str(tmp_path / "unit.cpp"), str(tmp_path / "main.cpp"), str(RUNTIME / "host.cpp")]
    subprocess.run([*compiler, *flags, *sources, "-o", str(program)], check=True)
    for arguments in ([], ["with the host"]):
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "good\n"), done.stdout + done.stderr
