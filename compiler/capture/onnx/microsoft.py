"""Fused float operators that ONNX Runtime's own tools write (com.microsoft)."""

from __future__ import annotations
