"""MiniLM from model to proved artifact: seconds and memory, in fresh processes: ``python -m planish.bench.endtoend``.

Each effort is run with an empty cache, then with the kernels and timings that this left. The journal of the first run is not
used by the second. Memory is the most that the process has had, beside that of a process which runs the same
model on the same sentences in eager PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from .endtoend_child import BAR
from .progress import say
from .report import Floor, Table

#: Seconds that a compile may take with an empty cache.
LIMITS = {"quick": 45.0, "standard": 180.0}
MEMORY = 2.0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Fresh processes, one after the other."""
    eager = child("eager", None)
    say(f"eager PyTorch: {eager['peak_mb']:.0f} MB")
    runs: list[dict[str, Any]] = []
    for effort in ("quick",) if options.quick else tuple(LIMITS):
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "warm"):
                run = child(effort, cache)
                runs.append({"effort": effort, "cache": state, **run})
                say(f"{effort}, {state} cache: {run['compile_s']:.1f} s, {run['peak_mb']:.0f} MB")
    return {"bar": BAR, "cores": len(os.sched_getaffinity(0)), "eager": eager, "runs": runs}


def child(what: str, cache: str | None) -> dict[str, Any]:
    """Run this module in a process of its own; what it reports, with the seconds of the whole process.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if cache is not None:
        environment["PLANISH_CACHE_DIR"] = cache
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "planish.bench.endtoend_child", what],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"planish.bench.endtoend_child {what} ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "process_s": round(time.perf_counter() - start, 1)}


def floors(figures: Mapping[str, Any]) -> list[Floor]:
    """Seconds with an empty cache, and memory beside eager PyTorch."""
    found = []
    for effort, limit in LIMITS.items():
        run = next((r for r in figures["runs"] if r["effort"] == effort and r["cache"] == "empty"), None)
        found.append(Floor(f"MiniLM end to end, {effort}", limit, False, run["compile_s"] if run else None, " s"))
    most = max((run["peak_mb"] for run in figures["runs"]), default=None)
    share = most / figures["eager"]["peak_mb"] if most else None
    found.append(Floor("peak memory of a compile beside eager PyTorch", MEMORY, False, share, "×"))
    return found


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """Run by run, phase by phase."""
    phases = list(dict.fromkeys(name for run in figures["runs"] for name in run["phases"]))
    rows = [
        [
            f"{run['effort']}, {run['cache']} cache", f"{run['compile_s']:.1f}", f"{run['capture_s']:.1f}",
            *(f"{run['phases'].get(name, 0.0):.1f}" for name in phases), f"{run['process_s']:.0f}", str(run["trials"]),
            f"{run['peak_mb']:.0f}", f"{run['peak_mb'] / figures['eager']['peak_mb']:.2f}×",
        ]
        for run in figures["runs"]
    ]  # fmt: skip
    header = ["", "compile (s)", "capture", *phases, "process (s)", "plans built", "peak (MB)", "beside eager"]
    note = (
        f"{figures['bar']}, {figures['cores']} cores, a fresh process each. Eager PyTorch with the same model and sentences: "
        f"{figures['eager']['peak_mb']:.0f} MB. The process includes the imports of PyTorch and transformers."
    )
    return [Table("MiniLM end to end", header, rows, note)]


def charts(figures: Mapping[str, Any]) -> dict[str, str]:
    """None."""
    return {}


def arguments(parser: Any) -> None:
    """No options of its own."""


if __name__ == "__main__":
    from .search import main

    sys.exit(main(["endtoend", *sys.argv[1:]]))
