"""The instruction set levels of the CPU target: what each needs of the CPU and which compiler flags produce it.

The list is closed and every level implies the ones before it, so a level is a number of *pieces* taken from the front.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...codegen.specs import ISA_LEVELS
from ...compiler.errors import UsageError


@dataclass(frozen=True)
class Level:
    """One ISA level.

    Attributes:
        name: a member of :data:`~planish.codegen.specs.ISA_LEVELS`.
        machine: the architecture that generated code runs on; ``any`` for portable.
        cpu_flags: what ``/proc/cpuinfo`` must list, as the kernel spells it. Goes into the manifest.
        compiler_flags: what g++ and clang take alike.
        lanes: float32 lanes of one vector.
    """

    name: str
    machine: str
    cpu_flags: tuple[str, ...]
    compiler_flags: tuple[str, ...]
    lanes: int


_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2")
_VNNI = (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni")
_BF16 = (*_VNNI, "avx512_bf16")


def _machine_flags(cpu_flags: tuple[str, ...]) -> tuple[str, ...]:
    spelled = {"bmi1": "bmi", "avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16"}
    flags = tuple(f"-m{spelled.get(flag, flag)}" for flag in cpu_flags)
    return (*flags, "-mprefer-vector-width=512") if "avx512f" in cpu_flags else flags


_LEVELS = {
    "portable": Level("portable", "any", (), (), 4),
    "avx2": Level("avx2", "x86_64", _AVX2, _machine_flags(_AVX2), 8),
    "avx512-vnni": Level("avx512-vnni", "x86_64", _VNNI, _machine_flags(_VNNI), 16),
    "avx512-bf16": Level("avx512-bf16", "x86_64", _BF16, _machine_flags(_BF16), 16),
}

#: Flags of every level. No contraction: a fused multiply-add happens exactly where the source says so, which keeps the
#: operation order of epilogues fixed. No errno and no traps: without them sqrt is one instruction and selects vectorise;
#: NaN and infinity keep their meaning.
COMMON_FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-Wno-psabi",
)


def level(name: str) -> Level:
    """The level called ``name``.

    Raises:
        UsageError: there is no such level.
    """
    if name not in _LEVELS:
        raise UsageError(f"there is no ISA level '{name}'", f"the levels are {', '.join(ISA_LEVELS)}")
    return _LEVELS[name]


def compiler_flags(name: str) -> list[str]:
    """The flags with which both g++ and clang++ compile a unit for the level ``name``."""
    return [*COMMON_FLAGS, *level(name).compiler_flags]


@cache
def cpu_flags() -> frozenset[str]:
    """The features that this CPU lists in ``/proc/cpuinfo``; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def missing_flags(name: str) -> list[str]:
    """The features that the level ``name`` needs and this CPU lacks."""
    wanted = level(name)
    if wanted.machine not in ("any", platform.machine()):
        return [wanted.machine]
    have = cpu_flags()
    return [flag for flag in wanted.cpu_flags if flag not in have]


def available() -> list[str]:
    """The levels this CPU can run, lowest first."""
    return [name for name in ISA_LEVELS if not missing_flags(name)]


def detect() -> str:
    """The highest level this CPU can run."""
    return available()[-1]
