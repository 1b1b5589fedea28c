"""Score functions: what the metrics compare, where that is not an output as it stands."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..compiler.errors import PlanishError, UsageError
from .batches import Batch


class Outputs(Mapping[str, np.ndarray]):
    """A model's outputs by name (``outputs["logits"]``), as attributes (``outputs.logits``) and by position."""

    def __init__(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
        """Outputs in order."""
        self._arrays = dict(zip(names, arrays, strict=True))

    def __getitem__(self, key: str | int) -> np.ndarray:
        return list(self._arrays.values())[key] if isinstance(key, int) else self._arrays[key]

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.__dict__["_arrays"][name]
        except KeyError:
            raise AttributeError(f"the model has no output {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Score:
    """A function of a batch's outputs, ``f(outputs)`` or ``f(outputs, inputs)``.

    ``outputs`` is an :class:`Outputs`; the array itself where the model has one output and the parameter is called ``output``
    or like it. ``inputs`` maps the model's input names to arrays. The function returns an array ``[rows, ...]`` of real
    numbers, or a mapping of such, whose names a bar can ask for: ``cosine(pooled) >= 0.99``. It sees what the model sees:
    without the axis of rows where the model has no batch axis.
    """

    def __init__(self, function: Callable[..., Any], output_names: Sequence[str], name: str | None = None) -> None:
        """Wrap ``function``.

        Raises:
            UsageError: it takes no arguments, or more than two that have to be given.
        """
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self._function, self._names = function, tuple(output_names)
        self._takes_inputs = self._takes_array = False
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError:  # a callable of C code
            return
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needed = [p for p in positional if p.default is p.empty]
        rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if (not positional and not rest) or len(needed) > 2:
            raise UsageError(f"the score function {self.name} cannot be called with (outputs, inputs)")
        self._takes_inputs = len(needed) == 2 or (len(positional) < 2 and rest)
        first = positional[0].name if positional else ""
        self._takes_array = len(self._names) == 1 and first in ("output", self._names[0])

    @staticmethod
    def of(source: Callable[..., Any] | str, output_names: Sequence[str]) -> Score:
        """A score function from a callable or ``FILE.py:callable``.

        Raises:
            UsageError: it is neither.
        """
        if isinstance(source, str):
            from ..compiler.python_file import callable_in

            return Score(callable_in(source, "a score function"), output_names, source.rpartition(":")[2])
        if not callable(source):
            raise UsageError(f"a score is a function of the outputs, not a {type(source).__name__}")
        return Score(source, output_names)

    def __call__(self, arrays: Sequence[np.ndarray], batch: Batch) -> np.ndarray | dict[str, np.ndarray]:
        """What is compared of one batch: ``[rows, ...]``, or that by name.

        Raises:
            UsageError: the function raises, or returns something else.
        """
        try:
            made = self.apply(arrays, batch.inputs)
        except PlanishError:
            raise
        except Exception as error:
            raise UsageError(f"the score function {self.name} raised {type(error).__name__}: {error}") from error
        if isinstance(made, Mapping):
            if not made:
                raise UsageError(f"the score function {self.name} returned nothing to compare")
            return {str(key): self._array(value, batch) for key, value in made.items()}
        return self._array(made, batch)

    def apply(self, arrays: Sequence[Any], inputs: Mapping[str, Any]) -> Any:
        """What the function returns, for arrays of any library that it can work with (gradients need tensors)."""
        outputs = arrays[0] if self._takes_array else Outputs(self._names, arrays)
        return self._function(outputs, inputs) if self._takes_inputs else self._function(outputs)

    def _array(self, value: Any, batch: Batch) -> np.ndarray:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        if array.dtype.kind not in "biuf":
            raise UsageError(f"the score function {self.name} returned {array.dtype} values, not numbers")
        if not batch.batched:
            return array[None]
        if not array.ndim or len(array) != batch.rows:
            raise UsageError(
                f"the score function {self.name} returned shape {list(array.shape)} for {batch.rows} samples",
                f"the first axis has to be {batch.rows}, one row for each sample",
            )
        return array
