"""What takes part in a comparison."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy.typing as npt

from .data import Inputs, Shape
from .machine import CACHE

Precision = Literal["f32", "bf16", "int8"]
#: From token ids and mask to the last hidden state, batch x tokens x width, as numpy.
Runner = Callable[[Inputs], npt.NDArray[Any]]


class Contender(ABC):
    """One way to run the model: prepared once on disk, then opened in the measuring process."""

    #: unique, as it stands in the tables
    name: str
    #: the class it competes in
    precision: Precision
    #: packages whose versions the prepared files depend on
    packages: ClassVar[tuple[str, ...]] = ()
    #: modules that are imported before it is opened, where that is timed on its own
    libraries: ClassVar[tuple[str, ...]] = ()
    #: raise it when the way of preparing changes
    recipe: ClassVar[int] = 1
    #: planish itself, not a peer
    own: ClassVar[bool] = False
    #: whether two threads can be asked of one contender while the others keep one
    threads_per_model: ClassVar[bool] = True

    @property
    def folder(self) -> Path:
        """Where the prepared files are; the name changes with recipe and versions."""
        key = json.dumps([self.recipe, *((p, metadata.version(p)) for p in self.packages)])
        slug = "".join(c if c.isalnum() else "-" for c in self.name.lower()).strip("-")
        return CACHE / "prepared" / f"{slug}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"

    @property
    def prepared(self) -> bool:
        """Whether ``prepare`` has run to its end."""
        return (self.folder / "done.json").exists()

    def prepare(self, folder: Path) -> None:  # noqa: B027  (most have something to prepare, not all)
        """Write the files that ``open`` needs into ``folder``. May take minutes; runs in a process of its own."""

    @abstractmethod
    def open(self, shape: Shape | None, threads: int) -> Runner:
        """Load what was prepared: for one shape as fast as it can be, or for any shape where that is None."""


def registry() -> list[Contender]:
    """Everything that may take part, fastest known first within each precision, planish before its peers."""
    from . import ours, peers_onnxruntime, peers_openvino, peers_torch

    return [
        *ours.contenders(),
        *peers_openvino.contenders(),
        *peers_onnxruntime.contenders(),
        *peers_torch.contenders(),
    ]


def named(name: str) -> Contender:
    """The contender of this name."""
    for contender in registry():
        if contender.name == name:
            return contender
    raise LookupError(f"there is no contender {name!r}; there are: {', '.join(c.name for c in registry())}")


def chosen(contenders: Iterable[Contender], wanted: str) -> list[Contender]:
    """Those whose name holds one of the comma-separated words (all of them where nothing is asked for)."""
    words = [w.strip().lower() for w in wanted.split(",") if w.strip()]
    return [c for c in contenders if not words or any(w in c.name.lower() for w in words)]
