"""An ONNX model as its author meant it: run by ONNX Runtime on the CPU as it stands, to compare a compiled model with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RunError
from .onnx_session import CPU, Settings, as_array, as_value, first_line, onnxruntime, session_options


class SourceSession:
    """A session of a model file.

    Args:
        path: of the ``.onnx`` file; its external data lies beside it.
        threads: of one call.
        fixed: inputs that are the same in every call.

    Raises:
        ArtifactError: ONNX Runtime is not installed.
        RunError: it refuses the model.
    """

    def __init__(self, path: Path, threads: int = 1, fixed: Mapping[str, Any] | None = None) -> None:
        options = session_options(Settings(CPU), threads)
        try:
            self._session = onnxruntime().InferenceSession(str(path), options, providers=[CPU])
        except Exception as error:  # the bindings have an exception of their own for each status, with no common base
            raise RunError(f"ONNX Runtime refuses {path}: {first_line(error)}") from error
        self._types = {i.name: i.type for i in self._session.get_inputs()}
        ranks = {i.name: len(i.shape) for i in self._session.get_inputs()}
        self._fixed = {name: self._fixed_to(name, value, ranks) for name, value in (fixed or {}).items()}
        self.outputs = [o.name for o in self._session.get_outputs()]

    def _fixed_to(self, name: str, value: Any, ranks: Mapping[str, int]) -> np.ndarray:
        spelled = self._types.get(name, "").removeprefix("tensor(").removesuffix(")")
        array = np.asarray(value, {"float": "float32", "double": "float64"}.get(spelled, spelled) or None)
        return array.reshape((1,) * ranks[name]) if array.size == 1 else array

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name; bf16 as ``uint16`` bits, in and out.

        Raises:
            RunError: it fails on these inputs.
        """
        values = {
            name: as_value(array, "bf16" if self._types.get(name) == "tensor(bfloat16)" else "")
            for name, array in {**inputs, **self._fixed}.items()
        }
        try:
            found = self._session.run_with_ort_values(self.outputs, values)
        except Exception as error:  # as above
            raise RunError(f"ONNX Runtime fails on these inputs: {first_line(error)}") from error
        return {name: as_array(value) for name, value in zip(self.outputs, found, strict=True)}
