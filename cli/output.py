"""What is printed: JSON for machines; tables and one-line facts for people; errors on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..compiler.quantities import rate, seconds, size

__all__ = [
    "console", "print_error", "print_facts", "print_heading", "print_json", "print_lines", "print_table", "quoted",
    "rate", "seconds", "size",
]  # fmt: skip

Row = Sequence[str]


def console() -> Console:
    """A console on the current stdout; wide enough not to break lines when it is no terminal."""
    made = Console(highlight=False, soft_wrap=True)
    return made if made.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document; NaN and infinity, which JSON has not, become null."""
    sys.stdout.write(json.dumps(_plain(document), indent=2) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [_plain(v) for v in value]
    item = getattr(value, "item", None)  # a numpy scalar
    return _plain(item()) if callable(item) else str(value)


def print_error(message: str, hint: str | None = None) -> None:
    """One sentence on stderr, and what to do about it on the next line."""
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    stderr.print(Text.assemble(("error: ", "bold red"), message))
    if hint:
        stderr.print(Text.assemble(("hint:  ", "bold"), hint))


def print_table(rows: Iterable[Row], header: Row = (), right: Iterable[int] = (), indent: int = 2) -> None:
    """Columns without a border; the columns numbered in ``right`` are right-aligned."""
    rows, aligned = list(rows), set(right)
    if not rows:
        return
    table = Table(box=None, show_header=bool(header), padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for i in range(max(len(row) for row in rows)):
        table.add_column(
            header[i] if i < len(header) else "", justify="right" if i in aligned else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out = console()
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().splitlines():
        out.file.write(" " * indent + line.rstrip() + "\n")


def print_heading(text: str) -> None:
    """A line that names what follows."""
    console().print(Text(text, "bold"))


def print_facts(facts: Iterable[tuple[str, str]], indent: int = 2) -> None:
    """Name and value, one fact on a line, the values aligned."""
    kept = [(name, value) for name, value in facts if value]
    width = max((len(name) for name, _ in kept), default=0)
    out = console()
    for name, value in kept:
        first, *more = value.split("\n")
        out.print(Text.assemble(" " * indent, (f"{name:{width}}  ", "cyan"), first))
        for line in more:
            out.print(Text(" " * (indent + width + 2) + line))


def print_lines(first: str, more: Iterable[str], indent: int = 2) -> None:
    """A line, and what belongs to it below, further in."""
    out = console()
    out.print(Text(" " * indent + first, "cyan"))
    for line in more:
        out.print(Text(" " * (indent + 6) + line))


def quoted(path: Path | str) -> str:
    """A path as one would type it in a shell."""
    import shlex

    return shlex.quote(str(path))
