"""Opening an artifact from the command line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from ..compiler.errors import UsageError


def open_model(path: Path, threads: int | None = None, concurrency: int = 1) -> Any:
    """``planish.load``; errors as :func:`existing` and those of loading."""
    from ..runtime import load

    return load(existing(path), threads=threads, concurrency=concurrency)


def existing(path: Path) -> Path:
    """``path`` if there is such a file and it may be an artifact.

    Raises:
        UsageError: no such file (the nearest is named), or it is a source.
    """
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder, not a compiled model", f"planish compile {path} makes one of it")
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.planish")], 1, 0.3)
        hint = f"did you mean {str(folder / near[0])!r}?" if near else "planish compile FILE.py:callable makes one"
        raise UsageError(f"there is no file {str(path)!r}", hint)
    if path.suffix in (".py", ".pt2", ".onnx"):
        raise UsageError(
            f"{str(path)!r} is a source, not a compiled model", f"planish compile {path} -o {path.stem}.planish"
        )
    return path
