"""Facts about this machine that only people ask for; what running needs to know is in ``runtime/machine.py``."""

from __future__ import annotations

from pathlib import Path


def cgroup_memory() -> int | None:
    """Memory limit of the container in bytes (cgroup v2 or v1); None for no limit."""
    for folder in _cgroup_folders():
        limit = _text(folder / "memory.max").strip()
        if limit.isdecimal():
            return int(limit)
    limit = _text("/sys/fs/cgroup/memory/memory.limit_in_bytes").strip()
    return int(limit) if limit.isdecimal() and int(limit) < 1 << 60 else None


def _cgroup_folders() -> list[Path]:
    """The process's own cgroup (v2) and those above it, innermost first."""
    root = Path("/sys/fs/cgroup")
    for line in _text("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            own = root / line[3:].lstrip("/")
            return [own, *(p for p in own.parents if p.is_relative_to(root))]
    return [root]


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
