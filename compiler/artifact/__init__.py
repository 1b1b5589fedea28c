"""The artifact ``X.planish``: what is in it, how it is written, what it says about where it came from."""

from __future__ import annotations

from .parts import HostPart, NativePart, OnnxPart, UnitPart
from .provenance import hash_bytes, hash_file, required_glibc, tool_versions
from .writer import Package

__all__ = [
    "HostPart",
    "NativePart",
    "OnnxPart",
    "Package",
    "UnitPart",
    "hash_bytes",
    "hash_file",
    "required_glibc",
    "tool_versions",
]
