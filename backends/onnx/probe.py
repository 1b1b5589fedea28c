"""Learning what a provider takes: every lowering form in every element type, offered to it without fallback to the CPU.

A form is taken if the provider opens its probe graph alone, runs it, and gives the numbers that the CPU's provider gives node
by node. It is timed in turns with its float form. Each question is asked in a process of its own with a time limit, since
providers crash and hang; the process needs ONNX Runtime and numpy alone, so that a provider can be asked that is installed in
another environment.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...compiler.errors import UsageError
from ...compiler.options import nearest
from ...runtime.machine import cpu_name
from .forms import FORMS, Form
from .providers import Provider
from .table import Row, Table

#: Element types of activations that are asked for.
DTYPES = ("f32", "f16", "bf16")
#: Relative errors that are the precision's and not a mistake. Forms with integers in them round on the way.
TOLERANCES = {"f32": 5e-3, "f16": 1e-2, "bf16": 5e-2}
ROUNDED = 5e-2
#: What is timed is called for so many seconds, and a question may take so many in all.
SECONDS, LIMIT = 0.3, 90.0
#: The size of a symbolic dimension of a probe graph.
EXTENT = 8

#: What profiles call a subgraph that a provider has compiled; the number differs from one run to the next.
_COMPILED = re.compile(r"\S+_\d+(_\d+)*$")
_ROOT = Path(__file__).parent.parent.parent
#: What the worker needs of planish.
_MODULES = (
    "errors.py", "runtime/errors.py", "runtime/machine.py", "runtime/onnx_session.py", "backends/onnx/probe_worker.py",
)  # fmt: skip
_WORKER = "planish.backends.onnx.probe_worker"


def probe(
    provider: Provider,
    *,
    python: Path | None = None,
    forms: Iterable[str] | None = None,
    dtypes: Iterable[str] = DTYPES,
    progress: Callable[[str, int, int], None] | None = None,
    seconds: float = SECONDS,
    limit: float = LIMIT,
) -> Table:
    """Ask a provider about every form; nothing is kept (:func:`~planish.backends.onnx.table.store`).

    Args:
        provider: which.
        python: the interpreter of the environment that it is installed in; None: this one.
        forms: names of those that are asked about; None: all.
        dtypes: element types of the activations.
        progress: called with (what, done, total).
        seconds: for how long a form and its float form are called in turns.
        limit: the most seconds for one question.

    Raises:
        UsageError: the provider is not installed there, ``python`` is no interpreter, or there is no such form.
    """
    names = list(FORMS if forms is None else forms)
    for name in names:
        if name not in FORMS:
            raise UsageError(f"there is no lowering form {name!r}", nearest(name, FORMS))
    questions = [(FORMS[name], dtype) for name in names for dtype in dtypes if dtype in FORMS[name].dtypes]
    with tempfile.TemporaryDirectory(prefix="planish-probe-") as folder:
        worker = _Worker(Path(folder), provider, python, limit)
        version = worker.version()
        rows = []
        for number, (form, dtype) in enumerate(questions):
            if progress is not None:
                progress(f"asking {provider.name}: {form.name} in {dtype}", number, len(questions))
            rows.append(worker.ask(form, dtype, seconds))
        return Table(provider.name, version, cpu_name(), tuple(rows), "cache")


@dataclass(frozen=True)
class _Files:
    """A probe graph on disk; ``among``: with other nodes behind it; ``reference``: what says which numbers are right."""

    model: Path
    among: Path
    reference: Path
    inputs: Path
    dtypes: Mapping[str, str]
    casts: bool


class _Worker:
    """Asks questions, one process each."""

    def __init__(self, folder: Path, provider: Provider, python: Path | None, limit: float) -> None:
        self._folder, self._provider, self._limit = folder, provider, limit
        self._python = interpreter(python)
        self._written: dict[tuple[str, str], _Files] = {}
        self._own = python is None
        for module in _MODULES:
            target = folder / "planish" / module
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_ROOT / module, target)
            for package in target.relative_to(folder).parents[:-1]:
                (folder / package / "__init__.py").touch()

    def version(self) -> str:
        """Package and version of the provider.

        Raises:
            UsageError: it is not installed.
        """
        answer = self._run({})
        if "missing" in answer:
            where = "" if self._own else f" in the environment of {self._python}"
            raise UsageError(
                f"{self._provider.name} cannot be probed{where}: it needs {answer['missing']}",
                self._provider.install_hint(),
            )
        if "version" not in answer:
            raise UsageError(
                f"{self._python} cannot ask a provider: {answer['reason']}",
                "it needs Python 3.10 or newer with onnxruntime and numpy",
            )
        return str(answer["version"])

    def ask(self, form: Form, dtype: str, seconds: float) -> Row:
        """One question."""
        files = self._files(form, dtype)
        job: dict[str, Any] = {
            "model": str(files.model), "reference": str(files.reference), "inputs": str(files.inputs), "dtypes": files.dtypes,
            "tolerance": ROUNDED if form.rounds else TOLERANCES[dtype], "seconds": seconds, "casts": files.casts,
        }  # fmt: skip
        if form.baseline and (form.baseline, "f32") != (form.name, dtype):
            plain = self._files(FORMS[form.baseline], "f32")
            job |= {"baseline": str(plain.model), "baseline_inputs": str(plain.inputs), "baseline_dtypes": plain.dtypes}
        answer = self._run(job)
        if not answer.get("taken") and self._provider.compiles and "error" not in answer:
            # Some providers leave a lone node to the CPU that they take among others.
            among = self._run({**job, "model": str(files.among), "reference": str(files.among)})
            if among.get("taken"):
                answer = {**among, "reason": "not alone in a model"}
        return Row(
            form.name, dtype, bool(answer.get("taken")), answer.get("seconds"), answer.get("float_seconds"), "probed",
            str(answer.get("reason", "")), answer.get("error"),
            tuple(_COMPILED.sub("compiled", kernel) for kernel in answer.get("kernels", ())),
        )  # fmt: skip

    def _files(self, form: Form, dtype: str) -> _Files:
        key = (form.name, dtype)
        if key not in self._written:
            model = form.probe(dtype)
            if self._provider.static_shapes:
                _fix(model)
            base = self._folder / f"{form.name}-{dtype}"
            alone, among = base.with_suffix(".onnx"), base.with_name(f"{base.name}-among.onnx")
            alone.write_bytes(model.SerializeToString())
            arrays, dtypes = example(model)
            np.savez(base.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
            casts = any(node.op_type == "Cast" for node in model.graph.node)
            _accompany(model)
            among.write_bytes(model.SerializeToString())
            right = alone
            if form.reference is not None:
                right = base.with_name(f"{base.name}-reference.onnx")
                right.write_bytes(form.reference(dtype).SerializeToString())
            self._written[key] = _Files(alone, among, right, base.with_suffix(".npz"), dtypes, casts)
        return self._written[key]

    def _run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer; what became of the worker where there is none."""
        path, result = self._folder / "job.json", self._folder / "result.json"
        result.unlink(missing_ok=True)
        settings = self._provider.settings.to_data()
        path.write_text(json.dumps({**job, "settings": settings, "result": str(result), "threads": 1}))
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("PYTHONHOME")}
        inherited = os.environ.get("PYTHONPATH") if self._own else None
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(self._folder), inherited)))
        try:
            done = subprocess.run(
                [str(self._python), "-m", _WORKER, str(path)], cwd=self._folder, env=environment, timeout=self._limit,
                capture_output=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"reason": f"it took longer than {self._limit:g} s"}
        except OSError as error:
            return {"reason": str(error.strerror or error)}
        try:
            return json.loads(result.read_text())
        except (OSError, ValueError):
            return {"reason": _ending(done)}


