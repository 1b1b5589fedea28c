"""Kernels that sort, scan, search and write by index: long rows, several workers, ids out of range."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import RUNNABLE, Kernel, build_kernels

from planish.codegen.specs import ScanSpec, ScatterSpec, SearchSpec, SortSpec

SORT, SORT_WIDE = SortSpec("f32", False, 1), SortSpec("i64", True, 1)
SUM, LARGEST = ScanSpec("sum", "f32", 1), ScanSpec("max", "f32", 1)
SEARCH = SearchSpec("f32", False, "i64", 0)
SLICES, ELEMENTS = ScatterSpec("f32", "i64", "sum", False, 1), ScatterSpec("f32", "i64", "none", True, 1)
ALL = (SORT, SORT_WIDE, SUM, LARGEST, SEARCH, SLICES, ELEMENTS)


def kernel(spec: object) -> Kernel:
    return build_kernels(ALL, RUNNABLE[0])[ALL.index(spec)]  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("n", [1, 31, 33, 1000, 70_000])
def test_sort_of_long_rows_is_stable(n: int, workers: int) -> None:
    rng = np.random.default_rng(n)
    x = np.round(rng.normal(size=(3, n)) * 8).astype(np.float32)
    x[:, ::7] = np.nan
    values, places = np.zeros_like(x), np.zeros((3, n), np.int64)
    kernel(SORT)([x, values, places], [3, n, n, n, 1, n, 1, n, 1], workers=workers)
    want = np.argsort(x, axis=-1, kind="stable")
    np.testing.assert_array_equal(places, want)
    np.testing.assert_array_equal(values, np.take_along_axis(x, want, -1))


@pytest.mark.parametrize("k", [1, 5, 64, 200])
def test_first_of_a_long_row(k: int) -> None:
    n = 1000
    x = np.random.default_rng(k).integers(-40, 40, (2, n)) << 40
    values, places = np.zeros((2, k), np.int64), np.zeros((2, k), np.int64)
    kernel(SORT_WIDE)([x, values, places], [2, n, k, n, 1, k, 1, k, 1])
    want = np.argsort(-x, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, want)
    np.testing.assert_array_equal(values, np.take_along_axis(x, want, -1))


@pytest.mark.parametrize("columns", [1, 5, 65, 200])
def test_running_sum_with_columns_and_gaps(columns: int) -> None:
    rng = np.random.default_rng(columns)
    store = rng.normal(size=(4, 50, columns + 3)).astype(np.float32)
    out = np.zeros((4, 50, columns), np.float32)
    pitch = columns + 3
    dims = [4, 50, columns, 50 * pitch, pitch, 1, 50 * columns, columns, 1]
    kernel(SUM)([store, out, None], dims, workers=3)
    want = np.cumsum(store[:, :, :columns].astype(np.float64), 1)
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6)


def test_only_what_is_asked_for_is_written() -> None:
    x = np.array([[1, 3, 2, 3, np.nan, 4]], np.float32)
    places = np.zeros((1, 6), np.int64)
    kernel(LARGEST)([x, None, places], [1, 6, 1, 6, 1, 0, 0, 0, 0, 6, 1, 0])
    np.testing.assert_array_equal(places, [[0, 1, 1, 3, 4, 4]])


def test_search_past_the_ends() -> None:
    edges = np.array([0, 1, 1, 2], np.float32)
    x = np.array([-1, 0, 1, 1.5, 2, 3, np.nan, np.inf, -np.inf], np.float32)
    out = np.zeros(9, np.int64)
    kernel(SEARCH)([edges, x, out], [4, 9, 1, 1, 1])
    np.testing.assert_array_equal(out, np.searchsorted(edges, x))


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("columns", [1, 7, 3000])
def test_writes_out_of_range_leave_memory_alone_and_say_so(columns: int, workers: int) -> None:
    rows, ids = 5, np.array([4, 0, -1, 5, 0, -6, 1 << 40, 2], np.int64)
    guarded = np.full((rows + 2, columns), 7, np.float32)
    source = np.random.default_rng(0).normal(size=(len(ids), columns)).astype(np.float32)
    run = kernel(SLICES)
    dims = [1, len(ids), columns, rows, 0, 1, 0, 0, columns, 1, 0, columns, 1]
    run([ids, source, guarded[1:]], dims, workers=workers)
    want = np.full((rows, columns), 7, np.float32)
    for row, values in zip(ids, source, strict=True):
        if -rows <= row < rows:
            want[row] += values
    assert run.error == 1
    np.testing.assert_allclose(guarded[1:-1], want, rtol=1e-6)
    assert (guarded[[0, -1]] == 7).all()
    run([ids[:3], source, guarded[1:]], [1, 3, *dims[2:]], workers=workers)
    assert run.error == 0


def test_the_last_of_several_writes_wins() -> None:
    ids = np.array([[0, 2], [0, 1], [0, 2]], np.int64)
    source = np.arange(6, dtype=np.float32).reshape(3, 2)
    out = np.full((3, 2), -1, np.float32)
    kernel(ELEMENTS)([ids, source, out], [1, 3, 2, 3, 0, 2, 1, 0, 2, 1, 0, 2, 1])
    np.testing.assert_array_equal(out, [[4, -1], [-1, 3], [-1, 5]])
