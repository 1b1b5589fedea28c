"""The manifest: everything an artifact says about itself, as JSON.

format, abi, host_abi   integers a loader compares before it does anything else; the format is the oldest that can hold
                        the units: 1 for native code alone, 2 with a model for ONNX Runtime
name                    the model's name
symbols                 name -> {"min", "max"}: dimensions known at run time
inputs, outputs, states [{"name", "dtype", "shape": [dimension as text]}]
absent_inputs           names the source model takes and this one was compiled without
structure               how the outputs nest (``compiler/capture/structure.py``)
plan, pipeline, passes  the precision plan with its expansion, the text of the first unit's pipeline, versions of the passes
ops, tools              versions of the ops in the graph; of planish, torch, numpy, the C++ compiler
source, calibration     {"sha256", ...} of the model and of the calibration data; null where there is none
units                   in the order of preference, each
    name, kind, target, isa             variant; "native" (also where it is not said) or "onnx"; what it is for
    binary, source, pipeline            members that hold it; the passes it went through
    requires                            native: {"machine", "cpu_flags", "glibc"}
                                        onnx: {"provider", "package", "plugin", "least"} (``runtime/onnx_session.py``)
    compiler_flags                      native: how it was built
    session                             onnx: {"optimize", "config", "options", "emulator"} of the session
    table                               onnx: {"version", "origin", "sha256"} of what the provider takes, as lowering read it
    weights                             {"offset", "bytes", "index": [{"name", "offset", "bytes", "dtype", "shape"}]};
                                        offsets of the index count from the unit's own
    launches                            [{"label", "kernel", "digest", "precision", "sources", "flops", "bytes"}]
hosts                   [{"abi", "binary", "source", "requires"}]
members                 name -> {"sha256", "bytes"} of every member but manifest.json, digest and report.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import PlanishError
from .format import FORMAT, HOST_ABI, UNIT_ABI

#: Keys a manifest of this format holds.
REQUIRED = (
    "format", "abi", "host_abi", "name", "symbols", "inputs", "outputs", "states", "absent_inputs", "structure", "plan",
    "pipeline", "passes", "ops", "tools", "source", "calibration", "units", "hosts", "members",
)  # fmt: skip


def encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of manifest.json: sorted, one line per entry, ASCII; equal content, equal bytes.

    Raises:
        PlanishError: a key is missing or unknown.
    """
    full = {"format": FORMAT, "abi": UNIT_ABI, "host_abi": HOST_ABI, **content}
    wrong = sorted(set(full) ^ set(REQUIRED))
    if wrong:
        raise PlanishError(f"the manifest and its schema differ at {', '.join(wrong)}")
    return (json.dumps(full, sort_keys=True, indent=1, default=_plain) + "\n").encode("ascii")


def _plain(value: object) -> object:
    """Tuples are lists already; this is for what prints itself (dimensions, element types)."""
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
