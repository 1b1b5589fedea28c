"""What this machine offers: processors that may be used, instruction sets, the C library."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

ROOT = Path("/")


def cpu_name(root: Path = ROOT) -> str:
    """The model name of the CPU, or its architecture where that is not known."""
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def default_threads(root: Path = ROOT) -> int:
    """How many threads a call should use: physical cores of the affinity mask, at most the cgroup's CPU quota, at least 1.

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = physical_cores(allowed, root)
    quota = cpu_quota(root)
    return max(1, cores if quota is None else min(cores, int(quota)))


def physical_cores(allowed: set[int], root: Path = ROOT) -> int:
    """The number of distinct cores among logical processors: two threads of one core share its arithmetic units."""
    if _read(root / "sys/devices/system/cpu/smt/active") == "0":
        return len(allowed)
    siblings = set()
    for cpu in allowed:
        text = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings.add(text or str(cpu))
    return len(siblings)


def cpu_quota(root: Path = ROOT) -> float | None:
    """The processors that the cgroup (version 1 or 2) grants, the smallest on the way up; None where there is no limit."""
    quotas = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            quotas += _quotas(root / "sys/fs/cgroup", path, _quota_v2)
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu"):
                quotas += _quotas(root / "sys/fs/cgroup" / mount, path, _quota_v1)
    return min(quotas, default=None)


def _quotas(mount: Path, path: str, read: object) -> list[float]:
    """Quotas of a group and all above it. In a container the path of the outside may not exist; the top one does."""
    assert callable(read)
    parts = [part for part in path.split("/") if part and part != ".."]
    found = []
    for depth in range(len(parts), -1, -1):
        quota = read(mount.joinpath(*parts[:depth]))
        if quota is not None:
            found.append(quota)
    return found


def _quota_v2(group: Path) -> float | None:
    limit, period = (*(_read(group / "cpu.max") or "max").split(), "100000")[:2]
    return None if limit == "max" else int(limit) / int(period)


def _quota_v1(group: Path) -> float | None:
    limit, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    return None if not limit or not period or int(limit) <= 0 else int(limit) / int(period)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


@cache
def machine() -> str:
    """The architecture, as ``uname -m`` says."""
    return os.uname().machine


@cache
def cpu_flags() -> frozenset[str]:
    """The features the kernel lists for the first processor; empty where it lists none."""
    try:
        descriptor = os.open("/proc/cpuinfo", os.O_RDONLY)
    except OSError:
        return frozenset()
    try:
        text = os.read(descriptor, 1 << 14).decode(
            errors="replace"
        )  # the first processor; the file is long on large machines
    finally:
        os.close(descriptor)
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


@cache
def glibc_version() -> tuple[int, ...] | None:
    """The version of the GNU C library; None where the C library is another."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, OSError, ValueError):
        return None
    return version_tuple(text.split()[-1]) if text and text.startswith("glibc") else None


def version_tuple(text: str) -> tuple[int, ...]:
    """``2.36`` as ``(2, 36)``."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())
