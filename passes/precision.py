"""What the plan says about a node: the plan is resolved once, by source name, before any pass merges nodes."""

from __future__ import annotations

from collections.abc import Mapping

from ..compiler.graph import Node
from ..compiler.pass_protocol import PassContext

#: Key of ``PassContext.data``: source name -> name of the precision (``f32``, ``bf16``, ``w8a8-dynamic``).
PRECISION = "precision"
#: Key of ``PassContext.data``: a list of example inputs, each a mapping of input name to array.
CALIBRATION = "calibration"


def precision_of(context: PassContext, node: Node) -> str:
    """The precision of ``node`` by the plan; ``f32`` where the plan is silent."""
    plan: Mapping[str, str] = context.data.get(PRECISION, {})
    for name in (node.name, *node.sources):
        if name in plan:
            return plan[name]
    return "f32"
