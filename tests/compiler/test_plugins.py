"""Passes from other packages: entry points, clashes, and plugins that are broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from planish.compiler.errors import PlanishError, UsageError
from planish.compiler.graph import Graph
from planish.compiler.pipeline import PassContext, PassResult, Pipeline
from planish.compiler.plugins import GROUP, registered_passes


class Mine:
    name: ClassVar[str] = "mine"
    version: ClassVar[int] = 1

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False)


class Yours(Mine):
    name: ClassVar[str] = "yours"


def point(name: str, loads: object) -> EntryPoint:
    class Point(EntryPoint):
        def load(self) -> object:
            if isinstance(loads, Exception):
                raise loads
            return loads

    return Point(name, f"somewhere:{name}", GROUP)


def test_built_in_and_plugin_passes_are_listed() -> None:
    found = registered_passes([Mine], [point("yours", Yours)])
    assert found == {"mine": Mine, "yours": Yours}
    assert registered_passes({"mine": Mine}, []) == {"mine": Mine}
    assert [p.name for p in Pipeline.parse("yours,mine", found)] == ["yours", "mine"]


def test_installed_plugins_are_looked_up() -> None:
    assert set(registered_passes([Mine])) >= {"mine"}


@pytest.mark.parametrize(
    ("points", "kind", "message"),
    [
        ([point("mine", Mine)], UsageError, "two passes are called 'mine': the one of planish and somewhere:mine"),
        ([point("a", ImportError("no b"))], PlanishError, "somewhere:a cannot be imported: ImportError: no b"),
        ([point("a", 3)], PlanishError, "the plugin somewhere:a brings no pass: 3 is no pass class"),
        ([point("a", object)], PlanishError, "it needs name, version and run"),
        ([point("other", Yours)], PlanishError, "registers 'other' but its pass is called 'yours'"),
    ],
)
def test_broken_plugins(points: list[EntryPoint], kind: type[PlanishError], message: str) -> None:
    with pytest.raises(kind) as caught:
        registered_passes([Mine], points)
    assert message in str(caught.value)
