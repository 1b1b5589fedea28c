"""Units, costs and losses as tests of the solver write them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from planish.search.cost import CostTable
from planish.search.knapsack import Problem

PRECISIONS = ("f32", "bf16", "w8a8-dynamic", "w8a8", "w8a16", "w4a16", "w4a16-g64", "w4a16-g32", "w4a8", "w4a8-g64",
              "w4a8-g32", "fp8")  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What the solver has to know of a unit."""

    name: str
    candidates: tuple[str, ...] = ("f32", "w8a8", "w4a8")
    parameters: int = 1000
    sources: tuple[str, ...] = ()


def parts(count: int, candidates: tuple[str, ...] = ("f32", "w8a8", "w4a8")) -> list[Part]:
    return [Part(f"u{i}", candidates, 1000, (f"u{i}",)) for i in range(count)]


def random_model(
    seed: int, count: int, candidates: tuple[str, ...] = PRECISIONS, terms: int = 1
) -> tuple[list[Part], CostTable, dict[tuple[str, str], dict[str, float]]]:
    """Units with random costs and losses; float costs most and loses nothing."""
    rng = np.random.default_rng(seed)
    units = parts(count, candidates)
    seconds, size, losses = {}, {}, {}
    for unit in units:
        for number, precision in enumerate(unit.candidates):
            key = (unit.name, precision)
            seconds[key] = 1e-3 * (1.2 if number == 0 else float(rng.uniform(0.1, 1.0)))
            size[key] = 4000.0 if number == 0 else float(rng.choice([500, 1000, 2000]))
            losses[key] = {f"t{t}": 0.0 if number == 0 else float(10 ** rng.uniform(-6, -3)) for t in range(terms)}
    return units, CostTable.of(seconds, size, fixed_seconds=1e-3), losses


def random_problem(seed: int, groups: int, options: int, rows: int, pairs: int) -> Problem:
    """Small whole numbers, so that sums meet limits exactly and options tie."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, options + 1, groups)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    members = [np.arange(a, b) for a, b in pairwise(bounds)]
    count, owner = int(bounds[-1]), np.repeat(np.arange(groups), sizes)
    both = [(a, b) for a in range(count) for b in range(a + 1, count) if owner[a] != owner[b]]
    chosen = [both[i] for i in rng.permutation(len(both))[:pairs]]
    return Problem(
        members, rng.integers(0, 12, count).astype(float), rng.integers(-1, 8, (rows, count)).astype(float),
        rng.integers(0, 4 * groups, rows).astype(float), np.array(chosen, np.int64).reshape(-1, 2),
        rng.integers(-4, 5, len(chosen)).astype(float), rng.integers(-3, 4, (rows, len(chosen))).astype(float),
    )  # fmt: skip
