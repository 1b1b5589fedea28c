"""What reaches the kernel of a convolution: windows of its input, sampled."""

from __future__ import annotations

import numpy as np

from ..compiler.graph import Node


def windows(x: np.ndarray, conv: Node, most: int, rng: np.random.Generator) -> np.ndarray:
    """A sample of the windows of ``x`` f32 ``[N, C, *space]`` that ``conv`` multiplies: f32 ``[M, C * taps]`` with
    ``M <= most``, in the order of the weight's axes ``[C, *kernel]``; padding counts as zeros."""
    kernel = [int(d) for d in conv.inputs[1].shape[2:]]  # type: ignore[union-attr]
    stride, low, dilation = (conv.attrs[a] for a in ("stride", "padding", "dilation"))
    high = conv.attrs["padding_high"] or low
    space = x.shape[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    counts = [(size + a + b - r) // s + 1 for size, a, b, r, s in zip(space, low, high, reach, stride, strict=True)]
    total = len(x) * int(np.prod(counts))
    picked = np.arange(total) if total <= most else np.sort(rng.choice(total, most, replace=False))
    image, *at = np.unravel_index(picked, (len(x), *counts))
    found = np.zeros((len(picked), x.shape[1], *kernel), np.float32)
    # positions [M, taps of the axis] in the input, and whether they are inside; one index per axis, broadcast against the rest
    indices: list[np.ndarray] = [image.reshape(-1, *[1] * len(kernel))]
    inside = np.ones((len(picked), *kernel), bool)
    for axis, size in enumerate(space):
        place = at[axis][:, None] * stride[axis] - low[axis] + np.arange(kernel[axis]) * dilation[axis]
        shape = [len(picked), *(kernel[axis] if i == axis else 1 for i in range(len(kernel)))]
        inside &= ((place >= 0) & (place < size)).reshape(shape)
        indices.append(np.clip(place, 0, size - 1).reshape(shape))
    channels_last = np.moveaxis(x, 1, -1)
    taken = np.where(inside[..., None], channels_last[tuple(indices)], 0.0)
    found[:] = np.moveaxis(taken, -1, 1)
    return found.reshape(len(picked), -1)
