"""What this CPU can do at most: measured peaks of arithmetic and of reading memory, the yardstick of ``planish bench``.

A few generated loops keep the multiply-add units busy with nothing else to do, or read a buffer of a given size again and
again. The best of many short runs counts, so a busy machine disturbs the figures little; they are kept on disk, and a
later measurement can only raise them.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from .isa import level
from .toolchain import build, cache_directory

#: Sizes of the buffers whose reading is timed: one that fits the second-level cache, one the third, one neither.
WORKING_SETS = (256 << 10, 8 << 20, 256 << 20)

ACCUMULATORS = 12  # enough to hide the latency of two units, few enough to leave registers free
UNROLL = 4


@dataclass(frozen=True)
class Peaks:
    """The most that ``threads`` threads reach together at an ISA level.

    Attributes:
        isa: the ISA level whose instructions were used.
        threads: how many threads ran at once.
        f32, bf16, i8: operations per second (a multiply-add is two); for bf16 that of f32 where the level has no
            instruction for it.
        bandwidth: (bytes of the buffer, bytes per second read), smallest buffer first.
    """

    isa: str
    threads: int
    f32: float
    bf16: float
    i8: float
    bandwidth: tuple[tuple[int, float], ...]

    def operations(self, precision: str) -> float:
        """Operations per second of a kernel that computes in ``precision`` (``f32``, ``bf16``, ``w8a8-dynamic``...)."""
        if precision.startswith(("w8a8", "w4a8", "i8", "int8")):
            return self.i8
        return self.bf16 if precision.startswith(("bf16", "w8a16", "w4a16")) else self.f32

    def read(self, moved: float) -> float:
        """Bytes per second when ``moved`` bytes are read: the rate of the smallest buffer that is as large."""
        for capacity, rate in self.bandwidth:
            if moved <= capacity:
                return rate
        return self.bandwidth[-1][1]

    def seconds(self, operations: float, moved: float, precision: str) -> float:
        """The least time for so many operations and bytes: whichever of the two takes longer (the roofline model).

        Reference: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009.
        """
        return max(operations / self.operations(precision), moved / self.read(moved))


def peaks(isa: str, threads: int = 1, *, fresh: bool = False) -> Peaks:
    """The peaks of this machine, from disk where they are known.

    Args:
        isa: ISA level; this CPU must have it.
        threads: how many threads run at once.
        fresh: measure in any case; what was known before stays where it is higher.

    Raises:
        ToolchainError: the loops cannot be built.
    """
    path = _record(isa, threads)
    known = _read(path)
    if known is not None and not fresh:
        return known
    found = measure(isa, threads)
    if known is not None:
        found = _better(found, known)
    _write(path, found)
    return found


def measure(isa: str, threads: int = 1) -> Peaks:
    """Measure now: takes about half a second. Arguments and errors as :func:`peaks`."""
    library = ctypes.CDLL(str(build(source(isa), isa)))
    rates = {}
    for name in ("f32", "bf16", "i8"):
        function = getattr(library, f"peak_{name}")
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int64]
        rates[name] = _best(partial(_compute, function), threads, repeats=40)
    library.read_all.restype, library.read_all.argtypes = (
        ctypes.c_double,
        [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64],
    )
    bandwidth = []
    for capacity in WORKING_SETS:
        each = max(capacity // threads // 4096, 1) * 4096  # the threads share what the caches hold
        buffers = [np.ones(each // 8, np.int64) for _ in range(threads)]
        passes = max((4 << 20) // each, 1)
        rate = _best(partial(_read_all, library.read_all, buffers, passes), threads, repeats=12)
        bandwidth.append((capacity, rate))
    return Peaks(isa, threads, rates["f32"], rates["bf16"], rates["i8"], tuple(bandwidth))


def _compute(function: Callable[[int], float], _: int) -> float:
    return function(20_000)


def _read_all(function: Callable[[int, int, int], float], buffers: list[np.ndarray], passes: int, thread: int) -> float:
    return function(buffers[thread].ctypes.data, buffers[thread].nbytes, passes)


def _best(work: Callable[[int], float], threads: int, repeats: int) -> float:
    """The best rate of ``work`` (which returns how much it did) on so many threads at once, summed over the threads."""
    if threads == 1:
        return max(_rate(work, 0) for _ in range(repeats))
    totals = [0.0] * repeats
    lock, barrier = threading.Lock(), threading.Barrier(threads)

    def body(thread: int) -> None:
        for i in range(repeats):
            barrier.wait()
            rate = _rate(work, thread)  # ctypes lets go of the interpreter lock, so the threads do run at once
            with lock:
                totals[i] += rate

    workers = [threading.Thread(target=body, args=(t,)) for t in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(totals)


def _rate(work: Callable[[int], float], thread: int) -> float:
    start = time.perf_counter()
    done = work(thread)
    return done / (time.perf_counter() - start)


def source(isa: str) -> str:
    """C++ text of the loops for an ISA level.

    Raises:
        UsageError: there is no such level.
    """
    lanes = level(isa).lanes
    if isa == "portable":
        loops = [_plain_loop(name, "float", 2 * lanes) for name in ("f32", "bf16")]
        if platform.machine() == "x86_64":  # SSE2, which every such CPU has, multiplies 16-bit integers in pairs
            pairs = "movdqa %1, %3\\n\\tpmaddwd %2, %3\\n\\tpaddd %3, %0"
            loops.append(_asm_loop("i8", 128, pairs, 4 * lanes))
        else:
            loops.append(_plain_loop("i8", "int32_t", 2 * lanes))
    else:
        bits = 32 * lanes
        fma = "vfmadd231ps %2, %1, %0"
        bf16, dot = isa == "avx512-bf16", isa != "avx2"
        loops = [
            _asm_loop("f32", bits, fma, 2 * lanes),
            _asm_loop("bf16", bits, "vdpbf16ps %2, %1, %0" if bf16 else fma, (4 if bf16 else 2) * lanes),
            _asm_loop("i8", bits, "vpdpbusd %2, %1, %0", 8 * lanes)
            if dot
            else _asm_loop("i8", bits, "vpmaddwd %2, %1, %3\\n\\tvpaddd %3, %0, %0", 4 * lanes),
        ]
    return _HEAD + "".join(loops) + _READ.replace("WIDTH", str(4 * lanes))


_HEAD = """\
// Loops that do nothing but keep the arithmetic units, or the path from memory, busy. Generated.
#include <cstdint>
#define EXPORT extern "C" __attribute__((visibility("default")))
"""

_READ = """
// Reads `bytes` (a multiple of 4096) from `data`, `passes` times; returns the bytes read.
EXPORT double read_all(const void* data, int64_t bytes, int64_t passes) {
  typedef uint64_t line __attribute__((vector_size(WIDTH), aligned(8), may_alias));
  for (int64_t pass = 0; pass < passes; ++pass) {
    const line* p = static_cast<const line*>(data);
    const line* end = p + bytes / WIDTH;
    line a = {}, b = {}, c = {}, d = {};
    for (; p < end; p += 4) { a |= p[0]; b |= p[1]; c |= p[2]; d |= p[3]; }
    a |= b | c | d;
    asm volatile("" : : "m"(a) : "memory");
  }
  return static_cast<double>(bytes) * static_cast<double>(passes);
}
"""


def _asm_loop(name: str, bits: int, instructions: str, operations: int) -> str:
    """A loop of one instruction on independent accumulators; in assembler, so that no compiler improves on it."""
    temporary = ', "=&v"(t)' if "%3" in instructions else ""
    text = instructions.replace("%1", "%[x]").replace("%2", "%[y]").replace("%3", "%[t]").replace("%0", "%[a]")
    outputs = f'[a] "+v"(acc[r]){temporary.replace(chr(34) + "=&v", "[t] " + chr(34) + "=&v")}'
    return f"""
