"""Attention kernels beside PyTorch's scaled_dot_product_attention: one thread, one interleaved run, microseconds.

``python -m planish.bench.attention``. Every contender reads q, k and v as views of one fused buffer [S, 3 * H * D] in its
own storage type. The share is that of the peak that multiply-adds of the same type reach on this machine in this run.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from ..backends.cpu.isa import available
from ..backends.cpu.toolchain import build
from ..codegen.render import kernel_name, preamble, render_kernel, scratch_bytes
from ..codegen.specs import ISA_LEVELS, AttentionSpec

SHAPES = ((32, 12, 32), (128, 12, 32), (197, 6, 64), (512, 12, 64))

_ENTRY = """
extern "C" __attribute__((visibility("default"))) void planish_bench_run(void* const* p, const int64_t* d, void* scratch) {
    int32_t error = 0;
    const planish_host host{1, 1, nullptr, nullptr, &error};
    KERNEL(&host, p, d, scratch);
}
"""


def kernel(spec: AttentionSpec, isa: str, arrays: list[np.ndarray | None], dims: list[int]) -> Callable[[], None]:
    """A call of the kernel on these arrays, with its pointers set once."""
    text = preamble(isa) + render_kernel(spec, isa) + _ENTRY.replace("KERNEL", kernel_name(spec))
    run = ctypes.CDLL(str(build(text, isa))).planish_bench_run
    size = scratch_bytes(spec, dims, isa)
    assert isinstance(size, int)
    scratch = np.zeros(size + 64, np.uint8)
    pointers = (ctypes.c_void_p * len(arrays))(*[None if a is None else a.ctypes.data for a in arrays])
    sizes = (ctypes.c_int64 * (len(dims) + 1))(*dims, size)
    base = ctypes.c_void_p(scratch.ctypes.data + -scratch.ctypes.data % 64)
    keep = (arrays, scratch)

    def call() -> None:
        assert keep
        run(pointers, sizes, base)

    return call


def fused_dims(s: int, h: int, d: int) -> list[int]:
    """The launch's dims for q, k, v inside [S, 3 * H * D], a key mask [1, 1, 1, S] and an output [S, H * D]."""
    fused = [0, d, 3 * h * d]
    return [1, h, h, s, s, *fused, *fused, *fused, 0, d, h * d, 0, 0, 0, 1, 0]


def contenders(s: int, h: int, d: int, isa: str) -> dict[str, Callable[[], object]]:
    """Every contender for one shape, by name; the key mask hides the last eighth of the keys."""
    import torch

    fused = torch.randn(s, 3 * h * d)
    calls: dict[str, Callable[[], object]] = {}
    mask = np.zeros(s, np.float32)
    mask[-max(s // 8, 1) :] = np.finfo(np.float32).min
    storages: dict[Literal["f32", "bf16"], tuple[torch.Tensor, np.ndarray]] = {
        "f32": (fused, fused.numpy()),
        "bf16": (fused.bfloat16(), fused.bfloat16().view(torch.uint16).numpy()),
    }
    for name, (tensor, array) in storages.items():
        parts: list[np.ndarray | None] = [array[:, i * h * d :] for i in range(3)]
        for kind in ("none", "bias"):
            masked = kind == "bias"
            spec = AttentionSpec(name, d, d, name, name, "bias" if masked else "none", False, d**-0.5)
            out = np.zeros((s, h * d), array.dtype)
            calls[f"{name}{', key mask' if masked else ''}"] = kernel(
                spec, isa, [*parts, mask if masked else None, out], fused_dims(s, h, d)
            )
        q, k, v = (x.reshape(1, s, h, d).transpose(1, 2) for x in tensor.split(h * d, 1))
        calls[f"torch {name}"] = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v)
    spec = AttentionSpec("bf16", d, d, "f32", "f32", "none", False, d**-0.5)
    f32_parts: list[np.ndarray | None] = [fused.numpy()[:, i * h * d :] for i in range(3)]
    calls["bf16 from f32"] = kernel(
        spec, isa, [*f32_parts, None, np.zeros((s, h * d), np.float32)], fused_dims(s, h, d)
    )
    return calls


def measure(calls: dict[str, Callable[[], object]], rounds: int = 40) -> dict[str, tuple[float, float]]:
    """Minimum and median microseconds of each, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            taken[name].append((time.perf_counter() - start) * 1e6)
    return {name: (min(times), statistics.median(times)) for name, times in taken.items()}


def main() -> None:
    """Print the table."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from ..backends.cpu.peaks import measure as measure_peaks

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    isa = [level for level in ISA_LEVELS if level in available()][-1]
    for s, h, d in SHAPES:
        with torch.inference_mode():
            times = measure(contenders(s, h, d, isa))
        peaks = measure_peaks(isa)
        operations = 4 * s * s * d * h
        print(f"S={s} H={h} D={d} ({isa}; peak f32 {peaks.f32 / 1e9:.0f}, bf16 {peaks.bf16 / 1e9:.0f} GFLOP/s)")
        for name, (least, median) in times.items():
            share = operations / median * 1e6 / peaks.operations("bf16" if "bf16" in name else "f32")
            print(f"  {name:16s} min {least:9.1f}  median {median:9.1f} us  {share:6.1%} of peak")


if __name__ == "__main__":
    main()
