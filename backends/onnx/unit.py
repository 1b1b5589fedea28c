"""A graph as an ONNX model: what lowering hands to the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...compiler.deferred import Constant

#: Initializers of at least so many bytes lie outside of the model.
EXTERNAL_BYTES = 1024
#: Where the model says that they lie; the file that an artifact or an export keeps them in.
EXTERNAL_LOCATION = "weights.bin"
#: Every external initializer starts on a cache line.
ALIGNMENT = 64


@dataclass(frozen=True)
class OnnxUnit:
    """An ONNX model and the weights that lie outside of it.

    Attributes:
        model: the serialised ``ModelProto``. Its initializers of at least ``EXTERNAL_BYTES`` bytes are external, with
            ``location`` ``weights.bin`` and ``offset`` and ``length`` relative to the unit's own section of weights.
        weights: what is external, in the order of ``description["weights"]`` (i4 two to a byte, low half first).
        description: what the manifest says, with the keys of ``codegen.unit.describe``: ``isa`` (the provider), ``symbols``,
            ``inputs``, ``outputs``, ``states``, ``weights_bytes``, ``weights``, ``launches`` (one for each node of the graph
            that computes something; an ONNX node names its launch in its metadata ``planish.launch``).
        provider: name of the execution provider in ONNX Runtime.
        notes: plain sentences about what was lowered in another way than asked for.
    """

    model: bytes
    weights: tuple[Constant, ...]
    description: Mapping[str, Any]
    provider: str
    notes: tuple[str, ...] = ()
