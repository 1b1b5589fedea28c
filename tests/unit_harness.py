"""Small programs with hand-written kernels, through the toolchain and the writer to an artifact: what the tests of the
runtime and the artifact share. Nothing here depends on the templates of the real kernels."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends.cpu import isa as levels
from planish.backends.cpu import toolchain
from planish.backends.cpu.backend import translation_units
from planish.codegen.memory import place_weights
from planish.codegen.program import Buffer, Launch, Port, Program, Ref
from planish.codegen.specs import KernelSpec, Operand, RowProgram, Step, digest
from planish.codegen.unit import UnitText, describe, host_source, split_unit
from planish.compiler.artifact import HostPart, NativePart, Package
from planish.compiler.dims import Dim, symbol
from planish.compiler.types import DType

BATCH, SEQ = symbol("batch"), symbol("seq")


def named(op: str) -> RowProgram:
    """A spec that stands for a hand-written kernel: its only step is the kernel's name."""
    return RowProgram((Operand("f32"),), (Step(op, "r"),))


#: Kernel name -> body. `p` are the pointers, `d` the dims, `d[last]` the scratch bytes of one worker.
BODIES: dict[str, str] = {
    # y = x * w0 + b, n elements: pointers x, w (two floats), y; dims n
    "affine": """
        const float* x = (const float*)p[0]; const float* w = (const float*)p[1]; float* y = (float*)p[2];
        for (int64_t i = 0; i < d[0]; i++) y[i] = x[i] * w[0] + w[1];""",
    "copy": "memcpy(p[1], p[0], (size_t)d[0]);",
    "add": """
        const float *a = (const float*)p[0], *b = (const float*)p[1]; float* y = (float*)p[2];
        for (int64_t i = 0; i < d[0]; i++) y[i] = a[i] + b[i];""",
    # table lookup with an error flag: ids i64, table f32[rows, width], out; dims n, rows, width
    "embed": """
        const int64_t* ids = (const int64_t*)p[0]; const float* t = (const float*)p[1]; float* y = (float*)p[2];
        for (int64_t i = 0; i < d[0]; i++) {
          int64_t row = ids[i];
          if (row < 0 || row >= d[1]) { *host->error = 1; row = 0; }
          memcpy(y + i * d[2], t + row * d[2], sizeof(float) * (size_t)d[2]);
        }""",
    # every task writes its number and the worker's scratch is filled with it first; dims tasks, work, scratch bytes
    "tasks": """
        struct Call { int64_t* out; char* scratch; int64_t bytes, work; } call{(int64_t*)p[0], (char*)scratch, d[2], d[1]};
        host->parallel_for(host, d[0], [](void* arg, int64_t task, int32_t worker) {
          Call& c = *(Call*)arg;
          volatile int64_t* mine = (volatile int64_t*)(c.scratch + worker * c.bytes);
          for (int64_t k = 0; k < c.bytes / 8; k++) mine[k] = task;
          for (volatile int64_t k = 0; k < c.work; k = k + 1) {}
          int64_t sum = 0;
          for (int64_t k = 0; k < c.bytes / 8; k++) sum += mine[k];
          c.out[task] = sum;
        }, &call);""",
    # counter += 1; out = counter
    "count": "int64_t* s = (int64_t*)p[0]; *s += 1; *(int64_t*)p[1] = *s;",
    # waits (ten seconds at most) until the input is set by another thread; out = whether it was
    "gate": """
        volatile const int64_t* gate = (volatile const int64_t*)p[0];
        const int64_t limit = (int64_t)time(nullptr) + 10;
        while (*gate == 0 && (int64_t)time(nullptr) < limit) {}
        *(int64_t*)p[1] = *gate;""",
    # widths of the call: out = workers
    "workers": "*(int64_t*)p[0] = host->workers;",
    "nothing": "",
}


def fake_includes(isa: str) -> str:
    return "#include <stdint.h>\n#include <string.h>\n#include <time.h>\n"


def fake_kernel(spec: KernelSpec, isa: str) -> str:
    assert isinstance(spec, RowProgram)
    body = BODIES[spec.steps[0].op]
    return (
        f"static void k_{digest(spec)}([[maybe_unused]] const planish_host* host, [[maybe_unused]] void* const* p,\n"
        f"    [[maybe_unused]] const int64_t* d, [[maybe_unused]] void* scratch) {{{body}\n}}\n"
    )