EXPORT double peak_{name}(int64_t iterations) {{
  typedef int32_t vec __attribute__((vector_size({bits // 8})));
  vec acc[{ACCUMULATORS}] = {{}}, x = {{}}, y = {{}}, t = {{}};
  for (int64_t i = 0; i < iterations; ++i) {{
#pragma GCC unroll {UNROLL}
    for (int u = 0; u < {UNROLL}; ++u) {{
#pragma GCC unroll {ACCUMULATORS}
      for (int r = 0; r < {ACCUMULATORS}; ++r) asm volatile("{text}" : {outputs} : [x] "v"(x), [y] "v"(y));
    }}
  }}
  (void)t;
  return static_cast<double>(iterations) * {UNROLL * ACCUMULATORS * operations}.0;
}}
"""


def _plain_loop(name: str, scalar: str, operations: int) -> str:
    """The same in plain C++; the empty assembler statement keeps the compiler from seeing that x and y never change."""
    return f"""
EXPORT double peak_{name}(int64_t iterations) {{
  typedef {scalar} vec __attribute__((vector_size(16)));
  vec acc[{ACCUMULATORS}] = {{}}, x = {{}}, y = {{}};
  for (int64_t i = 0; i < iterations; ++i) {{
#pragma GCC unroll {UNROLL}
    for (int u = 0; u < {UNROLL}; ++u) {{
#pragma GCC unroll {ACCUMULATORS}
      for (int r = 0; r < {ACCUMULATORS}; ++r) {{
#if defined(__x86_64__)
        asm volatile("" : "+x"(x), "+x"(y));
#elif defined(__aarch64__)
        asm volatile("" : "+w"(x), "+w"(y));
#endif
        acc[r] = acc[r] + x * y;
      }}
    }}
  }}
  for (int r = 0; r < {ACCUMULATORS}; ++r) asm volatile("" : : "m"(acc[r]) : "memory");
  return static_cast<double>(iterations) * {UNROLL * ACCUMULATORS * operations}.0;
}}
"""


def _better(a: Peaks, b: Peaks) -> Peaks:
    pairs = zip(a.bandwidth, b.bandwidth, strict=True)
    bandwidth = tuple((capacity, max(rate, other)) for (capacity, rate), (_, other) in pairs)
    return Peaks(a.isa, a.threads, max(a.f32, b.f32), max(a.bf16, b.bf16), max(a.i8, b.i8), bandwidth)


def _record(isa: str, threads: int) -> Path:
    """The file of these peaks: one for each machine, since a home folder may be shared by several."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
        model = next((line for line in cpu.splitlines() if line.startswith("model name")), "")
    except OSError:
        model = ""
    key = json.dumps([os.uname().nodename, model, isa, threads, source(isa), WORKING_SETS])
    return cache_directory() / "peaks" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _read(path: Path) -> Peaks | None:
    try:
        data = json.loads(path.read_text())
        bandwidth = tuple((int(capacity), float(rate)) for capacity, rate in data.pop("bandwidth"))
        return Peaks(bandwidth=bandwidth, **data)
    except (OSError, ValueError, TypeError, KeyError):
        return None  # not measured yet, or written by another version


def _write(path: Path, found: Peaks) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            json.dump(asdict(found), file)
        os.replace(file.name, path)
    except OSError:
        return  # a cache that cannot be written costs half a second next time
