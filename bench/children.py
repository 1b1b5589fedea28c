"""Modules of this package in the peers' environment, and what they print."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from .machine import PEERS_PYTHON, thread_environment


def in_peers(module: str, *arguments: str, threads: int = 1) -> str:
    """Run a module of this package in the peers' environment; what it printed."""
    done = subprocess.run(
        [str(PEERS_PYTHON), "-m", f"planish.bench.{module}", *arguments],
        env={**os.environ, **thread_environment(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"planish.bench.{module} ended with status {done.returncode}")
    return done.stdout


def last_json(text: str) -> Any:
    """The last line, which is JSON; libraries may have printed before."""
    return json.loads(text.strip().splitlines()[-1])
