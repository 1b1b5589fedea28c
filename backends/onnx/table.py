"""What an execution provider takes, and how fast: a table of lowering forms, learned by asking it (``probe.py``).

A table that was probed on this machine lies in the user's cache, keyed by the version of the provider and the kind of CPU. For
providers that nobody has asked here there are shipped tables; every row says where it comes from.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...compiler.cache import cache_directory
from ...compiler.errors import UsageError
from ..cpu.timings import cpu_kind
from .providers import Provider

#: Of the files; one of another format is not read.
FORMAT = 1
SHIPPED = Path(__file__).parent / "tables"
#: A form counts as no slower than its float form up to this ratio: two measurements of one thing differ by so much.
NOISE = 1.05


@dataclass(frozen=True)
class Row:
    """One lowering form in one element type.

    Attributes:
        form: its name, a key of ``forms.FORMS``.
        dtype: ``f32``, ``f16`` or ``bf16``: of the activations.
        taken: the provider runs it, all of it, and the numbers are right.
        seconds: of a call of the form's probe graph, one thread; None where it was not timed.
        float_seconds: of the form's float counterpart in the same seconds.
        source: where the row comes from: ``probed`` or ``documentation: <reference>``.
        reason: why it is not taken; else what is worth knowing.
        error: of the outputs, relative to the reference in the Euclidean norm; None where it was not run.
        kernels: types of the nodes that ran, in order, where the provider tells.
    """

    form: str
    dtype: str
    taken: bool
    seconds: float | None
    float_seconds: float | None
    source: str
    reason: str = ""
    error: float | None = None
    kernels: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the float form it is; None where it was not timed."""
        return self.float_seconds / self.seconds if self.seconds and self.float_seconds else None


@dataclass(frozen=True)
class Table:
    """What one version of a provider takes.

    Attributes:
        provider: its name in ONNX Runtime.
        version: package and version that were asked; empty if nobody was asked.
        cpu: model name of the CPU that it was asked on; empty likewise.
        rows: in the order of the forms.
        origin: ``cache`` or ``shipped``.
    """

    provider: str
    version: str
    cpu: str
    rows: tuple[Row, ...]
    origin: str = "shipped"

    @cached_property
    def _index(self) -> dict[tuple[str, str], Row]:
        return {(row.form, row.dtype): row for row in self.rows}

    def row(self, form: str, dtype: str = "f32") -> Row | None:
        """The row of a form; None if the table says nothing of it."""
        return self._index.get((form, dtype))

    def takes(self, form: str, dtype: str = "f32") -> bool:
        """Whether the provider runs the form, all of it, with right numbers. What the table does not know it does not take."""
        row = self.row(form, dtype)
        return row is not None and row.taken

    def pays(self, form: str, dtype: str = "f32") -> bool:
        """Whether it takes the form and, where that was timed, is no slower in it than in the float form."""
        row = self.row(form, dtype)
        return row is not None and row.taken and (row.ratio is None or row.ratio * NOISE >= 1)

    def fastest(self, forms: Iterable[str], dtype: str = "f32") -> str | None:
        """Of ``forms`` the one that it takes and that gains most over its float form; those not timed come last, in the order
        given. None if it takes none."""
        taken = [form for form in forms if self.takes(form, dtype)]
        return max(taken, key=lambda form: self._gain(form, dtype), default=None)

    def _gain(self, form: str, dtype: str) -> float:
        row = self.row(form, dtype)
        return -1.0 if row is None or row.ratio is None else row.ratio

    @property
    def digest(self) -> str:
        """sha256 of what lowering reads of it; timings of two probes differ, and so do their digests."""
        return hashlib.sha256(json.dumps(self.to_data(), sort_keys=True).encode()).hexdigest()

    def provenance(self) -> dict[str, str]:
        """What an artifact says of the table that it was lowered by."""
        return {"version": self.version, "origin": self.origin, "sha256": self.digest}

    def described(self) -> str:
        """Where it comes from, in a few words."""
        if self.version:
            return f"probed {self.version}" + ("" if self.origin == "cache" else f", shipped ({self.cpu})")
        return "shipped, from documentation"

    # -- as data -------------------------------------------------------------------------------------------------------
    def to_data(self) -> dict[str, Any]:
        """As JSON holds it."""
        rows = [{k: v for k, v in asdict(row).items() if v not in ("", None, ())} for row in self.rows]
        return {"format": FORMAT, "provider": self.provider, "version": self.version, "cpu": self.cpu, "rows": rows}

    @staticmethod
    def from_data(data: Mapping[str, Any], origin: str = "shipped") -> Table:
        """What :meth:`to_data` gave.

        Raises:
            ValueError: it is no table, or of another format.
        """
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"a table of format {data['format']}")
            empty: dict[str, Any] = {"seconds": None, "float_seconds": None}
            rows = tuple(Row(**{**empty, **row, "kernels": tuple(row.get("kernels", ()))}) for row in data["rows"])
            return Table(str(data["provider"]), str(data["version"]), str(data["cpu"]), rows, origin)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no table of an execution provider: {error!r}") from error


def table_for(provider: Provider) -> Table:
    """What is known of a provider: as probed on this machine in the version that is installed here; if none is installed here,
    as probed last in another environment; else as shipped.

    Raises:
        UsageError: the shipped table is damaged.
    """
    version = provider.version()
    return _cached(provider, version) or shipped(provider)


def shipped(provider: Provider) -> Table:
    """The table that planish brings along.

    Raises:
        UsageError: it is missing or damaged.
    """
    path = SHIPPED / f"{provider.short}.json"
    try:
        return Table.from_data(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(f"the table of {provider.name} cannot be read: {error}", "install planish again") from error


def store(provider: Provider, table: Table) -> Path:
    """Keep a probed table for this machine; it replaces an older one of the same version.

    Raises:
        UsageError: the cache cannot be written.
    """
    path = _folder(provider) / f"{_key(table.version)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            json.dump(table.to_data(), file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        raise UsageError(
            f"the table cannot be kept in {path.parent}: {error.strerror}", "set PLANISH_CACHE_DIR"
        ) from error
    return path


def _cached(provider: Provider, version: str) -> Table | None:
    if version:
        return _read(_folder(provider) / f"{_key(version)}.json")
    with suppress(OSError):
        for path in sorted(_folder(provider).glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True):
            if found := _read(path):
                return found
    return None


def _read(path: Path) -> Table | None:
    try:
        return Table.from_data(json.loads(path.read_text()), "cache")
    except (OSError, ValueError):
        return None  # not probed yet, or by another version of planish


def _folder(provider: Provider) -> Path:
    """The tables of one provider on this kind of CPU: a home folder may be shared by several machines."""
    return cache_directory() / "onnx" / f"{provider.short}-{cpu_kind()[:16]}"


def _key(version: str) -> str:
    return hashlib.sha256(version.encode()).hexdigest()[:16]
