"""Whose the time of a running node is: seconds that ONNX Runtime's profiler measured, divided among the launches of a unit.

A launch is a node of planish's graph that computes something; lowering wrote its number into the ONNX nodes that it became. A
running node may stand for several of them: a fused operator, or the whole subgraph that a compiling provider took. Its seconds
are divided by what each would take at least (the roofline model) at a common balance of arithmetic and memory, which is an
estimate; where a running node stands for one launch, nothing is estimated.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import onnx

from ...runtime.onnx_session import Assigned
from .assignment import Origins

#: Key of a node's metadata: number of the launch that it belongs to.
LAUNCH = "planish.launch"
#: Operations that take as long as moving a byte, about what CPUs and GPUs have in common.
BALANCE = 16.0
_EVENT = "_kernel_time"


@dataclass(frozen=True)
class Event:
    """One run of one node, as the profiler saw it."""

    name: str
    op: str
    provider: str
    seconds: float


def read_profile(path: Path) -> list[list[Event]]:
    """The events of a profile, run by run.

    Raises:
        ValueError: the file is no profile.
    """
    runs: list[list[Event]] = []
    current: list[Event] = []
    for entry in json.loads(path.read_text()):
        kind, name = entry.get("cat"), str(entry.get("name", ""))
        if kind == "Node" and name.endswith(_EVENT):
            args = entry["args"]
            current.append(
                Event(
                    name.removesuffix(_EVENT),
                    str(args.get("op_name", "")),
                    str(args.get("provider", "")),
                    entry["dur"] * 1e-6,
                )
            )
        elif kind == "Session" and name == "model_run":
            runs.append(current)
            current = []
    return runs


class Owners:
    """Finds the launches that running nodes belong to.

    Args:
        exported: the model as it was lowered.
        running: the graph that runs, where ONNX Runtime tells; else None.
        assigned: which provider took which node.
    """

    def __init__(
        self, exported: onnx.GraphProto, running: onnx.GraphProto | None, assigned: Sequence[Assigned]
    ) -> None:
        self._origins = Origins(exported)
        self._launch = _launches(exported)
        self._own = {node.name for node in exported.node if _number(node) is not None}
        self._running = {} if running is None else {node.name: node for node in running.node}
        self._made = {name for node in self._running.values() for name in node.output if name}
        self.top_level: Set[str] | None = None if running is None else set(self._running)
        self._groups: dict[str, list[list[str]]] = defaultdict(list)
        grouped: dict[tuple[str, int], list[str]] = defaultdict(list)
        for entry in assigned:
            grouped[entry.provider, entry.group].append(entry.name)
        for (provider, _), names in grouped.items():
            self._groups[provider].append(names)

    def of(self, event: Event, compiled: Sequence[str]) -> list[int]:
        """The launches that a running node stands for; empty if that cannot be told.

        Args:
            event: a run of it.
            compiled: names of the nodes that are compiled subgraphs of its provider, in the order they first ran.
        """
        node = self._running.get(event.name)
        names: Iterable[str] = ()
        if node is not None:
            names = self._origins.between(node.output, self._made - set(node.output))
        if not names and (name := self._origins.by_name(event.name)):
            names = [name]
        if not names and event.name in compiled:
            groups = self._groups[event.provider]
            if len(groups) != len(compiled):
                groups = [[name for group in groups for name in group]] * len(compiled)
            found = [self._origins.by_name(name) for name in groups[list(compiled).index(event.name)]]
            names = [name for name in found if name]
        own = [name for name in names if name in self._own]
        return sorted({self._launch[name] for name in own or names if name in self._launch})

    def compiled(self, run: Sequence[Event]) -> dict[str, list[str]]:
        """Provider -> names of its nodes that are compiled subgraphs, in order: those that no exported node is called like."""
        found: dict[str, list[str]] = defaultdict(list)
        for event in run:
            known = event.name in self._running or self._origins.by_name(event.name) is not None
            if not known and event.name not in found[event.provider]:
                found[event.provider].append(event.name)
        return found


def divide(run: Sequence[Event], owners: Owners, estimates: Sequence[float]) -> list[float]:
    """Seconds of each launch in one run; what belongs to none is divided among all in proportion.

    Args:
        run: the events.
        owners: of the running nodes.
        estimates: of each launch, on any scale: how the time of what several launches share is divided.
    """
    found = [0.0] * len(estimates)
    compiled = owners.compiled(run)
    left = 0.0
    for event in run:
        if owners.top_level is not None and event.name not in owners.top_level:
            continue  # a node in the body of a loop, whose time is the loop's as well
        numbers = owners.of(event, compiled.get(event.provider, ()))
        if not numbers:
            left += event.seconds
            continue
        whole = sum(estimates[n] for n in numbers)
        for n in numbers:
            found[n] += event.seconds * (estimates[n] / whole if whole else 1 / len(numbers))
    total = sum(found)
    return [seconds + left * (seconds / total if total else 1 / len(found)) for seconds in found]


def estimate(flops: float, moved: float) -> float:
    """How long a launch takes at least, in bytes moved (Williams, Waterman, Patterson, "Roofline", CACM 2009)."""
    return max(flops / BALANCE, moved)


def launch_weights(model: onnx.GraphProto, index: Sequence[Mapping[str, object]], launches: int) -> list[int]:
    """Bytes of external weights that each launch reads. A weight that several read is divided among them; what nobody reads
    is nobody's."""
    number = _launches(model)
    readers: dict[str, set[int]] = defaultdict(set)
    for node in model.node:
        for name in node.input:
            if node.name in number:
                readers[name].add(number[node.name])
    found = [0] * launches
    for entry in index:
        own = sorted(readers.get(str(entry["name"]), ()))
        if own:
            size, left = divmod(int(str(entry["bytes"])), len(own))
            for position, n in enumerate(own):
                found[n] += size + (position < left)
    return found


def _number(node: onnx.NodeProto) -> int | None:
    return next((int(entry.value) for entry in node.metadata_props if entry.key == LAUNCH), None)


def _launches(graph: onnx.GraphProto) -> dict[str, int]:
    """Launch of every node: its own, else that of the first node that reads its result, else of what it reads."""
    found = {node.name: n for node in graph.node if (n := _number(node)) is not None}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    maker = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for node in reversed(graph.node):  # readers come later
        if node.name not in found:
            near = [found[r.name] for name in node.output for r in readers[name] if r.name in found]
            if near:
                found[node.name] = min(near)
    for node in graph.node:
        if node.name not in found:
            near = [found[maker[name].name] for name in node.input if name in maker and maker[name].name in found]
            if near:
                found[node.name] = max(near)
    return found
