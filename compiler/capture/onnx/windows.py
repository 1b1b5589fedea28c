"""Convolution, transposed convolution, pooling."""

from __future__ import annotations
