"""Targets: their text form, and the look-up of backends and levels."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from planish.compiler import target as module
from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph
from planish.compiler.plan import Plan
from planish.compiler.target import Capabilities, Target, backend, backend_names, find_target


class Toy:
    """A backend as a plugin brings it."""

    name = "toy"
    levels = ("small", "large")

    def detect(self) -> str:
        return "large"

    def capabilities(self, target: Target) -> Capabilities:
        return Capabilities({"linear": ("f32",), "rest": ("f32",)}, features=(target.level,))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("toy", f"{__name__}:Toy", module.ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Toy)
    _installed(monkeypatch, [point])


def _installed(monkeypatch: pytest.MonkeyPatch, points: list[EntryPoint]) -> None:
    def entry_points(**wanted: Any) -> list[EntryPoint]:
        return [p for p in points if p.group == wanted["group"]]

    monkeypatch.setattr(module, "entry_points", entry_points)
    module._plugins.cache_clear()
    monkeypatch.setattr(module, "_plugins", module._plugins.__wrapped__)


@pytest.mark.parametrize("text", ["cpu", "cpu:avx2", "toy:large"])
def test_text_round_trip(text: str) -> None:
    assert str(Target.parse(text)) == text


@pytest.mark.parametrize("text", ["", ":", "cpu:", ":avx2", "cpu:avx2:x"])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no target \(for example cpu or cpu:avx2\)"):
        Target.parse(text)


@pytest.mark.usefixtures("toy")
def test_a_plugin_backend() -> None:
    assert backend_names() == ("cpu", "onnx", "toy")
    assert find_target("toy") == Target("toy", "large")
    assert find_target("toy:small").capabilities().features == ("small",)
    assert isinstance(backend("toy"), Toy)


@pytest.mark.usefixtures("toy")
def test_unknown_names() -> None:
    with pytest.raises(UsageError, match=r"there is no target 'cpuu' \(did you mean 'cpu'\?\)"):
        find_target("cpuu")
    with pytest.raises(UsageError, match=r"the target toy has no level 'smal' \(did you mean 'small'\?\)"):
        find_target("toy:smal")


@pytest.mark.usefixtures("toy")
def test_a_plan_names_the_target_that_lacks_a_precision() -> None:
    with pytest.raises(UsageError, match=r"the target toy:small has no kernel for a linear in bf16 \(it has f32\)"):
        Plan.of("bf16").resolve(Graph(), Target("toy", "small"))


def test_two_backends_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("toy", "a:A", module.ENTRY_POINTS), EntryPoint("toy", "b:B", module.ENTRY_POINTS)]
    for clash in (points, [EntryPoint("cpu", "a:A", module.ENTRY_POINTS)]):
        _installed(monkeypatch, clash)
        with pytest.raises(UsageError, match="two packages bring a backend"):
            backend_names()
        monkeypatch.undo()


def test_capabilities_fall_back_to_the_rest() -> None:
    capabilities = Capabilities({"linear": ("bf16", "f32"), "rest": ("f32",)})
    assert capabilities.of("linear") == ("bf16", "f32") and capabilities.of("softmax") == ("f32",)
    assert Capabilities({}).of("linear") == ("f32",)
