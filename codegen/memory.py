"""Memory of a program: live ranges, the plan of the arena, the places of the weights.

The arena is planned at run time by the generated program, once per symbol signature (``templates/cpu/program.cpp.j2``);
:func:`plan_arena` is its twin in Python, for reports, and a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.deferred import Constant
from ..compiler.dims import evaluate
from .program import Program

#: Every buffer starts on a cache line.
ALIGNMENT = 64
#: Loads and stores whose addresses agree in their low 12 bits wait for each other.
PAGE = 4096
#: How far a start is moved to get out of such an agreement, and how often at most.
STAGGER, TURNS = 256, 15


@dataclass(frozen=True)
class ArenaPlan:
    """Where the buffers lie.

    Attributes:
        bytes: size of the arena.
        offsets: byte offset per buffer of the program, -1 for a buffer outside the arena.
        live: the most bytes that are alive during one launch, a lower bound of ``bytes``.
    """

    bytes: int
    offsets: tuple[int, ...]
    live: int


def live_ranges(program: Program) -> list[tuple[int, int]]:
    """First and last launch that touches each buffer, inclusive; ``(0, -1)`` for a buffer that none touches."""
    ranges = [(0, -1)] * len(program.buffers)
    for number, launch in enumerate(program.launches):
        touched = {ref.buffer for ref in launch.pointers if ref.buffer is not None}
        if launch.scratch is not None:
            touched.add(launch.scratch)
        for buffer in touched:
            first, last = ranges[buffer]
            ranges[buffer] = (number if last < first else first, number)
    return ranges


def buffer_bytes(program: Program, env: Mapping[str, int], workers: int) -> list[int | None]:
    """Bytes that each buffer takes in the arena (rounded to a cache line, scratch times workers); None outside it."""
    sizes: list[int | None] = []
    for buffer in program.buffers:
        if buffer.kind not in ("arena", "scratch"):
            sizes.append(None)
            continue
        rounded = -(-max(evaluate(buffer.bytes, env), 0) // ALIGNMENT) * ALIGNMENT
        sizes.append(rounded * workers if buffer.kind == "scratch" else rounded)
    return sizes


def plan_arena(program: Program, env: Mapping[str, int], workers: int = 1) -> ArenaPlan:
    """Plan the arena for given symbols: greedy by size, best fit, staggered within the 4 KB page.

    The method is "greedy by size" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020.

    Args:
        program: the program.
        env: value of every symbol.
        workers: threads of the call.
    """
    ranges = live_ranges(program)
    sizes = buffer_bytes(program, env, workers)
    return place([(first, last, size) for (first, last), size in zip(ranges, sizes, strict=True)])


def place(buffers: Sequence[tuple[int, int, int | None]]) -> ArenaPlan:
    """Place buffers given as (first launch, last launch, bytes or None); bytes are multiples of a cache line."""
    offsets = [-1] * len(buffers)
    sizes = {b: size for b, (_, _, size) in enumerate(buffers) if size is not None}
    placed: list[int] = []  # by offset
    total = 0
    for b in sorted(sizes, key=lambda b: -sizes[b]):
        first, last, _ = buffers[b]
        size = sizes[b]
        meets = [o for o in placed if buffers[o][1] >= first and buffers[o][0] <= last]
        taken = {offsets[o] % PAGE for o in meets if sizes[o] >= PAGE} if size >= PAGE else set()
        best, best_gap, end = -1, None, 0
        for other in [*meets, None]:
            start, turn = end, 0
            while start % PAGE in taken and turn < TURNS:
                start, turn = start + STAGGER, turn + 1
            gap = None if other is None else offsets[other] - end
            if gap is None:  # after everything: always fits, taken only where nothing else does
                if best_gap is None:
                    best = start
            elif start - end + size <= gap and (best_gap is None or gap < best_gap):
                best, best_gap = start, gap
            if other is not None:
                end = max(end, offsets[other] + sizes[other])
        offsets[b] = best
        total = max(total, best + size)
        at = len(placed)
        while at > 0 and offsets[placed[at - 1]] > best:
            at -= 1
        placed.insert(at, b)
    return ArenaPlan(total, tuple(offsets), _peak(buffers))


def _peak(buffers: Sequence[tuple[int, int, int | None]]) -> int:
    end = max((last for _, last, _ in buffers), default=-1)
    alive = [0] * (end + 2)
    for first, last, size in buffers:
        if size is not None and last >= first:
            alive[first] += size
            alive[last + 1] -= size
    return int(np.cumsum(alive).max(initial=0))


def place_weights(arrays: Sequence[Constant]) -> list[int]:
    """Byte offset of each array when they stand in order, each at the start of a cache line."""
    offsets, end = [], 0
    for array in arrays:
        offsets.append(end)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets


def weight_bytes(program: Program) -> int:
    """How many bytes of weights.bin the program reads, counted from its first weight, a multiple of a cache line."""
    end = 0
    for buffer in program.buffers:
        if buffer.kind == "weight":
            end = max(end, buffer.offset + evaluate(buffer.bytes, {}))
    return -(-end // ALIGNMENT) * ALIGNMENT
