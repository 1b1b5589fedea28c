"""``planish cache``: what is kept on disk between runs, and clearing it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, Json
from .output import print_facts, print_json, size

#: Subfolder of the cache -> what it holds. Nothing else in the folder is looked at or deleted.
PARTS = {
    "cpu": "built kernels with their source",
    "peaks": "measured peaks of this machine",
    "timings": "measured times of kernels",
}


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete everything in it.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show or clear what is kept on disk.

    Built kernels, measured peaks and measured times of kernels; they are made again when needed.
    """
    folder = directory()
    parts = {name: contents(folder / name) for name in PARTS}
    files, used = (sum(values) for values in zip(*parts.values(), strict=True))
    if clear:
        for name in parts:
            shutil.rmtree(folder / name, ignore_errors=True)
        left = sum(contents(folder / name)[1] for name in PARTS)
        if json:
            print_json({"directory": str(folder), "freed": used - left, "left": left})
        else:
            print_facts([("freed", size(used - left)), ("folder", str(folder))])
        return
    if json:
        document = {name: {"files": f, "bytes": b, "holds": PARTS[name]} for name, (f, b) in parts.items()}
        print_json({"directory": str(folder), "files": files, "bytes": used, "parts": document})
        return
    print_facts(
        [
            ("folder", str(folder)),
            *((name, f"{f} files, {size(b)}  ({PARTS[name]})") for name, (f, b) in parts.items()),
            ("clear it", "planish cache --clear" if files else ""),
        ]
    )  # fmt: skip


def directory() -> Path:
    """Where the cache is: ``$PLANISH_CACHE_DIR``, else ``~/.cache/planish``."""
    from ..compiler.cache import cache_directory

    return cache_directory()


def contents(folder: Path) -> tuple[int, int]:
    """Number of files below ``folder``, and their bytes."""
    files = used = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            if path.is_file():
                files, used = files + 1, used + path.stat().st_size
        except FileNotFoundError:  # cleared by another process in between
            continue
    return files, used
