"""Draw docs/result.svg from the figures that `make bench` wrote: ``python docs/make_result_picture.py``.

One bar for each contender at one sentence of 128 tokens, the slowest first, with the cosine beside the time.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "bench" / "results.json"
PICTURE = HERE / "result.svg"
SHAPE = "1 x 128"

WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 860, 210, 170, 66, 18, 8

STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-size: 16px; font-weight: 600 }
    .quiet { fill: #57606a; font-size: 12px } .ours { font-weight: 600 }
    rect { fill: #afb8c1 } rect.ours { fill: #bf5700 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .quiet { fill: #9198a1 } rect { fill: #3d444d } rect.ours { fill: #e07b2c }
    }
"""


@dataclass(frozen=True)
class Bar:
    """A contender: its milliseconds, its least cosine (None if not judged), and whether it is planish."""

    name: str
    milliseconds: float
    cosine: float | None
    ours: bool


def bars(figures: dict[str, Any], clock: str) -> list[Bar]:
    """Every contender that was timed at the shape, the slowest first."""
    key = "median_ms" if clock == "wall" else "cpu_ms"
    quality = figures["quality"]
    found = [
        Bar(name, times[key], quality.get(name, {}).get("min"), name.startswith("planish"))
        for name, times in figures["speed"][SHAPE].items()
    ]
    return sorted(found, key=lambda bar: -bar.milliseconds)


def picture(figures: dict[str, Any], clock: str = "wall") -> str:
    """The SVG text; ``clock`` is "wall", or "cpu" where the machine was shared."""
    rows = bars(figures, clock)
    scale = (WIDTH - LEFT - RIGHT) / max(bar.milliseconds for bar in rows)
    height = TOP + len(rows) * (BAR + GAP) + 24
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"  <style>{STYLE}  </style>",
        '  <text class="title" x="0" y="20">all-MiniLM-L6-v2: one text of 128 tokens, one thread</text>',
        '  <text class="quiet" x="0" y="40">milliseconds for a call, shorter is better; least cosine of the embeddings of '
        f"{_sentences(figures)} sentences with float32 PyTorch</text>",
    ]
    for i, bar in enumerate(rows):
        y = TOP + i * (BAR + GAP)
        kind = ' class="ours"' if bar.ours else ""
        length = max(bar.milliseconds * scale, 2)
        cosine = f" · {bar.cosine:.4f}" if bar.cosine is not None else ""
        lines += [
            f'  <text{kind} x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(bar.name)}</text>',
            f'  <rect{kind} x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="3"/>',
            f'  <text{kind} x="{LEFT + length + 8:.1f}" y="{y + 14}">{bar.milliseconds:.1f} ms{cosine}</text>',
        ]
    shared = ", CPU time on a shared machine" if clock == "cpu" else ""
    where = f"{figures['cpu'].partition(' (')[0]}; medians, measured {figures['date']} in one interleaved run{shared}"
    lines.append(f'  <text class="quiet" x="0" y="{height - 8}">{escape(where)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _sentences(figures: dict[str, Any]) -> int:
    return max((q["sentences"] for q in figures["quality"].values()), default=0)


def main() -> None:
    """Read the figures, write the picture."""
    parser = argparse.ArgumentParser(description="Draw docs/result.svg.")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: the machine was shared")
    clock = parser.parse_args().clock
    if not FIGURES.exists():
        sys.exit(f"error: there is no {FIGURES.relative_to(HERE.parent)}; make bench writes it")
    PICTURE.write_text(picture(json.loads(FIGURES.read_text()), clock))
    print(f"written: {PICTURE.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
