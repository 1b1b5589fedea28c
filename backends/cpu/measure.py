"""Timing the kernels that would ship, inside the programs they ship in: the cost that a search of precisions minimises.

Several programs (one for each uniform precision, say) take turns on cores that are theirs as far as the system lets them,
so that they share the machine's good and bad moments. A turn begins with a call that does not count: it brings the
program's weights back to where they are when it runs again and again, as its user will run it.

The figure is the lower quintile of the calls and not their median: what disturbs a call makes it longer and never shorter, and
on a machine where other programs take turns with this one every second launch may be interrupted.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from ...codegen.memory import weight_bytes
from ...codegen.program import Program
from ...codegen.specs import digest
from ...compiler.dims import evaluate
from ...compiler.errors import UsageError
from ...compiler.profile import phase
from ...compiler.target import LaunchCost, MeasureRequest, Target
from . import isa
from .peaks import peaks
from .running import Running, Weights, solve_symbols
from .timings import Timing, Timings, timing_key

#: Calls that count in one turn of a program.
TURN = 3
#: A call longer than this has more to read than the caches hold: a turn is one call, and all calls count.
LONG_CALL = 0.1
#: Rounds at least, whatever the time, and the standard error of a program's seconds (relative) at which it is enough.
LEAST_ROUNDS, SETTLED = 5, 0.002
#: The quantile that counts.
QUANTILE = 0.2
#: Weights in memory at a time, unless two programs alone need more.
MEMORY = 512 << 20


def measure(
    requests: Sequence[MeasureRequest], target: Target, *, fresh: bool = False, seconds: float = 8.0
) -> list[list[LaunchCost]]:
    """Seconds of every launch of every request; arguments and errors as :meth:`~planish.compiler.target.Backend.measure`."""
    if missing := isa.missing_flags(target.level):
        raise UsageError(
            f"{target} cannot be timed here: this CPU lacks {', '.join(missing)}",
            f"search on a machine that has it, or for cpu:{isa.detect()}",
        )
    symbols = [solve_symbols(r.unit, r.inputs, r.dims) for r in requests]
    keys = [
        [timing_key(launch, env, r.threads, r.unit.isa) for launch in r.unit.launches]
        for r, env in zip(requests, symbols, strict=True)
    ]
    store = Timings()
    wanted = {key for row in keys for key in row}
    known = {} if fresh else store.get(sorted(wanted))
    if not wanted <= set(known):
        with phase("time kernels", f"{len(requests)} programs"):
            known = _timed(requests, keys, seconds)
        store.put(known)
    return [_costs(r, env, [known[key] for key in row]) for r, env, row in zip(requests, symbols, keys, strict=True)]


def _costs(request: MeasureRequest, symbols: Mapping[str, int], timings: Sequence[Timing]) -> list[LaunchCost]:
    program: Program = request.unit
    best = peaks(program.isa, request.threads)
    found = []
    for launch, timing, weights in zip(program.launches, timings, launch_weights(program), strict=True):
        flops, moved = evaluate(launch.flops, symbols), evaluate(launch.bytes, symbols)
        found.append(
            LaunchCost(
                launch.label, digest(launch.spec), tuple(launch.sources), timing.seconds, moved, flops, weights,
                timing.spread, launch.precision, best.seconds(flops, moved, launch.precision), tuple(launch.anchor),
            )
        )  # fmt: skip
    return found


def launch_weights(program: Program) -> list[int]:
    """Bytes of packed weights that each launch reads. A weight that several read is divided among them; the sum is exact."""
    readers: dict[int, list[int]] = defaultdict(list)
    for number, launch in enumerate(program.launches):
        for buffer in {ref.buffer for ref in launch.pointers if ref.buffer is not None}:
            if program.buffers[buffer].kind == "weight":
                readers[buffer].append(number)
    found = [0] * len(program.launches)
    for buffer, numbers in readers.items():
        size, left = divmod(evaluate(program.buffers[buffer].bytes, {}), len(numbers))
        for position, number in enumerate(numbers):
            found[number] += size + (position < left)
    return found


# -- running -----------------------------------------------------------------------------------------------------------
def _timed(requests: Sequence[MeasureRequest], keys: Sequence[Sequence[str]], seconds: float) -> dict[str, Timing]:
    """Run the requests; one figure for each key: the mean over its launches, wherever they stand."""
    found: dict[str, list[Timing]] = defaultdict(list)
    for threads in dict.fromkeys(r.threads for r in requests):
        chosen = [i for i, r in enumerate(requests) if r.threads == threads]
        anchor: float | None = None
        for group in _groups([requests[i].unit for i in chosen], MEMORY):
            members = [chosen[i] for i in group]
            # A thread of its own: the caller's stays on whatever cores it has.
            with ThreadPoolExecutor(1, initializer=pin, initargs=(threads,)) as worker:
                share = seconds * len(members) / len(requests)
                samples = worker.submit(_run, [requests[i] for i in members], share).result()
            # The first program is in every group: what the machine did better or worse in between shows in it.
            total = undisturbed(samples[0].sum(axis=1)).seconds
            scale = 1.0 if anchor is None or not total else anchor / total
            new = list(zip(members, samples, strict=True))[0 if anchor is None else 1 :]
            anchor = total if anchor is None else anchor
            for i, rows in new:
                for key, column in zip(keys[i], rows.T, strict=True):
                    found[key].append(undisturbed(column * scale))
    return {
        key: Timing(
            float(np.mean([t.seconds for t in all])), float(np.hypot.reduce([t.spread for t in all])) / len(all)
        )
        for key, all in found.items()
    }


def _groups(programs: Sequence[Program], memory: int) -> Iterator[list[int]]:
    """Programs that are in memory together; the first one is in every group."""
    group = [0]
    for i in range(1, len(programs)):
        together = {id(programs[j]): weight_bytes(programs[j]) for j in (*group, i)}
        if len(group) > 1 and sum(together.values()) > memory:
            yield group
            group = [0]
        group.append(i)
    yield group


def pin(threads: int) -> None:
    """Keep this thread on the last cores that it may use: the first ones get most interrupts."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) >= threads:
        os.sched_setaffinity(0, allowed[-threads:])


