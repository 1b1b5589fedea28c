"""What a report says of a compiled model: which parts run as kernels of their own, and why; equal findings share a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .graph import Graph
from .pass_protocol import Note

#: ``kernel``: ops that run apart from their neighbours; ``copy``: data that is only moved; ``rule``: something that nearly was
#: what a pass looks for; in the order in which they are told.
Kind = Literal["kernel", "copy", "rule"]
KINDS: tuple[Kind, ...] = ("kernel", "copy", "rule")

_NUMBER = re.compile(r"\.\d+(?=\.|$)")


@dataclass(frozen=True)
class Unfused:
    """One finding.

    Attributes:
        kind: see ``KINDS``.
        what: the ops, as a launch is labelled, or the pass.
        reason: why, in a few words that are the same wherever the reason is the same.
        source: the source node it is about, a path of modules; empty if none is known.
        location: its line in the model, ``file:line``.
    """

    kind: Kind
    what: str
    reason: str
    source: str = ""
    location: str | None = None


@dataclass(frozen=True)
class Launches:
    """How many kernels a model is run by.

    Attributes:
        ops: ops of the graph that compute something (views and constants do not).
        launches: kernel calls, copies included.
        fused: launches that run several ops.
        apart: launches that could not join a neighbour.
        copies: launches that only move data.
    """

    ops: int
    launches: int
    fused: int
    apart: int
    copies: int

    def as_dict(self) -> dict[str, int]:
        """The same as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True)
class Group:
    """Findings that differ in nothing but the place: how many, and where, in the order of the graph."""

    kind: Kind
    what: str
    reason: str
    count: int
    where: tuple[str, ...]
    location: str | None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-able data."""
        return {**asdict(self), "where": list(self.where)}


def grouped(findings: Iterable[Unfused]) -> list[Group]:
    """Equal findings as one group each, kernels first; the line of the model is that of the first."""
    groups: dict[tuple[Kind, str, str], list[Unfused]] = {}
    for f in findings:
        groups.setdefault((f.kind, f.what, f.reason), []).append(f)
    made = [
        Group(kind, what, reason, len(same), globbed(f.source for f in same), same[0].location)
        for (kind, what, reason), same in groups.items()
    ]
    return sorted(made, key=lambda g: KINDS.index(g.kind))


def near_misses(notes: Iterable[Note]) -> list[Unfused]:
    """What passes looked for and nearly found, from their notes."""
    return [
        Unfused("rule", n.by, n.text if n.node else _NUMBER.sub(".*", n.text), n.node)
        for n in notes
        if n.kind == "miss"
    ]


def globbed(names: Iterable[str]) -> tuple[str, ...]:
    """Names with the numbers of equal blocks put together: ``layer.0.a``, ``layer.1.a`` are ``layer.0..1.a``."""
    shapes: dict[str, list[str]] = {}
    for name in names:
        if name:
            shapes.setdefault(_NUMBER.sub(".*", name), []).append(name)
    return tuple(with_ranges(shape, same) for shape, same in shapes.items())


def op_counts(graph: Graph) -> dict[str, int]:
    """How often each op stands in ``graph``, the regions of fused nodes taken apart; constants are not counted."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "constant":
            continue
        inner = [op_counts(region) for region in node.regions] or [{node.op: 1}]
        for counts in inner:
            for op, count in counts.items():
                found[op] = found.get(op, 0) + count
    return found


def shape_of(name: str) -> str:
    """``name`` with a star in the place of each number of a block."""
    return _NUMBER.sub(".*", name)


def with_ranges(shape: str, names: Sequence[str]) -> str:
    """``layer.*.dense`` with the numbers it stands for, ``layer.0..5.dense``; the star stays where there are several."""
    numbers = [_NUMBER.findall(name) for name in names]
    if any(len(n) != 1 for n in numbers):
        return shape if any(numbers) and len(set(names)) > 1 else names[0]
    values = sorted({int(n[0].strip(".")) for n in numbers})
    if values == list(range(values[0], values[-1] + 1)):
        return shape.replace(".*", f".{values[0]}" if len(values) == 1 else f".{values[0]}..{values[-1]}")
    return shape
