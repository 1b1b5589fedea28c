"""Strided views: which reshapes, transposes and slices cost nothing because a kernel can read through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...compiler.dims import Dim, divide_exactly, product


def contiguous_strides(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Row-major strides in elements."""
    strides: list[Dim] = []
    step: Dim = 1
    for d in reversed(shape):
        strides.append(step)
        step = step * d
    return tuple(reversed(strides))


@dataclass(frozen=True)
class View:
    """Element ``(i0, i1, ...)`` of a value lies at ``offset + sum(i * stride)`` of ``buffer``; all in elements."""

    buffer: int
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @staticmethod
    def dense(buffer: int, shape: Sequence[Dim]) -> View:
        return View(buffer, tuple(shape), contiguous_strides(shape))

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie in row-major order without gaps (the offset may be anything)."""
        want = contiguous_strides(self.shape)
        return all(d == 1 or s == w for d, s, w in zip(self.shape, self.strides, want, strict=True))

    def covers(self, other: View) -> bool:
        """Whether both are the same elements in the same memory."""
        moving = [(d, s, t) for d, s, t in zip(self.shape, self.strides, other.strides, strict=True) if d != 1]
        return self.buffer == other.buffer and self.offset == other.offset and all(s == t for _, s, t in moving)

    def transpose(self, perm: Sequence[int]) -> View:
        return View(self.buffer, tuple(self.shape[p] for p in perm), tuple(self.strides[p] for p in perm), self.offset)

    def slice(self, axis: int, start: Dim, length: Dim, step: Dim) -> View:
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + strides[axis] * start
        shape[axis], strides[axis] = length, strides[axis] * step
        return View(self.buffer, tuple(shape), tuple(strides), offset)

    def expand(self, shape: Sequence[Dim]) -> View:
        """Broadcast to ``shape``: stride 0 along new axes and along axes of size 1 that grow."""
        offset = len(shape) - len(self.shape)
        strides = [
            0 if i < offset or (self.shape[i - offset] == 1 and d != 1) else self.strides[i - offset]
            for i, d in enumerate(shape)
        ]
        return View(self.buffer, tuple(shape), tuple(strides), self.offset)

    def reshape(self, shape: Sequence[Dim]) -> View | None:
        """The same elements in another shape without copying; None if the strides do not allow it."""
        if 0 in shape:
            return View(
                self.buffer, tuple(shape), contiguous_strides(shape), self.offset
            )  # there is nothing to address
        old = [(d, s) for d, s in zip(self.shape, self.strides, strict=True) if d != 1]
        strides: list[Dim] = [0] * len(shape)
        new = [i for i, d in enumerate(shape) if d != 1]
        i = j = 0
        while i < len(old) and j < len(new):
            first, begin = i, j
            have, want = old[i][0], shape[new[j]]
            i, j = i + 1, j + 1
            while have != want:
                if i < len(old) and divide_exactly(want, have) is not None:
                    have, i = have * old[i][0], i + 1
                elif j < len(new):
                    want, j = want * shape[new[j]], j + 1
                elif i < len(old):
                    have, i = have * old[i][0], i + 1
                else:
                    return None
            for a, b in zip(old[first : i - 1], old[first + 1 : i], strict=True):
                if a[1] != b[1] * b[0]:
                    return None
            step = old[i - 1][1]
            for at in reversed(new[begin:j]):
                strides[at] = step
                step = step * shape[at]
        if i < len(old) or j < len(new):
            return None
        return View(self.buffer, tuple(shape), tuple(strides), self.offset)

    def rows(self) -> tuple[Dim, Dim] | None:
        """(number of rows, row stride) when all axes but the last fold into one; None if they do not."""
        return fold_axes(self.shape[:-1], self.strides[:-1])


def fold_axes(shape: Sequence[Dim], strides: Sequence[Dim]) -> tuple[Dim, Dim] | None:
    """One (size, stride) that walks the axes in order; None if no single stride does."""
    pairs = [(d, s) for d, s in zip(shape, strides, strict=True) if d != 1]
    if not pairs:
        return 1, 0
    if all(s == 0 for _, s in pairs):
        return product(d for d, _ in pairs), 0
    for a, b in pairwise(pairs):
        if a[1] != b[1] * b[0]:
            return None
    return product(d for d, _ in pairs), pairs[-1][1]


def collapse(sizes: Sequence[Dim], strides: Sequence[Sequence[Dim]]) -> tuple[list[Dim], list[list[Dim]]]:
    """Merge neighbouring outer axes wherever every operand walks them with one stride; drops axes of size 1."""
    kept = [i for i, d in enumerate(sizes) if d != 1]
    out_sizes: list[Dim] = []
    out: list[list[Dim]] = [[] for _ in strides]
    for i in kept:
        size = sizes[i]
        if out_sizes and all(o[-1] == s[i] * size for o, s in zip(out, strides, strict=True)):
            out_sizes[-1] = out_sizes[-1] * size
            for o, s in zip(out, strides, strict=True):
                o[-1] = s[i]
        else:
            out_sizes.append(size)
            for o, s in zip(out, strides, strict=True):
                o.append(s[i])
    return out_sizes, out
