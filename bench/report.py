"""From raw samples to tables: summaries, ratios within rounds, the floors, and RESULTS.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .contender import Precision

Clock = Literal["wall", "cpu"]
Row = list[str]

BEGIN, END = "<!-- measured: begin (written by `make bench`) -->", "<!-- measured: end -->"


@dataclass(frozen=True)
class Entry:
    """What the report needs to know of a contender."""

    name: str
    precision: Precision
    own: bool


@dataclass(frozen=True)
class Table:
    """One table: a title, a header and rows of text."""

    title: str
    header: Row
    rows: list[Row]
    note: str = ""

    def markdown(self) -> str:
        """As GitHub reads it."""
        lines = [f"### {self.title}", ""]
        lines += [_line(self.header), _line(["---", *["---:"] * (len(self.header) - 1)])]
        lines += [_line(row) for row in self.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Floor:
    """A promise and what came of it; ``measured`` is None where it was not measured."""

    what: str
    limit: float
    at_least: bool
    measured: float | None
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the promise is kept."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def row(self) -> Row:
        """For the table of floors."""
        verdict = {None: "not measured", True: "met", False: "**missed**"}[self.met]
        measured = "" if self.measured is None else f"{self.measured:.4g}{self.unit}"
        return [self.what, f"{'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}", measured, verdict]


def ratio(base: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], clock: Clock) -> float:
    """How many times faster ``other`` is than ``base``: the median over rounds of the ratio within a round."""
    return statistics.median(b / o for b, o in zip(base[clock], other[clock], strict=True))


def fastest_peer(
    samples: Mapping[str, Mapping[str, Sequence[float]]], entries: Sequence[Entry], precision: str, clock: Clock
) -> str | None:
    """Name of the fastest peer of a precision at one shape."""
    peers = [e.name for e in entries if e.precision == precision and not e.own and e.name in samples]
    return min(peers, key=lambda name: statistics.median(samples[name][clock]), default=None)


def speed_table(raw: Mapping[str, Any], entries: Sequence[Entry], clock: Clock) -> Table:
    """Milliseconds and speed beside the fastest peer of the same precision, quality at the end of the line."""
    speed, quality = raw["speed"], raw["quality"]
    rows: list[Row] = []
    for entry in entries:
        if not any(entry.name in samples for samples in speed.values()):
            continue
        cells = [f"**{entry.name}**" if entry.own else entry.name]
        for samples in speed.values():
            best = fastest_peer(samples, entries, entry.precision, clock)
            if entry.name not in samples:
                cells.append("")
                continue
            median = statistics.median(samples[entry.name][clock])
            beside = f" ({ratio(samples[best], samples[entry.name], clock):.2f}×)" if best else ""
            cells.append(f"{median:.3g}{beside}" if median < 100 else f"{median:.0f}{beside}")
        judged = quality.get(entry.name)
        cells += [f"{judged['mean']:.5f}", f"{judged['min']:.5f}"] if judged else ["", ""]
        rows.append(cells)
    counted = next(iter(quality.values()))["sentences"] if quality else 0
    rounds = ", ".join(f"{label}: {len(next(iter(s.values()))['wall'])}" for label, s in speed.items() if s)
    note = (
        f"One thread, pinned to one core. Milliseconds for one call, median of interleaved rounds ({rounds}); in brackets "
        "the speed beside the fastest peer of the same precision (the median of the ratios within rounds). "
        f"Cosine: mean-pooled embeddings of {counted} held-out sentences at their own length, against float32 PyTorch."
    )
    if clock == "cpu":
        note += " The clock is CPU time, not wall time: the machine was shared."
    note += busy_note(raw["others"])
    header = ["batch × tokens", *(f"{label.replace('x', '×')} (ms)" for label in speed), "cosine, mean", "min"]
    return Table("Speed and quality", header, rows, note)


def busy_note(others: Mapping[str, float]) -> str:
    """A sentence where other processes took more than one per cent of the measured cores."""
    worst = max(others.values(), default=0.0)
    return f" Other processes took up to {100 * worst:.0f} % of the measured cores' time." if worst > 0.01 else ""


def thread_table(raw: Mapping[str, Any], label: str) -> Table:
    """Two threads beside one; the clock is on the wall, there is no other sense in it."""
    rows: list[Row] = []
    samples, clock = raw["speed"][label], "wall"
    for name in dict.fromkeys(key.rsplit(" @ ", 1)[0] for key in samples):
        one, two = samples.get(f"{name} @ 1"), samples.get(f"{name} @ 2")
        if one and two:
            times = [f"{statistics.median(s[clock]):.3g}" for s in (one, two)]
            rows.append([name, *times, f"{ratio(one, two, 'wall'):.2f}×"])
    return Table(
        f"Two threads, {label.replace('x', '×')}",
        ["", "one (ms)", "two (ms)", "speed-up"],
        rows,
        busy_note(raw["others"]).strip(),
    )


def probe_table(probes: Mapping[str, Mapping[str, float]], record: Mapping[str, Any]) -> Table:
    """From file to first answer, and memory."""
    rows = []
    for name, probe in probes.items():
        compiled = record.get(name.removeprefix("planish "), {})
        size = f"{compiled['bytes'] / 1e6:.1f}" if "bytes" in compiled else ""
        seconds = f"{compiled['seconds']:.1f}" if "seconds" in compiled else ""
        keys = ("import_ms", "open_ms", "first_call_ms", "peak_mb", "private_mb")
        rows.append([name, seconds, size, *(f"{probe[key]:.1f}" for key in keys)])
    header = [
        "",
        "compile (s)",
        "file (MB)",
        "import (ms)",
        "load (ms)",
        "first call (ms)",
        "peak (MB)",
        "private (MB)",
    ]
    note = (
        "A fresh process each, files in the page cache, any-shape model, 1 × 128; memory beyond a Python with numpy. "
        "Private memory leaves out mapped files, which the system can share and drop. Compiled with an empty cache."
    )
    return Table("From file to answer", header, rows, note)


def overhead_table(microseconds: Mapping[str, float]) -> Table:
    """A call of a model that does next to nothing."""
    rows = [[name, f"{value:.2f}"] for name, value in microseconds.items()]
    return Table("Call overhead", ["relu of 16 floats", "one call (µs)"], rows)


def floors(
    raw: Mapping[str, Any],
    entries: Sequence[Entry],
    clock: Clock,
    threads: Mapping[str, Mapping[str, Sequence[float]]],
    probes: Mapping[str, Mapping[str, float]],
    microseconds: Mapping[str, float],
    record: Mapping[str, Any],
) -> list[Floor]:
    """Everything the project promises, beside what was measured."""
    own = {e.precision: e.name for e in entries if e.own}

    def beside(label: str, precision: str) -> float | None:
        samples = raw["speed"].get(label, {})
        best, mine = fastest_peer(samples, entries, precision, clock), own.get(precision)  # type: ignore[call-overload]
        return ratio(samples[best], samples[mine], clock) if best and mine in samples else None

    int8 = own.get("int8", "")
    result = [
        Floor(f"int8 beside the fastest int8 peer, {label.replace('x', '×')}", limit, True, beside(label, "int8"), "×")
        for label, limit in (("1 x 32", 1.3), ("1 x 128", 1.2), ("8 x 128", 1.15))
    ]
    result.append(Floor("int8, minimum cosine", 0.997, True, raw["quality"].get(int8, {}).get("min")))
    for precision, limit in (("f32", 0.97), ("bf16", 1.05)):
        result += [
            Floor(f"{precision} beside the fastest peer, {s.replace('x', '×')}", limit, True, beside(s, precision), "×")
            for s in ("1 x 32", "1 x 128", "8 x 128")
        ]
    one, two = threads.get(f"{int8} @ 1"), threads.get(f"{int8} @ 2")
    result.append(
        Floor("two threads beside one, int8, 1 × 128", 1.7, True, ratio(one, two, "wall") if one and two else None, "×")
    )
    result.append(Floor("one call of a one-op model", 8, False, microseconds.get("planish"), " µs"))
    result.append(Floor("a bound call of a one-op model", 2, False, microseconds.get("planish, bound"), " µs"))
    probe = probes.get(int8, {})
    result.append(Floor("load of the int8 artifact", 30, False, probe.get("open_ms"), " ms"))
    share = probe["peak_mb"] / probe["weights_mb"] if probe.get("weights_mb") else None
    result.append(Floor("peak memory beside the size of the weights", 1.3, False, share, "×"))
    seconds = [record[p]["seconds"] for p in ("f32", "bf16", "w8a8-dynamic") if "seconds" in record.get(p, {})]
    result.append(Floor("compile, the slowest precision", 30, False, max(seconds) if seconds else None, " s"))
    return result


def write_results(path: Path, body: str, markers: tuple[str, str] = (BEGIN, END)) -> None:
    """Put the measured part between its markers; what stands around it is left alone."""
    begin, end = markers
    text = path.read_text() if path.exists() else "# Results\n"
    block = f"{begin}\n\n{body.strip()}\n\n{end}"
    if begin in text and end in text:
        before, rest = text.split(begin, 1)
        after = rest.split(end, 1)[1]
        path.write_text(before + block + after)
    else:
        path.write_text(text.rstrip() + "\n\n" + block + "\n")
