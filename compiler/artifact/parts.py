"""What an artifact is put together from: a variant for each target, and what runs native code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..deferred import Constant
from .format import HOST_ABI
from .provenance import required_glibc


@dataclass(frozen=True, kw_only=True)
class UnitPart(ABC):
    """One variant of the model.

    Attributes:
        kind: what the loader does with it: ``native`` or ``onnx``.
        format: the first version of the file format whose loaders know the kind.
        name: for example ``cpu-avx512-bf16``; names its members.
        binary: what is loaded.
        source: the text it was built from, or that says the same for people.
        description: ports, symbols, index of weights and launches, as ``codegen.unit.describe`` gives them.
        weights: the packed constants, in the order of the description's index; deferred ones are made as they are written.
        target: what it was compiled for, as ``cpu:avx2``.
        pipeline: the passes it went through, as text.
        notes: plain sentences about what was lowered in another way than asked for.
    """

    kind: ClassVar[str]
    format: ClassVar[int]
    suffixes: ClassVar[tuple[str, str]]
    name: str
    binary: bytes
    source: str
    description: Mapping[str, Any]
    weights: Sequence[Constant]
    target: str = ""
    pipeline: str = ""
    notes: Sequence[str] = ()

    @property
    def members(self) -> dict[str, bytes]:
        """Its files but for the weights."""
        binary, source = self._names
        return {binary: self.binary, source: self.source.encode()}

    @property
    def _names(self) -> tuple[str, str]:
        return f"units/{self.name}{self.suffixes[0]}", f"units/{self.name}{self.suffixes[1]}"

    def entry(self, offset: int, size: int) -> dict[str, Any]:
        """What the manifest says of it (``manifest.py``); its weights are ``size`` bytes at ``offset`` of weights.bin.

        Raises:
            PlanishError: the binary is not of its kind.
        """
        binary, source = self._names
        return {
            "name": self.name,
            "kind": self.kind,
            "target": self.target,
            "isa": self.description["isa"],
            "binary": binary,
            "source": source,
            "requires": self.requires(),
            "pipeline": self.pipeline,
            "weights": {"offset": offset, "bytes": size, "index": self.description["weights"]},
            "launches": self.description["launches"],
            **self.facts(),
        }

    @abstractmethod
    def requires(self) -> dict[str, Any]:
        """What has to be there where it runs."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the manifest says of this kind alone."""


@dataclass(frozen=True, kw_only=True)
class NativePart(UnitPart):
    """Machine code: a shared object with the C interface of ``runtime/planish.h``, and the C++ it was built from.

    Attributes:
        machine: architecture as ``uname -m`` says.
        cpu_flags: features the CPU has to list.
        compiler_flags: how it was built.
    """

    kind: ClassVar[str] = "native"
    format: ClassVar[int] = 1
    suffixes: ClassVar[tuple[str, str]] = (".so", ".cpp")
    machine: str = "x86_64"
    cpu_flags: Sequence[str] = ()
    compiler_flags: Sequence[str] = ()

    def requires(self) -> dict[str, Any]:
        """Architecture, CPU features and C library."""
        return native_requires(self.machine, self.cpu_flags, self.binary)

    def facts(self) -> dict[str, Any]:
        """How it was built."""
        return {"compiler_flags": list(self.compiler_flags)}


@dataclass(frozen=True, kw_only=True)
class OnnxPart(UnitPart):
    """A model for ONNX Runtime: a serialised ``ModelProto`` whose larger initializers lie in the unit's weights, and its text.

    Attributes:
        session: what a session takes, as ``runtime.onnx_session.Settings.to_data`` gives it.
        table: of what the provider takes, by which the model was lowered: ``version`` of the provider that was asked, ``origin``
            (asked on the machine that compiled, or shipped) and ``sha256``.
    """

    kind: ClassVar[str] = "onnx"
    format: ClassVar[int] = 2
    suffixes: ClassVar[tuple[str, str]] = (".onnx", ".txt")
    #: Of the settings, those that say what has to be installed; the rest is how the session is opened.
    REQUIRED: ClassVar[tuple[str, ...]] = ("provider", "package", "plugin", "least")
    session: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, str] = field(default_factory=dict)

    def requires(self) -> dict[str, Any]:
        """The execution provider, the package that brings it, and the oldest ONNX Runtime."""
        return {key: self.session.get(key, "") for key in self.REQUIRED}

    def facts(self) -> dict[str, Any]:
        """How the session is opened, and what the model was lowered by."""
        settings = {key: value for key, value in self.session.items() if key not in self.REQUIRED}
        return {"session": settings, "table": dict(self.table)}


@dataclass(frozen=True)
class HostPart:
    """The thread pool for one architecture; native units run in it."""

    binary: bytes
    source: str
    machine: str = "x86_64"

    @property
    def _name(self) -> str:
        return f"host/planish-host-{HOST_ABI}-{self.machine}"

    @property
    def members(self) -> dict[str, bytes]:
        """Its files."""
        return {f"{self._name}.so": self.binary, f"{self._name}.cpp": self.source.encode()}

    @property
    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "abi": HOST_ABI, "binary": f"{self._name}.so", "source": f"{self._name}.cpp",
            "requires": native_requires(self.machine, (), self.binary),
        }  # fmt: skip


def native_requires(machine: str, cpu_flags: Sequence[str], binary: bytes) -> dict[str, Any]:
    """What a shared object needs of the machine.

    Raises:
        PlanishError: it is no shared object.
    """
    return {"machine": machine, "cpu_flags": list(cpu_flags), "glibc": required_glibc(binary)}
