"""Where an artifact came from, and what its machine code needs of the system it runs on."""

from __future__ import annotations

import hashlib
import os
import platform
import struct
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata

from ..errors import PlanishError

#: What takes part in a compilation and is recorded with its version, where it is installed.
TOOLS = ("planish", "torch", "onnx", "numpy", "jinja2", "scipy")


def hash_bytes(*parts: bytes | memoryview) -> str:
    """Hex SHA-256 of the parts joined."""
    return hash_parts(parts)


def hash_parts(parts: Iterable[bytes | memoryview]) -> str:
    """Hex SHA-256 of the parts joined; each is let go before the next is asked for."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tool_versions(compiler: str = "", tools: Sequence[str] = TOOLS) -> dict[str, str]:
    """Versions of what took part; ``compiler`` is the first line of the C++ compiler's ``--version``."""
    versions = {"python": platform.python_version()}
    for tool in tools:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return {**versions, "c++": compiler} if compiler else versions


def required_glibc(binary: bytes) -> str | None:
    """The newest version of the GNU C library that a shared object asks for (``2.17``); None if it asks for none.

    Read from the version needs (``.gnu.version_r``) of a 64-bit little-endian ELF file.

    Raises:
        PlanishError: the bytes are no such file.
    """
    newest: tuple[int, ...] = ()
    for name in _needed_versions(binary):
        if name.startswith("GLIBC_") and name[6:7].isdigit():
            newest = max(newest, tuple(int(part) for part in name[6:].split(".")))
    return ".".join(map(str, newest)) or None


_VERNEED = 0x6FFFFFFE


def _needed_versions(binary: bytes) -> Iterator[str]:
    if binary[:6] != b"\x7fELF\x02\x01":
        raise PlanishError("the compiler's output is no 64-bit ELF file", "planish builds for Linux on 64-bit machines")
    (table,) = struct.unpack_from("<Q", binary, 40)
    width, count = struct.unpack_from("<HH", binary, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", binary, table + i * width) for i in range(count)]
    for _, kind, _, _, offset, _, link, info, _, _ in sections:
        if kind != _VERNEED:
            continue
        strings, entry = sections[link][4], offset
        for _ in range(info):
            _, auxiliaries, _, first, following = struct.unpack_from("<HHIII", binary, entry)
            auxiliary = entry + first
            for _ in range(auxiliaries):
                _, _, _, name, step = struct.unpack_from("<IHHII", binary, auxiliary)
                start = strings + name
                yield binary[start : binary.index(b"\0", start)].decode()
                auxiliary += step
            entry += following