def _run(requests: Sequence[MeasureRequest], seconds: float) -> list[np.ndarray]:
    """Seconds by call and launch, f64 [calls, launches] for each request."""
    with ExitStack() as stack:
        # A program that is timed at several points of a workload is one set of weights.
        weights = {id(r.unit): r.unit for r in requests}
        placed = {key: stack.enter_context(Weights(unit)) for key, unit in weights.items()}
        programs = [
            stack.enter_context(Running(r.unit, r.binary, r.inputs, r.dims, r.threads, placed[id(r.unit)]))
            for r in requests
        ]
        calls = [sum(program.time()) for program in programs]
        samples: list[list[list[float]]] = [[] for _ in programs]
        end, rounds = time.perf_counter() + seconds, 0
        while rounds < LEAST_ROUNDS or (time.perf_counter() < end and not all(map(_settled, samples))):
            rounds += 1
            for program, call, into in zip(programs, calls, samples, strict=True):
                if call < LONG_CALL:
                    program.run()
                into.extend(program.time() for _ in range(TURN if call < LONG_CALL else 1))
        return [np.array(rows, np.float64).reshape(len(rows), -1) for rows in samples]


def _settled(rows: Sequence[Sequence[float]]) -> bool:
    total = undisturbed(np.array([sum(row) for row in rows]))
    return len(rows) >= 5 * TURN and total.spread <= SETTLED * total.seconds


def undisturbed(values: np.ndarray) -> Timing:
    """The lower quintile and its standard error, sqrt(q (1 - q) / n) / density (Stuart and Ord, "Kendall's Advanced Theory of
    Statistics", 10.10), with the density of a normal distribution that has the same deciles on both sides of it."""
    low, middle, high = np.quantile(values, (QUANTILE - 0.1, QUANTILE, QUANTILE + 0.1))
    deviation = (high - low) / 0.7572  # of a normal distribution: 0.7572 deviations from its first decile to its third
    return Timing(float(middle), float(1.4288 * deviation / np.sqrt(len(values))))  # 0.4 / 0.27996
