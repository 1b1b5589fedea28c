"""``planish bench``: how fast a compiled model is, where the time goes, and how far that is from the machine's limit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime.timing import Times, interleaved
from .feed import Arrays, Signature, Sizes, by_name, from_file, made_up, resized, shown
from .loading import open_model
from .memory import measure as measure_memory
from .options import ArtifactFile, Debug, Dims, Fix, Json, Task, Threads, parse_dims, parse_fixed
from .output import print_facts, print_heading, print_json, print_table, rate, seconds, size
from .source import load_source
from .verify import source_call

TOP_KERNELS = 12


def bench(
    artifact: ArtifactFile,
    against: Annotated[
        str | None, typer.Option("--against", metavar="MODEL", help="Time this source beside it.")
    ] = None,
    input: Annotated[Path | None, typer.Option("--input", "-i", metavar="IN.npz", help="Inputs to use.")] = None,
    task: Task = None,
    fix: Fix = None,
    dims: Dims = None,
    threads: Threads = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at once, for the throughput.")] = 1,
    duration: Annotated[float, typer.Option("--seconds", min=0.1, help="How long to measure.")] = 3.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time a compiled model, and each of its kernels.

    Percentiles, throughput, peak memory; for each kernel its time, operations, bytes and share of the machine's limit.
    """
    source = load_source(against, task, fixed=parse_fixed(fix)) if against else None
    load = os.getloadavg()[0]
    with open_model(artifact, threads, concurrency) as model:
        signature = Signature.of(model.manifest)
        wanted = parse_dims(dims)
        signature.check(wanted)
        arrays, sizes = _inputs(signature, source, input, wanted)
        contenders: dict[str, Callable[[], Any]] = {"planish": lambda: model(**arrays)}
        used = threads or model.threads
        if source is not None:
            contenders[source.runtime.lower().replace(" ", "")] = _eager(source, signature, arrays, used)
        times = interleaved(contenders, duration)
        throughput = _throughput(contenders["planish"], concurrency, min(duration, 2.0))
        kernels, limit = _kernels(model, arrays, used)
    document: dict[str, Any] = {
        "artifact": str(artifact),
        "sizes": sizes,
        "threads": used,
        "unit": model.unit,
        "load": load,
        "latency": {name: t.as_dict() for name, t in times.items()},
        "throughput": {"concurrency": concurrency, "calls_per_second": throughput},
        "memory": measure_memory(artifact, sizes, threads),
        "limit": limit,
        "kernels": kernels,
    }
    if source is not None:
        ours, theirs = times.values()
        document["runtime"] = source.runtime
        document["speedup"] = {"median": theirs.median / ours.median, "best": theirs.best / ours.best}
    if json:
        print_json(document)
    else:
        show(document, times)


def _inputs(signature: Signature, source: Any, file: Path | None, wanted: Sizes) -> tuple[Arrays, Sizes]:
    if file is not None:
        arrays = from_file(file)
    elif source is not None:
        arrays = by_name(signature, *source.eager()[1:])
    else:
        sizes = {**signature.usual(), **wanted}
        return made_up(signature, sizes), sizes
    sizes = {**(signature.sizes_of(arrays) if file is not None else signature.usual()), **wanted}
    return resized(signature, arrays, sizes), sizes


