"""Loads and runs artifacts; needs numpy and the standard library alone."""

from __future__ import annotations

from .errors import ArtifactError, InputError, RunError
from .loader import load
from .model import Bound, LaunchTime, Model
from .structure import Record

__all__ = ["ArtifactError", "Bound", "InputError", "LaunchTime", "Model", "Record", "RunError", "load"]
