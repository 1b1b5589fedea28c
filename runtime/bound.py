"""Native code with its inputs' memory fixed: the way to run it with next to no overhead."""

from __future__ import annotations

import ctypes
from ctypes import c_double
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import RunError
from .model import Bound

if TYPE_CHECKING:
    from .native_model import NativeModel


class NativeBound(Bound):
    """A unit's own context, with pointers that stay."""

    def __init__(self, model: NativeModel, inputs: list[np.ndarray]) -> None:
        signature = model._signature(tuple(array.shape for array in inputs))
        outputs = [np.empty(shape, dtype) for shape, dtype in signature.outputs]
        self._model, self._flat, self._signature = model, outputs, signature
        self._states = model._own_states
        self.symbols = dict(signature.env)
        self.inputs = dict(zip(model._names, inputs, strict=True))
        self.outputs = dict(zip([port.name for port in model.outputs], outputs, strict=True))
        self._context = model._context()
        model._fill(self._context, inputs, outputs, self._states)
        context = self._context
        if model._library.planish_bind(
            context.handle, context.inputs, signature.symbols, context.outputs, context.states, context.error_pointer
        ):
            raise model._failure(context.error)
        self._run, self._handle = model._library.planish_run_bound, context.handle
        self._result = model._build(outputs)
        model._bound.add(self)

    def __call__(self) -> Any:
        """Run the model; see :meth:`Bound.__call__`."""
        handle = self._handle
        if handle is None:
            raise RunError("the model is closed", "load it again")
        if self._run(handle):
            self._fail()
        return self._model._build(self._flat) if self._model._live_result else self._result

    def _fail(self) -> None:
        """Run once more with an error structure to learn what was wrong."""
        context, signature = self._context, self._signature
        arguments = (
            context.handle,
            context.inputs,
            signature.symbols,
            context.outputs,
            context.states,
            context.error_pointer,
        )
        code = self._model._library.planish_run(*arguments)
        self._model._library.planish_bind(*arguments)
        raise self._model._failure(context.error) if code else RunError("the model failed")

    def time_launches(self, repeat: int) -> list[list[float]]:
        """Seconds per call and launch, of ``repeat`` calls after two that do not count."""
        self()
        self()
        seconds = (c_double * max(len(self._model._launches), 1))()
        found = []
        self._context.time(seconds)
        try:
            for _ in range(repeat):
                ctypes.memset(seconds, 0, ctypes.sizeof(seconds))
                self()
                found.append(list(seconds)[: len(self._model._launches)])
        finally:
            self._context.time(None)
        return found

    def close(self) -> None:
        """Free its context."""
        self._handle = None
        self._context.close()

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self.close()