def _eager(source: Any, signature: Signature, arrays: Arrays, threads: int) -> Callable[[], Any]:
    """The source with as many threads, in PyTorch's inference mode."""
    import torch

    torch.set_num_threads(threads)
    call = source_call(source, signature, arrays, threads)

    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _throughput(call: Callable[[], Any], concurrency: int, duration: float) -> float:
    """Calls per second with so many callers at once."""
    done = [0] * concurrency
    end = time.perf_counter() + duration

    def caller(i: int) -> None:
        while time.perf_counter() < end:
            call()
            done[i] += 1

    start = time.perf_counter()
    callers = [threading.Thread(target=caller, args=(i,)) for i in range(concurrency)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def _kernels(model: Any, arrays: Arrays, threads: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every kernel with its time, work and share of the limit; and the whole: a sum over the kernels."""
    from ..backends.cpu.isa import detect
    from ..backends.cpu.peaks import peaks

    unit = next(u for u in model.manifest["units"] if u["name"] == model.unit)
    # What ONNX Runtime runs is held against what this machine's CPU can do.
    best = peaks(detect() if unit.get("kind") == "onnx" else unit["isa"], threads, fresh=True)
    rows = []
    for launch in model.profile(**arrays):
        least = best.seconds(launch.flops, launch.bytes, launch.precision)
        rows.append({"label": launch.label, "sources": list(launch.sources), "precision": launch.precision,
                     "seconds": launch.seconds, "operations": launch.flops, "bytes": launch.bytes, "least_seconds": least,
                     "share_of_limit": least / launch.seconds if launch.seconds else None})  # fmt: skip
    total, least = sum(r["seconds"] for r in rows), sum(r["least_seconds"] for r in rows)
    limit = {"seconds": total, "least_seconds": least, "share_of_limit": least / total if total else None,
             "operations": sum(r["operations"] for r in rows), "bytes": sum(r["bytes"] for r in rows),
             "peaks": {"isa": best.isa, "threads": best.threads, "f32": best.f32, "bf16": best.bf16, "i8": best.i8,
                       "bandwidth": [list(b) for b in best.bandwidth]}}  # fmt: skip
    return rows, limit


def grouped(kernels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Launches of equal label and precision added up, the slowest first."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for kernel in kernels:
        key = (kernel["label"], kernel["precision"])
        group = groups.setdefault(key, {"label": key[0], "precision": key[1], "launches": 0, "seconds": 0.0,
                                        "operations": 0, "bytes": 0, "least_seconds": 0.0})  # fmt: skip
        group["launches"] += 1
        for figure in ("seconds", "operations", "bytes", "least_seconds"):
            group[figure] += kernel[figure]
    return sorted(groups.values(), key=lambda g: -g["seconds"])


def show(document: dict[str, Any], times: dict[str, Times]) -> None:
    """The figures for people."""
    sizes, threads = shown(document["sizes"]), document["threads"]
    print_heading(f"{document['artifact']} at {sizes}, {threads} thread{'s' if threads != 1 else ''}")
    names = [f"p{p}" for p in (50, 90, 95, 99)]
    rows = [
        (name, *(seconds(t.as_dict()[n]) for n in ("min", *names)), str(len(t.seconds))) for name, t in times.items()
    ]
    print_table(rows, ("", "min", *names, "calls"), right=range(1, 7))
    memory, limit, flow = document["memory"], document["limit"], document["throughput"]
    batch = next((n for name, n in document["sizes"].items() if "batch" in name), 1)
    calls = flow["calls_per_second"]
    facts = [("throughput", f"{calls:.4g} calls/s" + (f", {calls * batch:.4g} samples/s" if batch > 1 else "")
              + (f" ({flow['concurrency']} at once)" if flow["concurrency"] > 1 else ""))]  # fmt: skip
    if "speedup" in document:
        gain = document["speedup"]
        text = f"{gain['median']:.2f}x {document['runtime']} by the medians, {gain['best']:.2f}x by the best calls"
        facts.insert(0, ("speed-up", text))
    if memory:
        facts.append(
            ("memory", f"peak {size(memory['peak'])} above Python with numpy, {size(memory['loaded'])} after loading")
        )
    measured = limit["peaks"]
    facts.append(("work", f"{rate(limit['operations'], 'op')}, {size(limit['bytes'])} moved at least, for each call"))
    facts.append(("limit", f"{seconds(limit['least_seconds'])} at the machine's measured peaks: the kernels reach "
                           f"{limit['share_of_limit'] or 0:.0%} of it"))  # fmt: skip
    facts.append(("peaks", f"int8 {rate(measured['i8'], 'op/s')}, bf16 {rate(measured['bf16'], 'op/s')}, f32 "
                           f"{rate(measured['f32'], 'op/s')}; reading "
                           + ", ".join(f"{rate(r, 'B/s')} ({size(c)})" for c, r in measured["bandwidth"])))  # fmt: skip
    if document["load"] > (os.cpu_count() or 1):
        busy = f"the load is {document['load']:.1f} on {os.cpu_count()} cores: other programs make times longer and ratios wrong"
        facts.append(("busy", busy))
    print_facts(facts)
    groups = grouped(document["kernels"])
    total = sum(g["seconds"] for g in groups) or 1.0
    rows = [
        (g["label"], g["precision"], str(g["launches"]), seconds(g["seconds"]), f"{g['seconds'] / total:.0%}",
         rate(g["operations"] / g["seconds"], "op/s") if g["seconds"] else "", size(g["bytes"]),
         f"{g['least_seconds'] / g['seconds']:.0%}" if g["seconds"] else "")
        for g in groups[:TOP_KERNELS]
    ]  # fmt: skip
    print_table(
        rows, ("kernel", "precision", "launches", "time", "share", "speed", "bytes", "of limit"), right=range(2, 8)
    )
    if len(groups) > TOP_KERNELS:
        rest = sum(g["seconds"] for g in groups[TOP_KERNELS:])
        print_facts([(f"and {len(groups) - TOP_KERNELS} more", f"{seconds(rest)} (--json lists every launch)")])
