"""Strided views against numpy's own: every view that needs no copy reads the same elements, one that needs it says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.backends.cpu.views import View, collapse, contiguous_strides, fold_axes
from planish.compiler.dims import Dim, evaluate, symbol

N, M = symbol("n"), symbol("m")
ENV = {"n": 3, "m": 4}


def read(memory: np.ndarray, view: View) -> np.ndarray:
    """The elements of ``view``, where its buffer is ``memory``."""
    shape, strides = ([evaluate(d, ENV) for d in dims] for dims in (view.shape, view.strides))
    at = np.full(shape, evaluate(view.offset, ENV), np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = [1] * len(shape)
        steps[axis] = size
        at = at + (np.arange(size) * stride).reshape(steps)
    return memory[at]


def sizes(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    return tuple(evaluate(d, ENV) for d in shape)


@st.composite
def factorings(draw: Any, atoms: list[Dim]) -> tuple[Dim, ...]:
    """The atoms, some neighbours multiplied, ones strewn in."""
    shape: list[Dim] = []
    for atom in atoms:
        if shape and draw(st.booleans()):
            shape[-1] = shape[-1] * atom
        else:
            shape.append(atom)
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape)


@st.composite
def chains(draw: Any) -> tuple[View, np.ndarray, np.ndarray]:
    """Random views of a dense buffer beside the same steps in numpy: (view, memory, array)."""
    atoms: list[Dim] = draw(st.lists(st.sampled_from([1, 2, 3, 5, N, M]), min_size=1, max_size=4))
    shape = draw(factorings(atoms))
    count = int(np.prod(sizes(shape)))
    memory = np.arange(count) + 100
    view, array = View.dense(0, shape), memory.reshape(sizes(shape))
    for _ in range(draw(st.integers(1, 5))):
        rank = len(view.shape)
        match draw(st.sampled_from(["transpose", "slice", "expand", "reshape", "reshape"])):
            case "transpose":
                perm = draw(st.permutations(range(rank)))
                view, array = view.transpose(perm), array.transpose(perm)
            case "slice" if rank:
                axis = draw(st.integers(0, rank - 1))
                size = array.shape[axis]
                start = draw(st.integers(0, max(size - 1, 0)))
                step = draw(st.sampled_from([1, 1, 2]))
                cut = [slice(None)] * rank
                cut[axis] = slice(start, None, step)
                array = array[tuple(cut)]
                view = view.slice(axis, start, array.shape[axis] if start or step != 1 else view.shape[axis], step)
            case "expand" if rank < 5:
                wide: tuple[Dim, ...] = tuple(draw(st.sampled_from([1, 2, M])) if d == 1 else d for d in view.shape)
                wide = (*draw(st.sampled_from([(), (2,)])), *wide)
                view, array = view.expand(wide), np.broadcast_to(array, sizes(wide))
            case "reshape":
                to = draw(factorings(split(view.shape)))
                seen = view.reshape(to)
                if seen is None:
                    continue
                view, array = seen, array.reshape(sizes(to))
    return view, memory, array


def split(shape: tuple[Dim, ...]) -> list[Dim]:
    """Sizes whose product is that of ``shape``, in order, as small as can be."""
    found: list[Dim] = []
    for size in shape:
        if isinstance(size, int):
            rest = size
            for prime in (2, 3, 5):
                while rest and rest % prime == 0 and rest > 1:
                    found.append(prime)
                    rest //= prime
            if rest != 1:
                found.append(rest)
        else:
            found.append(size)
    return found or [1]


@given(chains())
def test_views_read_what_numpy_reads(chain: tuple[View, np.ndarray, np.ndarray]) -> None:
    view, memory, array = chain
    assert sizes(view.shape) == array.shape
    np.testing.assert_array_equal(read(memory, view), array)


@given(chains())
def test_dense_views_are_row_major(chain: tuple[View, np.ndarray, np.ndarray]) -> None:
    view, memory, array = chain
    if view.is_dense and array.size:
        start = evaluate(view.offset, ENV)
        np.testing.assert_array_equal(memory[start : start + array.size], array.reshape(-1))
    dense = View.dense(0, view.shape)
    assert dense.is_dense
    assert dense.reshape((*view.shape, 1)) is not None


@given(chains())
def test_rows_walk_the_outer_axes(chain: tuple[View, np.ndarray, np.ndarray]) -> None:
    view, memory, array = chain
    if not array.shape or not array.size:
        return
    rows = view.rows()
    if rows is None:
        return
    count, stride = (evaluate(d, ENV) for d in rows)
    assert count == array.size // array.shape[-1]
    first = evaluate(view.offset, ENV) + np.arange(count) * stride
    np.testing.assert_array_equal(memory[first], array.reshape(count, -1)[:, 0])


@given(st.lists(chains(), min_size=1, max_size=3), st.data())
def test_collapse_walks_the_same_elements(
    parts: list[tuple[View, np.ndarray, np.ndarray]], data: st.DataObject
) -> None:
    """Folding the axes of several operands keeps the order in which each is walked."""
    shape = parts[0][0].shape
    strides = [list(parts[0][0].strides)]
    for _ in parts[1:]:
        order = data.draw(st.permutations(range(len(shape))))
        stored = contiguous_strides([shape[a] for a in order])
        strides.append([stored[order.index(a)] for a in range(len(shape))])
    folded_sizes, folded = collapse(list(shape), strides)
    for before, after in zip(strides, folded, strict=True):
        assert addresses(shape, before) == addresses(tuple(folded_sizes), after)


def addresses(shape: tuple[Dim, ...], strides: list[Dim]) -> list[int]:
    """Where each element lies, in row-major order."""
    total = np.zeros((), np.int64)
    for d, s in zip(shape, strides, strict=True):
        total = np.add.outer(total, np.arange(evaluate(d, ENV)) * evaluate(s, ENV))
    return total.reshape(-1).tolist()


# -- by hand -----------------------------------------------------------------------------------------------------------
def test_heads_need_no_copy_on_the_way_there_and_one_on_the_way_back() -> None:
    x = View.dense(0, (N, M, 12))
    heads = x.reshape((N, M, 3, 4))
    assert heads is not None
    assert heads.strides == (12 * M, 12, 4, 1)
    turned = heads.transpose((0, 2, 1, 3))
    assert turned.reshape((N, 3, M * 4)) is None
    back = turned.transpose((0, 2, 1, 3)).reshape((N * M, 12))
    assert back is not None
    assert back.is_dense


def test_symbolic_sizes_fold_only_where_they_provably_do() -> None:
    whole = View.dense(0, (N, M, 6))
    assert whole.rows() == (N * M, 6)
    part = whole.slice(1, 1, M - 1, 1)
    assert part.offset == 6
    assert part.rows() is None
    assert part.reshape((N * (M - 1), 6)) is None
    assert whole.slice(0, 1, N - 1, 1).rows() == ((N - 1) * M, 6)
    assert whole.reshape((N * M * 2, 3)) is not None


@pytest.mark.parametrize(
    ("shape", "strides", "want"),
    [
        ((), (), (1, 0)),
        ((1, 1), (7, 9), (1, 0)),
        ((4, 5), (5, 1), (20, 1)),
        ((4, 5), (10, 2), (20, 2)),
        ((4, 5), (0, 0), (20, 0)),
        ((4, 5), (0, 1), None),
        ((4, 1, 5), (5, 99, 1), (20, 1)),
        ((4, 5), (1, 4), None),
    ],
)
def test_fold_axes(shape: tuple[int, ...], strides: tuple[int, ...], want: tuple[int, int] | None) -> None:
    assert fold_axes(shape, strides) == want


def test_broadcast_axes_have_no_stride() -> None:
    row = View.dense(0, (1, 5))
    assert row.expand((3, N, 5)).strides == (0, 0, 1)
    assert row.expand((1, 5)).strides == row.strides
    assert not row.expand((3, 5)).is_dense


def test_nothing_can_be_seen_in_any_empty_shape() -> None:
    empty = View.dense(0, (4, 0, 3)).transpose((2, 1, 0))
    seen = empty.reshape((0, 7))
    assert seen is not None
    assert seen.shape == (0, 7)
