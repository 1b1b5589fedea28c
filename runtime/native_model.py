"""A model that runs its own machine code."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_char, c_int64, c_void_p
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from . import binary
from .archive import Archive
from .binary import Host, UnitError
from .bound import NativeBound
from .context import Context, ContextPool
from .errors import ArtifactError, InputError, RunError
from .inputs import DTYPES, as_array
from .model import LaunchTime, Model, Shape, Signature
from .shapes import parse
from .weights import Weights

_ndarray, _empty, _addressof = np.ndarray, np.empty, ctypes.addressof
_from_buffer: Callable[[Any], c_char] = c_char.from_buffer
_models: weakref.WeakSet[NativeModel] = weakref.WeakSet()


class _Signature(Signature):
    """With the symbols as the C code takes them."""

    __slots__ = ("symbols",)

    def __init__(self, env: dict[str, int], outputs: list[tuple[Shape, np.dtype]]) -> None:
        super().__init__(env, outputs)
        self.symbols = (c_int64 * max(len(env), 1))(*env.values())


class NativeModel(Model):
    """A unit of machine code: a context of it for each call at a time, in the process's thread pool."""

    def __init__(
        self, archive: Archive, unit: Mapping[str, Any], skipped: Mapping[str, str], library: ctypes.CDLL, host: Host,
        weights: Weights, threads: int, concurrency: int,
    ) -> None:  # fmt: skip
        super().__init__(archive, unit, skipped, threads, concurrency)
        self._library, self._weights = library, weights
        self._dtypes = [DTYPES[port.dtype] for port in self.inputs]
        self._masks = [dtype.alignment - 1 for dtype in self._dtypes]
        self._handle = _create(library, host, weights.address, weights.size)
        host.reserve(threads, concurrency)
        counts = len(self.inputs), len(self.outputs), len(self.states)
        # Not a method: the pool would keep the model alive, and it has to die with its last reference.
        self._context: Callable[[], Context] = partial(Context, library, self._handle, threads, counts)
        self._pool = ContextPool(self._context, concurrency)
        self._bound: weakref.WeakSet[NativeBound] = weakref.WeakSet()
        self._run = library.planish_run
        self._own_states = {port.name: self._zeros(port) for port in self.states}
        _models.add(self)

    # -- calling ---------------------------------------------------------------------------------------------------
    def __call__(
        self, *args: Any, out: Any = None, states: Mapping[str, np.ndarray] | None = None, **kwargs: Any
    ) -> Any:
        """Run the model; see :meth:`Model.__call__`."""
        if args:
            arrays = list(args) if not kwargs and len(args) == len(self._names) else self._collect(args, kwargs)
        else:
            try:
                arrays = [kwargs[name] for name in self._names]
            except KeyError:
                arrays = self._collect(args, kwargs)
            if len(kwargs) != len(arrays):
                arrays = self._collect(args, kwargs)
        addresses, shapes = [], []
        for number, dtype in enumerate(self._dtypes):
            array = arrays[number]
            try:  # the fast way says no to what is read-only, empty or not contiguous, and to what is no array
                address = _addressof(_from_buffer(array))
                if type(array) is not _ndarray or array.dtype is not dtype or address & self._masks[number]:
                    raise TypeError
            except (TypeError, ValueError, BufferError):
                arrays[number] = array = as_array(array, self.inputs[number])
                address = array.ctypes.data
            addresses.append(address)
            shapes.append(array.shape)
        signature = self._signatures.get(tuple(shapes)) or self._signature(tuple(shapes))
        if out is None:
            outputs = [_empty(shape, dtype) for shape, dtype in signature.outputs]
        else:
            outputs = self._given_outputs(out, signature, arrays)
        pool = self._pool
        try:
            context = pool.free.pop()
        except IndexError:
            context = pool.wait()
        try:
            place = context.inputs
            for number, address in enumerate(addresses):
                place[number] = address
            place = context.outputs
            for number, array in enumerate(outputs):
                try:
                    place[number] = _addressof(_from_buffer(array))
                except ValueError:  # no elements
                    place[number] = array.ctypes.data
            if self.states:
                self._place_states(context, self._own_states if states is None else states)
            code = self._run(
                context.handle,
                context.inputs,
                signature.symbols,
                context.outputs,
                context.states,
                context.error_pointer,
            )
            if code:
                raise self._failure(context.error)
        finally:
            pool.free.append(context)
            if pool.waiting:
                pool.wake()
        return self._build(outputs)

    def _make_signature(self, env: dict[str, int], outputs: list[tuple[Shape, np.dtype]]) -> _Signature:
        return _Signature(env, outputs)

    def _failure(self, error: UnitError) -> Exception:
        if error.code == binary.INDEX:
            where = self._launches[error.where]["label"]
            return RunError(
                f"an index is out of range in {where}", "check that every id is smaller than the table it picks from"
            )
        if error.code == binary.MEMORY:
            return RunError(
                f"there is no memory for {error.value} more bytes", "use smaller inputs or less concurrency"
            )
        if error.code == binary.SYMBOL:
            symbol = self.symbols[error.where]
            return InputError(f"{symbol.name} is {error.value} and has to be {symbol.lower} to {symbol.upper}")
        return RunError(f"the model failed with the code {error.code}")

    # -- preset calls ----------------------------------------------------------------------------------------------
    def bind(self, *args: Any, **kwargs: Any) -> NativeBound:
        """Fix the inputs' memory and shapes; see :meth:`Model.bind`."""
        return NativeBound(
            self, [as_array(v, p) for v, p in zip(self._collect(args, kwargs), self.inputs, strict=True)]
        )

    def warmup(self, **symbols: int) -> None:
        """Run once on zeros in every context; see :meth:`Model.warmup`."""
        env = self._environment(symbols)
        arrays = [np.zeros(self._shapes.evaluate(port, env), DTYPES[port.dtype]) for port in self.inputs]
        signature = self._signature(tuple(array.shape for array in arrays))
        contexts = [self._pool.take() for _ in range(self.concurrency)]
        states = self.new_states()
        try:
            for context in contexts:
                self._run_in(context, signature, arrays, [_empty(*output) for output in signature.outputs], states)
        finally:
            for context in contexts:
                self._pool.give(context)

    def profile(self, *args: Any, repeat: int = 20, **kwargs: Any) -> list[LaunchTime]:
        """Seconds of every launch; see :meth:`Model.profile`."""
        bound = self.bind(*args, **kwargs)
        try:
            seconds = bound.time_launches(repeat)
            env = bound.symbols
        finally:
            bound.close()
        return [
            LaunchTime(
                launch["label"], launch["kernel"], launch["precision"], tuple(launch["sources"]), median(runs),
                parse(launch["flops"])(env), parse(launch["bytes"])(env),
            )
            for launch, runs in zip(self._launches, zip(*seconds, strict=True), strict=True)
        ]  # fmt: skip

    # -- states ----------------------------------------------------------------------------------------------------
    def _place_states(self, context: Context, states: Mapping[str, np.ndarray]) -> None:
        for number, port in enumerate(self.states):
            own, given = self._own_states[port.name], states.get(port.name)
            if given is None or given.dtype != own.dtype or given.shape != own.shape or not given.flags.carray:
                raise InputError(f"the state {port.name} has to be an array as new_states() makes it")
            context.states[number] = given.ctypes.data

    def arena_bytes(self, **symbols: int) -> int:
        """Bytes that the activations of one call take; arguments as for :meth:`warmup`."""
        env = self._environment(symbols)
        context = self._pool.take()
        try:
            return context.arena_bytes((c_int64 * max(len(env), 1))(*env.values()))
        finally:
            self._pool.give(context)

    # -- contexts --------------------------------------------------------------------------------------------------
    def _fill(
        self,
        context: Context,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        states: Mapping[str, np.ndarray],
    ) -> None:
        for number, array in enumerate(inputs):
            context.inputs[number] = array.ctypes.data
        for number, array in enumerate(outputs):
            context.outputs[number] = array.ctypes.data
        self._place_states(context, states)

    def _run_in(
        self, context: Context, signature: _Signature, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray],
        states: Mapping[str, np.ndarray],
    ) -> None:  # fmt: skip
        self._fill(context, inputs, outputs, states)
        if self._run(
            context.handle, context.inputs, signature.symbols, context.outputs, context.states, context.error_pointer
        ):
            raise self._failure(context.error)

    def close(self) -> None:
        """Free contexts and weights, once the calls that run have ended. Later calls raise RunError."""
        if self._handle.value is None:
            return
        for bound in list(self._bound):
            bound.close()
        self._pool.close()
        self._library.planish_destroy(self._handle)
        self._handle.value = None
        self._weights.close()
        self._archive.close()

    def __del__(self) -> None:
        if getattr(self, "_pool", None) is not None:
            self.close()


def _create(library: ctypes.CDLL, host: Host, address: int, size: int) -> c_void_p:
    handle, error = c_void_p(), UnitError()
    if library.planish_create(host.table, address, size, ctypes.byref(handle), ctypes.byref(error)):
        reasons = {
            binary.WEIGHTS: "the weights are too few or not aligned",
            binary.ABI_MISMATCH: "the host has another ABI",
        }
        raise ArtifactError(f"the model cannot be set up: {reasons.get(error.code, 'no memory')}", "compile it again")
    return handle


def _refill_after_fork() -> None:
    for model in _models:
        model._pool.refill()


os.register_at_fork(after_in_child=_refill_after_fork)
