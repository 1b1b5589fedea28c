"""What a search left behind in an artifact (``report["search"]``), read and checked: for explain, the report and benchmarks.

The search writes the data; everything that tells of it reads it through :func:`record_of`, so that a damaged or newer file is
one plain sentence instead of a missing key somewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..compiler.errors import UsageError

#: The newest version of the data that is understood.
VERSION = 1

FLOAT = "f32"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True)


class Candidate(_Data):
    """One precision of one unit.

    Attributes:
        seconds: measured seconds of the unit's launches over the workload; None where it was not measured.
        bytes: what its weights take in the artifact.
        loss: term of the bar -> mean loss over the samples with this unit alone at this precision; NaN where it is unknown.
        why_not: why it was not to be had, or does not pay.
    """

    precision: str
    seconds: float | None = None
    bytes: float | None = None
    loss: dict[str, float | None] = Field(default_factory=dict)
    why_not: str | None = None


class Unit(_Data):
    """A decision unit, what was chosen for it, and why."""

    name: str
    kind: str
    sources: tuple[str, ...] = ()
    parameters: int = 0
    chosen: str
    reason: str = ""
    held_back: str | None = None
    candidates: tuple[Candidate, ...] = ()

    def candidate(self, precision: str) -> Candidate | None:
        """The candidate at ``precision``, or None."""
        return next((c for c in self.candidates if c.precision == precision), None)

    @property
    def speedup(self) -> float | None:
        """Seconds in float over seconds as chosen; None where one of them was not measured."""
        chosen, base = self.candidate(self.chosen), self.candidate(FLOAT)
        if chosen is None or base is None or not chosen.seconds or not base.seconds:
            return None
        return base.seconds / chosen.seconds

    def loss(self, precision: str, term: str) -> float | None:
        """The loss at ``precision`` on ``term``; None where it is unknown."""
        found = self.candidate(precision)
        value = None if found is None else found.loss.get(term)
        return None if value is None or math.isnan(value) else value


class Trial(_Data):
    """A whole model that was built, timed and scored."""

    id: int | str
    label: str
    stage: Literal["uniform", "solve", "refine", "final"]
    assignment: dict[str, str] = Field(default_factory=dict)
    seconds: float | None = None
    predicted: float | None = None
    bytes: float | None = None
    quality: dict[str, float | None] = Field(default_factory=dict)
    met: bool = False
    at: float = 0.0


class Proof(_Data):
    """What the last split said of one term of the bar."""

    term: str
    holds: bool
    value: float | None = None
    samples: int = 0
    misses: int = 0
    proven: float | None = None
    confidence: float | None = None
    by_slice: dict[str, float | None] = Field(default_factory=dict)
    sentence: str = ""


class VariantProof(_Data):
    """What is known of a further target's variant of the plan.

    Attributes:
        unit: its name in the artifact.
        target: what it was built for.
        why_not: why it was neither run nor proved on the machine of the search; None where it was.
        seconds: of one call over the workload.
    """

    unit: str
    target: str = ""
    why_not: str | None = None
    seconds: float | None = None
    bytes: float | None = None
    proof: tuple[Proof, ...] = ()


class WorstSample(_Data):
    """A sample that fared worst."""

    sample: str
    slice: str = ""
    scores: dict[str, float | None] = Field(default_factory=dict)


class Asked(_Data):
    """What the user asked for."""

    budget: str = ""
    objective: str = "latency"
    effort: str | float = "standard"
    seed: int = 0
    pins: tuple[Any, ...] = ()


class Scored(_Data):
    """What was compared, and with what."""

    metrics: tuple[str, ...] = ()
    score: str | None = None
    against: str = "the float model"


class Split(_Data):
    """One part of the data."""

    samples: int = 0
    slices: dict[str, int] = Field(default_factory=dict)
    sha256: str = ""


class Workload(_Data):
    """What was timed."""

    dims: tuple[dict[str, int], ...] = ()
    weights: tuple[float, ...] | None = None
    threads: int = 1


class Confidence(_Data):
    """What the statement about unseen inputs stands on."""

    confidence: float = 0.95
    coverage: float = 0.99


class Machine(_Data):
    """Where it was timed."""

    cpu: str = ""
    target: str = ""


class FloatModel(_Data):
    """The same model, compiled in f32."""

    seconds: float | None = None
    bytes: float | None = None


class Sensitivity(_Data):
    """How the losses were found."""

    method: str = ""
    seconds: float = 0.0
    pairs: tuple[Any, ...] = ()


class Record(_Data):
    """A finished (or interrupted) search. Times in seconds, sizes in bytes.

    Attributes:
        resumed: measurements of an earlier, interrupted run that were used.
    """

    version: int
    asked: Asked = Asked()
    scored: Scored = Scored()
    data: dict[str, Split] = Field(default_factory=dict)
    workload: Workload = Workload()
    confidence: Confidence = Confidence()
    machine: Machine = Machine()
    units: tuple[Unit, ...] = ()
    trials: tuple[Trial, ...] = ()
    chosen: int | str | None = None
    float_model: FloatModel = Field(default=FloatModel(), alias="float")
    proof: tuple[Proof, ...] = ()
    variants: tuple[VariantProof, ...] = ()
    worst: tuple[WorstSample, ...] = ()
    never_slower: tuple[str, ...] = ()
    sensitivity: Sensitivity = Sensitivity()
    phases: dict[str, float] = Field(default_factory=dict)
    complete: bool = True
    resumed: int = 0

    @property
    def best(self) -> Trial | None:
        """The trial that was packaged."""
        return next((t for t in self.trials if t.id == self.chosen), None)

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the bar, in its order."""
        found = [p.term for p in self.proof]
        found += [term for t in self.trials for term in t.quality]
        found += [term for u in self.units for c in u.candidates for term in c.loss]
        return tuple(dict.fromkeys(found))

    @property
    def precisions(self) -> tuple[str, ...]:
        """Every precision that some unit could take, float first, then as the units list them."""
        found = dict.fromkeys(c.precision for u in self.units for c in u.candidates)
        return tuple(dict.fromkeys([*([FLOAT] if FLOAT in found else []), *found, *(u.chosen for u in self.units)]))

    def mix(self) -> dict[str, int]:
        """Precision -> how many units were given it, the most frequent first."""
        counts: dict[str, int] = {}
        for unit in self.units:
            counts[unit.chosen] = counts.get(unit.chosen, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def in_words(self) -> str:
        """The mix in words: ``14 units w8a8, 6 bf16``."""
        parts = [f"{count} {precision}" for precision, count in self.mix().items()]
        if parts:
            number, _, rest = parts[0].partition(" ")
            parts[0] = f"{number} {'unit' if number == '1' else 'units'} {rest}"
        return ", ".join(parts)


def record_of(report: Mapping[str, Any]) -> Record | None:
    """The search in an artifact's report; None where it was compiled without one.

    Raises:
        UsageError: the data is newer than this planish understands, or damaged.
    """
    data = report.get("search")
    if data is None:
        return None
    version = data.get("version") if isinstance(data, Mapping) else None
    if isinstance(version, int) and version > VERSION:
        raise UsageError(f"the search was written in version {version}, newer than this planish understands ({VERSION})",
                         "upgrade planish")  # fmt: skip
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "search"
        raise UsageError(
            f"the record of the search cannot be read: {place}: {first['msg'].lower()}", "compile it again"
        ) from None


class Bound(_Data):
    """A term of a bar as it is drawn: ``cosine(logits) >= 0.99 each`` with its metric, direction and number."""

    metric: str
    upward: bool
    number: float
    statistic: str = ""


_TERM = re.compile(r"^\s*(.+?)\s*(>=|<=|>|<)\s*([-+0-9.eE]+)\s*(%?)\s*(.*?)\s*$")


def bound_of(term: str) -> Bound | None:
    """The parts of a term; None where it has no bound (a metric that is only recorded)."""
    found = _TERM.match(term)
    if found is None:
        return None
    try:
        number = float(found[3]) / (100 if found[4] else 1)
    except ValueError:
        return None
    return Bound(metric=found[1], upward=found[2].startswith(">"), number=number, statistic=found[5])
