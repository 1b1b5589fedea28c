"""Everything in one command: ``python -m planish.bench``, in the project's environment (``make bench``)."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from . import data, report
from .artifacts import RECORD
from .children import in_peers, last_json
from .contender import Contender, chosen, registry
from .machine import BENCH, PEERS_PYTHON
from .screen import show

RESULTS, FIGURES = BENCH / "RESULTS.md", BENCH / "results.json"


def compare(options: argparse.Namespace, threads: int, shapes: str, sentences: int, seconds: float) -> dict[str, Any]:
    """One run of ``bench.compare``."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "compare.json"
        arguments = ["--output", str(output), "--only", options.only, "--seconds", str(seconds), "--shapes", shapes]
        in_peers("compare", *arguments, "--sentences", str(sentences), "--threads", str(threads), threads=threads)
        result: dict[str, Any] = json.loads(output.read_text())
    return result


def probe_all(contenders: list[Contender], missing: dict[str, str], times: int) -> dict[str, dict[str, float]]:
    """Load time and memory: the medians of some fresh processes each."""
    probes: dict[str, dict[str, float]] = {}
    for contender in contenders:
        if contender.name in missing:
            continue
        try:
            runs = [last_json(in_peers("probe", contender.name)) for _ in range(times)]
        except RuntimeError as error:
            missing[contender.name] = str(error)
            continue
        probes[contender.name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return probes


def summary(raw: dict[str, Any]) -> dict[str, Any]:
    """The samples of a run, reduced to what is worth keeping."""
    return {
        label: {
            name: {
                "median_ms": statistics.median(s["wall"]),
                "min_ms": min(s["wall"]),
                "cpu_ms": statistics.median(s["cpu"]),
                "rounds": len(s["wall"]),
            }
            for name, s in samples.items()
        }
        for label, samples in raw["speed"].items()
    }


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m planish.bench", description="planish beside its peers.")
    parser.add_argument(
        "--only", default="", help="words, separated by commas: contenders whose name holds one of them"
    )
    parser.add_argument("--shapes", default=",".join(f"{b}x{s}" for b, s in data.SHAPES), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each shape (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=data.EVALUATION_SENTENCES, help="for quality; 0: none")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that others use too"
    )
    parser.add_argument("--quick", action="store_true", help="a rough look: few rounds, 100 sentences, nothing written")
    parser.add_argument(
        "--speed-only", action="store_true", help="no threads, load, memory and overhead; nothing written"
    )
    parser.add_argument("--fresh", action="store_true", help="compile planish's artifacts even where up to date")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md and results.json alone")
    parser.add_argument("--check", action="store_true", help="exit with 3 when a floor is missed or was not measured")
    return parser.parse_args(arguments)


def main() -> int:
    """Compile, prepare, measure, report."""
    options = options_of()
    if options.quick:
        options.seconds, options.sentences = 5.0, min(options.sentences, 100)
    if not PEERS_PYTHON.exists():
        print("error: the peers are not set up; run: python bench/peers/setup.py", file=sys.stderr)
        return 1
    fresh = ["--fresh"] if options.fresh else []
    subprocess.run([sys.executable, "-m", "planish.bench.artifacts", *fresh], check=True)
    record: dict[str, Any] = json.loads(RECORD.read_text())
    missing: dict[str, str] = last_json(in_peers("prepare", "--all", "--only", options.only, threads=2))

    contenders = chosen(registry(), options.only)
    order = {"f32": 0, "bf16": 1, "int8": 2}
    entries = [report.Entry(c.name, c.precision, c.own) for c in sorted(contenders, key=lambda c: order[c.precision])]
    raw = compare(options, 1, options.shapes, options.sentences, options.seconds)
    threads: dict[str, Any] = {}
    probes: dict[str, dict[str, float]] = {}
    microseconds: dict[str, float] = {}
    tables = [report.speed_table(raw, entries, options.clock)]
    if not options.speed_only:
        if len(os.sched_getaffinity(0)) > 1:
            two = compare(options, 2, "1x128", 0, min(options.seconds, 20.0))
            threads = two["speed"]["1 x 128"]
            tables.append(report.thread_table(two, "1 x 128"))
        probes = probe_all(contenders, missing, 1 if options.quick else 3)
        tables.append(report.probe_table(probes, record))
        overhead = last_json(in_peers("overhead"))
        microseconds = overhead["microseconds"]
        missing.update({f"call overhead of {name}": why for name, why in overhead["failed"].items()})
        tables.append(report.overhead_table(microseconds))
    missing.update(raw["failed"])
    missing.update({f"compile {name}": r["error"] for name, r in record.items() if "error" in r})

    floors = report.floors(raw, entries, options.clock, threads, probes, microseconds, record)
    tables.insert(0, report.Table("Floors", ["", "floor", "measured", ""], [f.row() for f in floors]))
    console = Console(width=max(110, Console().width))
    for table in tables:
        show(table, console)
    for name, why in missing.items():
        console.print(f"left out: {name}: {why}", markup=False, highlight=False)

    if not (options.quick or options.speed_only or options.no_write or options.only):
        write(raw, tables, missing, floors, probes, microseconds, threads, record)
        console.print(f"written: {RESULTS}", highlight=False)
    return 3 if options.check and not all(f.met for f in floors) else 0


def write(
    raw: dict[str, Any],
    tables: list[report.Table],
    missing: dict[str, str],
    floors: list[report.Floor],
    probes: dict[str, dict[str, float]],
    microseconds: dict[str, float],
    threads: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """RESULTS.md for people, results.json for programs."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = ", ".join(f"{name} {version}" for name, version in raw["versions"].items())
    intro = f"Measured on {today} by `make bench`.\n\n- CPU: {raw['cpu']}\n- {versions}\n"
    body = "\n".join([intro, *(table.markdown() for table in tables)])
    if missing:
        body += "\nLeft out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in missing.items()) + "\n"
    report.write_results(RESULTS, body)
    figures = {
        "date": today,
        "cpu": raw["cpu"],
        "versions": raw["versions"],
        "speed": summary(raw),
        "quality": raw["quality"],
        "threads": summary({"speed": {"1 x 128": threads}}),
        "probes": probes,
        "overhead_us": microseconds,
        "compile": {name: r for name, r in record.items() if isinstance(r, dict)},
        "floors": [{"what": f.what, "limit": f.limit, "measured": f.measured, "met": f.met} for f in floors],
        "left_out": missing,
    }
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
