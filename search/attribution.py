"""Whose a launch is: seconds and bytes of a measured build, divided among the units."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..compiler.target import LaunchCost


class Decided(Protocol):
    """Of a unit (``search.units.Unit``), what the cost table has to know."""

    @property
    def name(self) -> str: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def parameters(self) -> int: ...
    @property
    def candidates(self) -> tuple[str, ...]: ...


#: A build: the precision of every unit in it, and the launches at each point of the workload.
UniformBuild = tuple[Mapping[str, str], Sequence[Sequence[LaunchCost]]]


@dataclass(frozen=True)
class Totals:
    """Sums over one build: per unit, and of the launches of no unit; seconds weighted over the workload."""

    seconds: dict[str, float]
    variance: dict[str, float]
    bytes: dict[str, float]
    fixed_seconds: float
    fixed_bytes: float


def totals(units: Sequence[Decided], points: Sequence[Sequence[LaunchCost]], weights: Sequence[float]) -> Totals:
    """Whose the launches are. One that is built around a unit's op is that unit's. One that is not (rows: a norm, a
    quantisation) is of the units it has something of, or of none. What several units share is divided by their parameters."""
    owners: dict[str, list[Decided]] = defaultdict(list)
    for unit in units:
        for source in unit.sources:
            owners[source].append(unit)
    seconds, variance, size = (dict.fromkeys((u.name for u in units), 0.0) for _ in range(3))
    fixed_seconds = fixed_bytes = 0.0
    for number, (launches, weight) in enumerate(zip(points, weights, strict=True)):
        for launch in launches:
            own = _owners(owners, launch.anchor) or _owners(owners, launch.sources)
            # The weights are the same at every point of the workload.
            packed = float(launch.weights) if number == 0 else 0.0
            if not own:
                fixed_seconds += weight * launch.seconds
                fixed_bytes += packed
                continue
            whole = sum(u.parameters for u in own)
            for unit in own:
                share = unit.parameters / whole if whole else 1.0 / len(own)
                seconds[unit.name] += share * weight * launch.seconds
                variance[unit.name] += (share * weight * launch.spread) ** 2
                size[unit.name] += share * packed
    return Totals(seconds, variance, size, fixed_seconds, fixed_bytes)


def _owners(owners: Mapping[str, Sequence[Decided]], sources: Sequence[str]) -> list[Decided]:
    return list({u.name: u for source in sources for u in owners.get(source, ())}.values())


def shared(
    own: Mapping[str, float],
    fixed: float,
    base: Mapping[str, float],
    base_fixed: float,
    changed: Sequence[str],
    assignment: Mapping[str, str],
) -> dict[str, float]:
    """What a build takes beyond the float build's rest and the changed units' own, divided among those that changed.

    Attention and the like that go along to another precision than the build's have nothing to do with it."""  # fmt: skip
    if not changed:
        return {}
    extra = fixed - base_fixed + sum(own[name] - base[name] for name in own if name not in set(changed))
    main = Counter(assignment[name] for name in changed).most_common(1)[0][0]
    bearing = [name for name in changed if assignment[name] == main]
    whole = sum(base[name] for name in bearing)
    return {name: extra * (base[name] / whole if whole else 1.0 / len(bearing)) for name in bearing}
