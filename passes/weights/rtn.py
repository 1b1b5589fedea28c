"""Round to nearest: the plain symmetric int8 weight of every method's last step."""

from __future__ import annotations

import numpy as np


def quantize_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise ``weight`` f32 ``[N, K]`` to int8 per row (output channel).

    Returns:
        int8 ``[N, K]`` in [-127, 127], and the f32 scales ``[N, 1]`` (amax / 127; 0 for a row of zeros).
    """
    amax = np.abs(weight).max(axis=1, keepdims=True).astype(np.float32)
    inverse = np.divide(np.float32(127.0), amax, out=np.zeros_like(amax), where=amax > 0)
    q = np.clip(np.rint(weight * inverse), -127, 127).astype(np.int8)
    return q, amax / np.float32(127.0)


def fake_quantize_rows(x: np.ndarray) -> np.ndarray:
    """What ``x`` f32 ``[M, K]`` becomes when each row goes through int8 and back."""
    q, scale = quantize_rows(x)
    return q.astype(np.float32) * scale
