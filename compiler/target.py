"""What is compiled for: the target, what it can do, and the protocol a backend keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .errors import UsageError
from .graph import Graph, Node
from .options import nearest
from .pass_protocol import Pass
from .report import Launches, Unfused

if TYPE_CHECKING:
    from .artifact.parts import UnitPart

#: Backends that planish brings along, each the package ``planish.backends.<name>`` with an attribute ``BACKEND``.
BUILT_IN = ("cpu", "onnx")
#: Entry points of backends that other packages bring.
ENTRY_POINTS = "planish.backends"


@dataclass(frozen=True)
class Target:
    """A backend and a level of it, as ``cpu:avx2``.

    Attributes:
        backend: name of the backend.
        level: one of the backend's levels; empty means this machine, until :func:`find_target` has filled it in.
    """

    backend: str
    level: str = ""

    @staticmethod
    def parse(text: str) -> Target:
        """Read ``cpu`` or ``cpu:avx2``; the names are not looked up (see :func:`find_target`).

        Raises:
            UsageError: the text is no target.
        """
        backend, colon, level = text.strip().partition(":")
        if not backend or (colon and not level) or ":" in level:
            raise UsageError(f"{text!r} is no target", "for example cpu or cpu:avx2")
        return Target(backend, level)

    def __str__(self) -> str:
        return f"{self.backend}:{self.level}" if self.level else self.backend

    def capabilities(self) -> Capabilities:
        """What the target can do, as its backend says.

        Raises:
            UsageError: there is no such backend or level.
        """
        return backend(self.backend).capabilities(self)


@dataclass(frozen=True)
class Capabilities:
    """What a target can do.

    Attributes:
        precisions: anchor op (``linear``, ``attention``, ...) -> the named precisions it has kernels for, best known
            first; ``rest`` stands for every op not named.
        features: instruction sets and the like, for reports.
        layouts: named storage blockings, by anchor op.
    """

    precisions: Mapping[str, tuple[str, ...]]
    features: tuple[str, ...] = ()
    layouts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, op: str) -> tuple[str, ...]:
        """The precisions there are for ``op``."""
        return self.precisions.get(op, self.precisions.get("rest", ("f32",)))


@dataclass(frozen=True)
class MeasureRequest:
    """A program that is to be timed at one point of a workload.

    Attributes:
        unit: as ``lower`` gave it.
        binary: as ``build`` gave it.
        inputs: an array for each input of the program, by name; bf16 as ``uint16``.
        dims: value of every symbol that the shapes of the inputs do not tell.
        threads: how many threads a call may use.
    """

    unit: Any
    binary: bytes
    inputs: Mapping[str, np.ndarray]
    dims: Mapping[str, int] = field(default_factory=dict)
    threads: int = 1


@dataclass(frozen=True)
class LaunchCost:
    """What one launch of a program costs on this machine.

    Attributes:
        label: its name in reports.
        kernel: digest of the kernel's spec.
        sources: modules of the source model that it stands for.
        seconds: of a call that nothing disturbs; launches of one kernel at equal sizes share their figure.
        bytes: bytes it has to move at least.
        flops: operations it does.
        weights: bytes of packed weights that it reads; what several launches read is divided among them, so that the sum
            over a program is what its weights take in the artifact.
        spread: standard error of ``seconds``.
        precision: what it computes in.
        limit: the least seconds for its operations and bytes at the measured peaks of this machine.
        anchor: of ``sources``, those of the op that the kernel is built around; the rest are fused into it.
    """

    label: str
    kernel: str
    sources: tuple[str, ...]
    seconds: float
    bytes: int = 0
    flops: int = 0
    weights: int = 0
    spread: float = 0.0
    precision: str = "f32"
    limit: float = 0.0
    anchor: tuple[str, ...] = ()


class Backend(Protocol):
    """A target family. Everything but ``build`` and ``measure`` is pure."""

    name: str
    #: The levels, each implying the one before; empty if there is one only.
    levels: tuple[str, ...]

    def detect(self) -> str:
        """The highest level that this machine runs; empty if there are none."""

    def capabilities(self, target: Target) -> Capabilities:
        """Precisions per anchor op, layouts, instruction sets."""

    def passes(self, target: Target) -> Mapping[str, Sequence[Pass]]:
        """The target's own passes, by slot: legalize, fuse, layout."""

    def supports(self, node: Node, target: Target) -> str | None:
        """None if there is a kernel for ``node``, else the reason why not."""

    def part(self, unit: Any, binary: bytes, source: str, target: Target) -> UnitPart:
        """The unit as an artifact holds it; ``binary`` and ``source`` are what ``build`` gave."""

    def placed(self, part: UnitPart, *, strict: bool = False) -> Mapping[str, Any] | None:
        """Who runs what of a unit that a runtime divides among several; None where nothing is divided.

        Returns:
            ``provider`` that it is for, ``nodes`` (who -> how many), ``elsewhere`` (a line for each that runs on another), and
            ``why_not`` (None, or why it cannot be seen on this machine).

        Raises:
            LoweringError: the unit is refused, or ``strict`` and something runs elsewhere.
            UsageError: ``strict``, and it cannot be seen on this machine.
        """

    def tools(self) -> Mapping[str, str]:
        """Versions of what takes part in building for this family, beside what planish itself stands on."""

    def build_host(self) -> tuple[bytes, str] | None:
        """What an artifact carries to run this family's native units (a thread pool): shared object and source; None: nothing.

        Raises:
            ToolchainError: the toolchain is missing or it failed.
        """

    def lower(self, graph: Graph, target: Target) -> Any:
        """The unit: source text, launch data and packed weights. Pure.

        Raises:
            LoweringError: there is no kernel for a node.
        """

    def explain(self, graph: Graph, unit: Any) -> tuple[Launches, list[Unfused]]:
        """How many kernels run the graph that ``unit`` was lowered from, and what runs apart from its neighbours, and why."""

    def build(self, unit: Any, progress: Callable[[int, int], None] | None = None) -> tuple[bytes, str]:
        """Run the toolchain on ``unit``, cached by digest: what is loaded (a shared object) and the source it was made from.

        ``progress`` is called with (done, total) of what has to be built.

        Raises:
            ToolchainError: it is missing or it failed.
        """

    def measure(
        self, requests: Sequence[MeasureRequest], target: Target, *, fresh: bool = False, seconds: float = 8.0
    ) -> list[list[LaunchCost]]:
        """Time the kernels that would ship, inside the programs they ship in: the launches of each request, in order.

        Figures are kept on disk; when all of a batch are known, nothing runs. Otherwise the whole batch runs in turns, so
        that what is compared was measured in the same minutes.

        Args:
            requests: what is to be compared.
            target: the level that the programs were lowered for; this machine has to run it.
            fresh: run in any case.
            seconds: the most time that running takes, warming up apart.

        Raises:
            UsageError: this machine does not run the target, or an input is missing or has another type or shape.
            ToolchainError: the thread pool cannot be built.
        """


