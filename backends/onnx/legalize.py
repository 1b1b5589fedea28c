"""legalize for ONNX Runtime: every precision that a provider lacks, or is slow in, becomes the nearest that it runs fast.

It works on the graph and not on the model, so that the interpreter computes what the model will, and a search judges it. What
changes the meaning of the plan is noted as a ``change``: it is listed, and the quality that was promised is proved with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...compiler.graph import Graph
from ...compiler.pass_protocol import PassContext, PassResult
from .emit_linear import rounded_inputs
from .legalize_attention import scale_queries
from .legalize_floats import widen_bf16
from .legalize_gelu import faster_gelu
from .legalize_int8 import int8_activations
from .legalize_merged import part_merged
from .legalize_norms import spread_affine
from .legalize_residual import int8_regions
from .providers import PROVIDERS, find_provider
from .table import Table, table_for


@dataclass(frozen=True)
class LegalizeOnnx:
    """Rewrite a graph into the forms that an execution provider runs fast.

    Args:
        provider: name of the provider in ONNX Runtime; empty: that of the target.
        table: what it takes; None: what is known of it on this machine.
        exact: keep the meaning of dynamic int8, a scale for each row, and of GELU, where another form would be faster.
    """

    name: ClassVar[str] = "legalize-onnx"
    version: ClassVar[int] = 1
    lossy: ClassVar[bool] = True
    provider: str = ""
    table: Table | None = None
    exact: bool = False

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        level = self.provider or (context.target.level if context.target is not None else "") or next(iter(PROVIDERS))
        provider = find_provider(level)
        table = self.table or table_for(provider)
        changed = widen_bf16(graph, table, context)
        changed |= part_merged(graph, provider, table, context)
        changed |= scale_queries(graph, table, context)
        changed |= int8_activations(graph, table, context, exact=self.exact)
        graph.sweep()
        changed |= int8_regions(graph, table, context)
        changed |= spread_affine(graph, table, context)
        if not self.exact:
            changed |= faster_gelu(graph, table, context)
        graph.sweep()
        _note_rounded_inputs(graph, table, context)
        return PassResult(bool(changed))


def _note_rounded_inputs(graph: Graph, table: Table, context: PassContext) -> None:
    """Tell of products with narrow weights whose kernel rounds more than the plan says: the graph cannot say that, since the
    rounding is of the provider's own making."""
    rounded = [n for n in graph.nodes if n.op == "linear" and rounded_inputs(graph, table.pays, n)]
    if rounded:
        context.at(rounded[0])
        context.note(
            f"inputs of linears with narrow weights ({len(rounded)} of them) are rounded to int8, block by block: that is how "
            f"{table.provider} multiplies them fast",
            kind="change",
        )
