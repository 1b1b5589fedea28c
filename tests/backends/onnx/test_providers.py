"""Execution providers: their names, what they need, and what they say of shapes."""

from __future__ import annotations

import json

import pytest

from planish.backends.onnx.providers import PROVIDERS, Provider, check_shapes, find_provider
from planish.compiler.dims import symbol
from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph, Symbol
from planish.compiler.types import DType, TensorType
from planish.runtime import onnx_session
from planish.runtime.onnx_session import Settings, why_not


def test_nine_providers_have_distinct_names() -> None:
    texts = [text.lower() for p in PROVIDERS.values() for text in (p.name, p.short, *p.aliases)]
    assert len(PROVIDERS) == 9 and len(set(texts)) == len(texts)
    assert next(iter(PROVIDERS)) == "CPUExecutionProvider"


@pytest.mark.parametrize("text", ["openvino", "OpenVINO", "onnx:openvino", " onnx:OpenVINOExecutionProvider ", "ov"])
def test_a_provider_is_found_by_any_of_its_names(text: str) -> None:
    assert find_provider(text).name == "OpenVINOExecutionProvider"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("openvno", "'openvino'"),
        ("onnx:cda", "'cuda'"),
        ("CoreMLExecutionProvidr", "'CoreMLExecutionProvider'"),
        ("abacus", "cpu, "),
    ],
)
def test_the_nearest_is_named(text: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        find_provider(text)
    assert near in str(error.value.hint)


def test_one_that_is_not_installed_says_what_to_install() -> None:
    dml = find_provider("directml")  # of Windows
    assert dml.version() == ""
    with pytest.raises(UsageError, match="DmlExecutionProvider cannot be measured here") as error:
        dml.require("be measured")
    assert "pip install onnxruntime-directml" in str(error.value.hint)


def test_a_plugin_that_is_not_installed_says_so() -> None:
    settings = Settings("NoExecutionProvider", "onnxruntime-none", plugin="no_such_module_at_all")
    assert why_not(settings) == "the package onnxruntime-none, which is not installed"


def test_an_onnx_runtime_that_is_too_old_is_told() -> None:
    assert "ONNX Runtime 99.0 or newer" in str(why_not(Settings("CPUExecutionProvider", least="99.0")))


def test_an_onnx_runtime_that_takes_no_weights_from_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.delattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory")
    assert "takes weights from memory" in str(find_provider("cpu").missing())


def test_without_onnx_runtime_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    cpu = find_provider("cpu")
    assert "ONNX Runtime is not installed" in str(cpu.missing()) and cpu.version() == ""
    with pytest.raises(UsageError, match="not installed"):
        cpu.require()


def test_the_cpu_runs_here_and_has_a_version() -> None:
    cpu = find_provider("cpu")
    assert cpu.missing() is None and cpu.version().startswith("onnxruntime")


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=str)
def test_settings_survive_json_and_unknown_keys(provider: Provider) -> None:
    data = json.loads(json.dumps(provider.settings.to_data()))
    assert Settings.from_data({**data, "of a later version": 1}) == provider.settings


def test_options_of_an_emulator_are_for_x86_only(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = find_provider("qnn").settings
    monkeypatch.setattr(onnx_session, "machine", lambda: "x86_64")
    assert onnx_session.is_emulated(settings)
    monkeypatch.setattr(onnx_session, "machine", lambda: "aarch64")
    assert not onnx_session.is_emulated(settings)


def _dynamic() -> Graph:
    graph = Graph("g")
    graph.symbols = {"batch": Symbol("batch", 0, 64), "seq": Symbol("seq", 2, 512)}
    graph.add_input("ids", TensorType(DType.i64, (symbol("batch"), symbol("seq"))))
    graph.add_input("table", TensorType(DType.f32, (4, 4)))
    return graph


def test_fixed_shapes_only_names_the_dims_and_the_flag() -> None:
    with pytest.raises(UsageError, match=r"batch, seq: ids \[batch, seq\]") as error:
        check_shapes(find_provider("qnn"), _dynamic())
    assert "--dim batch=1 --dim seq=2" in str(error.value.hint)


def test_others_take_dynamic_shapes() -> None:
    check_shapes(find_provider("cpu"), _dynamic())
    graph = Graph("fixed")
    graph.add_input("x", TensorType(DType.f32, (4, 4)))
    check_shapes(find_provider("qnn"), graph)
