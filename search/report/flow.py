"""The compiled model as it runs, told layer by layer: kernels in order, equal blocks of a stack drawn once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...compiler.quantities import seconds

_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")
#: Kernels that compute a decision unit; others are named by the first op they hold.
_ANCHORS = ("linear", "conv", "attention", "matmul", "embedding")


@dataclass
class Step:
    """A kernel; in a stack, the same kernel of every block.

    Attributes:
        name: the layer, without the part that the stack shares.
        ops: what runs in it, in order; that of most blocks.
        cells: (number of the block, precision, tip).
        time: seconds of them all in words, empty where nothing was measured.
    """

    name: str
    ops: tuple[str, ...]
    cells: list[tuple[str, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def time(self) -> str:
        return seconds(self.seconds) if self.seconds else ""


@dataclass
class Block:
    """Steps in order; ``name`` is the module whose numbered children they are, empty for a part that does not repeat."""

    name: str
    steps: list[Step] = field(default_factory=list)

    @property
    def numbers(self) -> list[str]:
        """The blocks of the stack, in order."""
        return list(dict.fromkeys(number for step in self.steps for number, _, _ in step.cells if number))

    @property
    def title(self) -> str:
        found = self.numbers
        if not found:
            return ""
        whole = [str(n) for n in range(int(found[0]), int(found[-1]) + 1)] == found
        return f"{self.name}.{found[0]}..{found[-1]}" if whole and len(found) > 1 else f"{self.name}.{','.join(found)}"


def flow(launches: Sequence[Mapping[str, Any]], units: Mapping[str, str]) -> list[Block]:
    """The blocks of a model.

    Args:
        launches: in order, each with ``label``, ``sources``, ``precision`` and perhaps ``seconds``.
        units: source name -> name of its decision unit.
    """
    blocks: list[Block] = []
    steps: dict[tuple[int, str, str], Step] = {}
    for launch in launches:
        name = launch_name(launch, units)
        prefix, number, rest = _split(name)
        if not blocks or blocks[-1].name != prefix or (not prefix and blocks[-1].name):
            blocks.append(Block(prefix))
        ops = tuple(str(launch["label"]).split("+"))
        key = (len(blocks), rest, main_op(ops))
        step = steps.get(key)
        if step is None or not prefix or any(number == n for n, _, _ in step.cells):
            step = Step(rest or (main_op(ops) if prefix else name), ops)
            steps[key] = step
            blocks[-1].steps.append(step)
        time = launch.get("seconds")
        tip = f"{name}: {launch['precision']}" + (f", {seconds(time)}" if time else "") + f" ({', '.join(ops)})"
        step.cells.append((number, str(launch["precision"]), tip))
        step.seconds += float(time or 0.0)
    return blocks


def launch_name(launch: Mapping[str, Any], units: Mapping[str, str]) -> str:
    """The layer a launch is filed under: the first unit it computes, else the first op in it."""
    sources = [str(s) for s in launch.get("sources") or ()]
    if any(word in str(launch["label"]) for word in _ANCHORS):
        for source in sources:
            if source in units:
                return units[source]
    return sources[0] if sources else str(launch["label"])


def _split(name: str) -> tuple[str, str, str]:
    """``encoder.layer.3.output`` as its stack, number and the rest; the stack is empty for a name without a number."""
    found = _NUMBER.search(name)
    if found is None:
        return "", "", name
    return name[: found.start()], found[1], name[found.end() :].lstrip(".")


def main_op(ops: Sequence[str]) -> str:
    """The op that a kernel is built around: the first that computes a unit, else the first."""
    return next((op for op in ops if any(word in op for word in _ANCHORS)), ops[0])
