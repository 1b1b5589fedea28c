"""Builds one kernel for one ISA level and calls it on numpy arrays: what the tests of generated kernels share.

Example::

    kernel = build_kernel(spec, "avx2")
    kernel([x, gamma, y], [rows, length, length, 0, length])          # pointers, dims, as the spec states them
    kernel([x, gamma, y], [...], workers=3)                           # three threads
    assert kernel.error == 0
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from planish.backends.cpu import isa as levels
from planish.backends.cpu import toolchain
from planish.backends.cpu.backend import translation_units
from planish.backends.cpu.toolchain import Source
from planish.codegen.render import (
    declaration,
    entry,
    entry_name,
    includes,
    kernel_name,
    render_kernel,
    scratch_bytes,
    shared_text,
    vectors,
)  # fmt: skip
from planish.codegen.specs import ISA_LEVELS, KernelSpec
from planish.codegen.unit import UnitText, abi

#: Set where tests run again with kernels built for the address and undefined-behaviour sanitizers.
SANITIZE = os.environ.get("PLANISH_TEST_SANITIZE") == "1"

#: The levels that the machine of this test run can execute.
RUNNABLE = [name for name in ISA_LEVELS if name in levels.available()]

#: What calls a kernel, on threads of its own; the same in every build, so it is compiled once.
_RUN = """
#include <atomic>
#include <chrono>
#include <thread>

static void run_threads(const planish_host* host, int64_t tasks, void (*body)(void*, int64_t, int32_t), void* arg) {
    std::atomic<int64_t> next{0};
    auto work = [&](int32_t worker) { for (int64_t t; (t = next++) < tasks;) body(arg, t, worker); };
    constexpr int limit = 64;
    std::thread threads[limit];
    const int extra = host->workers - 1 < limit ? host->workers - 1 : limit;
    for (int i = 0; i < extra; i++) threads[i] = std::thread(work, i + 1);
    work(0);
    for (int i = 0; i < extra; i++) threads[i].join();
}

// Calls a kernel `repeat` times; seconds (or null) receives the shortest time of a call.
int32_t run(void (*kernel)(const planish_host*, void* const*, const int64_t*, void*), int32_t workers, void* const* p,
            const int64_t* d, void* scratch, int64_t repeat, double* seconds) {
    int32_t error = 0;
    planish_host host{1, workers, run_threads, nullptr, &error};
    for (int64_t i = 0; i < repeat; i++) {
        const auto start = std::chrono::steady_clock::now();
        kernel(&host, p, d, scratch);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        if (seconds && (i == 0 || took.count() < *seconds)) *seconds = took.count();
    }
    return error;
}
"""

_DECLARE_RUN = """
int32_t run(void (*kernel)(const planish_host*, void* const*, const int64_t*, void*), int32_t workers, void* const* p,
            const int64_t* d, void* scratch, int64_t repeat, double* seconds);
"""

_ENTRY = """
DECLARATION;
extern "C" __attribute__((visibility("default"))) int32_t run_KERNEL(
    int32_t workers, void* const* p, const int64_t* d, void* scratch, int64_t repeat, double* seconds) {
    return run(ENTRY, workers, p, d, scratch, repeat, seconds);
}
"""


def kernel_units(specs: Sequence[KernelSpec], isa: str) -> list[Source]:
    """What is compiled: the kernels as in a model, what calls them, and an entry point for each."""
    names = {kernel_name(spec): spec for spec in specs}
    kernels = {name: f"{render_kernel(spec, isa)}\n{entry(name)}" for name, spec in names.items()}
    shared = {key: text for spec in specs for key, text in shared_text(spec, isa).items()}
    units = translation_units(UnitText("", includes(isa), abi(), vectors(isa), shared, kernels, _RUN))
    entries = "".join(
        _ENTRY.replace("DECLARATION", declaration(name)).replace("ENTRY", entry_name(name)).replace("KERNEL", name)
        for name in kernels
    )
    return [*units, Source(abi() + _DECLARE_RUN + entries)]


@dataclass
class Kernel:
    """One built kernel. ``error`` is the call's error flag, ``seconds`` the shortest time of the last call."""

    spec: KernelSpec
    isa: str
    path: str
    error: int = 0
    seconds: float = 0.0
    _function: ctypes._CFuncPtr = field(init=False, repr=False)  # type: ignore[name-defined]

    def __post_init__(self) -> None:
        self._function = ctypes.CDLL(self.path)[f"run_{kernel_name(self.spec)}"]
        self._function.restype = ctypes.c_int32

    def __call__(
        self, pointers: Sequence[np.ndarray | None], dims: Sequence[int], *, workers: int = 1, repeat: int = 1
    ) -> None:
        """Run it; the arrays are read and written in place, at their own addresses (views with an offset work)."""
        dims = [int(d) for d in dims]
        size = scratch_bytes(self.spec, dims, self.isa)
        assert isinstance(size, int)
        size = (size + 63) // 64 * 64
        scratch = aligned(max(size, 64) * workers, np.uint8)
        addresses = (ctypes.c_void_p * max(len(pointers), 1))(*[None if a is None else a.ctypes.data for a in pointers])
        arguments = (ctypes.c_int64 * (len(dims) + 1))(*dims, size)
        seconds = ctypes.c_double(0)
        self.error = self._function(
            ctypes.c_int32(workers), addresses, arguments, ctypes.c_void_p(scratch.ctypes.data), ctypes.c_int64(repeat),
            ctypes.byref(seconds),
        )  # fmt: skip
        self.seconds = seconds.value


def aligned(shape: int | tuple[int, ...], dtype: np.typing.DTypeLike, alignment: int = 64) -> np.ndarray:
    """An uninitialised array whose first element is aligned."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape))
    raw = np.empty(count * kind.itemsize + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + count * kind.itemsize].view(kind).reshape(shape)


def build_kernel(spec: KernelSpec, isa: str, sanitize: bool = SANITIZE) -> Kernel:
    """The kernel of ``spec`` for ``isa``, built once per process (and once per digest on disk)."""
    return build_kernels((spec,), isa, sanitize)[0]


@cache
def build_kernels(specs: tuple[KernelSpec, ...], isa: str, sanitize: bool = SANITIZE) -> list[Kernel]:
    """Several kernels from one build, which is quicker than a build each."""
    path = toolchain.build(kernel_units(specs, isa), isa, sanitize=sanitize, link_flags=("-pthread",))
    return [Kernel(spec, isa, str(path)) for spec in specs]


def sanitizer_environment() -> dict[str, str]:
    """The environment in which pytest runs kernels that are built for the address and undefined-behaviour sanitizers; skips
    where their run-time libraries are not installed."""
    runtimes = [
        subprocess.check_output(["g++", f"-print-file-name={lib}"], text=True).strip()
        for lib in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(lib).is_absolute() for lib in runtimes):
        pytest.skip("the sanitizers' run-time libraries are not installed")
    return {
        **os.environ, "PLANISH_TEST_SANITIZE": "1", "LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0",
    }  # fmt: skip
