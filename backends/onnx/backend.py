"""ONNX Runtime as a target: its levels are execution providers, and a graph becomes an ONNX model for one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...compiler.artifact.parts import OnnxPart, UnitPart
from ...compiler.errors import LoweringError
from ...compiler.graph import Graph, Node
from ...compiler.profile import phase
from ...compiler.report import Launches, Unfused
from ...compiler.target import Capabilities, LaunchCost, MeasureRequest, Target
from .providers import PROVIDERS, check_shapes, find_provider

if TYPE_CHECKING:
    from ...compiler.pass_protocol import Pass
    from .unit import OnnxUnit


@dataclass(frozen=True)
class OnnxBackend:
    """ONNX models for the execution providers of ONNX Runtime."""

    name: str = "onnx"
    levels: tuple[str, ...] = tuple(PROVIDERS)

    def detect(self) -> str:
        """The CPU's provider, which every build of ONNX Runtime has."""
        return "CPUExecutionProvider"

    def find_level(self, text: str) -> str:
        """The provider's name in ONNX Runtime, from that or a short name (``openvino``).

        Raises:
            UsageError: there is none; names the nearest.
        """
        return find_provider(text).name

    def capabilities(self, target: Target) -> Capabilities:
        """Precisions per anchor op, as the provider's table says."""
        from .precisions import precisions
        from .table import table_for

        return Capabilities(precisions(table_for(find_provider(target.level))))

    def passes(self, target: Target) -> Mapping[str, Sequence[Pass]]:
        from .legalize import LegalizeOnnx

        return {"legalize": (LegalizeOnnx(),)}

    def supports(self, node: Node, target: Target) -> str | None:
        """None if ``node`` can be written in ONNX, else the reason why not."""
        from .lower import Emitter

        if node._graph is None:
            raise ValueError("the node is in no graph")
        piece = Graph("probe")
        piece.symbols = dict(node._graph.symbols)
        env = {}
        for value in node.operands:
            array = node._graph.array(value)
            if value not in env:
                env[value] = (
                    piece.add_input(value.name, value.type)
                    if array is None
                    else piece.add_constant(array, value.name, value.dtype)
                )
        twin = piece.insert(node.op, [None if v is None else env[v] for v in node.inputs], node.attrs,
                            regions=[r.copy() for r in node.regions], name=node.name)  # fmt: skip
        # the sizes that nothing in the probe tells come from inputs of the whole graph
        for value in node._graph.inputs:
            piece.add_input(f"{value.name} of the graph", value.type)
        provider = find_provider(target.level)
        try:
            Emitter(piece, opset=provider.opset, provider=provider.name).emit(twin)
        except LoweringError as error:
            return error.message
        return None

    def lower(self, graph: Graph, target: Target) -> OnnxUnit:
        """The ONNX model of ``graph`` in the forms that the provider runs fast. Pure.

        Raises:
            LoweringError: a node cannot be written in ONNX.
            UsageError: the provider wants fixed shapes and the graph has dynamic ones.
        """
        from .lower import lower
        from .table import table_for

        provider = find_provider(target.level)
        check_shapes(provider, graph)
        return lower(graph, provider=provider.name, opset=provider.opset, takes=table_for(provider).pays)

    def explain(self, graph: Graph, unit: OnnxUnit) -> tuple[Launches, list[Unfused]]:
        """How many nodes of the graph compute something; what ONNX Runtime makes of them is its own affair."""
        count = len(unit.description["launches"])
        return Launches(ops=count, launches=count, fused=0, apart=0, copies=0), []

    def build_host(self) -> None:
        """Nothing: ONNX Runtime brings its own threads."""

    def part(self, unit: OnnxUnit, binary: bytes, source: str, target: Target) -> OnnxPart:
        """The unit as an artifact holds it."""
        from onnx import load_from_string

        from .table import table_for

        provider = find_provider(target.level)
        return OnnxPart(
            name=f"{target.backend}-{provider.short}",
            binary=binary,
            source=source,
            description=unit.description,
            weights=unit.weights,
            session=provider.settings_for(load_from_string(unit.model).graph).to_data(),
            table=table_for(provider).provenance(),
            notes=unit.notes,
        )

    def placed(self, part: UnitPart, *, strict: bool = False) -> dict[str, Any] | None:
        """Who runs what of the unit (``placing.py``)."""
        from .placing import placed

        return placed(part, strict=strict) if isinstance(part, OnnxPart) else None

    def tools(self) -> dict[str, str]:
        """Version of ONNX's own library."""
        from onnx import __version__

        return {"onnx": __version__}

    def build(self, unit: OnnxUnit, progress: Callable[[int, int], None] | None = None) -> tuple[bytes, str]:
        """The serialised model, and the same in ONNX's text form."""
        from onnx import ModelProto, printer

        with phase("render"):
            model = ModelProto.FromString(unit.model)
            return unit.model, printer.to_text(model)

    def measure(
        self, requests: Sequence[MeasureRequest], target: Target, *, fresh: bool = False, seconds: float = 8.0
    ) -> list[list[LaunchCost]]:
        """Time models through sessions of ONNX Runtime, from disk where all of them are known (``measure.py``)."""
        from .measure import measure

        return measure(requests, target, fresh=fresh, seconds=seconds)


BACKEND = OnnxBackend()
