"""A loaded model: a callable from numpy arrays to numpy arrays, whatever runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from .archive import Archive
from .errors import InputError
from .inputs import DTYPES, as_array, collect, listed
from .shapes import Port, Shapes, Symbol, parse
from .structure import Build, builder

#: Shape signatures a model remembers; beyond that it starts afresh.
MAX_SIGNATURES = 1024

Shape = tuple[int, ...]


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


class Signature:
    """What follows from the shapes of the inputs.

    Attributes:
        env: value of every symbol.
        outputs: shape and element type of each output.
    """

    __slots__ = ("env", "outputs")

    def __init__(self, env: dict[str, int], outputs: list[tuple[Shape, np.dtype]]) -> None:
        self.env, self.outputs = env, outputs


class Bound(ABC):
    """A model with its inputs' memory fixed: ``bound()`` runs it. Made by :meth:`Model.bind`.

    Attributes:
        inputs: name -> array that every call reads; write into it to change the input.
        outputs: name -> array that every call fills.
        symbols: value of every symbol.
    """

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    symbols: dict[str, int]

    @abstractmethod
    def __call__(self) -> Any:
        """Run the model; the result holds the same arrays every time.

        Raises:
            RunError: an index was out of range, or the model is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""


class Model(ABC):
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
        self, archive: Archive, unit: Mapping[str, Any], skipped: Mapping[str, str], threads: int, concurrency: int
    ) -> None:
        manifest = archive.manifest
        self._archive = archive
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
        self._signatures: dict[tuple[Shape, ...], Any] = {}

    # -- calling ---------------------------------------------------------------------------------------------------
    @abstractmethod
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

    @property
    def assignment(self) -> dict[str, str]:
        """Which execution provider runs which node, by the nodes' names, where ONNX Runtime runs the model; else empty."""
        return {}

    def flat(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the order of :attr:`outputs`, without the structure that the source gives them.

        Raises:
            InputError, RunError: as for a call.
        """
        arrays = [as_array(v, p) for v, p in zip(self._collect((), inputs), self.inputs, strict=True)]
        outputs = [np.empty(*output) for output in self._signature(tuple(array.shape for array in arrays)).outputs]
        self(*arrays, out=outputs)
        return outputs

    def _collect(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        return collect(self.inputs, args, kwargs, self.manifest.get("absent_inputs", ()))

    def _signature(self, shapes: tuple[Shape, ...]) -> Any:
        """What follows from the shapes of the inputs.

        Raises:
            InputError: a rank or a dimension does not fit.
        """
        env = self._shapes.solve(shapes)
        signature = self._make_signature(env, [(self._shapes.evaluate(p, env), DTYPES[p.dtype]) for p in self.outputs])
        if len(self._signatures) >= MAX_SIGNATURES:
            self._signatures.clear()
        self._signatures[tuple(tuple(shape) for shape in shapes)] = signature
        return signature

    def _make_signature(self, env: dict[str, int], outputs: list[tuple[Shape, np.dtype]]) -> Signature:
        """The signature as this kind of model keeps it."""
        return Signature(env, outputs)

    def _given_outputs(self, out: Any, signature: Signature, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
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

    # -- preset calls ----------------------------------------------------------------------------------------------
    @abstractmethod
    def bind(self, *args: Any, **kwargs: Any) -> Bound:
        """Fix the inputs' memory and shapes: the result runs the model again with next to no overhead.

        Write new values into ``bound.inputs[name]`` in place; every call fills the same output arrays. It has a context
        of its own, which serves one call at a time.

        Raises:
            InputError: as for a call.
        """

    @abstractmethod
    def warmup(self, **symbols: int) -> None:
        """Run once on zeros, so that the first real call of these sizes plans and allocates nothing.

        Args:
            symbols: value per symbol (``batch=1, seq=128``); those left out take their lower bound.

        Raises:
            InputError: an unknown symbol, or a value outside its bounds.
        """

    @abstractmethod
    def profile(self, *args: Any, repeat: int = 20, **kwargs: Any) -> list[LaunchTime]:
        """Seconds of every launch, the median of ``repeat`` calls.

        Raises:
            InputError: as for a call.
        """

    # -- states ----------------------------------------------------------------------------------------------------
    def new_states(self) -> dict[str, np.ndarray]:
        """A fresh set of states, all zeros, for one conversation; sized for the upper bounds of the symbols."""
        return {port.name: self._zeros(port) for port in self.states}

    def _zeros(self, port: Port) -> np.ndarray:
        top = {symbol.name: symbol.upper for symbol in self.symbols}
        shape = tuple(d if isinstance(d, int) else parse(d)(top) for d in port.shape)
        return np.zeros(shape, DTYPES[port.dtype])

    # -- about -----------------------------------------------------------------------------------------------------
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

    @abstractmethod
    def close(self) -> None:
        """Free what it holds, once the calls that run have ended. Later calls raise RunError."""

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
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
