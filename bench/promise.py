"""Whether the promise is kept, compile by compile, on thousands of unseen inputs: ``python -m planish.bench.promise``.

"each" promises that at least 99 % of inputs meet the bar, at 95 % confidence: of a hundred compiles at most five may be wrong
about it in the long run. For every seed a data set is drawn, searched with, and the artifact's share of good inputs counted on
another draw of the same distribution.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np

from .populations import POPULATIONS, chosen
from .progress import say
from .report import Floor, Table

COVERAGE, CONFIDENCE = 0.99, 0.95
#: Samples that a compile is given, and samples that its promise is checked on.
GIVEN, CHECKED = 1600, 8000
KEPT = 0.95


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every population, every seed; as many at a time as there are cores."""
    populations = chosen(options.only)
    checked = 2000 if options.quick else options.checked
    jobs = [(p.name, seed, checked) for seed in range(options.seeds) for p in populations]
    runs: dict[str, list[dict[str, Any]]] = {p.name: [] for p in populations}
    for population in populations:  # trains the model, if nobody has yet, before several processes would
        population.make()
    count = options.jobs or min(len(os.sched_getaffinity(0)), 4)
    start = time.perf_counter()
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run_one, *job): job for job in jobs}
        for number, future in enumerate(as_completed(waiting), start=1):
            name, seed, _ = waiting[future]
            run = future.result()
            runs[name].append(run)
            words = (
                run["failed"]
                if "failed" in run
                else f"{100 * run['share']:.2f} % good, {run['mix']}, {run['seconds']:.0f} s"
            )
            say(f"{number} of {len(jobs)}: {name}, seed {seed}: {words}")
    for found in runs.values():
        found.sort(key=lambda run: run["seed"])
    words = {p.name: {"bar": p.bar, "words": p.words} for p in populations}
    models = {name: {**words[name], "given": GIVEN, "checked": checked, "runs": found} for name, found in runs.items()}
    return {"models": models, "seconds": time.perf_counter() - start}


def run_one(name: str, seed: int, checked: int) -> dict[str, Any]:
    """One compile and the count on unseen inputs; runs in a process of its own, on one thread."""
    import torch

    import planish

    torch.set_num_threads(1)
    population = next(p for p in POPULATIONS if p.name == name)
    module, args, kwargs, dynamic_shapes = population.make()
    start = time.perf_counter()
    try:
        artifact = planish.compile(
            module, args, kwargs, dynamic_shapes=dynamic_shapes, calibration=population.draw(GIVEN, 2 * seed),
            budget=population.bar, workload=planish.Workload([dict(population.sizes)]), effort="quick", seed=seed,
            coverage=COVERAGE, confidence=CONFIDENCE, restart=True,
        )  # fmt: skip
    except planish.BudgetError as error:
        return {"seed": seed, "failed": str(error)}
    seconds = time.perf_counter() - start
    scores = scores_of(
        artifact, module, args, kwargs, dynamic_shapes, population.bar, population.draw(checked, 2 * seed + 1)
    )
    record = artifact.report["search"]
    proof = record["proof"][0]
    chosen = next(t for t in record["trials"] if t["id"] == record["chosen"])
    return {
        "seed": seed, "share": float(scores.mean()), "seconds": round(seconds, 1), "mix": mix(chosen["assignment"]),
        "speed": record["float"]["seconds"] / chosen["seconds"], "misses": proof["misses"], "final": proof["samples"],
    }  # fmt: skip


def scores_of(
    artifact: Any,
    module: Any,
    args: Any,
    kwargs: Any,
    dynamic_shapes: Any,
    budget: str,
    draw: list[Mapping[str, np.ndarray]],
) -> np.ndarray:
    """Whether the artifact meets the bar on each sample, against the float model as PyTorch runs it: bool ``[samples]``."""
    import torch

    from ..search.budget import Bar
    from ..search.metrics import Scorer
    from ..search.samples import load_samples

    names = list(artifact.manifest["outputs"]) if isinstance(artifact.manifest.get("outputs"), dict) else ["output"]
    bar = Bar.parse(budget)
    (term,) = bar.terms
    scorer = Scorer(bar, None, names[:1])
    samples = load_samples(draw, artifact.graph)
    good = []
    with artifact.load(threads=1) as model, torch.no_grad():
        for batch in samples.batches:
            own = model.flat(batch.inputs)
            wanted = module(*(torch.from_numpy(array) for array in batch.inputs.values())).numpy()
            score = scorer.scores([wanted], own, batch)[str(term)]
            good.append(score >= term.bound if term.upward else score <= term.bound)
    return np.concatenate(good)


def mix(assignment: Mapping[str, str]) -> str:
    """A plan in words, the most frequent precision first."""
    names = list(assignment.values())
    return ", ".join(f"{names.count(p)} {p}" for p in sorted(set(names), key=lambda p: -names.count(p)))


def kept(runs: list[Mapping[str, Any]]) -> tuple[int, int]:
    """How many compiles that made a promise kept it, and how many made one."""
    made = [run for run in runs if "share" in run]
    return sum(run["share"] >= COVERAGE for run in made), len(made)


def floors(figures: Mapping[str, Any]) -> list[Floor]:
    """Of all compiles together."""
    counts = [kept(model["runs"]) for model in figures["models"].values()]
    made = sum(n for _, n in counts)
    share = sum(k for k, _ in counts) / made if made else None
    return [Floor(f"the promise is kept, share of {made} compiles", KEPT, True, share)]


def tables(figures: Mapping[str, Any]) -> list[Table]:
    """Model by model."""
    rows = []
    for name, model in figures["models"].items():
        made = [run for run in model["runs"] if "share" in run]
        good, count = kept(model["runs"])
        if not made:
            rows.append([name, model["bar"], f"0 of {len(model['runs'])} compiles found a plan", "", "", "", ""])
            continue
        shares = [run["share"] for run in made]
        mixed = sum("," in run["mix"] for run in made)
        rows.append(
            [
                name, model["bar"], f"{good} of {count}", f"{100 * min(shares):.2f} %",
                f"{100 * statistics.median(shares):.2f} %", f"{mixed} of {count}",
                f"{statistics.median(run['speed'] for run in made):.2f}×",
            ]
        )  # fmt: skip
    some: Mapping[str, Any] = next(iter(figures["models"].values()), {})
    words = "; ".join(f"{name}: {model['words']}" for name, model in figures["models"].items())
    note = (
        f"Kept: at least {100 * COVERAGE:g} % of {some.get('checked')} unseen inputs meet the bar, as each compile promises at "
        f"{100 * CONFIDENCE:g} % confidence from {some.get('given')} samples (calibration, search and proof together), effort "
        f"quick. A compile that finds no plan promises nothing. Inputs are independent draws. {words}. All of it took "
        f"{figures['seconds'] / 60:.0f} minutes."
    )
    header = ["", "bar", "promise kept", "least share", "median share", "mixed plans", "beside float"]
    return [Table("The promise on unseen inputs", header, rows, note)]


def charts(figures: Mapping[str, Any]) -> dict[str, str]:
    """None."""
    return {}


def arguments(parser: Any) -> None:
    """Options of this part."""
    parser.add_argument("--seeds", type=int, default=20, help="compiles of each model (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=0, help="compiles at a time; 0: as many as cores, up to 4")
    parser.add_argument("--checked", type=int, default=CHECKED, help="unseen inputs of each (default: %(default)s)")


if __name__ == "__main__":
    from .search import main

    sys.exit(main(["promise", *sys.argv[1:]]))
