"""What a sensitivity method is given and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...compiler.graph import Graph
from ..units import Unit

if TYPE_CHECKING:
    from ...passes.weights.store import WeightStore

#: A unit at a precision, by name.
Choice = tuple[str, str]
#: Term of the bar -> loss of every sample, f64 ``[samples]``.
Losses = dict[str, np.ndarray]

FLOAT = "f32"


class Batch(Protocol):
    """What is needed of one batch of samples (``search.samples.Batch``)."""

    @property
    def inputs(self) -> Mapping[str, np.ndarray]: ...

    @property
    def rows(self) -> int: ...


class Samples(Protocol):
    """What is needed of samples (``search.samples.Samples``)."""

    @property
    def batches(self) -> Sequence[Any]: ...

    @property
    def sha256(self) -> str: ...

    def __len__(self) -> int: ...


class Scorer(Protocol):
    """What is needed of a scorer (``search.metrics.Scorer``)."""

    def losses(
        self, reference: list[np.ndarray], outputs: list[np.ndarray], batch: Any
    ) -> Mapping[str, np.ndarray]: ...


@dataclass
class Job:
    """What sensitivity is asked about.

    Attributes:
        graph: the decision graph; left alone.
        units: its decision units.
        samples: what the losses are taken on.
        references: the float model's outputs, one list of arrays per batch.
        scorer: from outputs to losses.
        store: weights that other builds of this search made or will want.
        progress: called with (what, done, total).
        executor: where the work runs; None: in this process.
        seed: of every random choice.
        get, put: hooks of a journal: JSON-able data by a key that is the same in every process; None: nothing is kept.
    """

    graph: Graph
    units: Sequence[Unit]
    samples: Samples
    references: Sequence[list[np.ndarray]]
    scorer: Scorer
    store: WeightStore | None = None
    progress: Callable[[str, int, int], None] | None = None
    executor: Executor | None = None
    seed: int = 0
    get: Callable[[str], Any] | None = None
    put: Callable[[str, Any], None] | None = None

    def advance(self, what: str, done: int, total: int) -> None:
        """Say how far the work is."""
        if self.progress is not None:
            self.progress(what, done, total)

    def choices(self) -> Iterator[Choice]:
        """Every unit at every candidate but float, in order."""
        return ((u.name, p) for u in self.units for p in u.candidates if p != FLOAT)

    def known(self, kind: str, *names: str) -> Any:
        """What the journal holds of this work; None if nothing."""
        return None if self.get is None else self.get(self._key(kind, names))

    def keep(self, data: Any, kind: str, *names: str) -> None:
        """Put a result in the journal."""
        if self.put is not None:
            self.put(self._key(kind, names), data)

    def _key(self, kind: str, names: Iterable[str]) -> str:
        return "|".join((kind, self.samples.sha256[:16], str(self.seed), *names))


@dataclass
class Table:
    """How much every choice costs in quality.

    Attributes:
        losses: (unit, precision) -> term -> loss of every sample with this unit alone at this precision; zeros for f32.
        pairs: two choices -> term -> mean joint loss minus the sum of their own mean losses.
        method: which method made it.
        seconds: how long that took.
        known: how many of the losses came from the journal.
        evaluations: nodes executed, weighted by how many float runs' worth of rows went through them: an honest count of
            work, independent of how it was batched. A full run of every sample counts ``len(batches) * nodes``.
    """

    losses: dict[Choice, Losses] = field(default_factory=dict)
    pairs: dict[tuple[Choice, Choice], dict[str, float]] = field(default_factory=dict)
    method: str = ""
    seconds: float = 0.0
    known: int = 0
    evaluations: int = 0

    def mean(self, unit: str, precision: str) -> dict[str, float]:
        """Term -> mean loss over the samples of one choice."""
        return {term: float(loss.mean()) for term, loss in self.losses[unit, precision].items()}

    def predict(self, assignment: Mapping[str, str], *, pairs: bool = True) -> dict[str, float]:
        """Term -> mean loss of ``assignment`` (unit -> precision): the sum of its choices' losses, and with ``pairs`` what
        is known of their interactions; never below zero."""
        chosen = [(u, p) for u, p in assignment.items() if p != FLOAT]
        total: dict[str, float] = {}
        for choice in chosen:
            for term, loss in self.mean(*choice).items():
                total[term] = total.get(term, 0.0) + loss
        taken = set(chosen)
        for (a, b), extra in self.pairs.items() if pairs else ():
            if a in taken and b in taken:
                for term, more in extra.items():
                    total[term] = total.get(term, 0.0) + more
        return {term: max(0.0, loss) for term, loss in total.items()}


class Sensitivity(Protocol):
    """A way to fill a table."""

    @property
    def name(self) -> str: ...

    def table(self, job: Job) -> Table:
        """The loss of every unit at every candidate.

        Raises:
            UsageError: a metric gave NaN or a negative loss.
        """
