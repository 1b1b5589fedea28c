"""Compile what the benchmarks measure; runs in the project's own environment: ``python -m planish.bench.artifacts``.

Each artifact is compiled with an empty cache, so that the seconds it took are those a first-time user waits. What is up to
date with planish's sources stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import data
from .machine import ROOT
from .ours import ARTIFACTS, PRECISIONS

#: rooms whose files cannot change an artifact
APART = ("bench", "tests", "docs", "examples")
SUFFIXES = (".py", ".j2", ".h", ".hpp", ".c", ".cpp")
ONE_OP = ARTIFACTS / "one-op.planish"
RECORD = ARTIFACTS / "artifacts.json"


def source_digest() -> str:
    """Of everything that decides what a compile yields."""
    digest = hashlib.sha256()
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or inside.parts[0] in APART or path.suffix not in SUFFIXES or not path.is_file():
            continue
        digest.update(str(inside).encode() + b"\0" + path.read_bytes())
    for name in ("minilm.py", "sentences.py"):
        digest.update((ROOT / "examples" / name).read_bytes())
    return digest.hexdigest()


def minilm(plan: str) -> Any:
    """The encoder at one precision, as a user would compile it."""
    import planish

    module, args, kwargs, dynamic_shapes = data.examples("minilm").model()
    precision = None if plan == "f32" else plan
    return planish.compile(module, args, kwargs, dynamic_shapes=dynamic_shapes, precision=precision)


def one_op() -> Any:
    """A model that does next to nothing: what is left is the cost of a call."""
    import torch

    import planish

    class OneOp(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    return planish.compile(OneOp().eval(), (), {"x": torch.linspace(-1, 1, 16)})


def compile_one(make: Callable[[], Any], path: Path) -> dict[str, Any]:
    """Compile with an empty cache and save; the seconds and bytes, or the reason why not."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PLANISH_CACHE_DIR"] = cache
        start = time.perf_counter()
        try:
            artifact = make()
            seconds = time.perf_counter() - start
            artifact.save(str(path))
        except Exception as error:
            path.unlink(missing_ok=True)
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return {"seconds": round(seconds, 2), "bytes": path.stat().st_size}


def main() -> None:
    """Compile what is missing or out of date."""
    parser = argparse.ArgumentParser(description="Compile the artifacts that the benchmarks measure.")
    parser.add_argument("--fresh", action="store_true", help="compile even what is up to date")
    options = parser.parse_args()

    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    digest = source_digest()
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() and not options.fresh else {}
    if record.get("sources") != digest:
        record = {"sources": digest}
    jobs: dict[str, tuple[Callable[[], Any], Path]] = {
        plan: (lambda plan=plan: minilm(plan), ARTIFACTS / f"minilm-{plan}.planish")  # type: ignore[misc]
        for plan in PRECISIONS
    }
    jobs["one-op"] = (one_op, ONE_OP)
    if any(name not in record or "error" in record[name] for name in jobs):
        import torch  # not part of what a compile takes  # noqa: F401

        data.examples("minilm").encoder()  # nor are transformers and the first read of the weights
    for name, (make, path) in jobs.items():
        if name in record and "error" not in record[name] and path.exists():
            continue
        print(f"compiling {name} ...", file=sys.stderr, flush=True)
        record[name] = compile_one(make, path)
        if "error" in record[name]:
            print(f"  left out: {record[name]['error']}", file=sys.stderr)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
