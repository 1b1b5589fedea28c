"""What the search promises, measured: ``python -m planish.bench.search [PART ...]`` (``make bench-search``).

Each part is also a command of its own: ``python -m planish.bench.bars`` and so on. Figures go to ``search.json``, the plots
beside it, the tables to their section of ``RESULTS.md``; ``--tables`` writes the latter two anew without measuring.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from types import ModuleType
from typing import Any

from rich.console import Console

from . import bars, endtoend, fronts, promise, report, solvers
from .machine import BENCH, cpu_name
from .screen import show

RESULTS, FIGURES, PLOTS = BENCH / "RESULTS.md", BENCH / "search.json", BENCH / "plots"
BEGIN, END = "<!-- search: begin (written by `make bench-search`) -->", "<!-- search: end -->"
#: In the order of the section. Each has ``measure``, ``floors``, ``tables``, ``charts`` and ``arguments``.
PARTS: dict[str, ModuleType] = {
    "bars": bars,
    "fronts": fronts,
    "solvers": solvers,
    "promise": promise,
    "endtoend": endtoend,
}


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m planish.bench.search", description="What the search promises.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--only", default="", help="words, separated by commas: models whose name holds one of them")
    parser.add_argument("--effort", default="standard", help="of the searches (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the searches (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="for each interleaved timing (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a rough look: little data, short timings, nothing written"
    )
    parser.add_argument("--tables", action="store_true", help="measure nothing; tables and plots from search.json")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md, search.json and the plots alone")
    parser.add_argument("--check", action="store_true", help="exit with 3 when a floor is missed or was not measured")
    for module in PARTS.values():
        module.arguments(parser.add_argument_group(module.__name__.rsplit(".", 1)[1]))
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    if options.quick:
        options.seconds, options.effort, options.sentences = 4.0, "quick", min(options.sentences, 100)
        options.seeds = min(options.seeds, 2)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure the parts, print their tables, write everything down."""
    options = options_of(arguments)
    figures: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    console = Console(width=max(110, Console().width))
    write = not (options.quick or options.no_write)
    for name in [] if options.tables else options.parts:
        found = PARTS[name].measure(options)
        known = figures.get(name, {})
        if options.only and "models" in found and "models" in known:  # the others stay as they were
            found["models"] = known["models"] | found["models"]
        figures[name] = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "cpu": cpu_name(), **found}
        if write:  # after every part: a later one may be interrupted
            FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        for table in PARTS[name].tables(figures[name]):
            show(table, console)
    floors = [floor for name in PARTS if name in figures for floor in PARTS[name].floors(figures[name])]
    show(_floors(floors), console)
    if write:
        save(figures)
        console.print(f"written: {RESULTS}", highlight=False)
    asked = [floor for name in options.parts if name in figures for floor in PARTS[name].floors(figures[name])]
    return 3 if options.check and not all(f.met for f in asked) else 0


def _floors(floors: list[report.Floor]) -> report.Table:
    return report.Table("Floors of the search", ["", "floor", "measured", ""], [f.row() for f in floors])


def save(figures: dict[str, Any]) -> None:
    """The plots, and the section of RESULTS.md."""
    floors = [floor for name in PARTS if name in figures for floor in PARTS[name].floors(figures[name])]
    body = [f"- CPU: {next(iter(figures.values()))['cpu']}", "", _floors(floors).markdown()]
    for name, module in PARTS.items():
        if name not in figures:
            continue
        for plot, text in module.charts(figures[name]).items():
            PLOTS.mkdir(exist_ok=True)
            (PLOTS / f"{plot}.svg").write_text(text)
            body += [f"![{plot}](plots/{plot}.svg)", ""]
        body += [table.markdown() for table in module.tables(figures[name])]
        body += [f"Measured on {figures[name]['date']} by `python -m planish.bench.{name}`.", ""]
    report.write_results(RESULTS, "\n".join(body), (BEGIN, END))


if __name__ == "__main__":
    sys.exit(main())
