"""Telling an ONNX model from others without the package ``onnx``."""

from __future__ import annotations

import os
from typing import Any


def is_onnx(source: Any) -> bool:
    """Whether ``source`` is a ``ModelProto``, or a path that ends in ``.onnx``."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source).lower().endswith(".onnx")
    kind = type(source)
    return kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] in ("onnx", "onnx_ml_pb2")
