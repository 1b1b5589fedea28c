"""The row kernels again, built for the address and undefined-behaviour sanitizers, at the lowest and the highest level."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kernel_harness import RUNNABLE, SANITIZE, sanitizer_environment


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="is what runs these tests")
@pytest.mark.parametrize("isa", [RUNNABLE[0], RUNNABLE[-1]])
def test_under_sanitizers(isa: str) -> None:
    environment = sanitizer_environment()
    here = Path(__file__).parent
    chosen = (
        f"{isa} and not conversions and not exhaustively"  # a cast of what does not fit is undefined in C++ as well
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here / "test_row.py"), "-k", chosen],
        env=environment, cwd=here.parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
