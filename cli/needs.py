"""Where an artifact runs, read off what its units require."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def runs_on(manifest: Mapping[str, Any]) -> str:
    """Where an artifact runs, in words; a line for each unit."""
    lines = []
    for unit in manifest["units"]:
        requires = unit["requires"]
        if unit.get("kind", "native") == "onnx":
            least = f" {requires['least']} or newer" if requires.get("least") else ""
            lines.append(f"ONNX Runtime{least} with {requires['provider']} (package {requires['package']})")
            continue
        libc = f", glibc {requires['glibc']} or newer" if requires.get("glibc") else ""
        lines.append(f"Linux {requires['machine']}, cpu:{unit['isa']}{libc}")
    return "\n".join(lines) + "; Python with numpy, no PyTorch"


def runs_here(manifest: Mapping[str, Any]) -> str | None:
    """None if one of the units runs on this machine, else what the first of them lacks."""
    from ..runtime.loader import why_not

    reasons = [why_not(unit) for unit in manifest["units"]]
    return None if None in reasons else f"it needs {reasons[0]}"


def chosen(manifest: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, dict[str, str]]:
    """The unit that would run on this machine (None: there is none), and what those before it need that is not here."""
    from ..runtime.loader import why_not

    skipped: dict[str, str] = {}
    for unit in manifest["units"]:
        reason = why_not(unit)
        if reason is None:
            return unit, skipped
        skipped[unit["name"]] = reason
    return None, skipped


def choice(unit: str, skipped: Mapping[str, str]) -> str:
    """Which of several variants runs, and why not those before it, in a sentence."""
    return f"{unit} runs" + "".join(f"; {name} needs {reason}" for name, reason in skipped.items())
