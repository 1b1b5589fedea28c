"""Peak memory of a model in a fresh process: ``python -m planish.cli.memory X.planish '{"batch": 1}' THREADS``.

Prints one JSON object with bytes: of Python with numpy, after loading, at the peak of three calls. numpy and the
standard library only, as in a deployment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def measure(path: Path, sizes: Mapping[str, int], threads: int | None) -> dict[str, int] | None:
    """The figures of a fresh process, None where it failed or the system does not tell."""
    command = [sys.executable, "-m", "planish.cli.memory", str(path), json.dumps(dict(sizes)), str(threads or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: dict[str, int] = json.loads(done.stdout)
    except ValueError:
        return None
    return found if done.returncode == 0 else None


def _status(field: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Load, call three times, print."""
    from .feed import Signature, made_up

    path, sizes, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    from .. import load

    base = _status("VmRSS")
    with load(path, threads=threads or None) as model:
        loaded = _status("VmRSS")
        arrays = made_up(Signature.of(model.manifest), sizes)
        for _ in range(3):
            model(**arrays)
        print(json.dumps({"python": base, "loaded": loaded - base, "peak": _status("VmHWM") - base}))


if __name__ == "__main__":
    main()
