"""The program of a unit: buffers, and the launches that read and write them. What lowering hands to the renderer.

Sizes, offsets and arguments are dimensions (integer expressions over the symbols) and are evaluated at run time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..compiler.deferred import Constant
from ..compiler.dims import Dim
from ..compiler.types import DType
from .specs import KernelSpec


@dataclass(frozen=True)
class Buffer:
    """A stretch of memory.

    input/output: given by the caller, C-contiguous. weight: constant bytes at ``offset`` of weights.bin. state: lives
    across calls. arena: placed by the planner, shared by buffers that are not alive at the same time. scratch: private to
    one launch; ``bytes`` is for ONE worker, the planner reserves workers x bytes, 64-byte aligned each.
    """

    name: str
    kind: Literal["input", "output", "weight", "state", "arena", "scratch"]
    bytes: Dim
    offset: int = 0


@dataclass(frozen=True)
class Ref:
    """``buffer`` plus a byte offset; ``buffer`` None is a null pointer."""

    buffer: int | None
    offset: Dim = 0


@dataclass(frozen=True)
class Launch:
    """One kernel call: ``kernel(host, pointers, dims)``.

    ``flops`` and ``bytes`` are what the op must do and move at least (for the report); ``label`` names it there and
    ``sources`` are the modules of the source model that it stands for, ``anchor`` those of the op that it is built around.
    ``reason``: of a launch that only moves data, why it is needed (for the report as well).
    """

    spec: KernelSpec
    pointers: tuple[Ref, ...]
    dims: tuple[Dim, ...]
    label: str
    scratch: int | None = None
    sources: tuple[str, ...] = ()
    precision: str = "f32"
    flops: Dim = 0
    bytes: Dim = 0
    reason: str = ""
    anchor: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """An input or output of the model: its buffer, element type and shape."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]
    buffer: int


@dataclass
class Program:
    """Everything the renderer needs for one unit.

    ``symbols``: name -> inclusive bounds, in the order in which the C code receives their values.
    ``weights``: the packed constants, one array per weight buffer, in the order of their offsets.
    ``batch``: a symbol along which the elements are independent (axis 0 of every output and of some inputs): a large batch
    may be run in parts. None: it may not.
    """

    symbols: dict[str, tuple[int, int]]
    inputs: list[Port]
    outputs: list[Port]
    states: list[Port] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    weights: list[Constant] = field(default_factory=list)
    isa: str = "portable"
    batch: str | None = None
