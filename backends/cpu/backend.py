"""The CPU as a target: what it can do, its passes, and how a graph becomes a shared object."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...codegen.program import Program
from ...codegen.specs import ISA_LEVELS
from ...compiler.artifact.parts import NativePart, UnitPart
from ...compiler.errors import LoweringError, ToolchainError
from ...compiler.graph import Graph, Node
from ...compiler.profile import phase
from ...compiler.target import Capabilities, LaunchCost, MeasureRequest, Target
from ...passes.wide_weights import CentreWeights
from . import isa
from .channels_last import ChannelsLast
from .custom_ops import explained
from .fuse import Fuse
from .legalize import Legalize
from .narrow_weights import NARROW

if TYPE_CHECKING:
    from ...codegen.unit import UnitText
    from ...compiler.pass_protocol import Pass
    from ...compiler.report import Launches, Unfused
    from .toolchain import Source


@dataclass(frozen=True)
class CpuBackend:
    """Generated C++ for x86-64 at four ISA levels."""

    name: str = "cpu"
    levels: tuple[str, ...] = ISA_LEVELS

    def detect(self) -> str:
        """The highest level that this machine runs."""
        return isa.detect()

    def capabilities(self, target: Target) -> Capabilities:
        """Linears in f32, bf16, int8 and with narrow weights, convolutions in f32, bf16 and int8, embeddings in f32, bf16 and
        int8; attention in bf16 first where the CPU multiplies bf16, else in f32."""
        fast_bf16 = target.level == "avx512-bf16"
        return Capabilities(
            {
                "linear": ("f32", "bf16", "w8a8-dynamic", "w8a8", *NARROW),
                "conv": ("f32", "bf16", "w8a8"),
                "embedding": ("f32", "bf16", "w8a16"),
                "attention": ("bf16", "f32") if fast_bf16 else ("f32", "bf16"),
                "rest": ("f32",),
            },
            features=isa.level(target.level).cpu_flags,
        )

    def passes(self, target: Target) -> Mapping[str, Sequence[Pass]]:
        return {"legalize": (CentreWeights(), ChannelsLast(), Legalize()), "fuse": (Fuse(),)}

    def supports(self, node: Node, target: Target) -> str | None:
        """None if ``node`` lowers on its own, else the reason why not."""
        piece = Graph("probe")
        piece.symbols = {} if node._graph is None else dict(node._graph.symbols)
        env = {}
        for value in node.operands:
            array = None if node._graph is None else node._graph.array(value)
            env[value] = (
                piece.add_input(value.name, value.type)
                if array is None
                else piece.add_constant(array, value.name, value.dtype)
            )
        twin = piece.insert(node.op, [None if v is None else env[v] for v in node.inputs], node.attrs,
                            regions=[r.copy() for r in node.regions])  # fmt: skip
        piece.outputs = list(twin.outputs)
        try:
            from ...compiler.pass_protocol import PassContext

            for p in self.passes(target)["legalize"]:
                p.run(piece, PassContext())
            self.lower(piece, target)
        except LoweringError as error:
            return error.message
        return None

    def lower(self, graph: Graph, target: Target) -> Program:
        """Kernel specs, launches and packed weights. Pure.

        Raises:
            LoweringError: there is no kernel for a node.
        """
        from .lower import lower

        return lower(graph, target.level)

    def explain(self, graph: Graph, unit: Program) -> tuple[Launches, list[Unfused]]:
        """How many kernels run ``graph``, and every row kernel and copy among them that stands apart, with the reason."""
        from .unfused import explain

        return explain(graph, unit)

    def build(self, unit: Program, progress: Callable[[int, int], None] | None = None) -> tuple[bytes, str]:
        """The shared object of a program and its source text; every kernel is cached by digest.

        Args:
            unit: the program.
            progress: called with (done, total) of what has to be compiled: the kernels that the cache lacks.

        Raises:
            ToolchainError: there is no compiler, or it failed.
        """
        from ...codegen.render import kernel_name
        from ...codegen.unit import split_unit
        from . import toolchain

        with phase("render"):
            text = split_unit(unit)
        try:
            labels = {kernel_name(launch.spec): launch.label for launch in reversed(unit.launches)}
            path = toolchain.build(translation_units(text, labels), unit.isa, progress=progress)
        except ToolchainError as error:
            raise explained(error, (launch.spec for launch in unit.launches)) from error
        return path.read_bytes(), text.text

    def part(self, unit: Program, binary: bytes, source: str, target: Target) -> NativePart:
        """The unit as an artifact holds it."""
        from ...codegen.unit import describe

        level = isa.level(target.level)
        return NativePart(
            name=f"{target.backend}-{target.level}",
            binary=binary,
            source=source,
            description=describe(unit),
            weights=unit.weights,
            machine=platform.machine() if level.machine == "any" else level.machine,
            cpu_flags=level.cpu_flags,
            compiler_flags=isa.compiler_flags(target.level),
        )

    def placed(self, part: UnitPart, *, strict: bool = False) -> None:
        """Nothing to say: all of it runs as it was built."""

    def tools(self) -> dict[str, str]:
        """The C++ compiler, by the first line of its ``--version``."""
        from . import toolchain

        return {"c++": toolchain.find_compiler().version}

    def build_host(self) -> tuple[bytes, str]:
        """The thread pool that artifacts carry: (shared object, source text)."""
        from ...codegen.unit import host_source
        from . import toolchain

        text = host_source()
        source = toolchain.Source(text, name="thread pool")
        return toolchain.build([source], "portable", extra_flags=("-pthread",)).read_bytes(), text

    def measure(
        self, requests: Sequence[MeasureRequest], target: Target, *, fresh: bool = False, seconds: float = 8.0
    ) -> list[list[LaunchCost]]:
        """Time the launches of programs on this machine, from disk where all of them are known (``measure.py``)."""
        from .measure import measure

        return measure(requests, target, fresh=fresh, seconds=seconds)


def translation_units(text: UnitText, labels: Mapping[str, str] | None = None) -> list[Source]:
    """A unit as it is compiled: one translation unit per kernel, the same in every model that has the kernel, one for each
    text that several kernels share, and one for the tables and the engine. ``labels``: what reports call a kernel."""
    from .toolchain import Source

    headers = (text.includes, f"{text.abi}\n{text.vectors}")
    kernels = [
        Source(part, headers, (labels or {}).get(name, name)) for name, part in {**text.shared, **text.kernels}.items()
    ]
    return [*kernels, Source(f"{text.abi}\n{text.program}", name="tables and engine")]


BACKEND = CpuBackend()
