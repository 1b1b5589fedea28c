"""Load time and memory of one contender, in a fresh process: ``python -m planish.bench.probe NAME``.

Printed as JSON: milliseconds to import its library, to open the model for any shape, and for the first call at 1 x 128;
then the most memory the process had beyond a Python with numpy, after calls at 1 x 128.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
import zipfile
from importlib import import_module

import numpy as np

from .contender import named
from .data import Inputs
from .machine import cores, peak_memory, pin, private_memory
from .ours import Planish

SHAPE = (1, 128)


def inputs() -> Inputs:
    """Token ids without a tokenizer: it would count as memory."""
    ids = np.random.default_rng(0).integers(1000, 30000, SHAPE)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def weight_bytes(path: str) -> int:
    """Size of the weights inside an artifact."""
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist() if member.filename == "weights.bin")


def main() -> None:
    """Probe the contender named on the command line."""
    pin(cores(1))
    warnings.filterwarnings("ignore")
    contender = named(sys.argv[1])
    batch = inputs()
    base_peak, base_private = peak_memory(), private_memory()
    start = time.perf_counter()
    for library in contender.libraries:
        import_module(library)
    imported = time.perf_counter()
    run = contender.open(None, 1)
    opened = time.perf_counter()
    run(batch)
    first = time.perf_counter()
    for _ in range(5):
        run(batch)
    result: dict[str, float] = {
        "import_ms": 1e3 * (imported - start),
        "open_ms": 1e3 * (opened - imported),
        "first_call_ms": 1e3 * (first - opened),
        "peak_mb": (peak_memory() - base_peak) / 1e6,
        "private_mb": (private_memory() - base_private) / 1e6,
    }
    if isinstance(contender, Planish):
        result["weights_mb"] = weight_bytes(str(contender.path)) / 1e6
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


if __name__ == "__main__":
    main()
