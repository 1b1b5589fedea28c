"""Putting an artifact together."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..deferred import Constant, Deferred
from ..errors import PlanishError
from . import format, manifest
from .format import FILE_ALIGNMENT, WEIGHT_ALIGNMENT
from .parts import HostPart, UnitPart
from .provenance import hash_bytes, hash_parts


@dataclass(frozen=True)
class Package:
    """Everything that goes into an artifact. ``save`` writes it; equal packages give equal files.

    Attributes:
        name: the model's name.
        units: variants in the order of preference; the loader takes the first that runs.
        hosts: thread pools, one per architecture of a native unit.
        structure: how the outputs nest.
        plan, pipeline, passes, ops, tools, source, calibration, absent_inputs: see ``manifest.py``.
        report: measured figures; not part of the digest.
    """

    name: str
    units: Sequence[UnitPart]
    hosts: Sequence[HostPart]
    structure: Mapping[str, Any]
    plan: Any = None
    pipeline: str = ""
    passes: Mapping[str, int] = field(default_factory=dict)
    ops: Mapping[str, int] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    absent_inputs: Sequence[str] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest as data.

        Raises:
            PlanishError: there is no unit, two have one name, or they disagree on the inputs, outputs or symbols.
        """
        loaded: dict[str, Any] = json.loads(self._manifest_bytes)
        return loaded

    @property
    def digest(self) -> str:
        """The content digest: hex SHA-256 of the manifest, which holds the hashes of the rest."""
        return hash_bytes(self._manifest_bytes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact: whole or not at all.

        Raises:
            PlanishError: it cannot be written there.
        """
        members: list[tuple[str, format.Chunks, int]] = [
            (format.DIGEST, [f"{self.digest}\n".encode()], 1),
            (format.MANIFEST, [self._manifest_bytes], 1),
            *((name, [data], 1) for name, data in self._files.items()),
        ]
        if self._weights[0]:
            members.append((format.WEIGHTS, self._weights[0], FILE_ALIGNMENT))
        if self.report:
            text = json.dumps(self.report, sort_keys=True, indent=1, default=str)
            members.append((format.REPORT, [text.encode()], 1))
        format.write_members(path, members)

    @cached_property
    def _files(self) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for unit in self.units:
            files.update(unit.members)
        for host in self.hosts:
            files.update(host.members)
        return files

    @cached_property
    def _weights(self) -> tuple[list[bytes | memoryview | format.Later], list[tuple[int, int]]]:
        """The pieces of weights.bin, and offset and bytes of each unit's section; equal sections are stored once."""
        chunks: list[bytes | memoryview | format.Later] = []
        sections: dict[str, tuple[int, int]] = {}
        spans, end = [], 0
        for unit in self.units:
            pieces = _section(unit)
            # One unit has no equal, and what is deferred need not be made for that.
            key = hash_parts(format.parts(pieces)) if len(self.units) > 1 else ""
            size = sum(map(len, pieces))
            if key not in sections:
                if size:
                    gap = -end % FILE_ALIGNMENT
                    chunks += [bytes(gap), *pieces]
                    end += gap
                sections[key] = (end if size else 0, size)
                end += size
            spans.append(sections[key])
        return chunks, spans

    @cached_property
    def _manifest_bytes(self) -> bytes:
        if not self.units:
            raise PlanishError("an artifact needs at least one unit")
        names = [unit.name for unit in self.units]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise PlanishError(f"the artifact would hold {twice} twice")
        first = self.units[0].description
        for unit in self.units[1:]:
            for key in ("symbols", "inputs", "outputs", "states"):
                if _comparable(unit.description, key) != _comparable(first, key):
                    raise PlanishError(f"the units {self.units[0].name} and {unit.name} differ in their {key}")
        members = {name: {"sha256": hash_bytes(data), "bytes": len(data)} for name, data in self._files.items()}
        chunks, spans = self._weights
        if chunks:
            members[format.WEIGHTS] = {"sha256": hash_parts(format.parts(chunks)), "bytes": sum(map(len, chunks))}
        return manifest.encode(
            {
                "format": max(unit.format for unit in self.units),
                "name": self.name,
                **{key: first[key] for key in ("symbols", "inputs", "outputs", "states")},
                "absent_inputs": list(self.absent_inputs),
                "structure": self.structure,
                "plan": self.plan,
                "pipeline": self.pipeline,
                "passes": self.passes,
                "ops": self.ops,
                "tools": self.tools,
                "source": self.source,
                "calibration": self.calibration,
                "units": [unit.entry(*span) for unit, span in zip(self.units, spans, strict=True)],
                "hosts": [host.entry for host in self.hosts],
                "members": members,
            }
        )


def _comparable(description: Mapping[str, Any], key: str) -> Any:
    """What units have to agree in: all but the names of outputs, which are found by their place."""
    if key != "outputs":
        return description[key]
    return [{**port, "name": ""} for port in description[key]]


def _section(unit: UnitPart) -> list[bytes | memoryview | format.Later]:
    """The weights of one unit in pieces, each constant at the offset that the description gives it."""
    pieces: list[bytes | memoryview | format.Later] = []
    end = 0
    for entry, array in zip(unit.description["weights"], unit.weights, strict=True):
        offset = entry["offset"]
        if offset < end or offset % WEIGHT_ALIGNMENT or entry["bytes"] != array.nbytes:
            raise PlanishError(f"the weight {entry['name']} of {unit.name} is not where it has to be")
        if offset > end:
            pieces.append(bytes(offset - end))
        if array.nbytes:
            pieces.append(
                format.Later(array.nbytes, partial(_bytes_of, array))
                if isinstance(array, Deferred)
                else _bytes_of(array)
            )
        end = offset + array.nbytes
    total = unit.description["weights_bytes"]
    if total > end:
        pieces.append(bytes(total - end))
    return pieces


def _bytes_of(array: Constant) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
