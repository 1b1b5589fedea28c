"""MiniLM at four bars beside every peer that holds them: ``python -m planish.bench.bars``.

The artifacts are compiled in the project's environment; then they, the uniform precisions and the peers are timed in turns and
judged on the same held-out sentences in the peers' environment, as in ``bench.compare``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..compiler.errors import PlanishError
from ..search.record import record_of
from . import data
from .chart import Point, scatter
from .children import in_peers, last_json
from .laboratory import Laboratory, uniform
from .machine import CACHE, PEERS_PYTHON
from .progress import say
from .report import Floor, Row, Table, ratio
from .subjects import MINILM

SHAPE = "1 x 128"
ARTIFACTS = CACHE / "search" / "bars"
#: The bar, and how many times faster than the fastest peer that holds it we have to be.
FLOORS = {0.99: 1.25, 0.995: 1.5, 0.998: 1.5, 0.999: 1.15}
#: What the search promises of inputs: more than it does unless asked, since peers are held to their minimum.
COVERAGE = 0.995
#: How many times faster than any peer of no better quality we aim to be.
AIM = 1.5


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Compile at every bar and uniformly, then time and judge everything at once.

    Raises:
        RuntimeError: the peers are not set up, or the comparison failed.
    """
    if not PEERS_PYTHON.exists():
        raise RuntimeError("the peers are not set up; run: python bench/peers/setup.py")
    laboratory = Laboratory(MINILM)
    compiles: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    failed: dict[str, str] = {}
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for bar in FLOORS:
        name, path = own_name(bar), ARTIFACTS / f"bar-{bar:g}.planish"
        try:
            compiles[f"{bar:g}"] = compile_at(laboratory, bar, path, options)
            paths[name] = path
        except PlanishError as error:
            failed[name] = str(error)
    offered = dict.fromkeys(p for unit in laboratory.units for p in unit.candidates)
    for precision in offered:
        name, path = f"planish all {precision}", ARTIFACTS / f"uniform-{precision}.planish"
        say(f"building {name}")
        try:
            variant = laboratory.build(uniform(laboratory.units, precision))
        except PlanishError as error:
            failed[name] = str(error)
            continue
        variant.artifact.save(str(path))
        variant.close()
        paths[name] = path
    missing: dict[str, str] = last_json(in_peers("prepare", "--all", "--only", options.peers, threads=2))
    failed.update({name: why for name, why in missing.items() if not _is_own(name)})
    raw = compared(paths, options)
    failed.update(raw["failed"])
    speed, quality = raw["speed"][SHAPE], raw["quality"]
    return {
        "cpu": raw["cpu"],
        "versions": raw["versions"],
        "others": raw["others"][SHAPE],
        "clock": options.clock,
        "sentences": max((q["sentences"] for q in quality.values()), default=0),
        "compiles": compiles,
        "times": {
            name: {"median_ms": statistics.median(s[options.clock]), "rounds": len(s["wall"])} for name, s in speed.items()
        },
        "quality": quality,
        "bars": {f"{bar:g}": beside_peers(bar, speed, quality, options.clock) for bar in FLOORS},
        "peers": beside_front(speed, quality, options.clock),
        "failed": failed,
    }  # fmt: skip


def own_name(bar: float) -> str:
    """As it stands in the tables."""
    return f"planish {bar:g} each"


