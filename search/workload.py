"""What is timed: the sizes a model runs at, how often each, and on how many threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..compiler.errors import UsageError
from ..compiler.graph import Symbol
from ..compiler.options import nearest


@dataclass(frozen=True, init=False)
class Workload:
    """Sizes, their weights, and threads.

    Attributes:
        dims: one mapping of dimension names to sizes for each point: ``[{"batch": 1, "seq": 128}]``.
        threads: that the model runs on.
        weights: what each point counts; they sum to 1.
    """

    dims: tuple[Mapping[str, int], ...]
    threads: int
    weights: tuple[float, ...]

    def __init__(
        self,
        dims: Sequence[Mapping[str, int]] | Mapping[str, int],
        threads: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        """A workload; a lone mapping is its only point, and without weights all points count the same.

        Raises:
            UsageError: a size, the threads or a weight is no positive number, or there is not one weight for each point.
        """
        points = [dims] if isinstance(dims, Mapping) else list(dims)
        if not points:
            raise UsageError("a workload without sizes says nothing about what to time", 'dims=[{"batch": 1}]')
        for point in points:
            if not isinstance(point, Mapping):
                raise UsageError(f"a point of a workload maps dimensions to sizes, not {point!r}", '{"batch": 1}')
            for name, size in point.items():
                if not _whole(size) or size < 1:
                    raise UsageError(f"{name} = {size!r} is no size for a workload", "give an integer from 1 on")
        if not _whole(threads) or threads < 1:
            raise UsageError(f"a workload cannot run on {threads!r} threads", "give an integer from 1 on")
        given = [1.0] * len(points) if weights is None else list(weights)
        if len(given) != len(points):
            raise UsageError(f"a workload of {len(points)} points has {len(given)} weights", "give one for each point")
        for weight in given:
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
                raise UsageError(f"{weight!r} is no weight for a point of a workload", "give a number from 0 on")
        total = float(sum(given))
        if total == 0:
            raise UsageError("every weight of the workload is 0", "leave them out, and all points count the same")
        object.__setattr__(self, "dims", tuple({str(k): int(v) for k, v in p.items()} for p in points))
        object.__setattr__(self, "threads", int(threads))
        object.__setattr__(self, "weights", tuple(float(w) / total for w in given))

    def check(self, symbols: Mapping[str, Symbol]) -> None:
        """Compare with the dynamic dimensions of a model (``graph.symbols``).

        Raises:
            UsageError: a dimension does not exist, has no size, or a size is outside its bounds.
        """
        bounds = {s.name: (s.lower, s.upper) for s in symbols.values()}
        for point in self.dims:
            for name, size in point.items():
                if name not in bounds:
                    hint = nearest(name, bounds, "" if bounds else "every dimension of this model is fixed")
                    raise UsageError(f"the workload sizes {name!r}, and the model has no such dimension", hint)
                low, high = bounds[name]
                if not low <= size <= high:
                    raise UsageError(f"the workload's {name} = {size} is outside the model's bounds {low}..{high}")
            missing = [name for name in bounds if name not in point]
            if missing:
                raise UsageError(f"the workload gives no size for {missing[0]!r}", f"add it to {dict(point)}")

    def to_data(self) -> dict[str, Any]:
        """JSON-able data for the report."""
        return {"dims": [dict(p) for p in self.dims], "weights": list(self.weights), "threads": self.threads}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
