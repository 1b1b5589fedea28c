"""What the page shows, from the record of a search and the artifact's own report: typed, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...compiler.errors import UsageError
from ...compiler.quantities import seconds, size
from ..record import FLOAT, Record, Trial, record_of
from .flow import Block, flow
from .front import Cost, Front, front
from .kernel_bars import KernelBar, kernel_bars
from .scale import number
from .sensitivity_map import SensitivityMap, sensitivity_map

#: Width and height of a plot in SVG units, for wide screens and for phones: text keeps its size in both.
WIDE, NARROW = (640, 400), (340, 340)
#: Terms of the bar that are drawn; further ones are in the tables.
MOST_TERMS = 3


@dataclass(frozen=True)
class Share:
    """A precision in the mix: how many units, and how much of the parameters they hold."""

    precision: str
    units: int
    part: float


@dataclass(frozen=True)
class TrialRow:
    """A trial in the table."""

    label: str
    stage: str
    time: str
    predicted: str
    size: str
    quality: tuple[str, ...]
    met: bool
    chosen: bool
    at: str


@dataclass(frozen=True)
class Page:
    """Everything on the page, in its order."""

    name: str
    record: Record
    answer: str
    figures: tuple[tuple[str, str, str], ...]
    four: tuple[tuple[str, str], ...]
    mix: tuple[Share, ...]
    plots: tuple[tuple[Front, Front], ...]
    maps: tuple[SensitivityMap, ...]
    graph: tuple[tuple[str, int, int], ...]
    launches: Mapping[str, Any] | None
    blocks: tuple[Block, ...]
    bars: tuple[KernelBar, ...]
    worst: tuple[tuple[str, str, tuple[str, ...]], ...]
    trials: tuple[TrialRow, ...]
    phases: tuple[tuple[str, str, float], ...]
    precisions: tuple[str, ...]


def page_of(report: Mapping[str, Any], manifest: Mapping[str, Any], name: str) -> Page:
    """The page of an artifact.

    Args:
        report: its ``report.json``.
        manifest: its manifest.
        name: what it is called on the page.

    Raises:
        UsageError: it was compiled without a search, or its record cannot be read.
    """
    record = record_of(report)
    if record is None:
        raise UsageError(
            f"{name} was compiled without a search, so there is nothing to report",
            "compile it with --budget and --calibration; planish inspect tells what is in it",
        )
    terms = record.terms
    units = {source: u.name for u in record.units for source in (*u.sources, u.name)}
    kernels = report.get("kernels") or []
    launches = kernels or manifest["units"][0]["launches"]
    blocks = tuple(flow(launches, units))
    return Page(
        name, record, _answer(record), _figures(record), four(record), _mix(record), _plots(record, terms[:MOST_TERMS]),
        tuple(m for t in terms[:MOST_TERMS] if (m := sensitivity_map(record, t)) is not None),
        _graph(report.get("graph")), report.get("launches"), blocks, tuple(kernel_bars(kernels, units)),
        tuple((w.sample, w.slice, tuple(figure(w.scores.get(t)) for t in terms)) for w in record.worst),
        tuple(_row(t, terms, record) for t in record.trials), _phases(record),
        tuple(dict.fromkeys(str(k["precision"]) for k in launches)),
    )  # fmt: skip


def _answer(record: Record) -> str:
    if not record.proof:
        return "Not proved: the search was interrupted before the last split was looked at."
    if all(p.holds for p in record.proof):
        return "holds" if record.complete else "holds, though the search was interrupted"
    missed = ", ".join(p.term for p in record.proof if not p.holds)
    return f"misses {missed}"


def _figures(record: Record) -> tuple[tuple[str, str, str], ...]:
    """Name, figure and what it is to be compared with."""
    best, base = record.best, record.float_model
    found: list[tuple[str, str, str]] = []
    if best is not None and best.seconds:
        against = f"{base.seconds / best.seconds:.2f}x float ({seconds(base.seconds)})" if base.seconds else ""
        found.append(("a call", seconds(best.seconds), against))
    if best is not None and best.bytes:
        against = f"{base.bytes / best.bytes:.2f}x smaller than float ({size(base.bytes)})" if base.bytes else ""
        found.append(("weights", size(best.bytes), against))
    for proof in record.proof[:2]:
        misses = f"{proof.misses} of {proof.samples} unseen samples missed" if proof.samples else ""
        found.append((proof.term, figure(proof.value), misses))
    return tuple(found)


def four(record: Record) -> tuple[tuple[str, str], ...]:
    """The four that a figure of quality means nothing without, in words."""
    score = ", ".join(record.scored.metrics) or "nothing"
    scored = (
        score + (f" of {record.scored.score}" if record.scored.score else "") + f", against {record.scored.against}"
    )
    parts = []
    for part in ("calibration", "development", "final"):
        split = record.data.get(part)
        if split is not None:
            slices = (
                ", ".join(f"{count} {name}" for name, count in split.slices.items()) if len(split.slices) > 1 else ""
            )
            parts.append(f"{split.samples} {part}" + (f" ({slices})" if slices else ""))
    points = [" ".join(f"{n}={s}" for n, s in dims.items()) or "the example's shape" for dims in record.workload.dims]
    weights = record.workload.weights
    if weights and len(points) > 1:
        points = [f"{p} ({w:g})" for p, w in zip(points, weights, strict=True)]
    threads = f"{record.workload.threads} thread{'s' if record.workload.threads != 1 else ''}"
    where = f", {record.machine.cpu}" if record.machine.cpu else ""
    sure = record.confidence
    share = f"{100 * sure.coverage:.4g} %"
    each = f'; "each" stands for at least {share} of inputs like these' if "each" in record.asked.budget else ""
    return (
        ("scored", scored),
        ("on", "; ".join(parts) + (" samples, none of them in two parts" if parts else "no data")),
        ("timed at", f"{'; '.join(points) or 'the example'}, {threads}{where}"),
        ("confidence", f"{100 * sure.confidence:.4g} %{each}"),
    )


def _mix(record: Record) -> tuple[Share, ...]:
    total = sum(u.parameters for u in record.units)
    return tuple(
        Share(
            p, count,
            sum(u.parameters for u in record.units if u.chosen == p) / total if total else count / len(record.units),
        )
        for p, count in record.mix().items()
    )  # fmt: skip


def _plots(record: Record, terms: tuple[str, ...]) -> tuple[tuple[Front, Front], ...]:
    order: tuple[Cost, ...] = ("bytes", "seconds") if record.asked.objective == "size" else ("seconds", "bytes")
    pairs = [(front(record, t, cost, *WIDE), front(record, t, cost, *NARROW)) for t in terms for cost in order]
    return tuple((wide, narrow) for wide, narrow in pairs if wide is not None and narrow is not None)


def _graph(graph: Any) -> tuple[tuple[str, int, int], ...]:
    """Op, how many there were in the captured graph, and how many in the lowered one; the most frequent first."""
    if not isinstance(graph, Mapping):
        return ()
    before, after = (dict(graph.get(part) or {}) for part in ("captured", "lowered"))
    ops = sorted({*before, *after}, key=lambda op: (-int(before.get(op, 0)), -int(after.get(op, 0)), op))
    return tuple((op, int(before.get(op, 0)), int(after.get(op, 0))) for op in ops)


def _row(trial: Trial, terms: tuple[str, ...], record: Record) -> TrialRow:
    return TrialRow(
        trial.label, trial.stage, seconds(trial.seconds) if trial.seconds else "–",
        seconds(trial.predicted) if trial.predicted else "–", size(trial.bytes) if trial.bytes else "–",
        tuple(figure(trial.quality.get(t)) for t in terms), trial.met, trial.id == record.chosen, f"{trial.at:.0f} s",
    )  # fmt: skip


def _phases(record: Record) -> tuple[tuple[str, str, float], ...]:
    total = sum(record.phases.values()) or 1.0
    return tuple((name, seconds(spent), spent / total) for name, spent in record.phases.items() if spent > 0)


def figure(value: float | None) -> str:
    """A score with as many digits as tell it from one; a dash where there is none."""
    return "–" if value is None else number(value)


def tone(precision: str) -> str:
    """The colour class of a precision: how coarse weights and activations are."""
    if precision == FLOAT or precision in ("bf16", "w8a8-dynamic", "w8a8", "w8a16"):
        return precision
    for family in ("w4a16", "w4a8"):
        if precision.startswith(family):
            return family
    return "f32" if precision.startswith("f") else "other"


def short(precision: str) -> str:
    """A precision in few letters, for a narrow cell: ``8·8d``, ``4·16/32``."""
    if not precision.startswith("w"):
        return precision
    weights, _, rest = precision[1:].partition("a")
    activations, _, more = rest.partition("-")
    return f"{weights}·{activations}" + ("d" if more == "dynamic" else f"/{more[1:]}" if more.startswith("g") else "")


def signs(text: str) -> str:
    """``>=`` and ``<=`` as they are printed."""
    return text.replace(">=", "≥").replace("<=", "≤")
