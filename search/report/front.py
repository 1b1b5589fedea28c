"""The Pareto front: every trial at its cost and quality, the chosen one marked, drawn as geometry for one SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ...compiler.quantities import seconds, size
from ..record import Record, Trial, bound_of
from .scale import Axis, axis, number

Cost = Literal["seconds", "bytes"]
#: Room around the plot in SVG units: left, top, right, bottom.
MARGIN = (58, 16, 18, 46)
#: A distance this small beside the largest is rounding (a float model's cosine with itself is 1 - 1e-16).
ROUNDING = 1e-6


@dataclass(frozen=True)
class Point:
    """A trial on the plot; ``x`` and ``y`` in SVG units, ``tip`` for hovering."""

    x: float
    y: float
    shape: Literal["uniform", "trial", "chosen"]
    met: bool
    tip: str


@dataclass(frozen=True)
class Label:
    """Text beside a point."""

    x: float
    y: float
    anchor: Literal["start", "end", "middle"]
    text: str
    strong: bool


@dataclass(frozen=True)
class Front:
    """One plot, in SVG units from the top left."""

    width: int
    height: int
    title: str
    cost: Cost
    term: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_name: str
    y_name: str
    points: tuple[Point, ...]
    labels: tuple[Label, ...]
    line: str
    bar: float | None
    plot: tuple[float, float, float, float]


@dataclass(frozen=True)
class _Quality:
    """How a term is drawn: its distance from perfection, small at the top; or the value itself, large at the top."""

    distance: Callable[[float], float]
    value: Callable[[float], float]
    downward: bool


def quality_of(term: str, values: Sequence[float]) -> _Quality:
    """Agreements near one are drawn as what is missing to one, errors as they are (both perhaps by powers of ten), and
    everything else (decibels) as the value itself."""
    bound = bound_of(term)
    upward = bound is None or bound.upward
    if upward and max(values) <= 1 + 1e-9 and min(values) >= -1:
        return _Quality(lambda v: 1 - v, lambda d: 1 - d, True)
    if not upward:
        return _Quality(lambda v: v, lambda d: d, True)
    return _Quality(lambda v: v, lambda d: d, False)


def front(record: Record, term: str, cost: Cost, width: int, height: int) -> Front | None:
    """The plot of ``cost`` against the quality in ``term``; None where fewer than two trials can be drawn."""
    drawn = [(t, _cost(t, cost), t.quality.get(term)) for t in record.trials]
    trials = [(t, c, q) for t, c, q in drawn if c is not None and c > 0 and q is not None and math.isfinite(q)]
    if len(trials) < 2:
        return None
    quality = quality_of(term, [q for _, _, q in trials])
    bound = bound_of(term)
    heights = [quality.distance(q) for _, _, q in trials]
    extra = [quality.distance(bound.number)] if bound is not None else []
    least = _least([*heights, *extra]) if quality.downward else None
    shown = [h if least is None else max(h, least) for h in heights]
    x_axis = axis([c for _, c, _ in trials], seconds if cost == "seconds" else size, most=max(3, width // 120))
    y_axis = axis([*shown, *extra], lambda d: number(quality.value(d)), most=6)
    left, top, right, bottom = MARGIN
    across, down = width - left - right, height - top - bottom

    def x_at(value: float) -> float:
        return round(left + across * x_axis.at(value), 1)

    def y_at(height_: float) -> float:
        part = y_axis.at(height_)
        return round(top + down * (part if quality.downward else 1 - part), 1)

    points = [
        Point(x_at(c), y_at(h), _shape(t, record), t.met, _tip(t, c, q, cost, term))
        for (t, c, q), h in zip(trials, shown, strict=True)
    ]
    named = [
        (p, t.label if p.shape == "uniform" else f"chosen: {t.label}" if t.stage == "uniform" else "chosen")
        for p, (t, _, _) in zip(points, trials, strict=True)
        if p.shape != "trial"
    ]
    bar = y_at(extra[0]) if extra else None
    return Front(
        width, height, f"{'Time' if cost == 'seconds' else 'Size'} against {term}", cost, term,
        tuple((round(left + across * at, 1), text) for at, text in x_axis.ticks), _y_ticks(y_axis, quality, top, down),
        "seconds a call, measured" if cost == "seconds" else "size of the weights", bound.metric if bound else term,
        tuple(sorted(points, key=lambda p: p.shape == "chosen")), tuple(_place(named, points, width, height, bar)),
        _steps(points), bar, (left, top, across, down),
    )  # fmt: skip


def _y_ticks(scale: Axis, quality: _Quality, top: float, down: float) -> tuple[tuple[float, str], ...]:
    return tuple((round(top + down * (at if quality.downward else 1 - at), 1), text) for at, text in scale.ticks)


def _least(distances: Sequence[float]) -> float | None:
    """Where a distance of zero is drawn on a logarithmic axis: a little beyond the smallest that is not zero, or rounding."""
    rounding = ROUNDING * max(distances)
    positive = [d for d in distances if d > rounding]
    return min(positive) / 3 if positive and max(positive) / min(positive) > 4 else None


def _cost(trial: Trial, cost: Cost) -> float | None:
    return trial.seconds if cost == "seconds" else trial.bytes


def _shape(trial: Trial, record: Record) -> Literal["uniform", "trial", "chosen"]:
    if trial.id == record.chosen:
        return "chosen"
    return "uniform" if trial.stage == "uniform" else "trial"


def _tip(trial: Trial, cost: float, quality: float, kind: Cost, term: str) -> str:
    figure = seconds(cost) if kind == "seconds" else size(cost)
    return f"{trial.label}: {figure}, {number(quality)} ({term}: {'met' if trial.met else 'missed'})"


def _steps(points: Sequence[Point]) -> str:
    """The front as an SVG path: a staircase through the points that no other beats in both (the upper left wins)."""
    best, kept = math.inf, list[Point]()
    for p in sorted(points, key=lambda p: (p.x, p.y)):
        if p.y < best:
            best = p.y
            kept.append(p)
    if len(kept) < 2:
        return ""
    path = [f"M{kept[0].x:g} {kept[0].y:g}"]
    path += [f"H{after.x:g}V{after.y:g}" for after in kept[1:]]
    return "".join(path)


def _place(
    named: Sequence[tuple[Point, str]], points: Sequence[Point], width: int, height: int, bar: float | None
) -> list[Label]:
    """Labels where they cover neither each other nor a point; one that fits nowhere is left to the table."""
    taken = [(p.x - 5, p.y - 5, p.x + 5, p.y + 5) for p in points]
    if bar is not None:  # its own name is at the right end
        taken.append((width - MARGIN[2] - 50, bar - 16, width - MARGIN[2], bar))
    placed: list[Label] = []
    for p, text in sorted(named, key=lambda item: item[0].shape != "chosen"):
        wide, off = 6.4 * len(text), 15 if p.shape == "chosen" else 9
        spots: list[tuple[Literal["start", "end", "middle"], float, float, float]] = [
            ("start", p.x + off, p.y + 4, p.x + off),
            ("end", p.x - off, p.y + 4, p.x - off - wide),
            ("middle", p.x, p.y - off - 1, p.x - wide / 2),
            ("middle", p.x, p.y + off + 9, p.x - wide / 2),
        ]
        for anchor, x, y, left in spots:
            box = (left, y - 10, left + wide, y + 3)
            inside = box[0] >= MARGIN[0] and box[2] <= width - 4 and box[1] >= 2 and box[3] <= height - MARGIN[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                placed.append(Label(round(x, 1), round(y, 1), anchor, text, p.shape == "chosen"))
                break
    return placed


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
