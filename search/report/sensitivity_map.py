"""The map of units against precisions: what each would lose, and what it would take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ...compiler.quantities import seconds, size
from ..record import FLOAT, Candidate, Record, Unit


@dataclass(frozen=True)
class Cell:
    """One unit at one precision.

    Attributes:
        heat: 0..1, the loss on a logarithmic scale over the whole map; None where there is no loss to show.
        loss, time: in words; a dash where it is not known.
        tip: everything that is known, for hovering.
        sort: the loss as a number for sorting, empty where there is none.
    """

    heat: float | None
    loss: str
    time: str
    tip: str
    chosen: bool
    refused: bool
    sort: str


@dataclass(frozen=True)
class Row:
    """A unit."""

    name: str
    kind: str
    share: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class SensitivityMap:
    """The map for one term of the bar."""

    term: str
    precisions: tuple[str, ...]
    rows: tuple[Row, ...]
    low: str
    high: str


def sensitivity_map(record: Record, term: str) -> SensitivityMap | None:
    """The map for ``term``; None where no unit has a loss in it."""
    losses = [v for u in record.units for c in u.candidates if (v := u.loss(c.precision, term)) is not None and v > 0]
    if not losses:
        return None
    low, high = min(losses), max(losses)
    precisions = record.precisions
    total = sum(u.parameters for u in record.units) or 1
    rows = []
    for u in record.units:
        share = f"{u.parameters / total:.1%}" if u.parameters else ""
        rows.append(Row(u.name, u.kind, share, tuple(_cell(u, p, term, low, high) for p in precisions)))
    return SensitivityMap(term, precisions, tuple(rows), loss_in_words(low), loss_in_words(high))


def _cell(unit: Unit, precision: str, term: str, low: float, high: float) -> Cell:
    chosen = unit.chosen == precision
    found = unit.candidate(precision)
    if found is None:
        return Cell(None, "", "", f"{precision} is no candidate for {unit.kind}", chosen, True, "")
    loss = unit.loss(precision, term)
    heat = None
    if loss is not None:
        heat = 0.0 if loss <= low else 1.0 if high <= low else math.log(loss / low) / math.log(high / low)
    refused = found.seconds is None and not found.loss
    return Cell(
        heat, loss_in_words(loss), seconds(found.seconds) if found.seconds is not None else "–",
        _tip(unit, found, loss, chosen), chosen, refused, "" if loss is None else f"{loss:.6g}",
    )  # fmt: skip


def _tip(unit: Unit, found: Candidate, loss: float | None, chosen: bool) -> str:
    parts = [f"{unit.name} as {found.precision}{', chosen' if chosen else ''}"]
    if loss is not None:
        parts.append(f"loses {loss_in_words(loss)}")
    base = unit.candidate(FLOAT)
    if found.seconds is not None:
        ratio = f" ({base.seconds / found.seconds:.2f}x float)" if base and base.seconds and found.seconds else ""
        parts.append(f"{seconds(found.seconds)}{ratio}")
    if found.bytes:
        parts.append(size(found.bytes))
    return "; ".join([*parts, *([found.why_not] if found.why_not else [])])


def loss_in_words(loss: float | None) -> str:
    """A loss with two digits; a dash where it is unknown."""
    if loss is None or not math.isfinite(loss):
        return "–"
    if loss == 0:
        return "0"
    return f"{loss:.2g}" if 1e-3 <= abs(loss) < 100 else f"{loss:.1e}".replace("e-0", "e-").replace("e+0", "e")


def shares(units: Iterable[Unit], term: str) -> dict[str, float]:
    """Unit -> its share of the loss of all units as they were chosen; zero where nothing is known."""
    lost = {u.name: max(0.0, u.loss(u.chosen, term) or 0.0) for u in units}
    total = sum(lost.values())
    return {name: value / total if total else 0.0 for name, value in lost.items()}
