"""Prepare contenders, each in a process of its own: ``python -m planish.bench.prepare NAME | --all [--only WORDS]``.

A converter that crashes, leaks or changes global settings thus disturbs nobody. The files appear under their final name
only when everything went well. ``--all`` prints, as JSON, why a contender cannot take part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable

from .contender import Contender, chosen, named, registry
from .machine import thread_environment


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
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, contender.name],
            env={**os.environ, **thread_environment(2)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            missing[contender.name] = (lines[-1] if lines else f"status {done.returncode}")[:300]
    return missing


def main() -> None:
    """Prepare the contender named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Prepare the contenders.")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.all:
        print(json.dumps(prepare_all(chosen(registry(), options.only))))
    elif options.name:
        prepare(named(options.name))
    else:
        parser.error("name a contender, or say --all")


if __name__ == "__main__":
    main()
