"""Time per kernel against what the machine's memory and arithmetic allow at best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...compiler.quantities import rate, seconds, size
from ...compiler.report import shape_of, with_ranges
from .flow import launch_name, main_op


@dataclass(frozen=True)
class KernelBar:
    """Launches of one kind: the same layer of every block, the same main op, the same precision.

    Attributes:
        label: the ops of most of them.
        length: its time over that of the longest bar.
        limit: the time at the machine's limit over its own; None where no limit is known.
        share: of the time of all launches, in words.
    """

    name: str
    label: str
    precision: str
    count: int
    time: str
    length: float
    limit: float | None
    share: str
    tip: str


def kernel_bars(kernels: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> list[KernelBar]:
    """The longest first; empty where nothing was measured."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    names: dict[tuple[str, str, str], list[str]] = {}
    for kernel in kernels:
        if not kernel.get("seconds"):
            continue
        name = launch_name(kernel, units)
        key = (shape_of(name), main_op(str(kernel["label"]).split("+")), str(kernel["precision"]))
        groups.setdefault(key, []).append(kernel)
        names.setdefault(key, []).append(name)
    times = {key: sum(float(k["seconds"]) for k in same) for key, same in groups.items()}
    total, longest = sum(times.values()), max(times.values(), default=1.0)
    bars = []
    for key in sorted(groups, key=lambda k: -times[k]):
        same, time = groups[key], times[key]
        limits = [k.get("limit_seconds") for k in same]
        limit = sum(float(v or 0.0) for v in limits) / time if all(limits) else None
        moved, done = (sum(float(k.get(part) or 0) for k in same) for part in ("bytes", "flops"))
        shape, _, precision = key
        label = Counter(str(k["label"]) for k in same).most_common(1)[0][0]
        bars.append(
            KernelBar(
                with_ranges(shape, names[key]), label, precision, len(same), seconds(time), time / longest, limit,
                f"{time / total:.0%}",
                f"{len(same)} launch{'es' if len(same) > 1 else ''}; {size(moved)} moved, {rate(done / time, 'FLOP/s')}"
                + (f"; {limit:.0%} of the machine's limit" if limit is not None else ""),
            )
        )  # fmt: skip
    return bars