def _ending(done: subprocess.CompletedProcess[bytes]) -> str:
    """How a worker that left no result ended."""
    if done.returncode < 0:
        try:
            name = signal.Signals(-done.returncode).name
        except ValueError:
            name = f"signal {-done.returncode}"
        return f"it crashed ({name})"
    last = done.stderr.decode(errors="replace").strip().splitlines()
    return last[-1] if last else f"it ended with status {done.returncode}"


def interpreter(given: Path | None) -> Path:
    """The Python of an environment, given by its folder or itself; None is this one.

    Raises:
        UsageError: there is none.
    """
    if given is None:
        return Path(sys.executable)
    inside = Path("Scripts", "python.exe") if platform.system() == "Windows" else Path("bin", "python")
    path = given / inside if given.is_dir() else given
    if not path.is_file() or not os.access(path, os.X_OK):
        raise UsageError(f"there is no Python at {path}", "give the interpreter of an environment, or its folder")
    return Path(os.path.abspath(path))  # not resolved: a link in an environment is what makes it one


def _fix(model: onnx.ModelProto) -> None:
    """Give the symbolic dimensions of the inputs their size; what follows from them is left for ONNX Runtime to infer."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = EXTENT
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")


def _accompany(model: onnx.ModelProto) -> None:
    """Put nodes behind each output: its double, and the root of its square."""
    for number, output in enumerate(model.graph.output):
        names = [f"{output.name}/{part}" for part in ("double", "square", "root")]
        model.graph.node.extend([
            helper.make_node("Add", [output.name, output.name], [names[0]]),
            helper.make_node("Mul", [names[0], names[0]], [names[1]]),
            helper.make_node("Sqrt", [names[1]], [names[2]]),
        ])  # fmt: skip
        model.graph.output[number].name = names[2]


def example(model: onnx.ModelProto) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Inputs of a probe graph by name, normally distributed, integers 0, and the name of the type of those that are bf16."""
    random = np.random.default_rng(0)
    constants = {tensor.name for tensor in model.graph.initializer}
    arrays, dtypes = {}, {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else EXTENT for dim in kind.shape.dim]
        normal = random.standard_normal(shape, dtype=np.float32)
        if kind.elem_type == TensorProto.BFLOAT16:
            arrays[value.name] = (normal.view(np.uint32) >> 16).astype(np.uint16)
            dtypes[value.name] = "bf16"
        else:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
            arrays[value.name] = normal.astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    return arrays, dtypes


def without_times(table: Table) -> Table:
    """``table`` without what differs from one probe of the same provider to the next."""
    return replace(table, rows=tuple(replace(row, seconds=None, float_seconds=None, error=None) for row in table.rows))