@cache
def _plugins() -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in found or point.name in BUILT_IN:
            raise UsageError(f"two packages bring a backend {point.name!r}", f"one of them is {point.value}")
        found[point.name] = point.load
    return found


def backend_names() -> tuple[str, ...]:
    """Names of the backends there are, plugins included.

    Raises:
        UsageError: two packages bring a backend of the same name.
    """
    return (*BUILT_IN, *_plugins())


def backend(name: str) -> Backend:
    """The backend called ``name``; its package is imported now.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name in BUILT_IN:
        return import_module(f"...backends.{name}", __name__).BACKEND
    if name in _plugins():
        loaded = _plugins()[name]()
        return loaded() if isinstance(loaded, type) else loaded
    raise UsageError(f"there is no target {name!r}", nearest(name, backend_names()))


def find_target(given: str | Target) -> Target:
    """``given`` with its names looked up and its level filled in (this machine's where none is given).

    Raises:
        UsageError: there is no such backend or level; names the nearest.
    """
    target = given if isinstance(given, Target) else Target.parse(given)
    family = backend(target.backend)
    if not target.level:
        return Target(target.backend, family.detect())
    if target.level not in family.levels and hasattr(family, "find_level"):  # levels that have short names as well
        return Target(target.backend, family.find_level(target.level))
    if target.level not in family.levels:
        raise UsageError(
            f"the target {target.backend} has no level {target.level!r}",
            nearest(target.level, family.levels, "" if family.levels else "it has none"),
        )
    return target
