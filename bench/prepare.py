"""Prepare one contender in a process of its own: ``python -m planish.bench.prepare NAME``.

A converter that crashes, leaks or changes global settings thus disturbs nobody. The files appear under their final name
only when everything went well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable

from .contender import Contender, named
from .machine import BENCH, PEERS_PYTHON, thread_environment


def prepare(contender: Contender) -> None:
    """Make the contender's files, whole or not at all."""
    final = contender.folder
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(final.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    start = time.perf_counter()
    contender.prepare(part)
    (part / "done.json").write_text(json.dumps({"seconds": round(time.perf_counter() - start, 1)}) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def peers_process(module: str, *arguments: str, threads: int = 1, quiet: bool = False) -> tuple[int, str]:
    """Run a module of this package in the peers' environment; its status, and what it wrote to stderr where quiet."""
    done = subprocess.run(
        [str(PEERS_PYTHON), "-m", f"planish.bench.{module}", *arguments],
        cwd=BENCH,
        env={**os.environ, **thread_environment(threads)},
        stderr=subprocess.PIPE if quiet else None,
        stdout=subprocess.DEVNULL if quiet else None,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr or ""


def prepare_all(contenders: Iterable[Contender]) -> dict[str, str]:
    """Prepare what is not yet; for each contender that cannot take part the reason."""
    missing: dict[str, str] = {}
    for contender in contenders:
        if contender.prepared:
            continue
        if contender.own:
            missing[contender.name] = "its artifact has not been compiled"
            continue
        print(f"preparing {contender.name} ...", file=sys.stderr, flush=True)
        status, errors = peers_process("prepare", contender.name, threads=2, quiet=True)
        if status:
            last = [line for line in errors.strip().splitlines() if line.strip()]
            missing[contender.name] = f"could not be prepared: {last[-1][:200] if last else f'status {status}'}"
    return missing


def main() -> None:
    """Prepare the contender named on the command line."""
    warnings.filterwarnings("ignore")
    prepare(named(sys.argv[1]))


if __name__ == "__main__":
    main()
