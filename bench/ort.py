"""planish's exports beside ONNX Runtime's own best recipes, through the same provider: ``python -m planish.bench.ort``.

Every model is prepared in the project's environment (NNCF's in the peers'), then all of one provider are timed in turns in one
process of an environment that has the provider, on one core and one thread, and judged on the same held-out inputs against
float32 PyTorch. The CPU provider is that of the project's environment; the OpenVINO provider is the same module in another wheel
and has an environment of its own, without which it is left out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..compiler.errors import PlanishError
from .machine import BENCH, CACHE, PEERS_PYTHON, ROOT, cores, cpu_name, thread_environment
from .ort_models import MODELS, OWN, Model
from .progress import say
from .report import Floor, Table, ratio, write_results
from .screen import show

#: Provider -> the Python of an environment that has it.
PYTHONS = {"cpu": Path(sys.executable), "openvino": ROOT / ".ep-venvs" / "openvino" / "bin" / "python"}
#: How many times faster than the fastest peer of no better quality, through the CPU provider; and through OpenVINO than NNCF.
FLOORS = {"cpu": 1.15, "openvino": 1.0}
FOLDER = CACHE / "ort"
RESULTS, FIGURES = BENCH / "RESULTS.md", BENCH / "onnx.json"
MARKERS = ("<!-- onnx: begin (written by `make bench-onnx`) -->", "<!-- onnx: end -->")
#: Sessions of one model differ by a per cent or two from process to process, by where their memory lies.
PROCESSES = 4
#: Two cosines that differ by less are alike: float is float, and integers round.
ALIKE = 1e-6


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for.

    Raises:
        RuntimeError: a provider is asked for whose environment is missing.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    found: dict[str, Any] = {"date": date, "cpu": cpu_name(), "clock": options.clock, "runs": []}
    for provider in options.providers.split(","):
        if not PYTHONS[provider].exists():
            say(f"{provider}: {PYTHONS[provider]} is missing; left out")
            continue
        for model in MODELS:
            if options.only.lower() in model.name.lower():
                found["runs"].append(run(model, provider, options))
    return found


def run(model: Model, provider: str, options: argparse.Namespace) -> dict[str, Any]:
    """One model through one provider."""
    folder = FOLDER / f"{model.name}-{provider}"
    folder.mkdir(parents=True, exist_ok=True)
    failed: dict[str, str] = {}
    paths: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        place = Path(inside)
        for precision in OWN[provider][model.name]:
            name = f"planish {precision}"
            say(f"{model.name}, {provider}: {name}")
            try:
                paths[name] = model.own(provider, precision, place)
            except PlanishError as error:
                failed[name] = str(error)
        say(f"{model.name}, {provider}: peers")
        if provider == "cpu":
            paths.update(model.peers(place))
        elif PEERS_PYTHON.exists():
            paths["NNCF int8"] = model.nncf(place)
        else:
            failed["NNCF int8"] = "the peers are not set up; run: python bench/peers/setup.py"
        raw = _side_by_side(model, provider, paths, place, options)
    return {"model": model.name, "provider": provider, "failed": failed, **raw}


def _side_by_side(
    model: Model, provider: str, paths: Mapping[str, Path], place: Path, options: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    samples, timed = model.unseen(options.samples), model.timed()
    arrays: dict[str, Any] = {f"{label}/{k}": v for label, given in timed.items() for k, v in given.items()}
    for number, (sample, reference) in enumerate(zip(samples, model.references(samples), strict=True)):
        arrays |= {f"{number}/{k}": v for k, v in sample.items()} | {f"{number}/reference": reference}
    np.savez(place / "inputs.npz", **arrays)
    from ..backends.onnx.providers import find_provider

    settings = find_provider(provider).settings
    given = {k: v.replace("{threads}", "1") for k, v in settings.options.items()}
    job = {
        "provider": settings.provider, "options": given, "core": cores(1)[0],
        "seconds": options.seconds / PROCESSES, "inputs": str(place / "inputs.npz"),
        "result": str(place / "result.json"), "models": _with_levels(paths, settings.optimize), "shapes": list(timed),
        "texts": len(samples), "mean": model.mean,
    }  # fmt: skip
    command = [str(PYTHONS[provider]), str(BENCH / "ort_child.py"), str(place / "job.json")]
    whole: dict[str, Any] = {}
    for number in range(PROCESSES):
        say(f"{model.name}, {provider}: timing {number + 1}/{PROCESSES}")
        (place / "job.json").write_text(json.dumps({**job, "texts": 0 if number else len(samples)}))
        done = subprocess.run(command, env={**os.environ, **thread_environment(1)}, check=False)
        if done.returncode:
            raise RuntimeError(f"the comparison through {provider} ended with status {done.returncode}")
        result: dict[str, Any] = json.loads((place / "result.json").read_text())
        whole = whole or {**result, "speed": {}}
        for shape, found in result["speed"].items():
            for name, clocks in found.items():
                kept = whole["speed"].setdefault(shape, {}).setdefault(name, {"wall": [], "cpu": []})
                for clock, figures in clocks.items():
                    kept[clock] += figures
    return whole


def _with_levels(paths: Mapping[str, Path], optimize: bool) -> dict[str, tuple[str, bool]]:
    """Model and whether ONNX Runtime rewrites it: planish's as its exports say, a peer's in the way that is faster for it, which
    is not known before; so both ways take part."""
    found = {name: (str(path), optimize if name.startswith("planish ") else True) for name, path in paths.items()}
    if not optimize:
        peers = {n: p for n, p in paths.items() if not n.startswith("planish ")}
        found |= {f"{name}, not rewritten": (str(path), False) for name, path in peers.items()}
    return found


def beside(found: Mapping[str, Any], shape: str, clock: Any) -> tuple[str, str, float] | None:
    """(our fastest export that is as good as the fastest quantised peer, that peer, how many times faster we are); None where
    there is none.

    The peer is the fastest of all; ours has to match its least cosine.
    """
    speed, quality = found["speed"][shape], found["quality"]
    time = {name: statistics.median(s[clock]) for name, s in speed.items()}
    peers = [n for n in speed if not n.startswith("planish ")]
    if not peers:
        return None
    peer = min(peers, key=time.__getitem__)
    own = [n for n in speed if n.startswith("planish ") and quality[n]["min"] >= quality[peer]["min"] - ALIKE]
    if not own:
        return None
    best = min(own, key=time.__getitem__)
    return best, peer, ratio(speed[peer], speed[best], clock)


def floors(figures: Mapping[str, Any]) -> list[Floor]:
    """One for each model, provider and shape."""
    found = []
    for entry in figures["runs"]:
        limit = FLOORS[entry["provider"]]
        for shape in entry["speed"]:
            best = beside(entry, shape, figures["clock"])
            what = f"{entry['model']} through {entry['provider']}, {shape}"
            if best is not None:
                what += f": {best[0]} beside {best[1]}"
            found.append(Floor(what, limit, True, None if best is None else best[2], "×"))
    return found


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """What was measured, a table for each model and provider, the fastest first."""
    found = []
    for entry in figures["runs"]:
        shapes = list(entry["speed"])
        time = {
            n: [statistics.median(entry["speed"][s][n][figures["clock"]]) for s in shapes] for n in entry["quality"]
        }
        rows = [
            [f"**{n}**" if n.startswith("planish ") else n, *(f"{t:.3g}" for t in time[n]),
             f"{entry['quality'][n]['min']:.5f}", f"{entry['quality'][n]['mean']:.5f}"]
            for n in sorted(time, key=lambda n: time[n][0])
        ]  # fmt: skip
        samples = next(iter(entry["quality"].values()))["samples"]
        note = (
            f"ms, {'CPU time, ' if figures['clock'] == 'cpu' else ''}one thread; cosine with float32 PyTorch over {samples} "
            f"inputs that nobody calibrated on: the least, the mean. ONNX Runtime {entry['versions']['onnxruntime']}."
        )
        if entry["failed"]:
            note += " Left out: " + "; ".join(f"{n}: {why}" for n, why in entry["failed"].items()) + "."
        found.append(Table(f"{entry['model']} through {entry['provider']}", ["", *shapes, "min", "mean"], rows, note))
    return found


def _rounded(figures: Any) -> Any:
    """Numbers to six digits: more says nothing of a time."""
    if isinstance(figures, dict):
        return {k: _rounded(v) for k, v in figures.items()}
    if isinstance(figures, list):
        return [_rounded(v) for v in figures]
    return float(f"{figures:.6g}") if isinstance(figures, float) else figures


def main() -> None:
    """Measure, print the tables and the floors, and write everything down."""
    parser = argparse.ArgumentParser(description="planish's ONNX exports beside the recipes of ONNX Runtime and NNCF.")
    parser.add_argument("--providers", default="cpu,openvino", help="of cpu, openvino")
    parser.add_argument("--only", default="", help="a word of the model's name")
    parser.add_argument("--seconds", type=float, default=30.0, help="of timing, for each shape")
    parser.add_argument("--samples", type=int, default=400, help="that quality is judged on")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--tables", action="store_true", help="measure nothing; tables from onnx.json")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md and onnx.json alone")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    figures = json.loads(FIGURES.read_text()) if options.tables else measure(options)
    console = Console(width=max(110, Console().width))
    body = [
        Table("Floors of the exports", ["", "floor", "measured", ""], [f.row() for f in floors(figures)]),
        *tables(figures),
    ]
    for table in body:
        show(table, console)
    if options.no_write or options.only:
        return
    if not options.tables:
        FIGURES.write_text(json.dumps(_rounded(figures)) + "\n")
    head = f"Measured on {figures['date']} by `python -m planish.bench.ort`.\n\n- CPU: {figures['cpu']}\n\n"
    write_results(RESULTS, head + "\n".join(table.markdown() for table in body), MARKERS)
    console.print(f"written: {RESULTS}", highlight=False)


if __name__ == "__main__":
    main()
