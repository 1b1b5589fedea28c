"""Asking a provider what it takes; and the tables, asked or shipped."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from planish.backends.onnx import probe_worker, table
from planish.backends.onnx.documented import CLAIMS, documented
from planish.backends.onnx.forms import FORMS
from planish.backends.onnx.probe import example, interpreter, probe
from planish.backends.onnx.providers import PROVIDERS, Provider, find_provider
from planish.backends.onnx.shipping import text
from planish.backends.onnx.table import Row, Table, shipped, store, table_for
from planish.compiler.errors import UsageError

CPU = find_provider("cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path / "cache"))


# -- shipped tables --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=str)
def test_shipped_tables_have_a_row_for_each_form_and_type_and_no_other(provider: Provider) -> None:
    found = shipped(provider)
    assert found.provider == provider.name
    asked = sorted((row.form, row.dtype) for row in found.rows)
    assert asked == sorted((form.name, dtype) for form in FORMS.values() for dtype in form.dtypes), (
        "write the table anew: python -m planish.backends.onnx.shipping"
    )


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=str)
def test_every_shipped_row_says_where_it_comes_from(provider: Provider) -> None:
    found = shipped(provider)
    if provider.short in CLAIMS:
        assert not found.version and all(row.source.startswith("documentation") for row in found.rows)
        assert all(row.source != "documentation" for row in found.rows if row.taken), "a claim without its reference"
        assert all(row.seconds is None for row in found.rows), "nobody was asked, so nothing was timed"
    else:
        assert found.version and found.cpu and {row.source for row in found.rows} == {"probed"}
        assert all(row.reason for row in found.rows if not row.taken)


@pytest.mark.parametrize("short", CLAIMS)
def test_documented_tables_are_what_the_claims_say(short: str) -> None:
    provider = find_provider(short)
    told, known = documented(provider), shipped(provider)
    assert sorted(told.rows, key=str) == sorted(known.rows, key=str) and (told.version, told.cpu) == ("", "")


def test_a_shipped_file_is_what_its_table_prints() -> None:
    for provider in PROVIDERS.values():
        path = table.SHIPPED / f"{provider.short}.json"
        assert path.read_text() == text(shipped(provider))


def test_what_the_installed_cpu_provider_takes_is_what_is_shipped() -> None:
    """A sample in every run, in one process each; `test_the_whole_cpu_table` asks about all."""
    names = ["matmul", "skip-layer-normalization", "dynamic-u8s8-linear", "qdq-s8s8-conv"]
    _same_as_shipped(probe(CPU, forms=names, seconds=0.02))


@pytest.mark.slow
def test_the_whole_cpu_table() -> None:
    _same_as_shipped(probe(CPU, seconds=0.02))


def _same_as_shipped(found: Table) -> None:
    known = shipped(CPU)
    if found.version != known.version:
        pytest.skip(f"the table is of {known.version} and this is {found.version}")
    for row in found.rows:
        assert row.taken == known.takes(row.form, row.dtype), row
        assert not row.taken or (row.seconds is not None and row.seconds > 0)


# -- asking ----------------------------------------------------------------------------------------------------------------
def test_float_types_without_a_kernel_are_not_taken_on_the_cpu() -> None:
    found = probe(CPU, forms=["matmul"], dtypes=["f32", "f16"], seconds=0.02)
    assert found.takes("matmul") and not found.takes("matmul", "f16")
    assert "casts" in found.rows[1].reason and "Cast" in found.rows[1].kernels


def test_unknown_forms_and_providers_that_are_not_here() -> None:
    with pytest.raises(UsageError) as error:
        probe(CPU, forms=["matmull"])
    assert "matmul" in str(error.value.hint)
    with pytest.raises(UsageError, match="DmlExecutionProvider cannot be probed: it needs") as error:
        probe(find_provider("directml"))
    assert "onnxruntime-directml" in str(error.value.hint)


def _script(path: Path, answer: str, then: str) -> Path:
    """A Python that answers the first question (which version) and does ``then`` at the next."""
    path.write_text(
        "#!/bin/sh\n"
        'result=$(sed -n \'s/.*"result": "\\([^"]*\\)".*/\\1/p\' "$3")\n'
        f'if grep -q \'"model"\' "$3"; then {then}; else echo \'{answer}\' > "$result"; fi\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("kill -SEGV $$", r"it crashed \(SIGSEGV\)"),
        ("exec sleep 60", "it took longer than 0.5 s"),
        ("echo 'no memory' >&2; exit 3", "no memory"),
        ("exit 3", "it ended with status 3"),
        ('echo "{" > "$result"', "it ended with status 0"),
    ],
)
def test_a_provider_that_crashes_or_hangs_does_not_take_the_form(tmp_path: Path, then: str, reason: str) -> None:
    fake = _script(tmp_path / "python", json.dumps({"version": "fake 1"}), then)
    found = probe(CPU, python=fake, forms=["matmul"], dtypes=["f32"], limit=0.5)
    assert found.version == "fake 1"
    (row,) = found.rows
    assert not row.taken and row.seconds is None
    assert __import__("re").fullmatch(reason, row.reason), row.reason


def test_an_environment_without_onnx_runtime_is_told(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'No module named numpy' >&2; exit 1\n")
    fake.chmod(0o755)
    with pytest.raises(UsageError, match="No module named numpy") as error:
        probe(CPU, python=fake)
    assert "onnxruntime and numpy" in str(error.value.hint)


def test_an_interpreter_is_given_by_its_folder_or_itself(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    path = tmp_path / "bin" / "python"
    path.write_text("")
    with pytest.raises(UsageError, match="no Python"):
        interpreter(tmp_path)  # it is no program
    path.chmod(0o755)
    assert interpreter(tmp_path) == interpreter(path) == path


def _job(
    tmp_path: Path, model: onnx.ModelProto, reference: onnx.ModelProto, provider: Provider = CPU
) -> dict[str, object]:
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "reference.onnx").write_bytes(reference.SerializeToString())
    arrays, dtypes = example(model)
    np.savez(tmp_path / "inputs.npz", **arrays)  # type: ignore[arg-type]
    job = {
        "settings": provider.settings.to_data(), "model": str(tmp_path / "model.onnx"), "seconds": 0.01, "threads": 1,
        "reference": str(tmp_path / "reference.onnx"), "inputs": str(tmp_path / "inputs.npz"), "dtypes": dtypes,
        "result": str(tmp_path / "result.json"), "tolerance": 1e-3,
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    probe_worker.main(str(tmp_path / "job.json"))
    return json.loads((tmp_path / "result.json").read_text())


def test_wrong_numbers_are_found(tmp_path: Path) -> None:
    right = FORMS["gelu-20"].probe("f32")
    assert _job(tmp_path, right, right)["taken"]
    found = _job(tmp_path, right, FORMS["quick-gelu"].probe("f32"))
    assert not found["taken"] and "wrong numbers" in str(found["reason"])


def test_a_model_that_is_refused_gives_the_reason(tmp_path: Path) -> None:
    broken = FORMS["gelu-20"].probe("f32")
    broken.graph.node[0].op_type = "Gellu"
    found = _job(tmp_path, broken, broken)
    assert not found["taken"] and "Gellu" in str(found["reason"])
    assert "/onnxruntime" not in str(found["reason"])


# -- tables ----------------------------------------------------------------------------------------------------------------
def _table(*rows: Row, version: str = "some 1.0") -> Table:
    return Table(CPU.name, version, "a CPU", rows, "cache")


ROWS = (
    Row("matmul", "f32", True, 1e-3, None, "probed"),
    Row("fast", "f32", True, 1e-3, 3e-3, "probed", error=1e-4, kernels=("A", "B")),
    Row("slow", "f32", True, 3e-3, 1e-3, "probed"),
    Row("same", "f32", True, 1.03e-3, 1e-3, "probed"),
    Row("refused", "f32", False, None, None, "probed", "it leaves X to the CPU"),
    Row("told", "f32", True, None, None, "documentation: a page"),
)


def test_what_a_table_says() -> None:
    found = _table(*ROWS)
    assert found.takes("slow") and not found.pays("slow")
    assert found.pays("same") and found.pays("told") and found.pays("matmul")
    assert not found.takes("refused") and not found.takes("fast", "f16") and not found.takes("unheard of")
    assert found.fastest(["slow", "told", "fast", "refused"]) == "fast"
    assert found.fastest(["told", "refused"]) == "told" and found.fastest(["refused"]) is None


def test_a_table_survives_json() -> None:
    found = _table(*ROWS)
    again = Table.from_data(json.loads(json.dumps(found.to_data())), "cache")
    assert again == found and again.digest == found.digest
    assert replace(found, rows=found.rows[:-1]).digest != found.digest


@pytest.mark.parametrize(
    "data", [{}, {"format": 0}, {"format": 1, "provider": "x", "version": "", "cpu": "", "rows": [{}]}]
)
def test_what_is_no_table_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="table"):
        Table.from_data(data)


def test_what_was_probed_here_goes_before_what_is_shipped() -> None:
    assert table_for(CPU).origin == "shipped"
    path = store(CPU, _table(*ROWS, version=CPU.version()))
    assert table_for(CPU) == _table(*ROWS, version=CPU.version())
    path.write_text("{")
    assert table_for(CPU).origin == "shipped"


def test_an_artifact_says_by_which_table_it_was_lowered() -> None:
    import torch

    import planish

    def compiled() -> dict[str, object]:
        artifact = planish.compile(torch.nn.Linear(4, 4).eval(), (torch.ones(2, 4),), target="onnx:cpu")
        return artifact.manifest["units"][0]["table"]

    known = shipped(CPU)
    assert compiled() == {"version": known.version, "origin": "shipped", "sha256": known.digest}
    probed = replace(known, version=CPU.version(), origin="cache", rows=known.rows[:-1])
    store(CPU, probed)
    assert compiled() == {"version": CPU.version(), "origin": "cache", "sha256": probed.digest}


def test_a_table_of_another_version_is_not_for_the_installed_one() -> None:
    store(CPU, _table(*ROWS, version="onnxruntime 0.1"))
    assert table_for(CPU).origin == "shipped"


def test_of_a_provider_in_another_environment_the_last_table_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = find_provider("openvino")
    monkeypatch.setattr(Provider, "version", lambda self: "")
    store(openvino, replace(_table(*ROWS), provider=openvino.name))
    assert table_for(openvino).takes("fast")


def test_a_table_of_another_cpu_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store(CPU, _table(*ROWS, version=CPU.version()))
    monkeypatch.setattr(table, "cpu_kind", lambda: "another CPU")
    assert table_for(CPU).origin == "shipped"
