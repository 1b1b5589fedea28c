"""A plan on another target than the one it was made for: what is lacking becomes the nearest finer precision, and is told."""

from __future__ import annotations

import numpy as np
import pytest

from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph
from planish.compiler.pass_protocol import PassContext
from planish.compiler.pipeline import Pipeline
from planish.compiler.plan import Plan
from planish.compiler.precision import PRECISIONS, Precision, Scheme, expand_nearest, nearest_offered
from planish.compiler.target import Capabilities, Target
from planish.compiler.types import DType, TensorType
from planish.passes import precision as passes

ALL = tuple(PRECISIONS)


@pytest.mark.parametrize(
    ("wanted", "offered", "found"),
    [
        ("bf16", ("f32", "bf16"), "bf16"),
        ("bf16", ("f32", "f16"), "f32"),  # f16 overflows where bf16 does not
        ("f16", ("f32", "bf16"), "f32"),
        ("w8a8", ("f32", "w8a8-dynamic"), "w8a8-dynamic"),
        ("w8a8-dynamic", ("f32", "w8a8", "w8a16"), "w8a8"),
        ("w8a8-dynamic", ("f32", "w8a16"), "w8a16"),
        ("w4a8", ("f32", "w4a16", "w8a16"), "w4a16"),
        ("w4a8", ("f32", "w8a8", "w4a16"), "w8a8"),
        ("w4a16", ("w4a16-g32", "f32"), "w4a16-g32"),
        ("w4a16-g32", ("w4a16", "f32"), "f32"),  # larger groups are coarser
        ("w4a16-g32", ("w4a16", "w8a16"), "w8a16"),
        ("w4a16", ("bf16", "f32", "w8a16"), "w8a16"),
        ("f32", ("bf16",), "f32"),
        ("w4a8", (), "f32"),
    ],
)
def test_the_nearest_is_never_coarser(wanted: str, offered: tuple[str, ...], found: str) -> None:
    assert nearest_offered(PRECISIONS[wanted], offered).name == found


@pytest.mark.parametrize("name", ALL)
def test_what_is_offered_is_taken(name: str) -> None:
    assert nearest_offered(PRECISIONS[name], ALL) is PRECISIONS[name]


def test_a_precision_of_the_users_own() -> None:
    own = Precision("mine", Scheme("i8", "channel"), Scheme("f16"))
    assert nearest_offered(own, ("w8a16", "f32")).name == "f32"
    assert nearest_offered(own, ("f16", "f32")).name == "f16"


def test_every_kind_has_a_precision() -> None:
    capabilities = Capabilities({"linear": ("f32", "w8a16"), "embedding": ("f32", "bf16"), "rest": ("f32",)})
    found = expand_nearest(PRECISIONS["w4a8"], capabilities, exact=True)
    assert {kind: p.name for kind, p in found.items()} == {
        "linear": "w8a16", "conv": "f32", "embedding": "bf16", "attention": "f32", "rest": "f32",
    }  # fmt: skip
    assert expand_nearest(PRECISIONS["w4a8"], capabilities)["embedding"].name == "f32"  # a shorthand is for linears


def linears() -> Graph:
    g = Graph("two")
    x = g.add_input("x", TensorType(DType.f32, (4, 8)))
    for name in ("a", "b"):
        w = g.add_constant(np.ones((8, 8), np.float32), f"{name}.weight")
        (x,) = g.insert("linear", [x, w, None], {}, name=name, sources=(name,)).outputs
    g.outputs = [x]
    return g


def test_the_pass_tells_what_changes() -> None:
    class Some(Target):
        def capabilities(self) -> Capabilities:
            return Capabilities({"linear": ("f32", "w8a16"), "rest": ("f32",)})

    context = PassContext(target=Some("some", "chip"), data={passes.PLAN: Plan.of({"a": "w4a8", "*": "f32"})})
    graph = linears()
    passes.ResolvePlan(nearest=True).run(graph, context)
    assert context.data[passes.PRECISION] == {"a": "w8a16", "b": "f32"}
    (note,) = context.notes
    assert note.kind == "change"
    assert note.text == "1 linear of w4a8 by the plan: computed in w8a16, since some:chip has no w4a8"
    with pytest.raises(UsageError, match="has no kernel for a linear in w4a8"):
        passes.ResolvePlan().run(linears(), context)


def test_the_text_of_a_pipeline_says_so() -> None:
    adapted = Pipeline((passes.ResolvePlan(nearest=True),))
    assert str(adapted) == "resolve-plan{nearest=true}"
    assert Pipeline.parse(str(adapted), {"resolve-plan": passes.ResolvePlan}) == adapted
    assert str(Pipeline((passes.ResolvePlan(),))) == "resolve-plan"
