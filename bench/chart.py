"""A scatter plot as SVG text: a cost against what is lost, both perhaps by powers of ten, readable in light and dark."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from ..search.report.scale import Axis, axis, number

Kind = Literal["ours", "uniform", "trial", "peer"]

WIDTH, HEIGHT = 860, 460
#: Room around the plot: left, top, right, bottom.
LEFT, TOP, RIGHT, BOTTOM = 70, 64, 24, 52
#: Width of a character and height of a line of a label, to keep labels apart.
LETTER, LINE = 6.4, 14

STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-size: 16px; font-weight: 600 }
    .quiet { fill: #57606a } .strong { font-weight: 600 } .grid { stroke: #d0d7de; stroke-width: 1 }
    .front { fill: none; stroke: #bf5700; stroke-width: 1.5 }
    .ours { fill: #bf5700 } .uniform { fill: #ffffff; stroke: #bf5700; stroke-width: 1.5 }
    .trial { fill: #bf5700; opacity: 0.3 } .peer { fill: #57606a }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #30363d } .front { stroke: #e07b2c }
      .ours, .trial { fill: #e07b2c } .uniform { fill: #0d1117; stroke: #e07b2c } .peer { fill: #9198a1 }
    }
"""


@dataclass(frozen=True)
class Point:
    """One plan or peer.

    Attributes:
        cost: on the horizontal axis, in the axis's unit.
        loss: on the vertical axis, small is good; nothing lost (0, or rounding) is drawn at the foot of the axis.
        kind: ``ours`` (joined to a front), ``uniform``, ``trial`` (small, without a name), ``peer``.
        name: beside the point, and what hovering shows.
    """

    cost: float
    loss: float
    kind: Kind
    name: str


@dataclass(frozen=True)
class Box:
    """A rectangle that is taken."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share a point."""
        apart = self.right < other.left or other.right < self.left or self.bottom < other.top or other.bottom < self.top
        return not apart


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other point beats in both, by rising cost."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.loss)):
        if not kept or point.loss < kept[-1].loss:
            kept.append(point)
    return kept


def scatter(title: str, note: str, x_name: str, y_name: str, points: Sequence[Point], rounding: float = 1e-7) -> str:
    """The SVG text.

    Args:
        title, note: above the plot.
        x_name, y_name: of the axes.
        points: at least one.
        rounding: a loss of this or less is none.
    """
    positive = [p.loss for p in points if p.loss > rounding]
    least = min(positive, default=1.0) / 2.5
    placed = [Point(p.cost, max(p.loss, least), p.kind, p.name) for p in points]
    across = axis([p.cost for p in placed], number, most=8, zero=True)
    upward = axis([p.loss for p in placed], number, most=6)
    dots = [(_x(across, p.cost), _y(upward, p.loss), p) for p in placed]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
        f"  <title>{escape(title)}</title>",
        f"  <style>{STYLE}  </style>",
        f'  <text class="title" x="0" y="18">{escape(title)}</text>',
        f'  <text class="quiet" x="0" y="38">{escape(note)}</text>',
        *_axes(across, upward, x_name, y_name),
    ]
    own = [
        (_x(across, p.cost), _y(upward, p.loss)) for p in front([p for p in placed if p.kind in ("ours", "uniform")])
    ]
    if len(own) > 1:  # a staircase: between two plans there is none
        steps = [f"{own[0][0]:.1f},{own[0][1]:.1f}"]
        for (_, before), (x, y) in itertools.pairwise(own):
            steps += [f"{x:.1f},{before:.1f}", f"{x:.1f},{y:.1f}"]
        lines.append(f'  <polyline class="front" points="{" ".join(steps)}"/>')
    for x, y, point in dots:
        radius = 2.5 if point.kind == "trial" else 4.5
        tip = f"<title>{escape(f'{point.name}: {number(point.cost)} {x_name}')}</title>"
        lines.append(f'  <circle class="{point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{tip}</circle>')
    lines += _labels(dots)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.at(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    """What is lost grows downwards: good is at the top."""
    return TOP + axis.at(value) * (HEIGHT - TOP - BOTTOM)


def _axes(across: Axis, upward: Axis, x_name: str, y_name: str) -> list[str]:
    bottom = HEIGHT - BOTTOM
    lines = []
    for position, label in across.ticks:
        x = LEFT + position * (WIDTH - LEFT - RIGHT)
        lines.append(f'  <line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        lines.append(f'  <text class="quiet" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for position, label in upward.ticks:
        y = TOP + position * (bottom - TOP)
        lines.append(f'  <line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
        lines.append(f'  <text class="quiet" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    middle = (TOP + bottom) / 2
    lines += [
        f'  <text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_name)}</text>',
        f'  <text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">{escape(y_name)}</text>',
    ]
    return lines


def _labels(dots: Sequence[tuple[float, float, Point]]) -> list[str]:
    """A name beside every point that has room for one; the others keep theirs for hovering."""
    taken = [Box(x - 5, y - 5, x + 5, y + 5) for x, y, p in dots if p.kind != "trial"]
    order = {"ours": 0, "peer": 1, "uniform": 2}
    lines = []
    for x, y, point in sorted((d for d in dots if d[2].kind != "trial" and d[2].name), key=lambda d: order[d[2].kind]):
        width = LETTER * len(point.name)
        right, leftward = ("start", 9), ("end", -9)
        # the front leaves a plan of ours to the right
        tries = [(side, y + down, 1.0 if down == 4 else 0.7) for down in (4, -8, 17) for side in (right, leftward)]
        if point.kind != "peer":
            tries.sort(key=lambda entry: entry[0] == right)
        for anchor, base, step in tries:
            left = x + step * anchor[1] - (width if anchor[0] == "end" else 0.0)
            box = Box(left, base - LINE + 3, left + width, base + 3)
            inside = (
                box.left >= LEFT and box.right <= WIDTH and box.top >= TOP - 8 and box.bottom <= HEIGHT - BOTTOM + 4
            )
            if inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                at = left if anchor[0] == "start" else left + width
                kind = "strong" if point.kind == "ours" else "quiet"
                lines.append(
                    f'  <text class="{kind}" x="{at:.1f}" y="{base:.1f}" text-anchor="{anchor[0]}">{escape(point.name)}</text>'
                )
                break
    return lines