def compile_at(laboratory: Laboratory, bar: float, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Search, save, and tell what was found.

    Raises:
        BudgetError: no plan meets the bar.
    """
    start = time.perf_counter()
    wanted = f"cosine >= {bar:g} each"
    artifact = laboratory.compile(wanted, effort=options.effort, seed=options.seed, coverage=COVERAGE)
    seconds = time.perf_counter() - start
    artifact.save(str(path))
    record = record_of(artifact.report)
    assert record is not None
    return {
        "seconds": round(seconds, 1),
        "mix": record.in_words(),
        "proof": [p.sentence for p in record.proof],
        "bytes": path.stat().st_size,
        "trials": [
            {"label": t.label, "stage": t.stage, "of_float": (t.seconds or 0.0) / (record.float_model.seconds or 1.0),
             "quality": next(iter(t.quality.values()), None)}
            for t in record.trials
        ],
    }  # fmt: skip


def compared(paths: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """One run of ``bench.compare`` with these artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "compare.json"
        artifacts = [
            word for name, path in paths.items() for word in ("--artifact", f"{name.removeprefix('planish ')}={path}")
        ]
        words = [
            "--output",
            str(output),
            "--only",
            options.peers,
            "--seconds",
            str(options.seconds),
            "--shapes",
            "1x128",
        ]
        in_peers("compare", *words, "--sentences", str(options.sentences), *artifacts)
        found: dict[str, Any] = json.loads(output.read_text())
    return found


def _is_own(name: str) -> bool:
    return name.startswith("planish ")


def beside_peers(bar: float, speed: Mapping[str, Any], quality: Mapping[str, Any], clock: Any) -> dict[str, Any] | None:
    """The fastest peer whose least held-out cosine reaches ``bar``, and how much faster we are; None without us or a peer.

    "each" promises a share of inputs, a peer is held to its minimum, so ours is too: it is what was compiled for this bar or, if
    that one's minimum is below, for the next stricter one.
    """
    names = [own_name(b) for b in FLOORS if b >= bar]
    own = next((n for n in names if n in speed and n in quality and quality[n]["min"] >= bar), own_name(bar))
    holding = [n for n in speed if not _is_own(n) and n in quality and quality[n]["min"] >= bar]
    if own not in speed or own not in quality or not holding:
        return None
    peer = min(holding, key=lambda name: statistics.median(speed[name][clock]))
    return {
        "own": own,
        "peer": peer,
        "ratio": ratio(speed[peer], speed[own], clock),
        "holds": quality[own]["min"] >= bar,
        "own_min": quality[own]["min"],
        "peer_min": quality[peer]["min"],
    }


def beside_front(speed: Mapping[str, Any], quality: Mapping[str, Any], clock: Any) -> dict[str, Any]:
    """For every peer our fastest artifact whose least held-out cosine is as good, and how much faster it is."""
    found = {}
    for peer in (n for n in speed if not _is_own(n) and n in quality):
        # float is float: a cosine of 1 but for rounding is matched by another one
        wanted = min(quality[peer]["min"], 1 - 1e-6)
        better = [n for n in speed if _is_own(n) and n in quality and quality[n]["min"] >= wanted]
        if better:
            own = min(better, key=lambda name: statistics.median(speed[name][clock]))
            found[peer] = {"own": own, "ratio": ratio(speed[peer], speed[own], clock)}
    return found


def floors(figures: Mapping[str, Any]) -> list[Floor]:
    """A bar is met with a minimum of ours that holds it too: without that the ratio compares unlike things."""
    found = []
    for bar, least in FLOORS.items():
        beside = figures["bars"].get(f"{bar:g}")
        own_holds = beside is not None and beside["holds"]
        what = f"MiniLM at cosine ≥ {bar:g} each, beside the fastest peer that holds it"
        if beside is not None and not own_holds:
            what += f" (our own minimum is {beside['own_min']:.5f})"
        elif beside is not None and beside["own"] != own_name(bar):
            what += f" ({beside['own'].removeprefix('planish ')}; the minimum of {bar:g} each is lower)"
        found.append(Floor(what, least, True, beside["ratio"] if beside and own_holds else None, "×"))
    return found


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """By bar; and everything that was measured, the fastest first."""
    rows: list[Row] = []
    times, quality = figures["times"], figures["quality"]
    for bar in FLOORS:
        key, own = f"{bar:g}", own_name(bar)
        beside, compiled = figures["bars"].get(key), figures["compiles"].get(key)
        if compiled is None or own not in times:
            rows.append([f"cosine ≥ {key} each", "", "", "", "", "", figures["failed"].get(own, "not measured")])
            continue
        peer = beside["peer"] if beside else None
        rows.append(
            [
                f"cosine ≥ {key} each", f"{times[own]['median_ms']:.3g}",
                f"{quality[own]['min']:.5f}" if own in quality else "",
                f"{peer}, {times[peer]['median_ms']:.3g} ms, {quality[peer]['min']:.5f}" if peer else "no peer holds it",
                f"{beside['ratio']:.2f}×{_other(beside, own)}" if beside else "", f"{compiled['seconds']:.0f}", compiled["mix"],
            ]
        )  # fmt: skip
    clock = "CPU time; " if figures["clock"] == "cpu" else ""
    note = (
        f"{clock}1 × 128, one thread; minimum cosine of the mean-pooled embeddings of {figures['sentences']} held-out sentences "
        f"that neither the search nor any peer's calibration met. The search was asked to promise {COVERAGE:.1%} of inputs, at "
        "95 % confidence."
    )
    if figures["others"] > 0.01:
        note += f" Other processes took {100 * figures['others']:.0f} % of the core's time."
    header = ["bar", "planish (ms)", "min", "fastest peer that holds it", "speed", "compile (s)", "plan"]
    everything = [
        [
            f"**{name}**" if _is_own(name) else name, f"{figure['median_ms']:.3g}",
            *([f"{quality[name]['min']:.5f}", f"{quality[name]['p1']:.5f}", f"{quality[name]['mean']:.5f}"]
              if name in quality else ["", "", ""]),
            _beside(figures["peers"].get(name)),
        ]
        for name, figure in sorted(times.items(), key=lambda item: item[1]["median_ms"])
    ]  # fmt: skip
    rounds = next(iter(times.values()))["rounds"] if times else 0
    aim = (
        f"Median of {rounds} interleaved rounds; cosine over the held-out sentences: the least, the first percentile, the mean. "
        f"The last column: our fastest artifact of no worse minimum, and how much faster it is (the aim is {AIM}× everywhere)."
    )
    if figures["failed"]:
        aim += " Left out: " + "; ".join(f"{name}: {why}" for name, why in figures["failed"].items()) + "."
    return [
        Table("MiniLM: the bars", header, rows, note),
        Table("MiniLM: quality and latency", ["", "ms", "min", "p1", "mean", "beside our front"], everything, aim),
    ]


def _other(beside: Mapping[str, Any], own: str) -> str:
    return "" if beside["own"] == own else f" ({beside['own'].removeprefix('planish ')})"


def _beside(found: Mapping[str, Any] | None) -> str:
    return f"{found['ratio']:.2f}× ({found['own'].removeprefix('planish ')})" if found else ""


def charts(figures: Mapping[str, Any]) -> dict[str, str]:
    """Everything as a point: ours as a front, our uniform precisions, each peer."""
    plain = figures["times"].get("planish all f32", {}).get("median_ms")
    points = []
    for name, figure in figures["times"].items():
        if name not in figures["quality"]:
            continue
        kind: Any = "peer" if not _is_own(name) else "uniform" if " all " in name else "ours"
        lost = 1 - figures["quality"][name]["min"]
        points.append(Point(figure["median_ms"], lost, kind, name.removeprefix("planish ")))
    if plain is not None:
        points += [
            Point(t["of_float"] * plain, 1 - t["quality"], "trial", t["label"])
            for compiled in figures["compiles"].values()
            for t in compiled["trials"]
            if t["quality"] is not None and t["stage"] != "uniform"
        ]
    if not points:
        return {}
    note = (
        "orange: planish (rings: one precision for the whole model, small: trials as the search saw them); grey: peers"
    )
    title = "all-MiniLM-L6-v2, 1 × 128, one thread: what is lost against what it takes"
    rounding = 1e-6
    return {"minilm-bars": scatter(title, note, "ms", "1 − least cosine of the embeddings", points, rounding)}


def arguments(parser: Any) -> None:
    """Options of this part."""
    parser.add_argument("--peers", default="", help="words, separated by commas: peers whose name holds one of them")
    parser.add_argument("--sentences", type=int, default=data.EVALUATION_SENTENCES, help="held-out sentences")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a shared machine")


if __name__ == "__main__":
    from .search import main

    sys.exit(main(["bars", *sys.argv[1:]]))
