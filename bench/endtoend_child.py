"""One compile of MiniLM, or the same model in eager PyTorch, in this process: ``python -m planish.bench.endtoend_child WHAT``.

Nothing of planish is imported for eager PyTorch: its memory is that of PyTorch, transformers, the model and the sentences.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from .machine import peak_memory
from .progress import Progress
from .subjects import MINILM

BAR = "cosine >= 0.995 each"


def eager_peak() -> dict[str, Any]:
    """The most memory that eager PyTorch takes for the example and the longest sentences, model and data included."""
    import torch

    module, _, kwargs, _ = MINILM.make()
    given = [item for items in MINILM.given_data().values() for item in items]
    given = sorted(given, key=lambda item: -item["input_ids"].size)[:64]  # the longest decide
    with torch.no_grad():
        module(**kwargs)
        for item in given:
            module(**{name: torch.from_numpy(array) for name, array in item.items()})
    return {"peak_mb": peak_memory() / 1e6}


def compiled(effort: str) -> dict[str, Any]:
    """One compile as a user would call it."""
    start = time.perf_counter()
    import planish

    module, args, kwargs, dynamic_shapes = MINILM.make()
    given = MINILM.given_data()
    ready = time.perf_counter()
    artifact = planish.compile(
        module, args, kwargs, dynamic_shapes=dynamic_shapes, calibration=given, score=MINILM.score_function(), budget=BAR,
        workload=planish.Workload([dict(MINILM.sizes)]), effort=effort, restart=True, progress=Progress(effort),
    )  # fmt: skip
    seconds = time.perf_counter() - ready
    record = artifact.report["search"]
    phases = {**artifact.report["seconds"], **record["phases"]}
    return {
        "load_s": ready - start, "compile_s": seconds, "peak_mb": peak_memory() / 1e6,
        "phases": dict(record["phases"]),
        "capture_s": phases.get("capture", 0.0), "trials": len(record["trials"]),
        "proof": [p["sentence"] for p in record["proof"]],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(eager_peak() if sys.argv[1] == "eager" else compiled(sys.argv[1])))
