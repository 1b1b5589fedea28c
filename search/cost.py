"""What every unit costs at every precision: measured on uniform builds, corrected by every plan that is measured whole.

The model is built once per precision and the launches of each build are timed in the program they belong to. A launch counts
for the unit that it is built around. What a build takes beyond its units (a norm that now quantises for its reader, a cast
more or less) is divided among the units that changed, so that the prediction of a uniform plan is exactly what was measured.

What remains is that a mixed plan is not the sum of parts of uniform ones: neighbours of different precision fuse
differently and find other things in the caches. Every trial that was timed as a whole tells of that. Its residual is
explained by Bayesian linear regression with Gaussian priors (ridge regression; Bishop, "Pattern Recognition and Machine
Learning", 3.3): an offset for all plans, a correction for each unit and precision, and one for each kind of boundary
between neighbours. Few trials move the predictions a little and in the right direction; many pin them down.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from math import hypot
from typing import Any

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.quantities import seconds as duration
from .attribution import Decided, UniformBuild, shared, totals

FLOAT = "f32"
#: A unit's name and a precision.
Choice = tuple[str, str]

#: Prior standard deviations: of the offset (over the float model's seconds), of a unit's correction (over its own seconds),
#: of a boundary (over the mean seconds of a unit); and the standard error of one trial (over its seconds).
OFFSET, OWN, BOUNDARY, TRIAL = 0.05, 0.1, 0.1, 0.01
#: No correction takes a figure below this share of what was measured.
LEAST = 0.1
#: A gain below the first share of the float unit's seconds is none, however small the standard errors are; one above the
#: second is one, however busy the machine was: trials will tell.
LEAST_GAIN, CLEAR_GAIN = 0.005, 0.05
#: Boundaries that the solver sees at most: the largest.
MOST_PAIRS = 4000


class CostTable:
    """Seconds and bytes per unit and precision.

    Args:
        units: in execution order; those next to each other are neighbours.
        builds: the float build first (every unit f32, but for pinned ones), then one for each further precision.
        shares: weight of every point of the workload, summing to 1; None: equal ones.

    Attributes:
        bytes: (unit, precision) -> bytes of the unit's packed weights in the artifact.
        spread: (unit, precision) -> standard error of the measured seconds.
        fixed_seconds, fixed_bytes: of launches that belong to no unit, in the float build.
        floats: unit -> its precision in the float build.

    Raises:
        UsageError: there is no build, or one has not as many points as there are shares.
    """

    def __init__(
        self, units: Sequence[Decided], builds: Sequence[UniformBuild], shares: Sequence[float] | None = None
    ) -> None:
        if not builds:
            raise UsageError("there is nothing to learn costs from", "build the model in float at least")
        points = len(builds[0][1])
        weights = [1.0 / points] * points if shares is None else [float(s) for s in shares]
        if any(len(launches) != len(weights) for _, launches in builds):
            raise UsageError(f"costs were not measured at each of the {len(weights)} points of the workload")
        self._names = [unit.name for unit in units]
        self._observed: list[tuple[dict[str, str], float]] = []
        self._corrections: dict[Hashable, float] = {}
        self._current: dict[Choice, float] | None = None  # ``seconds``, until the next trial
        sums = [totals(units, launches, weights) for _, launches in builds]
        base, assignment = sums[0], builds[0][0]
        self.floats = {name: assignment[name] for name in self._names}
        self.fixed_seconds, self.fixed_bytes = base.fixed_seconds, base.fixed_bytes
        seconds: dict[Choice, list[float]] = defaultdict(list)
        variance: dict[Choice, list[float]] = defaultdict(list)
        size: dict[Choice, list[float]] = defaultdict(list)
        for name in self._names:
            seconds[name, assignment[name]].append(base.seconds[name])
            variance[name, assignment[name]].append(base.variance[name])
            size[name, assignment[name]].append(base.bytes[name])
        for (other, _), total in zip(builds[1:], sums[1:], strict=True):
            changed = [name for name in self._names if other[name] != assignment[name]]
            extra_seconds = shared(total.seconds, total.fixed_seconds, base.seconds, base.fixed_seconds, changed, other)
            extra_bytes = shared(total.bytes, total.fixed_bytes, base.bytes, base.fixed_bytes, changed, other)
            for name in changed:
                own = total.seconds[name]
                seconds[name, other[name]].append(max(own + extra_seconds.get(name, 0.0), LEAST * own))
                variance[name, other[name]].append(total.variance[name])
                size[name, other[name]].append(max(total.bytes[name] + extra_bytes.get(name, 0.0), 0.0))
        self._base = {choice: float(np.mean(values)) for choice, values in seconds.items()}
        self.spread = {choice: float(np.sqrt(np.mean(values))) for choice, values in variance.items()}
        self.bytes = {choice: float(np.mean(values)) for choice, values in size.items()}

    @staticmethod
    def of(
        seconds: Mapping[Choice, float],
        bytes: Mapping[Choice, float],
        *,
        fixed_seconds: float = 0.0,
        fixed_bytes: float = 0.0,
        spread: Mapping[Choice, float] | None = None,
    ) -> CostTable:
        """A table of known figures; the first precision of each unit is that of its float build."""
        table = CostTable.__new__(CostTable)
        table._names = list(dict.fromkeys(name for name, _ in seconds))
        table._base, table.bytes = dict(seconds), dict(bytes)
        table.spread = dict.fromkeys(seconds, 0.0) | dict(spread or {})
        table.fixed_seconds, table.fixed_bytes = fixed_seconds, fixed_bytes
        table.floats = {}
        for name, precision in seconds:
            table.floats.setdefault(name, precision)
        table._observed, table._corrections, table._current = [], {}, None
        return table

    # -- reading -----------------------------------------------------------------------------------------------------
    @property
    def seconds(self) -> dict[Choice, float]:
        """(unit, precision) -> seconds, with what trials have taught."""
        if self._current is None:
            self._current = {choice: self._seconds(choice) for choice in self._base}
        return self._current

    def _seconds(self, choice: Choice) -> float:
        measured = self._base[choice]
        return max(measured + self._corrections.get(choice, 0.0), LEAST * measured)

    @property
    def offset(self) -> float:
        """Seconds that every plan takes beyond its units: launches of no unit, and what calls cost around the launches."""
        return self.fixed_seconds + self._corrections.get((), 0.0)

    def pairs(self) -> dict[tuple[Choice, Choice], float]:
        """Seconds that neighbours of different precision take more (or less) than each alone says, as far as trials told."""
        least = 1e-4 * self._float_seconds() / max(len(self._names), 1)
        told = {key: w for key, w in self._corrections.items() if _is_boundary(key) and abs(w) > least}
        options: dict[str, list[str]] = defaultdict(list)
        for name, precision in self._base:
            options[name].append(precision)
        found = {
            ((u, p), (v, q)): told[":", p, q]
            for u, v in pairwise(self._names)
            for p in options[u]
            for q in options[v]
            if (":", p, q) in told
        }
        if len(found) > MOST_PAIRS:
            found = dict(sorted(found.items(), key=lambda item: -abs(item[1]))[:MOST_PAIRS])
        return found

    def predict(self, assignment: Mapping[str, str]) -> tuple[float, float]:
        """Seconds of one call (the mean over the workload), and bytes of the packed weights, of a plan.

        Raises:
            UsageError: a unit was never measured at that precision.
        """
        self._check(assignment)
        seconds, size = self.offset, self.fixed_bytes
        for name in self._names:
            choice = (name, assignment[name])
            seconds += self._seconds(choice)
            size += self.bytes[choice]
        for key, count in self._boundaries(assignment).items():
            seconds += count * self._corrections.get(key, 0.0)
        return seconds, size

    def _check(self, assignment: Mapping[str, str]) -> None:
        for name in self._names:
            if name not in assignment:
                raise UsageError(f"the plan says nothing of {name}")
            if (name, assignment[name]) not in self._base:
                raise UsageError(f"{name} was not timed in {assignment[name]}")

    def _boundaries(self, assignment: Mapping[str, str]) -> Counter[Hashable]:
        precisions = [assignment[name] for name in self._names]
        return Counter((":", p, q) for p, q in pairwise(precisions) if p != q)

    def _float_seconds(self) -> float:
        return self.fixed_seconds + sum(self._base[choice] for choice in self.floats.items())

    def never_slower(self, errors: float = 2.0) -> dict[Choice, str]:
        """Candidates that are not faster than float32 beyond ``errors`` standard errors, in words: they do not pay."""
        found = {}
        for name, precision in self._base:
            plain = (name, FLOAT)
            if precision == FLOAT or plain not in self._base:
                continue
            own, other = self._seconds((name, precision)), self._seconds(plain)
            noise = errors * hypot(self.spread[name, precision], self.spread[plain])
            noise = min(max(noise, LEAST_GAIN * other), CLEAR_GAIN * other)
            if own < other - noise:
                continue
            took = f"{name} in {precision} takes {duration(own)}, {FLOAT} takes {duration(other)}"
            found[name, precision] = took + (
                ": stays float"
                if own > other
                else f", which is no gain beyond the noise of {duration(noise)}: stays float"
            )
        return found

    # -- learning ----------------------------------------------------------------------------------------------------
    def observe(self, assignment: Mapping[str, str], seconds: float, float_seconds: float | None = None) -> None:
        """Learn from a plan that was timed as a whole.

        Args:
            assignment: unit -> precision.
            seconds: of one call, the mean over the workload.
            float_seconds: what the float model took in the same minutes, if it was timed beside: ``seconds`` is then put on the
                scale of the table.

        Raises:
            UsageError: a unit was never measured at that precision, or ``seconds`` is no positive number.
        """
        self._check(assignment)
        if not (np.isfinite(seconds) and seconds > 0):
            raise UsageError(f"{seconds} seconds is no measured time")
        if float_seconds is not None:
            seconds *= self._float_seconds() / float_seconds
        self._observed.append(({name: assignment[name] for name in self._names}, float(seconds)))
        self._learn()

    def _learn(self) -> None:
        rows = [self._features(assignment) for assignment, _ in self._observed]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        features = np.array([[row.get(key, 0.0) for key in columns] for row in rows], np.float64)
        prior = np.array([self._prior(key) for key in columns], np.float64) ** 2
        measured = np.array([seconds for _, seconds in self._observed])
        said = np.array([self._uncorrected(assignment) for assignment, _ in self._observed])
        # The dual form: as many equations as there are trials, however many features.
        gram = (features * prior) @ features.T + np.diag((TRIAL * measured) ** 2)
        explained = prior * (features.T @ np.linalg.solve(gram, measured - said))
        self._corrections = {key: float(w) for key, w in zip(columns, explained, strict=True)}
        self._current = None

    def _features(self, assignment: Mapping[str, str]) -> dict[Hashable, float]:
        found: dict[Hashable, float] = {(): 1.0}
        for name in self._names:
            if assignment[name] != self.floats[name]:
                found[name, assignment[name]] = 1.0
        return found | {key: float(count) for key, count in self._boundaries(assignment).items()}

    def _prior(self, key: Hashable) -> float:
        if key == ():
            return OFFSET * self._float_seconds()
        if _is_boundary(key):
            return BOUNDARY * self._float_seconds() / max(len(self._names), 1)
        assert isinstance(key, tuple)
        return OWN * self._base[key]

    def _uncorrected(self, assignment: Mapping[str, str]) -> float:
        return self.fixed_seconds + sum(self._base[name, assignment[name]] for name in self._names)

    # -- as data -----------------------------------------------------------------------------------------------------
    def to_data(self) -> dict[str, Any]:
        """As JSON holds it, trials included."""
        return {
            "choices": [[*c, self._base[c], self.bytes[c], self.spread[c]] for c in self._base],
            "fixed": [self.fixed_seconds, self.fixed_bytes],
            "floats": self.floats,
            "observed": [[assignment, seconds] for assignment, seconds in self._observed],
        }

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> CostTable:
        """What :meth:`to_data` gave."""
        rows = data["choices"]
        table = CostTable.of(
            {(r[0], r[1]): r[2] for r in rows},
            {(r[0], r[1]): r[3] for r in rows},
            fixed_seconds=data["fixed"][0],
            fixed_bytes=data["fixed"][1],
            spread={(r[0], r[1]): r[4] for r in rows},
        )
        table._names, table.floats = list(data["floats"]), dict(data["floats"])
        table._observed = [(dict(assignment), float(seconds)) for assignment, seconds in data["observed"]]
        if table._observed:
            table._learn()
        return table


def _is_boundary(key: Hashable) -> bool:
    return isinstance(key, tuple) and len(key) == 3
