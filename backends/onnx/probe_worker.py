"""Asks a provider about one model: ``python -m planish.backends.onnx.probe_worker JOB.json``, in a process of its own.

Providers crash and hang, and one that is installed in another environment is asked by that environment's Python, so this runs
with ONNX Runtime, numpy and planish's runtime alone (``probe.py`` puts the few modules together). The job names the files:

    {"settings": {...}, "model": PATH, "reference": PATH, "baseline": PATH | null, "inputs": PATH.npz, "dtypes": {name: dtype},
     "result": PATH, "tolerance": 0.01, "seconds": 0.3, "threads": 1}

and the result is JSON: ``taken``, ``reason``, ``error``, ``seconds``, ``float_seconds``, ``kernels``, ``version``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import PlanishError
from ...runtime.onnx_session import (
    CPU,
    Settings,
    as_array,
    as_value,
    assignment,
    first_line,
    is_emulated,
    open_session,
    provider_version,
    session_options,
    why_not,
)  # fmt: skip

LEAST_CALLS, MOST_CALLS = 15, 2000
#: Nodes that ONNX Runtime puts in where a kernel for an element type is missing.
_CASTS = ("Cast", "InsertedPrecisionFreeCast")


def main(path: str) -> None:
    """Do a job and write its result."""
    job = json.loads(Path(path).read_text())
    settings = Settings.from_data(job["settings"])
    result: dict[str, Any] = {"taken": False, "reason": ""}
    if missing := why_not(settings):
        result["missing"] = missing
    else:
        result["version"] = provider_version(settings)
        if "model" in job:
            try:
                result.update(_ask(job, settings))
            except PlanishError as error:
                result["reason"] = error.message.removeprefix(f"{settings.provider} refuses the model: ")
            except Exception as error:  # whatever the bindings raise is the provider's answer
                result["reason"] = first_line(error)
    part = Path(job["result"] + ".part")
    part.write_text(json.dumps(result))
    os.replace(part, job["result"])


def _ask(job: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    model = Path(job["model"]).read_bytes()
    inputs = _values(job["inputs"], job["dtypes"])
    try:
        session, kernels = _open(model, settings, job["threads"])
    except PlanishError:
        # With the CPU to fall back on it tells which nodes it does not take; an error stays one.
        if reason := _foreign(open_session(model, None, settings, threads=job["threads"], record=True), settings):
            return {"reason": reason}
        raise
    if reason := _foreign(session, settings):
        return {"reason": reason}
    outputs = _numbers(session.run_with_ort_values(None, inputs))
    expected = _reference(job, inputs)
    found: dict[str, Any] = {"kernels": kernels(inputs)}
    if expected is not None:
        found["error"] = _distance(outputs, expected)
    if not all(np.isfinite(array).all() for array in outputs):
        return {**found, "reason": "the outputs are not finite"}
    if found.get("error") == float("inf"):
        return {"kernels": found["kernels"], "reason": "the outputs have other shapes"}
    if expected is not None and found["error"] > job["tolerance"]:
        return {**found, "reason": f"wrong numbers: they are off by {found['error']:.2g} of their norm"}
    found["taken"] = True
    # On the CPU nothing refuses a model: what has no kernel in an element type is cast to f32 and back.
    if settings.provider == CPU and any(kind in found["kernels"] for kind in _CASTS) and not job.get("casts", False):
        found.update(taken=False, reason="no kernel in this element type: ONNX Runtime casts to f32 and back")
    if is_emulated(settings):
        return found  # what an emulator takes says nothing of the hardware
    calls = [lambda: session.run_with_ort_values(None, inputs)]
    if job.get("baseline"):
        # That the float form is refused says nothing of the form itself.
        with suppress(Exception):
            plain = open_session(Path(job["baseline"]).read_bytes(), None, settings, threads=job["threads"])
            given = _values(job["baseline_inputs"], job["baseline_dtypes"])
            plain.run_with_ort_values(None, given)
            calls.append(lambda: plain.run_with_ort_values(None, given))
    times = _interleaved(calls, job["seconds"])
    found["seconds"] = times[0]
    if len(times) > 1:
        found["float_seconds"] = times[1]
    return found


def _foreign(session: Any, settings: Settings) -> str:
    """The types of nodes that other providers took, as a reason; empty if none."""
    found = sorted({node.op for node in assignment(session) if node.provider != settings.provider})
    return f"it leaves {', '.join(found)} to the CPU" if found else ""


def _open(model: bytes, settings: Settings, threads: int) -> tuple[Any, Callable[[Mapping[str, Any]], list[str]]]:
    """A session without fallback to the CPU, and how to find the types of the nodes that run."""
    options = session_options(settings, threads, record=True)
    if settings.provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = open_session(model, None, settings, options=options)

    def kernels(inputs: Mapping[str, Any]) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            profiled = session_options(settings, threads)
            profiled.enable_profiling, profiled.profile_file_prefix = True, os.path.join(folder, "profile")
            other = open_session(model, None, settings, options=profiled)
            other.run_with_ort_values(None, inputs)
            events = json.loads(Path(other.end_profiling()).read_text())
        return [e["args"]["op_name"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]

    return session, kernels


def _values(path: str, dtypes: Mapping[str, str]) -> dict[str, Any]:
    """The arrays of a file as ``OrtValue``, by name."""
    with np.load(path) as stored:
        return {name: as_value(stored[name], dtypes.get(name, "")) for name in stored.files}


def _reference(job: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[np.ndarray] | None:
    """What the model computes by the CPU, node by node as it is written; None where the CPU has no kernel for it."""
    plain = Settings(CPU, optimize=False)
    try:
        session = open_session(Path(job["reference"]).read_bytes(), None, plain, threads=job["threads"])
        return _numbers(session.run_with_ort_values(None, dict(inputs)))
    except Exception:  # many: what has no kernel on the CPU is judged by its being finite alone
        return None


def _numbers(values: Sequence[Any]) -> list[np.ndarray]:
    """Outputs as f64."""
    found = []
    for value in values:
        array = as_array(value)
        if value.data_type() == "tensor(bfloat16)":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        found.append(np.asarray(array, np.float64))
    return found


def _distance(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """|a - b| / |b| over all outputs, in the Euclidean norm; infinity where the shapes differ."""
    if [a.shape for a in outputs] != [b.shape for b in expected]:
        return float("inf")
    difference = sum(float(np.sum((a - b) ** 2)) for a, b in zip(outputs, expected, strict=True))
    norm = sum(float(np.sum(b**2)) for b in expected)
    return float(np.sqrt(difference / norm)) if norm else float(difference > 0)


def _interleaved(calls: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """Seconds of one call of each, called in turns: of the shortest, since a probe is one kernel, and what disturbs it on a
    machine that does other things makes it several times as long."""
    for call in calls:
        call()
    samples: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(samples[0]) < LEAST_CALLS or (time.perf_counter() < end and len(samples[0]) < MOST_CALLS):
        for call, into in zip(calls, samples, strict=True):
            start = time.perf_counter()
            call()
            into.append(time.perf_counter() - start)
    return [min(times) for times in samples]


if __name__ == "__main__":
    main(sys.argv[1])