class Builder:
    """A program, put together a buffer and a launch at a time."""

    def __init__(self, **symbols: tuple[int, int]) -> None:
        self.program = Program(dict(symbols), [], [])

    def _buffer(self, name: str, kind: Any, size: Dim, offset: int = 0) -> int:
        self.program.buffers.append(Buffer(name, kind, size, offset))
        return len(self.program.buffers) - 1

    def _port(self, kind: str, name: str, dtype: DType, shape: Sequence[Dim]) -> int:
        size: Dim = dtype.size
        for dim in shape:
            size = size * dim
        number = self._buffer(name, kind, size)
        getattr(self.program, f"{kind}s").append(Port(name, dtype, tuple(shape), number))
        return number

    def input(self, name: str, shape: Sequence[Dim], dtype: DType = DType.f32) -> int:
        return self._port("input", name, dtype, shape)

    def output(self, name: str, shape: Sequence[Dim], dtype: DType = DType.f32) -> int:
        return self._port("output", name, dtype, shape)

    def state(self, name: str, shape: Sequence[Dim], dtype: DType = DType.i64) -> int:
        return self._port("state", name, dtype, shape)

    def arena(self, name: str, size: Dim) -> int:
        return self._buffer(name, "arena", size)

    def scratch(self, name: str, size: Dim) -> int:
        return self._buffer(name, "scratch", size)

    def weight(self, name: str, array: np.ndarray) -> int:
        self.program.weights.append(array)
        return self._buffer(name, "weight", array.nbytes, place_weights(self.program.weights)[-1])

    def launch(self, op: str, pointers: Sequence[int | Ref], dims: Sequence[Dim], scratch: int | None = None) -> None:
        refs = tuple(p if isinstance(p, Ref) else Ref(p) for p in pointers)
        self.program.launches.append(
            Launch(named(op), refs, tuple(dims), f"{op}.{len(self.program.launches)}", scratch)
        )


def affine_program() -> Program:
    """``y = 2 x + 1`` with x f32[batch, seq]."""
    b = Builder(batch=(1, 8), seq=(1, 512))
    x, y = b.input("x", (BATCH, SEQ)), b.output("y", (BATCH, SEQ))
    b.launch("affine", [x, b.weight("w", np.array([2, 1], np.float32)), y], [BATCH * SEQ])
    return b.program


def chain_program(length: int = 6) -> Program:
    """``length`` affine maps in a row over arena buffers, the last sum also reads the first intermediate."""
    b = Builder(n=(1, 5000))
    n = symbol("n")
    x, w = b.input("x", (n,)), b.weight("w", np.array([2, 1], np.float32))
    at = first = x
    for i in range(length):
        fresh = b.arena(f"t{i}", n * 4)
        b.launch("affine", [at, w, fresh], [n])
        first, at = (fresh if i == 0 else first), fresh
    b.launch("add", [first, at, b.output("y", (n,))], [n])
    return b.program


@cache
def host_binary() -> bytes:
    return toolchain.build(host_source(), "portable", extra_flags=("-pthread",)).read_bytes()


def build_unit(program: Program, **options: Any) -> Path:
    """The shared object of a program of hand-written kernels."""
    return toolchain.build(translation_units(text_of(program)), program.isa, **options)


def text_of(program: Program) -> UnitText:
    return split_unit(
        program, includes=fake_includes, vectors=lambda isa: "", kernel=fake_kernel, shared=lambda spec, isa: {}
    )


def source_of(program: Program) -> str:
    return text_of(program).text


def unit_part(program: Program, name: str = "", **changes: Any) -> NativePart:
    level = levels.level(program.isa)
    given: dict[str, Any] = {
        "name": name or f"cpu-{program.isa}",
        "binary": changes.get("binary") or build_unit(program).read_bytes(),
        "source": changes.get("source") or source_of(program),
        "description": describe(program),
        "weights": program.weights,
        "machine": platform.machine(),
        "cpu_flags": level.cpu_flags,
        **changes,
    }
    return NativePart(**given)


def package(program: Program, structure: Mapping[str, Any] | None = None, **changes: Any) -> Package:
    """A package of one unit; the outputs are handed out as a dict of their names unless ``structure`` says otherwise."""
    names = [port.name for port in program.outputs]
    items = [{"kind": "tensor", "index": i} for i in range(len(names))]
    given: dict[str, Any] = {
        "name": "test",
        "units": changes.get("units") or [unit_part(program)],
        "hosts": [HostPart(host_binary(), host_source(), platform.machine())],
        "structure": structure or {"kind": "dict", "keys": names, "items": items},
        **changes,
    }
    return Package(**given)


def save(tmp_path: Path, program: Program, structure: Mapping[str, Any] | None = None, **changes: Any) -> Path:
    path = tmp_path / "model.planish"
    package(program, structure, **changes).save(path)
    return path
