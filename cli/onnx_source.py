"""An ONNX file as a source: its example, and its own outputs from ONNX Runtime (or the interpreter where that is missing)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PlanishError
from .source import Source


@dataclass(frozen=True)
class OnnxSource(Source):
    """A ``.onnx`` file. Attributes: see :class:`Source`; ``kwargs`` holds the example once it is known."""

    @property
    def runtime(self) -> str:
        return "ONNX Runtime" if self._opens else "the interpreter"

    @cached_property
    def _opens(self) -> bool:
        """Whether ONNX Runtime is here and reads the file: an older one refuses newer files."""
        try:
            self._session(None)
        except PlanishError:
            return False
        return True

    @cached_property
    def captured(self) -> Any:
        """What capture makes of the file."""
        from ..compiler.capture.intake import take_in

        return take_in(self.model, dims=self.dims, fixed=self.fixed).captured

    def with_example(self, example: Mapping[str, np.ndarray]) -> OnnxSource:
        """The same with the example that it was compiled with, so that the file is not read again for it."""
        return replace(self, kwargs=dict(example))

    def eager(self, threads: int | None = None) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """A function of arrays or tensors by name; no positional arguments; the example by name."""
        example = dict(self.captured.examples if self.kwargs is None else self.kwargs)
        return _Callable(self._session(threads) if self._opens else self._interpreted), (), example

    def _session(self, threads: int | None) -> Callable[[dict[str, np.ndarray]], Any]:
        from ..runtime.machine import default_threads
        from ..runtime.onnx_source import SourceSession

        wanted = threads or default_threads()
        if wanted not in self._sessions:
            self._sessions[wanted] = SourceSession(Path(self.model), wanted, self.fixed)
        found: Callable[[dict[str, np.ndarray]], Any] = self._sessions[wanted]
        return found

    @cached_property
    def _sessions(self) -> dict[int, Any]:
        return {}

    def _interpreted(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        from ..compiler.interpret import interpret

        captured = self.captured
        return dict(zip(captured.output_names, interpret(captured.graph, arrays), strict=True))


@dataclass(frozen=True)
class _Callable:
    """What the commands call as they call a module: keywords to a dict of arrays."""

    run: Callable[[dict[str, np.ndarray]], Any]

    def __call__(self, **inputs: Any) -> Any:
        return self.run({name: x.numpy() if hasattr(x, "detach") else np.asarray(x) for name, x in inputs.items()})
