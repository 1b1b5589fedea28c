"""The machine and the process: pinning, one thread, and what a figure means nothing without."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
CACHE = BENCH / ".cache"
PEERS_PYTHON = BENCH / ".peers-venv" / "bin" / "python"

#: What a table says about its peers.
PACKAGES = ("torch", "transformers", "openvino", "nncf", "onnxruntime", "onnx", "numpy")


def thread_environment(threads: int) -> dict[str, str]:
    """Variables for a measuring process: so many threads at most, and no thread that spins beside the measured one."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "KMP_BLOCKTIME": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONWARNINGS": "ignore",
    }


def cores(count: int) -> list[int]:
    """The last ``count`` cores this process may use: the first ones get most interrupts."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        raise ValueError(f"{count} threads need {count} cores, this process may use {len(allowed)}")
    return allowed[-count:]


def pin(chosen: Sequence[int]) -> None:
    """Keep this process, and every thread it starts from now on, on these cores."""
    os.sched_setaffinity(0, chosen)


def cpu_name() -> str:
    """The processor as the system names it, with the instruction sets that matter here."""
    name, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key == "flags":
                flags = value
                break
    sets = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    known = [s for s in sets if s in flags.split()]
    return f"{name} ({', '.join(known)})" if known else name


def versions() -> dict[str, str]:
    """Version of each peer that is installed here, and of Python."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory() -> int:
    """The most resident memory this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not say how much memory a process had")


def private_memory() -> int:
    """Resident memory that belongs to this process alone (no mapped files), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not say how much memory a process has")


def busy_seconds(chosen: Sequence[int]) -> float:
    """Seconds these cores have worked since boot, for whatever process, time stolen by other machines included."""
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{core}" for core in chosen}:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
