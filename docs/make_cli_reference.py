"""Write docs/cli.md from the program itself: ``python docs/make_cli_reference.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REFERENCE = Path(__file__).resolve().parent / "cli.md"
COMMANDS = (
    "compile", "explain", "report", "bisect", "run", "export", "inspect", "bench", "verify", "passes", "targets", "doctor",
    "cache",
)  # fmt: skip

HEAD = """\
# Command line

Written by `make docs` from the program's own help.

- `--json` prints one JSON document on stdout, for errors too (`{"error": {"kind", "message", "hint", "exit"}}`).
- Errors are one sentence on stderr and a hint; `--debug` shows the traceback.
- Exit status: 0 done, 1 failure, 2 the call is wrong, 3 a bar was missed, 130 interrupted. An interrupted or failed command
  leaves no half-written file.
- A model is `FILE.py:callable`, where the callable returns `(module, args[, kwargs[, dynamic_shapes]])` (importing the file runs
  it); a `FILE.pt2` that `torch.export.save` wrote; or a local [Hugging Face folder](huggingface.md). Pickles of `torch.save` are
  refused, because reading them executes code.
- `--precision` takes a precision for everything, or `GLOB=PRECISION` for the modules whose path matches; given several
  times, the first pattern that matches a module wins, and the value without a pattern is for the rest.
- `--budget` searches for the precision of every layer: [Searching for precision](search.md). `--calibration` and `--evaluation`
  take `FILE.py:callable`, `IN.npz` or `IN.jsonl`; given several times as `NAME=SRC` they are slices.
- `--pass FILE.py:Class` and `--pass 'name{option=value}'` add a pass; `@after=NAME` or `@before=NAME` says where.
- `--ops FILE.py` (or an installed module) registers custom ops of the model; those of installed plugins are found by themselves.
- `planish inspect X.planish --unfused` says what runs apart from its neighbours and why, equal findings on one line.

"""


def text() -> str:
    """The whole page."""
    parts = [HEAD]
    for command in COMMANDS:
        shown = subprocess.run(
            [sys.executable, "-m", "planish.cli", command, "--help"],
            env={**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        lines = "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())
        parts.append(f"## planish {command}\n\n```text\n{lines}\n```\n\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    REFERENCE.write_text(text())
    print(f"written: docs/{REFERENCE.name}")
