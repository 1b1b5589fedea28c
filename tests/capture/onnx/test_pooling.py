"""Pooling of ONNX models against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, against_runtime, ops_of
from onnx_node_tests import outcomes

OPS = (
    "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxUnpool", "RoiAlign",
    "MaxRoiPool",
)  # fmt: skip
PLANE = [{"n": 1, "h": 9, "w": 8}, {"n": 3, "h": 12, "w": 7}]
WINDOWS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 3]},
    {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"strides": [2, 2], "pads": [0, 1, 1, 0]},
    {"strides": [2, 3], "ceil_mode": 1},
    {"strides": [3, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [3, 1], "auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID", "strides": [2, 2]},
]


def test_node_tests() -> None:
    found = {case.name: result for case, result in outcomes(*OPS)}
    assert len(found) >= 56
    assert {n: r for n, r in found.items() if r.kind != "pass"} == {}


@pytest.mark.parametrize("windows", [*WINDOWS, {"dilations": [2, 1], "pads": [1, 1, 0, 1]}], ids=str)
def test_max_pool(windows: dict[str, Any]) -> None:
    graph = against_runtime("MaxPool", Fed(("n", 3, "h", "w")), sizes=PLANE, kernel_shape=[3, 2], **windows)
    assert "max_pool" in ops_of(graph)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("windows", [WINDOWS[i] for i in (0, 2, 3, 4)], ids=str)
def test_max_pool_says_where_the_largest_was(windows: dict[str, Any], order: int) -> None:
    few = Fed(("n", 3, "h", "w"), lambda rng, shape: rng.integers(0, 4, shape).astype(np.float32))  # ties
    against_runtime("MaxPool", few, sizes=PLANE, outputs=2, kernel_shape=[3, 2], storage_order=order, **windows)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_max_pool_of_bytes(dtype: Any) -> None:
    x = Fed((2, 3, 6, 6), lambda rng, shape: rng.integers(-128, 127, shape).astype(dtype))
    against_runtime("MaxPool", x, kernel_shape=[3, 3], pads=[0, 1, 2, 1])


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_along_one_and_three_axes(op: str, rank: int) -> None:
    sizes = [{"n": 2, "a": 7, "b": 5, "c": 6}, {"n": 1, "a": 9, "b": 8, "c": 4}]
    pads = [1, 0, 1][:rank] + [0, 1, 1][:rank]
    x = Fed(("n", 2, *("a", "b", "c")[:rank]))
    against_runtime(op, x, sizes=sizes, kernel_shape=[3] * rank, strides=[2] * rank, pads=pads)


@pytest.mark.parametrize("count_include_pad", [0, 1])
@pytest.mark.parametrize("windows", WINDOWS, ids=str)
def test_average_pool(windows: dict[str, Any], count_include_pad: int) -> None:
    x = Fed(("n", 3, "h", "w"))
    against_runtime("AveragePool", x, sizes=PLANE, kernel_shape=[3, 3], count_include_pad=count_include_pad, **windows)


def test_average_pool_with_even_padding_is_one_op() -> None:
    graph = against_runtime("AveragePool", Fed(("n", 3, "h", "w")), sizes=PLANE, kernel_shape=[2, 2], pads=[1] * 4)
    assert ops_of(graph) == ["avg_pool"]


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "windows",
    [{"strides": [2, 2], "auto_pad": "SAME_UPPER"}, {"strides": [2, 2], "pads": [1, 1, 0, 0]}, *WINDOWS[3:6]],
    ids=str,
)
def test_padding_behind_that_needs_no_copy(windows: dict[str, Any], op: str, size: int) -> None:
    """Where sizes are known, a pool that reaches over the end, or stops before it, stands for uneven padding."""
    graph = against_runtime(op, Fed(("n", 3, size, size)), sizes=[{"n": 2}], kernel_shape=[3, 3], **windows)
    if windows.get("auto_pad") and size == 8:  # nothing in front, one cell behind
        assert ops_of(graph) == ["max_pool" if op == "MaxPool" else "avg_pool"]


@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool_with_gaps(count_include_pad: int) -> None:
    attributes = {
        "kernel_shape": [3, 2],
        "dilations": [2, 3],
        "pads": [1, 1, 0, 1],
        "count_include_pad": count_include_pad,
    }
    against_runtime("AveragePool", Fed(("n", 3, "h", "w")), sizes=PLANE, opset=19, **attributes)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms(p: int) -> None:
    x = Fed(("n", 3, "h", "w"))
    against_runtime("LpPool", x, sizes=PLANE, opset=18, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1], p=p)
    against_runtime("GlobalLpPool", x, sizes=PLANE, p=p)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pools(op: str) -> None:
    against_runtime(op, Fed(("n", 3, "h", "w")), sizes=PLANE)
    against_runtime(op, Fed(("n", 3, "h")), sizes=PLANE)


def test_unpooling_what_was_pooled() -> None:
    def places(rng: np.random.Generator, shape: Any) -> np.ndarray:
        planes, inner = shape[0] * shape[1], shape[2] * shape[3]
        found = [rng.permutation(48)[:inner] + 48 * i for i in range(planes)]
        return np.stack(found).reshape(shape).astype(np.int64)

    x, ids = Fed(("n", 2, 3, 4)), Fed(("n", 2, 3, 4), places)
    against_runtime("MaxUnpool", x, ids, sizes=[{"n": 1}, {"n": 3}], opset=11, kernel_shape=[2, 2], strides=[2, 2])


def regions(rng: np.random.Generator, shape: Any) -> np.ndarray:
    corners = rng.uniform(-2, 14, (shape[0], 2, 2))
    first = corners.min(1)
    return np.concatenate([first, first + rng.uniform(0.5, 9, (shape[0], 2))], 1).astype(np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_roi_align(coordinates: str, mode: str) -> None:
    batch = Fed(("r",), lambda rng, shape: rng.integers(0, 2, shape).astype(np.int64))
    against_runtime(
        "RoiAlign", Fed((2, 3, "h", "w")), Fed(("r", 4), regions), batch,
        sizes=[{"h": 10, "w": 9, "r": 4}, {"h": 6, "w": 12, "r": 1}], output_height=3, output_width=2, sampling_ratio=2,
        spatial_scale=0.5, mode=mode, coordinate_transformation_mode=coordinates,
    )  # fmt: skip


def test_max_roi_pool() -> None:
    def boxes(rng: np.random.Generator, shape: Any) -> np.ndarray:
        batch = rng.integers(0, 2, (shape[0], 1)).astype(np.float32)
        return np.concatenate([batch, regions(rng, (shape[0], 4))], 1)

    sizes = [{"h": 10, "w": 9, "r": 5}, {"h": 6, "w": 12, "r": 1}]
    x, rois = Fed((2, 3, "h", "w")), Fed(("r", 5), boxes)
    against_runtime("MaxRoiPool", x, rois, sizes=sizes, pooled_shape=[3, 2], spatial_scale=0.7)
