"""Windows of signals, Fourier transforms, mel weights."""

from __future__ import annotations
