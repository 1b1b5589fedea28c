"""A loaded model: a callable from numpy arrays to numpy arrays."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_char, c_int64, c_void_p
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from . import binary
from .archive import Archive
from .binary import Host, UnitError
from .bound import Bound
from .context import Context, ContextPool
from .errors import ArtifactError, InputError, RunError
from .inputs import DTYPES, as_array, collect, listed
from .shapes import Port, Shapes, Symbol, parse
from .structure import Build, builder
from .weights import Weights

#: Shape signatures a model remembers; beyond that it starts afresh.
MAX_SIGNATURES = 1024

_ndarray, _empty, _addressof = np.ndarray, np.empty, ctypes.addressof
_from_buffer: Callable[[Any], c_char] = c_char.from_buffer
_models: weakref.WeakSet[Model] = weakref.WeakSet()


@dataclass(frozen=True)
class LaunchTime:
    """One kernel of a call: what it is, what it has to do, and how long it took.

    Attributes:
        label: its name in reports.
        kernel: the kind of kernel.
        precision: what it computes in.
        sources: modules of the source model it stands for.
        seconds: median over the calls.
        flops: operations it does.
        bytes: bytes it has to move at least.
    """

    label: str
    kernel: str
    precision: str
    sources: tuple[str, ...]
    seconds: float
    flops: int
    bytes: int


class _Signature:
    """What follows from the shapes of the inputs."""

    __slots__ = ("env", "outputs", "symbols")

    def __init__(self, env: dict[str, int], outputs: list[tuple[tuple[int, ...], np.dtype]]) -> None:
        self.env = env
        self.symbols = (c_int64 * max(len(env), 1))(*env.values())
        self.outputs = outputs


class Model:
    """A compiled model. Made by :func:`planish.load`; a context manager.

    Calls take the inputs by name or position, as numpy arrays or CPU tensors that speak DLPack, release the GIL, and may
    run in parallel from ``concurrency`` threads. bf16 has no numpy type: such arrays are ``uint16`` and hold its bits.

    Attributes:
        inputs, outputs, states: the ports, with element types and shapes.
        symbols: dimensions known only at the call, with their bounds.
        manifest: everything the artifact says about itself.
        unit: name of the variant that runs here; ``skipped`` says why the ones before it do not.
        threads, concurrency: as loaded.
    """

    def __init__(
        self, archive: Archive, unit: Mapping[str, Any], skipped: Mapping[str, str], library: ctypes.CDLL, host: Host,
        weights: Weights, threads: int, concurrency: int,
    ) -> None:  # fmt: skip
        manifest = archive.manifest
        self._archive, self._library = archive, library
        self._weights = weights
        self.manifest: dict[str, Any] = manifest
        self.unit, self.skipped = str(unit["name"]), dict(skipped)
        self.threads, self.concurrency = threads, concurrency
        self.inputs, self.outputs, self.states = (_ports(manifest[key]) for key in ("inputs", "outputs", "states"))
        self.symbols = tuple(Symbol(s["name"], s["min"], s["max"]) for s in manifest["symbols"])
        self._shapes = Shapes(self.symbols, self.inputs, self.outputs)
        self._build: Build = builder(manifest["structure"])
        self._live_result = _holds_int(manifest["structure"])
        self._launches: list[Mapping[str, Any]] = unit["launches"]
        self._names = [port.name for port in self.inputs]
        self._dtypes = [DTYPES[port.dtype] for port in self.inputs]
        self._masks = [dtype.alignment - 1 for dtype in self._dtypes]
        self._signatures: dict[tuple[tuple[int, ...], ...], _Signature] = {}
        self._handle = _create(library, host, weights.address, weights.size)
        host.reserve(threads, concurrency)
        counts = len(self.inputs), len(self.outputs), len(self.states)
        # Not a method: the pool would keep the model alive, and it has to die with its last reference.
        self._context: Callable[[], Context] = partial(Context, library, self._handle, threads, counts)
        self._pool = ContextPool(self._context, concurrency)
        self._bound: weakref.WeakSet[Bound] = weakref.WeakSet()
        self._run = library.planish_run
        self._own_states = {port.name: self._zeros(port) for port in self.states}
        _models.add(self)

    # -- calling ---------------------------------------------------------------------------------------------------
    def __call__(
        self, *args: Any, out: Any = None, states: Mapping[str, np.ndarray] | None = None, **kwargs: Any
    ) -> Any:
        """Run the model.

        Args:
            args: inputs by position.
            out: arrays to write into instead of fresh ones: one array, a sequence in the order of ``outputs``, or a
                mapping from their names; C-contiguous, of the right type and shape, apart from the inputs.
            states: arrays as :meth:`new_states` makes them; None uses the model's own.
            kwargs: inputs by name.

        Returns:
            The outputs as numpy arrays, in the structure that the source model gives them.

        Raises:
            InputError: a name, type, rank or dimension does not fit.
            RunError: an index was out of range, memory ran out, or the model is closed.
        """
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

    def flat(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the order of :attr:`outputs`, without the structure that the source gives them.

        Raises:
            InputError, RunError: as for a call.
        """
        arrays = [as_array(v, p) for v, p in zip(self._collect((), inputs), self.inputs, strict=True)]
        outputs = [_empty(*output) for output in self._signature(tuple(array.shape for array in arrays)).outputs]
        self(*arrays, out=outputs)
        return outputs

    def _collect(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        return collect(self.inputs, args, kwargs, self.manifest.get("absent_inputs", ()))

    def _signature(self, shapes: tuple[tuple[int, ...], ...]) -> _Signature:
        env = self._shapes.solve(shapes)
        signature = _Signature(env, [(self._shapes.evaluate(p, env), DTYPES[p.dtype]) for p in self.outputs])
        if len(self._signatures) >= MAX_SIGNATURES:
            self._signatures.clear()
        self._signatures[tuple(tuple(shape) for shape in shapes)] = signature
        return signature

    def _given_outputs(self, out: Any, signature: _Signature, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        names = [port.name for port in self.outputs]
        if isinstance(out, Mapping):
            wrong = [str(name) for name in out if name not in names] or [name for name in names if name not in out]
            if wrong:
                raise InputError(f"out does not match the outputs at {wrong[0]}; they are {listed(names)}")
            arrays = [out[name] for name in names]
        else:
            arrays = [out] if isinstance(out, np.ndarray) else list(out)
        if len(arrays) != len(names):
            raise InputError(f"out holds {len(arrays)} arrays and the model has {len(names)} outputs: {listed(names)}")
        for name, array, (shape, dtype) in zip(names, arrays, signature.outputs, strict=True):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
                have = f"{array.dtype}{array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise InputError(f"out for {name} is {have} and has to be an array of {dtype}{shape}")
            if not array.flags.carray:
                raise InputError(f"out for {name} has to be writable and C-contiguous")
            if any(np.may_share_memory(array, other) for other in inputs):
                raise InputError(f"out for {name} overlaps an input", "pass an array of its own")
        return arrays

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
    def bind(self, *args: Any, **kwargs: Any) -> Bound:
        """Fix the inputs' memory and shapes: the result runs the model again with next to no overhead.

        Write new values into ``bound.inputs[name]`` in place; every call fills the same output arrays. It has a context
        of its own, which serves one call at a time.

        Raises:
            InputError: as for a call.
        """
        return Bound(self, [as_array(v, p) for v, p in zip(self._collect(args, kwargs), self.inputs, strict=True)])

    def warmup(self, **symbols: int) -> None:
        """Run once on zeros in every context, so that the first real call of these sizes plans and allocates nothing.

        Args:
            symbols: value per symbol (``batch=1, seq=128``); those left out take their lower bound.

        Raises:
            InputError: an unknown symbol, or a value outside its bounds.
        """
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
        """Seconds of every launch, the median of ``repeat`` calls.

        Raises:
            InputError: as for a call.
        """
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
    def new_states(self) -> dict[str, np.ndarray]:
        """A fresh set of states, all zeros, for one conversation; sized for the upper bounds of the symbols."""
        return {port.name: self._zeros(port) for port in self.states}

    def _zeros(self, port: Port) -> np.ndarray:
        top = {symbol.name: symbol.upper for symbol in self.symbols}
        shape = tuple(d if isinstance(d, int) else parse(d)(top) for d in port.shape)
        return np.zeros(shape, DTYPES[port.dtype])

    def _place_states(self, context: Context, states: Mapping[str, np.ndarray]) -> None:
        for number, port in enumerate(self.states):
            own, given = self._own_states[port.name], states.get(port.name)
            if given is None or given.dtype != own.dtype or given.shape != own.shape or not given.flags.carray:
                raise InputError(f"the state {port.name} has to be an array as new_states() makes it")
            context.states[number] = given.ctypes.data

    # -- about -----------------------------------------------------------------------------------------------------
    def arena_bytes(self, **symbols: int) -> int:
        """Bytes that the activations of one call take; arguments as for :meth:`warmup`."""
        env = self._environment(symbols)
        context = self._pool.take()
        try:
            return context.arena_bytes((c_int64 * max(len(env), 1))(*env.values()))
        finally:
            self._pool.give(context)

    @property
    def report(self) -> dict[str, Any]:
        """The measured figures stored in the artifact; empty where there are none."""
        return self._archive.report()

    def verify(self) -> None:
        """Hash every part of the artifact, the weights included.

        Raises:
            ArtifactError: one is not what the manifest says.
        """
        self._archive.verify()

    def _environment(self, given: Mapping[str, int]) -> dict[str, int]:
        names = [symbol.name for symbol in self.symbols]
        for name in given:
            if name not in names:
                near = get_close_matches(name, names, 1)
                raise InputError(
                    f"there is no dimension {name}; this model has {listed(names) if names else 'fixed sizes only'}",
                    f"did you mean {near[0]}?" if near else None,
                )
        for symbol in self.symbols:
            value = given.get(symbol.name, symbol.lower)
            if not symbol.lower <= value <= symbol.upper:
                raise InputError(f"{symbol.name} is {value} and has to be {symbol.lower} to {symbol.upper}")
        return {symbol.name: given.get(symbol.name, symbol.lower) for symbol in self.symbols}

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

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pool", None) is not None:
            self.close()

    def __repr__(self) -> str:
        name = self.manifest.get("name", "")
        takes, gives = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"<planish.Model {name!r} ({self.unit}): {takes} -> {gives}>"


def _ports(entries: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    return tuple(
        Port(e["name"], e["dtype"], tuple(int(d) if str(d).lstrip("-").isdigit() else str(d) for d in e["shape"]))
        for e in entries
    )


def _holds_int(structure: Mapping[str, Any]) -> bool:
    return structure["kind"] == "int" or any(_holds_int(item) for item in structure.get("items", ()))


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
