"""A session on an execution provider for what is compiled here: run it, and see who runs what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from ...compiler.errors import LoweringError, UsageError
from ...runtime.errors import RunError
from ...runtime.onnx_session import as_array, as_value, assignment, first_line, session_options
from ...runtime.onnx_session import open_session as _open
from .assignment import Placement, check_strict, placements
from .providers import Provider

_BF16 = onnx.TensorProto.BFLOAT16


class Session:
    """An open session; a context manager. Made by :func:`open_session`.

    Attributes:
        provider: that the nodes were offered to first.
        assigned: which nodes each provider took, as ONNX Runtime calls them; empty where it is too old to say.
        placements: who runs each node of the model, in its order.
    """

    def __init__(self, session: Any, model: onnx.ModelProto, provider: Provider, weights: np.ndarray | None) -> None:
        self.provider = provider
        self._session: Any = session
        self._weights = weights  # ONNX Runtime may read them as long as the session lives
        self._dtypes = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
        self.outputs = [value.name for value in model.graph.output]
        initial = {tensor.name for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in initial]
        self.assigned = assignment(session)
        self.placements: list[Placement] = placements(model.graph, self.assigned)

    def assignment(self) -> dict[str, str]:
        """Name of each node that runs -> name of the provider that runs it. What was folded or merged is not in it."""
        return {p.node: p.provider for p in self.placements if p.provider}

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the model's order.

        Args:
            inputs: an array for each input by name; bf16 as ``uint16``. Others are ignored.

        Raises:
            UsageError: an input is missing.
            RunError: ONNX Runtime fails.
        """
        return [as_array(value) for value in self.bind(inputs)()]

    def bind(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], Sequence[Any]]:
        """A call on ``inputs`` that does nothing but compute; it returns the outputs as ``OrtValue``.

        Raises:
            UsageError: an input is missing.
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise UsageError(f"the input {missing[0]!r} is missing", f"the model takes {', '.join(self.inputs)}")
        given = {n: as_value(inputs[n], "bf16" if self._dtypes[n] == _BF16 else "") for n in self.inputs}

        def call() -> Sequence[Any]:
            try:
                return self._session.run_with_ort_values(self.outputs, given)
            except Exception as error:  # an exception of its own for each status, with no common base
                raise RunError(f"{self.provider.name} failed: {first_line(error)}") from error

        return call

    def end_profiling(self) -> str:
        """Path of the profile, of a session opened with ``profile``."""
        return str(self._session.end_profiling())

    def close(self) -> None:
        """Give its memory back. It is of no use after."""
        self._session = self._weights = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_session(
    model: bytes,
    weights: np.ndarray | None,
    provider: Provider,
    *,
    threads: int = 1,
    strict: bool = False,
    profile: Path | None = None,
    optimized: Path | None = None,
) -> Session:
    """Open a session.

    Args:
        model: a serialised ``ModelProto``.
        weights: u8, what its external file ``weights.bin`` holds (:func:`weights_of`); None if it has none.
        provider: that is offered every node first; the CPU takes what it refuses.
        threads: of one call.
        strict: every node has to run on ``provider``.
        profile: where a profile of every call is written, as the beginning of a path.
        optimized: where the graph that runs is written, its tensors beside it; not for a provider that compiles graphs.

    Raises:
        UsageError: the provider is not installed.
        LoweringError: it refuses the model, or, where ``strict``, a node of it; the nodes are named.
    """
    provider.require()
    parsed = _parsed(model)
    settings = provider.settings_for(parsed.graph)
    options = session_options(settings, threads, record=True)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized.name}.data"
        )
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "64")
    try:
        opened = _open(model, weights, settings, options=options)
    except RunError as error:
        raise LoweringError(error.message, error.hint) from error
    session = Session(opened, parsed, provider, weights)
    if strict:
        try:
            check_strict(session.placements, provider)
        except LoweringError:
            session.close()
            raise
    return session


def _parsed(model: bytes) -> onnx.ModelProto:
    """A model; an empty one where it is damaged, which ONNX Runtime says best."""
    try:
        return onnx.load_from_string(model)
    except DecodeError:
        return onnx.ModelProto()


def weights_of(unit: Any) -> np.ndarray | None:
    """u8: the external file of an ``OnnxUnit``, its weights at their offsets; None if it has none."""
    index = unit.description["weights"]
    if not index:
        return None
    found = np.zeros(max(w["offset"] + w["bytes"] for w in index), np.uint8)
    for entry, array in zip(index, unit.weights, strict=True):
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        found[entry["offset"] : entry["offset"] + entry["bytes"]] = raw
    return found
