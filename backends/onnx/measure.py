"""Timing exported models through the session they are run in: what each launch costs on a provider.

A model is timed twice. A session with ONNX Runtime's profiler tells how its time is divided among the nodes, and plain sessions
of all models, called in turns so that they share the machine's good and bad moments, tell how long a call takes: the profiler
makes every node a little longer. Both count the lower quintile, as for kernels of the CPU backend (``cpu/measure.py``).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx

from ...compiler.cache import cache_directory
from ...compiler.errors import ToolchainError, UsageError
from ...compiler.profile import phase
from ...compiler.target import LaunchCost, MeasureRequest, Target
from ...runtime.errors import InputError
from ...runtime.shapes import Port, Shapes, Symbol, parse
from ..cpu import isa
from ..cpu.measure import LEAST_ROUNDS, LONG_CALL, MEMORY, QUANTILE, SETTLED, TURN, pin, undisturbed
from ..cpu.peaks import peaks
from ..cpu.timings import Timing, Timings, cpu_kind
from .attribution import Owners, divide, estimate, launch_weights, read_profile
from .providers import Provider, find_provider
from .session import Session, open_session, weights_of
from .unit import OnnxUnit

#: Of how is measured; other figures are not comparable.
VERSION = 1
#: Calls that are profiled: at least, and for how long.
PROFILED_CALLS, PROFILED_SECONDS = 12, 0.5
#: Kinds of launch that a precision decides: they are built around the op of their module.
_ANCHORS = frozenset({"linear", "qlinear", "conv", "qconv", "attention", "embedding"})
#: Providers that run on the CPU whose peaks the limit is reckoned by.
_ON_CPU = ("cpu", "openvino", "xnnpack")


def measure(
    requests: Sequence[MeasureRequest], target: Target, *, fresh: bool = False, seconds: float = 8.0
) -> list[list[LaunchCost]]:
    """Seconds of every launch of every request; arguments and errors as :meth:`~planish.compiler.target.Backend.measure`.

    Raises:
        UsageError: the provider is not installed in this environment, or an input is missing or does not fit.
        LoweringError: the provider refuses a model.
    """
    provider = find_provider(target.level)
    provider.require("be measured")
    symbols = [_solve(r) for r in requests]
    version = provider.version()
    keys = [
        [f"{key}-{n}" for n in range(len(r.unit.description["launches"]))]
        for r in requests
        for key in [_key(r, provider, version)]
    ]
    store = Timings(cache_directory() / "onnx" / "timings")
    wanted = {key for row in keys for key in row}
    known = {} if fresh else store.get(sorted(wanted))
    if not wanted <= set(known):
        with phase("time models", f"{len(requests)} through {provider.name}"):
            found = _timed(requests, provider, seconds)
        known = {
            key: timing
            for row, timings in zip(keys, found, strict=True)
            for key, timing in zip(row, timings, strict=True)
        }
        store.put(known)
    return [
        _costs(r, env, [known[key] for key in row], provider)
        for r, env, row in zip(requests, symbols, keys, strict=True)
    ]


def _key(request: MeasureRequest, provider: Provider, version: str) -> str:
    """Everything that decides how long a call takes: the model, its sizes, threads, provider and CPU. Weights count by their
    types and shapes, which the model holds."""
    unit: OnnxUnit = request.unit
    sizes = {p["name"]: np.shape(request.inputs[p["name"]]) for p in unit.description["inputs"]}
    model = hashlib.sha256(unit.model).hexdigest()
    parts = [VERSION, cpu_kind(), version, provider.settings.to_data(), model, sizes, request.threads]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _solve(request: MeasureRequest) -> dict[str, int]:
    """The value of every symbol at a request's sizes."""
    unit: OnnxUnit = request.unit
    ports = [Port(p["name"], p["dtype"], _shape(p["shape"])) for p in unit.description["inputs"]]
    for port in ports:
        if port.name not in request.inputs:
            raise UsageError(f"there is no input {port.name} to time the model on")
    shapes = Shapes([Symbol(s["name"], s["min"], s["max"]) for s in unit.description["symbols"]], ports, [])
    try:
        return shapes.solve([np.shape(request.inputs[port.name]) for port in ports])
    except InputError as error:
        raise UsageError(error.message, error.hint) from error


def _shape(dims: Sequence[str]) -> tuple[int | str, ...]:
    return tuple(int(dim) if dim.lstrip("-").isdigit() else dim for dim in dims)


def _costs(
    request: MeasureRequest, symbols: Mapping[str, int], timings: Sequence[Timing], provider: Provider
) -> list[LaunchCost]:
    unit: OnnxUnit = request.unit
    launches = unit.description["launches"]
    graph = onnx.load_from_string(unit.model).graph
    weights = launch_weights(graph, unit.description["weights"], len(launches))
    try:
        best = peaks(isa.detect(), request.threads) if provider.short in _ON_CPU else None
    except ToolchainError:  # the limit is for reports; a machine that only exports needs no compiler
        best = None
    found = []
    for launch, timing, size in zip(launches, timings, weights, strict=True):
        flops, moved = (int(parse(launch[part])(symbols)) for part in ("flops", "bytes"))
        limit = 0.0 if best is None else best.seconds(flops, moved, launch["precision"])
        sources = tuple(launch["sources"])
        found.append(
            LaunchCost(
                launch["label"], launch["digest"], sources, timing.seconds, moved, flops, size, timing.spread,
                launch["precision"], limit, sources if launch["kernel"] in _ANCHORS else (),
            )
        )  # fmt: skip
    return found


