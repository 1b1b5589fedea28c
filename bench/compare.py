"""One interleaved run in one process, pinned: ``python -m planish.bench.compare --output FILE``.

Every round visits every contender once, in an order that changes from round to round; a visit is one call that is not
timed (it brings the contender's weights back into the caches) and then some that are. So a slow moment of the machine
hits all of them alike, and the ratio of two contenders is taken within rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from . import data
from .contender import Contender, Runner, chosen, registry
from .machine import busy_seconds, cores, cpu_name, pin, versions
from .ours import Planish

T = TypeVar("T")

#: how long one visit should last; short calls are repeated
VISIT_SECONDS = 0.03
MINIMUM_ROUNDS = 9


class Samples(TypedDict):
    """Milliseconds for one call, one figure for each round."""

    wall: list[float]
    cpu: list[float]


class Quality(TypedDict):
    """Cosine of mean-pooled embeddings against float32 PyTorch."""

    sentences: int
    mean: float
    p1: float
    min: float


def others_share(used: Sequence[int], work: Callable[[], T]) -> tuple[T, float]:
    """Do the work; its result, and the share of these cores' time that other processes took meanwhile."""
    busy, own, start = busy_seconds(used), time.process_time(), time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    taken = busy_seconds(used) - busy - (time.process_time() - own)
    return result, max(0.0, taken / (elapsed * len(used)))


def interleave(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Samples]:
    """Time the calls side by side for about so many seconds."""
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, min(50, round(VISIT_SECONDS / (time.perf_counter() - start))))
    samples: dict[str, Samples] = {name: {"wall": [], "cpu": []} for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    deadline = time.perf_counter() + seconds
    rounds = 0
    gc.collect()
    gc.disable()
    try:
        while rounds < MINIMUM_ROUNDS or time.perf_counter() < deadline:
            rounds += 1
            shuffle(order)
            for name in order:
                call, count = calls[name], repeats[name]
                call()
                cpu, wall = time.process_time(), time.perf_counter()
                for _ in range(count):
                    call()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                samples[name]["wall"].append(round(1e3 * wall / count, 4))
                samples[name]["cpu"].append(round(1e3 * cpu / count, 4))
    finally:
        gc.enable()
    return samples


def embedding(hidden: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The mean over all tokens: there is no padding here."""
    mean: npt.NDArray[np.float64] = np.asarray(hidden, np.float64)[0].mean(0)
    return mean


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def quality(run: Runner, texts: Sequence[data.Inputs], reference: Sequence[npt.NDArray[np.float64]]) -> Quality:
    """How near a contender's sentence embeddings are to the reference's."""
    values = [cosine(embedding(run(text)), wanted) for text, wanted in zip(texts, reference, strict=True)]
    return {
        "sentences": len(values),
        "mean": statistics.fmean(values),
        "p1": float(np.quantile(values, 0.01)),
        "min": min(values),
    }


def reference_runner() -> Runner:
    """Float32 PyTorch, which quality is measured against."""
    from .peers_torch import Eager

    return Eager("reference", "f32").open(None, threads=1)


def open_all(
    contenders: Sequence[Contender], shape: data.Shape, threads: Sequence[int], failed: dict[str, str]
) -> dict[str, Callable[[], object]]:
    """The contenders' calls at one shape, with each of the thread counts; who fails is noted and left out."""
    inputs = data.timed(shape)
    wanted = embedding(reference_runner()(inputs))
    calls: dict[str, Callable[[], object]] = {}
    for contender in contenders:
        for count in threads:
            try:
                run = contender.open(shape, count)
                near = cosine(embedding(run(inputs)), wanted)
                if not near > 0.9:
                    raise RuntimeError(f"its output is wrong: cosine {near:.4f} against PyTorch")
            except Exception as error:
                failed[contender.name] = f"{data.label(shape)}: {error}"[:300]
                continue
            calls[contender.name if len(threads) == 1 else f"{contender.name} @ {count}"] = _call(run, inputs)
    return calls


def _call(run: Runner, inputs: data.Inputs) -> Callable[[], object]:
    return lambda: run(inputs)


def main() -> None:
    """Measure and write the figures as JSON."""
    parser = argparse.ArgumentParser(description="Time the prepared contenders side by side.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--only", default="", help="words, separated by commas: contenders whose name holds one of them"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="for each shape")
    parser.add_argument("--shapes", default=",".join(f"{b}x{s}" for b, s in data.SHAPES))
    parser.add_argument("--sentences", type=int, default=data.EVALUATION_SENTENCES, help="0: no quality")
    parser.add_argument("--threads", type=int, default=1, help="2: two threads beside one, on two cores")
    parser.add_argument(
        "--artifact",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="one of planish's own in place of the usual ones",
    )
    options = parser.parse_args()

    used = cores(options.threads)
    pin(used)
    warnings.filterwarnings("ignore")
    shapes: list[data.Shape] = []
    for text in options.shapes.split(","):
        batch, _, seq = text.partition("x")
        shapes.append((int(batch), int(seq)))

    failed: dict[str, str] = {}
    contenders = [c for c in chosen(registry(), options.only) if c.prepared]
    if options.artifact:
        named = (text.split("=", 1) for text in options.artifact)
        own: list[Contender] = [Planish(name, "int8", Path(path)) for name, path in named]
        contenders = [*own, *(c for c in contenders if not c.own)]
    counts = [1] if options.threads == 1 else [1, options.threads]
    if len(counts) > 1:
        contenders = [c for c in contenders if c.threads_per_model]
    speed: dict[str, dict[str, Samples]] = {}
    others: dict[str, float] = {}
    for shape in shapes:
        print(f"timing {data.label(shape)} ...", file=sys.stderr, flush=True)
        calls = open_all(contenders, shape, counts, failed)
        measure = partial(interleave, calls, options.seconds)
        speed[data.label(shape)], others[data.label(shape)] = others_share(used, measure)

    cosines: dict[str, Quality] = {}
    if options.sentences:
        print(f"quality on {options.sentences} sentences ...", file=sys.stderr, flush=True)
        texts = data.evaluation(options.sentences)
        run = reference_runner()
        reference = [embedding(run(text)) for text in texts]
        for contender in contenders:
            try:
                cosines[contender.name] = quality(contender.open(None, 1), texts, reference)
            except Exception as error:
                failed[contender.name] = f"quality: {error}"[:300]

    result = {
        "cpu": cpu_name(),
        "cores": used,
        "others": others,
        "versions": versions(),
        "speed": speed,
        "quality": cosines,
        "failed": failed,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
