"""``planish compile --profile-compile``: where the time and the memory of a compilation went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .output import print_heading, print_table, seconds, size

#: Phases below this share of the whole are summed up in one line.
LEAST_SHARE = 0.005


def print_profile(phases: Sequence[Mapping[str, Any]]) -> None:
    """Print the phases of a compilation (``compiler/profile.py``): seconds, share of the whole, and the most memory held by
    the end of each."""
    total = sum(p["seconds"] for p in phases if len(p["phase"]) == 1) or 1.0
    print_heading(f"compiled in {seconds(total)}, {size(max((p['peak_bytes'] for p in phases), default=0))} at most")
    header = ("phase", "time", "share", "memory", "")
    print_table([_row(p, total) for p in summed_up(phases, total)], header, right=(1, 2, 3))


def summed_up(phases: Sequence[Mapping[str, Any]], total: float) -> list[Mapping[str, Any]]:
    """``phases`` in order, those of one phase that are too short to matter made one at its end."""
    found: list[Mapping[str, Any]] = []
    rest: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}

    def close(outer: tuple[str, ...]) -> None:
        for path in [p for p in rest if p[: len(outer)] == outer]:
            short = rest.pop(path)
            took = sum(p["seconds"] for p in short)
            if len(short) == 1:
                found.append(short[0])
            else:
                found.append(
                    {
                        **short[-1],
                        "phase": [*path, f"{len(short)} short ones"],
                        "seconds": took,
                        "nodes": None,
                        "detail": "",
                    }
                )

    for p in phases:
        path = tuple(p["phase"])
        for open_path in list(rest):
            if path[: len(open_path)] != open_path:
                close(open_path)
        if len(path) > 1 and p["seconds"] < LEAST_SHARE * total:
            rest.setdefault(path[:-1], []).append(p)
        else:
            found.append(p)
    close(())
    return found


def _row(p: Mapping[str, Any], total: float) -> tuple[str, ...]:
    before, after = p.get("nodes") or (0, 0)
    detail = f"{before} -> {after} nodes" if before or after else str(p.get("detail") or "")
    name = "  " * (len(p["phase"]) - 1) + p["phase"][-1]
    memory = size(p["peak_bytes"]) if p["peak_bytes"] else ""
    return name, seconds(p["seconds"]), f"{100 * p['seconds'] / total:.1f} %", memory, detail
