"""Why each unit has the precision it has: from the record of the search, for people and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..compiler.errors import UsageError
from ..compiler.options import nearest
from ..compiler.plan import Rule, find_precision
from ..compiler.quantities import seconds, size
from .record import FLOAT, Record, Unit
from .report.sensitivity_map import loss_in_words, shares


@dataclass(frozen=True)
class UnitLine:
    """A unit in the table of all.

    Attributes:
        share: its part of what all units lose together as chosen, 0..1; the largest over the terms of the bar.
        speedup: seconds in float over seconds as chosen; None where it was not measured.
        why: what held something cheaper back, else the reason.
    """

    name: str
    kind: str
    precision: str
    seconds: float | None
    float_seconds: float | None
    speedup: float | None
    share: float
    why: str


@dataclass(frozen=True)
class CandidateLine:
    """A candidate of one unit, and what it would change against what was chosen.

    Attributes:
        saves: seconds it would save a call; negative where it is slower; None where one of the two was not measured.
        loss: term -> mean loss with this unit alone at this precision.
        verdict: why it was taken or left.
    """

    precision: str
    chosen: bool
    seconds: float | None
    saves: float | None
    bytes: float | None
    loss: dict[str, float | None]
    verdict: str


def lines(record: Record) -> list[UnitLine]:
    """Every unit in the order of the model."""
    parts = [shares(record.units, term) for term in record.terms]
    found = []
    for unit in record.units:
        chosen, base = unit.candidate(unit.chosen), unit.candidate(FLOAT)
        found.append(
            UnitLine(
                unit.name, unit.kind, unit.chosen, chosen.seconds if chosen else None, base.seconds if base else None,
                unit.speedup, max((p[unit.name] for p in parts), default=0.0), unit.held_back or unit.reason,
            )
        )  # fmt: skip
    return found


def select(record: Record, pattern: str) -> list[Unit]:
    """The units that ``pattern`` (a name of a unit or of a source, or a glob over both) means.

    Raises:
        UsageError: it means none; names the nearest.
    """
    exact = [u for u in record.units if pattern in (u.name, *u.sources)]
    if exact:
        return exact
    rule = Rule(pattern, find_precision(FLOAT))
    found = [u for u in record.units if any(rule.matches(name) for name in (u.name, *u.sources))]
    if found:
        return found
    inside = Rule(f"{pattern}.*", rule.precision)
    found = [u for u in record.units if any(inside.matches(name) for name in (u.name, *u.sources))]
    if found:  # a module: everything in it
        return found
    names = [name for u in record.units for name in dict.fromkeys((u.name, *u.sources))]
    ending = [name for name in names if name.endswith(f".{pattern}")]
    hint = f"did you mean {ending[0]!r}?" if ending else nearest(pattern, names, "planish explain X.planish lists them")
    raise UsageError(f"no unit of the model is called {pattern!r}", hint)


def candidates(record: Record, unit: Unit) -> list[CandidateLine]:
    """The candidates of one unit, each with what it would change and why it was taken or left."""
    now = unit.candidate(unit.chosen)
    made = []
    for c in unit.candidates:
        saves = None if now is None or now.seconds is None or c.seconds is None else now.seconds - c.seconds
        chosen = c.precision == unit.chosen
        made.append(
            CandidateLine(
                c.precision, chosen, c.seconds, saves, c.bytes, {t: unit.loss(c.precision, t) for t in record.terms},
                _verdict(unit, c.precision, saves, c.why_not, record),
            )
        )  # fmt: skip
    return made


def _verdict(unit: Unit, precision: str, saves: float | None, why_not: str | None, record: Record) -> str:
    if precision == unit.chosen:
        return "chosen"
    if why_not:
        return why_not
    worse = [
        (term, more)
        for term in record.terms
        if (a := unit.loss(precision, term)) is not None
        and (b := unit.loss(unit.chosen, term)) is not None
        and (more := a - b) > 0
    ]
    if saves is not None and saves <= 0:
        slower = f"takes {seconds(-saves)} more" if saves < 0 else "takes as long"
        return slower + ("" if worse else " for less loss, or as much")
    if worse:
        term, more = max(worse, key=lambda item: item[1])
        many = f" in {term}" if len(record.terms) > 1 else ""
        gain = f"saves {seconds(saves)} and " if saves else ""
        return f"{gain}loses {loss_in_words(more)} more{many}"
    return f"saves {seconds(saves)} a call, but the solver spent elsewhere" if saves else ""


def facts(record: Record, unit: Unit) -> list[tuple[str, str]]:
    """What is to be said of one unit before its candidates."""
    kind = f"{unit.kind}, {unit.parameters:,} parameters" if unit.parameters else unit.kind
    chosen, base = unit.candidate(unit.chosen), unit.candidate(FLOAT)
    cost = ""
    if chosen is not None and chosen.seconds is not None:
        cost = f"{seconds(chosen.seconds)} a call"
        if base is not None and base.seconds and unit.chosen != FLOAT:
            cost += (
                f", {seconds(base.seconds)} in float ({base.seconds / chosen.seconds:.2f}x)" if chosen.seconds else ""
            )
        if chosen.bytes:
            cost += f"; {size(chosen.bytes)}"
    sensitivity = []
    for term in record.terms:
        loss, share = unit.loss(unit.chosen, term), shares(record.units, term)[unit.name]
        if loss is not None:
            rank = sorted((u.loss(u.chosen, term) or 0.0 for u in record.units), reverse=True).index(loss) + 1
            sensitivity.append(
                f"loses {loss_in_words(loss)} of {term}, {share:.1%} of all units together (number {rank} of {len(record.units)})"
            )
    return [
        ("is", kind),
        ("stands for", ", ".join(unit.sources) if unit.sources != (unit.name,) else ""),
        ("precision", unit.chosen),
        ("why", unit.reason),
        ("the solver", unit.held_back or ""),
        ("cost", cost),
        ("sensitivity", "\n".join(sensitivity)),
    ]


def as_data(record: Record, units: Sequence[Unit]) -> list[dict[str, Any]]:
    """Units as JSON-able data, candidates included."""
    by_name = {line.name: line for line in lines(record)}
    return [
        {
            "name": u.name, "kind": u.kind, "sources": list(u.sources), "parameters": u.parameters, "precision": u.chosen,
            "reason": u.reason, "held_back": u.held_back, "speedup": u.speedup, "share_of_loss": by_name[u.name].share,
            "candidates": [vars(c) for c in candidates(record, u)],
        }
        for u in units
    ]  # fmt: skip
