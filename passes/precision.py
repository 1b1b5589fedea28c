"""What the plan says about a node: resolved once, by source name, before any pass merges nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..compiler.errors import PassError
from ..compiler.graph import Graph, Node
from ..compiler.pass_protocol import PassContext, PassResult
from ..compiler.plan import Plan, Resolution
from ..compiler.precision import Kind, kind_of_node
from ..compiler.target import Target

#: Keys of ``PassContext.data``. PLAN: the plan as given. PRECISION: source name -> name of the precision, written by
#: resolve-plan for reports; CHOICES: (kind of op, source name) -> :class:`Choice`, written by resolve-plan for passes.
#: EXPANSION: how a shorthand was expanded, for the manifest. CALIBRATION: a list of example inputs, each a mapping of input
#: name to array. WEIGHTS: a ``weights.store.WeightStore`` kept across the builds of one search; without it a pass makes its own.
PLAN = "plan"
PRECISION = "precision"
CHOICES = "choices"
EXPANSION = "expansion"
CALIBRATION = "calibration"
WEIGHTS = "weights"


@dataclass(frozen=True)
class Choice:
    """What the plan says about a node: the name of its precision, and the methods asked for (None: the default ones)."""

    precision: str = "f32"
    weights: str | None = None
    observer: str | None = None


def choice_of(context: PassContext, node: Node) -> Choice:
    """What the plan says about ``node``; plain ``f32`` where it is silent.

    A linear and an attention of one module may share their source name, so a node is looked up by its kind and name.
    """
    choices: Mapping[tuple[Kind, str], Choice] | None = context.data.get(CHOICES)
    names = (node.name, *node.sources)
    if choices is not None:
        kind = kind_of_node(node)
        return next((choices[kind, name] for name in names if (kind, name) in choices), Choice())
    plan: Mapping[str, str] = context.data.get(PRECISION, {})
    return next((Choice(plan[name]) for name in names if name in plan), Choice())


def precision_of(context: PassContext, node: Node) -> str:
    """The name of the precision of ``node`` by the plan; ``f32`` where the plan is silent."""
    return choice_of(context, node).precision


@dataclass(frozen=True)
class ResolvePlan:
    """Look up every linear, convolution, attention and embedding in the plan, while nodes still are what the source model
    calls them.

    Attributes:
        nearest: the plan was made for another target: what this one lacks becomes the nearest finer precision that it has.
    """

    name: ClassVar[str] = "resolve-plan"
    version: ClassVar[int] = 2
    nearest: bool = False

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        plan = context.data.get(PLAN, Plan())
        if context.target is None:
            raise PassError("a plan is resolved for a target, and there is none")
        resolution = plan.resolve(graph, context.target, self.nearest)
        context.data[PRECISION] = resolution.by_source()
        context.data[EXPANSION] = resolution.expansion
        choices: dict[tuple[Kind, str], Choice] = {}
        for node, precision in resolution.precisions.items():
            kind = kind_of_node(node)
            if kind != "rest":
                rule = resolution.rules.get(node)
                choice = Choice(precision.name, rule.weights, rule.observer) if rule else Choice(precision.name)
                for source in node.sources:
                    choices.setdefault((kind, source), choice)
                if node.name:
                    choices[kind, node.name] = choice
        context.data[CHOICES] = choices
        for conflict in resolution.conflicts:
            context.note(conflict, kind="warning")
        if self.nearest:
            for words in _changed(resolution, context.target):
                context.note(words, kind="change")
        else:
            for words in resolution.unmet:
                context.note(words, kind="miss")
        return PassResult(False)


def _changed(resolution: Resolution, target: Target) -> list[str]:
    """What a target computes in another precision than the plan says; equal changes in one sentence."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for node, rule in resolution.rules.items():
        kind, given = kind_of_node(node), resolution.precisions[node]
        if given != rule.precision and (kind == "linear" or (rule.is_exact and kind != "attention")):
            counts[kind, rule.precision.name, given.name] += 1
    return [
        f"{count} {kind}{'s' if count > 1 else ''} of {wanted} by the plan: computed in {given}, since {target} has no {wanted}"
        for (kind, wanted, given), count in counts.items()
    ]
