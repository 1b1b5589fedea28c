"""Models side by side through one execution provider: ``python ort_child.py JOB.json``, with ONNX Runtime and numpy alone.

It stands by itself, because the provider may be installed in an environment without planish. The job::

    {"provider": NAME, "options": {...}, "core": 1, "seconds": 20, "inputs": FILE.npz, "result": FILE.json,
     "models": {NAME: [PATH, OPTIMIZE]}, "shapes": [LABEL, ...], "texts": COUNT, "mean": true}

``inputs`` holds ``LABEL/INPUT`` for what is timed and ``NUMBER/INPUT`` for what quality is judged on, with ``NUMBER/reference``:
what float32 PyTorch gives for it; with 0 texts no quality is judged. ``OPTIMIZE``: ONNX Runtime rewrites the graph before the
provider sees it. ``mean``: outputs are compared as the mean over their second axis.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

VISIT_SECONDS, LEAST_ROUNDS = 0.03, 9


def main(path: str) -> None:
    """Do a job and write its result."""
    job = json.loads(Path(path).read_text())
    os.sched_setaffinity(0, [job["core"]])
    stored = np.load(job["inputs"])
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key in stored.files:
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = stored[key]
    sessions = {name: opened(model, optimize, job) for name, (model, optimize) in job["models"].items()}
    result: dict[str, Any] = {"versions": {"onnxruntime": onnxruntime.__version__}, "speed": {}, "quality": {}}
    for shape in job["shapes"]:
        result["speed"][shape] = interleaved(sessions, groups[shape], job["seconds"])
    for name, session in sessions.items() if job["texts"] else ():
        found = [cosine(session, groups[str(i)], job["mean"]) for i in range(job["texts"])]
        result["quality"][name] = {
            "samples": len(found), "min": min(found), "p1": float(np.quantile(found, 0.01)), "mean": float(np.mean(found)),
        }  # fmt: skip
    Path(job["result"]).write_text(json.dumps(result))


def opened(model: str, optimize: bool, job: dict[str, Any]) -> onnxruntime.InferenceSession:
    """A session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=[(job["provider"], job["options"])])


def interleaved(
    sessions: dict[str, onnxruntime.InferenceSession], inputs: dict[str, np.ndarray], seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of a call of each, one figure for each round; every round visits all of them in another order."""
    repeats = {}
    for name, session in sessions.items():
        session.run(None, inputs)
        start = time.perf_counter()
        session.run(None, inputs)
        repeats[name] = max(1, min(50, round(VISIT_SECONDS / (time.perf_counter() - start))))
    samples: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in sessions}
    order, shuffle = list(sessions), random.Random(0).shuffle
    deadline, rounds = time.perf_counter() + seconds, 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < deadline:
        rounds += 1
        shuffle(order)
        for name in order:
            session = sessions[name]
            session.run(None, inputs)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                session.run(None, inputs)
            samples[name]["wall"].append(1e3 * (time.perf_counter() - wall) / repeats[name])
            samples[name]["cpu"].append(1e3 * (time.process_time() - cpu) / repeats[name])
    return samples


def cosine(session: onnxruntime.InferenceSession, sample: dict[str, np.ndarray], mean: bool) -> float:
    """Of what the model gives and the reference, for one input of batch 1."""
    inputs = {i.name: sample[i.name] for i in session.get_inputs()}
    got = np.asarray(session.run(None, inputs)[0], np.float64)[0]
    got = got.mean(0) if mean else got
    want = sample["reference"]
    return float(got @ want / (np.linalg.norm(got) * np.linalg.norm(want)))


if __name__ == "__main__":
    main(sys.argv[1])