# -- running -----------------------------------------------------------------------------------------------------------
def _timed(requests: Sequence[MeasureRequest], provider: Provider, seconds: float) -> list[list[Timing]]:
    """Timings of the launches of every request."""
    found: dict[int, list[Timing]] = {}
    for threads in dict.fromkeys(r.threads for r in requests):
        chosen = [i for i, r in enumerate(requests) if r.threads == threads]
        # A thread of its own: the caller's stays on whatever cores it has, and ONNX Runtime's workers inherit its cores.
        with ThreadPoolExecutor(1, initializer=pin, initargs=(threads,)) as worker:
            shares = [worker.submit(_shares, requests[i], provider).result() for i in chosen]
            totals = worker.submit(_totals, [requests[i] for i in chosen], provider, seconds).result()
        for i, share, total in zip(chosen, shares, totals, strict=True):
            found[i] = [Timing(part * total.seconds, part * total.spread) for part in share]
    return [found[i] for i in range(len(requests))]


def _shares(request: MeasureRequest, provider: Provider) -> list[float]:
    """The part of a call that each launch takes; together 1."""
    unit: OnnxUnit = request.unit
    symbols = _solve(request)
    estimates = [
        estimate(parse(launch["flops"])(symbols), parse(launch["bytes"])(symbols))
        for launch in unit.description["launches"]
    ]
    with tempfile.TemporaryDirectory(prefix="planish-profile-") as folder:
        running = None if provider.compiles else Path(folder) / "running.onnx"
        with _session(request, provider, Path(folder) / "profile", running) as session:
            call = session.bind(request.inputs)
            call()
            end, calls = time.perf_counter() + PROFILED_SECONDS, 1
            while calls <= PROFILED_CALLS or (time.perf_counter() < end and calls < 200):
                call()
                calls += 1
            runs = read_profile(Path(session.end_profiling()))[1:]
            graph = None if running is None else onnx.load(running, load_external_data=False).graph
            owners = Owners(onnx.load_from_string(unit.model).graph, graph, session.assigned)
    rows = np.array([divide(run, owners, estimates) for run in runs], np.float64).reshape(len(runs), -1)
    quick = np.quantile(rows, QUANTILE, axis=0)
    whole = float(quick.sum())
    return [float(part) / whole for part in quick] if whole else [1 / max(len(quick), 1)] * len(quick)


def _session(
    request: MeasureRequest, provider: Provider, profile: Path | None = None, running: Path | None = None
) -> Session:
    unit: OnnxUnit = request.unit
    return open_session(
        unit.model, weights_of(unit), provider, threads=request.threads, profile=profile, optimized=running
    )


def _totals(requests: Sequence[MeasureRequest], provider: Provider, seconds: float) -> list[Timing]:
    """Seconds of a call of each request, called in turns."""
    found: dict[int, Timing] = {}
    anchor: float | None = None
    for group in _groups(requests):
        share = seconds * len(group) / len(requests)
        samples = _turns([requests[i] for i in group], provider, share)
        timings = [undisturbed(np.array(times, np.float64)) for times in samples]
        # The first request is in every group: what the machine did better or worse in between shows in it.
        scale = 1.0 if anchor is None or not timings[0].seconds else anchor / timings[0].seconds
        anchor = timings[0].seconds if anchor is None else anchor
        for i, timing in zip(group, timings, strict=True):
            found.setdefault(i, Timing(timing.seconds * scale, timing.spread * scale))
    return [found[i] for i in range(len(requests))]


def _groups(requests: Sequence[MeasureRequest]) -> list[list[int]]:
    """Requests whose models are in memory together; the first one is in every group."""
    groups = [[0]]
    for i in range(1, len(requests)):
        together = {id(requests[j].unit): int(requests[j].unit.description["weights_bytes"]) for j in (*groups[-1], i)}
        if len(groups[-1]) > 1 and sum(together.values()) > MEMORY:
            groups.append([0])
        groups[-1].append(i)
    return groups


def _turns(requests: Sequence[MeasureRequest], provider: Provider, seconds: float) -> list[list[float]]:
    """Seconds of the calls of each request."""
    with ExitStack() as stack:
        sessions: dict[int, Session] = {}  # a model that is timed at several points of a workload is one session
        for request in requests:
            if id(request.unit) not in sessions:
                sessions[id(request.unit)] = stack.enter_context(_session(request, provider))
        calls = [sessions[id(r.unit)].bind(r.inputs) for r in requests]
        samples: list[list[float]] = [[] for _ in calls]
        lengths = []
        for call in calls:
            call()
            start = time.perf_counter()
            call()
            lengths.append(time.perf_counter() - start)
        end, rounds = time.perf_counter() + seconds, 0
        while rounds < LEAST_ROUNDS or (time.perf_counter() < end and not all(map(_settled, samples))):
            rounds += 1
            for call, length, into in zip(calls, lengths, samples, strict=True):
                if length < LONG_CALL:
                    call()  # brings its weights back to where they are when it runs again and again
                for _ in range(TURN if length < LONG_CALL else 1):
                    start = time.perf_counter()
                    call()
                    into.append(time.perf_counter() - start)
        return samples


def _settled(times: Sequence[float]) -> bool:
    timing = undisturbed(np.array(times))
    return len(times) >= 5 * TURN and timing.spread <= SETTLED * timing.seconds
