"""A model that ONNX Runtime runs: a unit of an artifact in a session on its execution provider. Needs no compiler."""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from .archive import WEIGHTS, Archive
from .archive import Mapping as Mapped
from .errors import ArtifactError, RunError
from .inputs import DTYPES, as_array
from .model import Bound, LaunchTime, Model, Signature
from .onnx_session import Settings, as_value, assignment, first_line, open_session, session_options
from .shapes import parse

#: Element types that numpy lacks, by their numbers in ``TensorProto.DataType``.
_WITHOUT_NUMPY = {"bf16": 16}
#: Runs of a profile that do not count.
_UNCOUNTED = 2

_models: weakref.WeakSet[OnnxModel] = weakref.WeakSet()
#: Sessions of the parent in a forked child. Their threads are gone, so that destroying one would wait for ever.
_orphans: list[Any] = []


class OnnxModel(Model):
    """A unit for ONNX Runtime; all calls share one session.

    ``threads`` is the width of the session's pool, the caller's own thread included; calls at the same time share the pool.
    What the provider does not take runs on ONNX Runtime's CPU provider, and :attr:`assignment` says what does.
    """

    def __init__(
        self, archive: Archive, unit: Mapping[str, Any], skipped: Mapping[str, str], settings: Settings, threads: int,
        concurrency: int,
    ) -> None:  # fmt: skip
        super().__init__(archive, unit, skipped, threads, concurrency)
        if self.states:
            raise ArtifactError(f"{archive.path} has states, which an ONNX model cannot keep", "compile it again")
        self.settings = settings
        self._entry = unit
        self._read = archive.read(unit["binary"])
        self._free = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._closed = False
        self._session: Any = None
        self._weights: Any = None
        self._without_numpy = any(port.dtype in _WITHOUT_NUMPY for port in (*self.inputs, *self.outputs))
        self._open()
        _models.add(self)

    # -- the session -----------------------------------------------------------------------------------------------
    def _open(self) -> Any:
        """The session, opened if it is not (a forked child has to open one of its own).

        Raises:
            RunError: the model is closed, or the provider refuses it.
        """
        with self._lock:
            if self._closed:
                raise RunError("the model is closed", "load it again")
            if self._session is None:
                self._weights = self._weights or _weights(self._archive, self._entry)
                options = session_options(self.settings, self.threads, record=True)
                self._session = open_session(
                    self._read, self._weights.view, self.settings, threads=self.threads, options=options
                )
                self._weights.forget()
                self._check_ports(self._session)
            return self._session

    def _check_ports(self, session: Any) -> None:
        takes, gives = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
        if takes != self._names or len(gives) != len(self.outputs):
            raise ArtifactError(
                f"the model in {self._archive.path} takes {takes} and gives {len(gives)} outputs, unlike its manifest",
                "compile it again",
            )
        self._gives = gives

    @property
    def assignment(self) -> dict[str, str]:
        """Name of each node that runs, as ONNX Runtime rewrote the model, to the execution provider that runs it; empty where
        this ONNX Runtime is too old to say."""
        return {node.name: node.provider for node in assignment(self._session or self._open())}

    # -- calling ---------------------------------------------------------------------------------------------------
    def __call__(
        self, *args: Any, out: Any = None, states: Mapping[str, np.ndarray] | None = None, **kwargs: Any
    ) -> Any:
        """Run the model; see :meth:`Model.__call__`."""
        arrays = [as_array(v, p) for v, p in zip(self._collect(args, kwargs), self.inputs, strict=True)]
        shapes = tuple([array.shape for array in arrays])
        signature = self._signatures.get(shapes) or self._signature(shapes)
        with self._free:
            session = self._session or self._open()
            if out is None and not self._without_numpy:
                try:
                    outputs = session.run(self._gives, dict(zip(self._names, arrays, strict=True)))
                except Exception as error:
                    raise self._failure(error) from error
            else:
                outputs = self._fresh(signature) if out is None else self._given_outputs(out, signature, arrays)
                self._run_into(session, self._binding(session, arrays, outputs))
        return self._build(outputs)

    def _fresh(self, signature: Signature) -> list[np.ndarray]:
        return [np.empty(shape, dtype) for shape, dtype in signature.outputs]

    def _binding(self, session: Any, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Any:
        """An ``IOBinding`` to memory of the CPU; the arrays have to outlive its use."""
        binding = session.io_binding()
        for port, array in zip(self.inputs, inputs, strict=True):
            binding.bind_ortvalue_input(port.name, as_value(array, port.dtype))
        for name, port, array in zip(self._gives, self.outputs, outputs, strict=True):
            binding.bind_ortvalue_output(name, as_value(array, port.dtype))
        return binding

    def _run_into(self, session: Any, binding: Any) -> None:
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # the bindings have an exception of their own for each status, with no common base
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> RunError:
        text = first_line(error)
        hint = "check that every id is smaller than the table it picks from" if "out of data bounds" in text else None
        return RunError(f"{self.settings.provider} failed: {text}", hint)

    # -- preset calls ----------------------------------------------------------------------------------------------
    def bind(self, *args: Any, **kwargs: Any) -> OnnxBound:
        """Fix the inputs' memory and shapes; see :meth:`Model.bind`."""
        return OnnxBound(self, [as_array(v, p) for v, p in zip(self._collect(args, kwargs), self.inputs, strict=True)])

    def warmup(self, **symbols: int) -> None:
        """Run once on zeros; see :meth:`Model.warmup`."""
        env = self._environment(symbols)
        self(*[np.zeros(self._shapes.evaluate(port, env), DTYPES[port.dtype]) for port in self.inputs])

    def profile(self, *args: Any, repeat: int = 20, **kwargs: Any) -> list[LaunchTime]:
        """Seconds of every node that ONNX Runtime runs, the median of ``repeat`` calls, by its own profiler (to a microsecond).

        The nodes are those of the model as ONNX Runtime rewrote it, in the order in which they run. What a module of the source
        has to do at least is put down to the slowest of its nodes. See :meth:`Model.profile`.
        """
        arrays = [as_array(v, p) for v, p in zip(self._collect(args, kwargs), self.inputs, strict=True)]
        signature = self._signature(tuple(array.shape for array in arrays))
        weights = _weights(self._archive, self._entry)
        with tempfile.TemporaryDirectory(prefix="planish-") as folder:
            options = session_options(self.settings, self.threads)
            options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
            session = open_session(self._read, weights.view, self.settings, threads=self.threads, options=options)
            outputs = self._fresh(signature)
            binding = self._binding(session, arrays, outputs)
            for _ in range(_UNCOUNTED + repeat):
                self._run_into(session, binding)
            events = json.loads(Path(session.end_profiling()).read_text())
            del binding, session
        weights.close()
        return self._launch_times(_nodes(events), signature.env)

    def _launch_times(
        self, nodes: Mapping[str, Sequence[Mapping[str, Any]]], env: Mapping[str, int]
    ) -> list[LaunchTime]:
        """A line for each node that ran; the work of a launch is the slowest node's of those named after its sources."""
        seconds = {name: median(e["dur"] for e in runs[_UNCOUNTED:] or runs) * 1e-6 for name, runs in nodes.items()}
        sources = sorted({source for launch in self._launches for source in launch["sources"]}, key=len, reverse=True)
        of_source: dict[str, list[str]] = {}
        # What ONNX Runtime makes of a node is named after it: "fused MODULE/MatMul_0/MatMulAddFusion".
        for name in nodes:
            source = next((source for source in sources if f" {source}/" in f" {name}"), "")
            of_source.setdefault(source, []).append(name)
        work: dict[str, list[Mapping[str, Any]]] = {}
        for launch in self._launches:
            # A provider that compiles whole subgraphs names what runs after nothing in the model.
            named = [name for source in launch["sources"] for name in of_source.get(source, ())] or of_source.get(
                "", []
            )
            if named:
                work.setdefault(max(named, key=lambda name: seconds[name]), []).append(launch)
        found = []
        for name, runs in nodes.items():
            own = work.get(name, [])
            modules = tuple(dict.fromkeys(source for launch in own for source in launch["sources"]))
            found.append(
                LaunchTime(
                    runs[0]["args"].get("op_name", name), name, own[0]["precision"] if own else "", modules, seconds[name],
                    sum(parse(launch["flops"])(env) for launch in own), sum(parse(launch["bytes"])(env) for launch in own),
                )
            )  # fmt: skip
        return found

    # -- about -----------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Free the session and the weights, once the calls that run have ended. Later calls raise RunError."""
        if self._closed:
            return
        for _ in range(self.concurrency):
            self._free.acquire()
        with self._lock:
            self._closed = True
            self._session = None
            if self._weights is not None:
                self._weights.close()
        self._free.release(self.concurrency)
        self._archive.close()

    def __del__(self) -> None:
        if getattr(self, "_free", None) is not None:
            self.close()


class OnnxBound(Bound):
    """An ``IOBinding`` that stays."""

    def __init__(self, model: OnnxModel, inputs: list[np.ndarray]) -> None:
        signature = model._signature(tuple(array.shape for array in inputs))
        self._model: OnnxModel | None = model
        self._flat, self._arrays = model._fresh(signature), inputs
        self.symbols = dict(signature.env)
        self.inputs = dict(zip(model._names, inputs, strict=True))
        self.outputs = dict(zip([port.name for port in model.outputs], self._flat, strict=True))
        self._result = model._build(self._flat)
        self._session: Any = None
        self._binding: Any = None

    def __call__(self) -> Any:
        """Run the model; see :meth:`Bound.__call__`."""
        model = self._model
        if model is None:
            raise RunError("the model is closed", "load it again")
        with model._free:
            session = model._session or model._open()
            if session is not self._session:
                self._session, self._binding = session, model._binding(session, self._arrays, self._flat)
            model._run_into(session, self._binding)
        return model._build(self._flat) if model._live_result else self._result

    def close(self) -> None:
        """Free the binding."""
        self._model = self._session = self._binding = None


class _Weights:
    """The section of a unit, mapped from the file.

    ONNX Runtime copies what it needs while it opens a session, so the pages are given back then; they would be read again from
    the file if anything touched them.
    """

    def __init__(self, mapping: Mapped | None) -> None:
        self._mapping = mapping
        self.view: memoryview | None = None if mapping is None else mapping.view

    def forget(self) -> None:
        """Give the pages back."""
        if self._mapping is not None:
            self._mapping.advise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap."""
        if self._mapping is not None:
            self.view = None
            self._mapping.close()
            self._mapping = None


def _weights(archive: Archive, unit: Mapping[str, Any]) -> _Weights:
    """The weights of ``unit``.

    Raises:
        ArtifactError: the file holds fewer than the unit reads.
    """
    offset, size = unit["weights"]["offset"], unit["weights"]["bytes"]
    if not size:
        return _Weights(None)
    start, length = archive.extent(WEIGHTS)
    if offset + size > length:
        raise ArtifactError(f"{archive.path} has fewer weights than its model reads", "copy or compile it again")
    return _Weights(Mapped(archive.descriptor, start + offset, size))


def _nodes(events: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Node name -> its events in a profile, a run after the other; in the order in which the nodes run."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            found.setdefault(name.removesuffix("_kernel_time"), []).append(event)
    return found


def _leave_sessions_after_fork() -> None:
    for model in _models:
        if model._session is not None:
            _orphans.append(model._session)
            model._session = None
        model._lock = threading.Lock()
        model._free = threading.BoundedSemaphore(model.concurrency)


os.register_at_fork(after_in_child=_leave_sessions_after_fork)
