"""What a search found, in a few lines: the promise and what it stands on, the mix, speed and size, what fared worst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..search.record import record_of
from ..search.report.page import figure, four
from .output import seconds, size

#: Samples and layers that are named; the rest is in the report.
MOST = 3


def search_facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every fact of the search in an artifact's report, the promise first."""
    record = record_of(report)
    if record is None:
        return []
    facts = [("proved" if p.holds else "missed", p.sentence or p.term) for p in record.proof]
    if not record.proof:
        facts.append(
            ("not proved", f"{record.asked.budget}: the search was interrupted before the last samples were looked at")
        )
    facts += list(four(record))
    facts.append(("chosen", record.in_words()))
    best, base = record.best, record.float_model
    if best is not None and best.seconds:
        against = f"; float {seconds(base.seconds)} ({base.seconds / best.seconds:.2f}x)" if base.seconds else ""
        facts.append(("time", f"{seconds(best.seconds)} a call{against}"))
    if best is not None and best.bytes:
        against = f"; float {size(base.bytes)} ({best.bytes / base.bytes:.2f} of it)" if base.bytes else ""
        facts.append(("size", f"{size(best.bytes)}{against}"))
    for other in record.variants:
        if other.why_not:
            facts.append(("not proved", f"{other.unit} was not run here: {other.why_not}"))
        else:
            facts += [("proved too", f"{other.unit}: {p.sentence or p.term}") for p in other.proof]
            facts.append(("its time", f"{seconds(other.seconds or 0.0)} a call"))
    sliced = [p for p in record.proof if len(p.by_slice) > 1]
    by_slice = [
        _listed({n: v for n, v in p.by_slice.items() if v is not None})
        + (f" ({p.term})" if len(record.proof) > 1 else "")
        for p in sliced
    ]
    facts.append(("by slice", "\n".join(by_slice)))
    worst = [
        f"{w.sample} ({', '.join(figure(v) for v in w.scores.values() if v is not None)})" for w in record.worst[:MOST]
    ]
    facts.append(("fared worst", ", ".join(worst)))
    facts.append(("stays as it is", _some(record.never_slower)))
    if record.resumed:
        facts.append(("resumed", f"{record.resumed} measurements of an earlier run were used; --restart forgets them"))
    return facts


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {figure(value)}" for name, value in values.items())


def _some(words: tuple[str, ...]) -> str:
    more = len(words) - MOST
    return "\n".join([*words[:MOST], *([f"and {more} more: planish explain names them"] if more > 0 else [])])
