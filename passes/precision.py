"""What the plan says about a node: resolved once, by source name, before any pass merges nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..compiler.errors import PassError
from ..compiler.graph import Graph, Node
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.plan import Plan

#: Keys of ``PassContext.data``. PLAN: the plan as given. PRECISION: source name -> name of the precision, written by
#: resolve-plan. EXPANSION: how a shorthand was expanded, for the manifest. CALIBRATION: a list of example inputs, each a
#: mapping of input name to array.
PLAN = "plan"
PRECISION = "precision"
EXPANSION = "expansion"
CALIBRATION = "calibration"


def precision_of(context: PassContext, node: Node) -> str:
    """The precision of ``node`` by the plan; ``f32`` where the plan is silent."""
    plan: Mapping[str, str] = context.data.get(PRECISION, {})
    for name in (node.name, *node.sources):
        if name in plan:
            return plan[name]
    return "f32"


@dataclass(frozen=True)
class ResolvePlan:
    """Look up every linear and attention in the plan, while nodes still are what the source model calls them."""

    name: ClassVar[str] = "resolve-plan"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        plan = context.data.get(PLAN, Plan())
        if context.target is None:
            raise PassError("a plan is resolved for a target, and there is none")
        resolution = plan.resolve(graph, context.target)
        context.data[PRECISION] = resolution.by_source()
        context.data[EXPANSION] = resolution.expansion
        for conflict in resolution.conflicts:
            context.note(conflict, kind="warning")
        return PassResult(False)
