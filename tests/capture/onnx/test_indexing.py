"""Operators that read and write by index against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of

from planish.compiler.capture.onnx.capture import NotFixed, capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret
from planish.compiler.precision import kind_of_node

SIZES = [{"n": 1, "s": 5}, {"n": 3, "s": 2}]
X = Fed(("n", "s", 4))


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def whole(low: int, high: int, dtype: Any = np.int64) -> Any:
    return lambda rng, shape: rng.integers(low, high, tuple(shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(axis: int, dtype: Any) -> None:
    x = Fed((6, 6, 6))
    against_runtime("Gather", x, Fed(("n", "s"), whole(-6, 6, dtype)), sizes=SIZES, axis=axis)


def test_rows_of_a_table_are_an_embedding() -> None:
    table = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    graph = against_runtime("Gather", table, Fed(("n", "s"), whole(-9, 9)), sizes=SIZES)
    assert [kind_of_node(n) for n in graph.nodes if n.op != "constant"] == ["embedding"]


@pytest.mark.parametrize("index", [0, -1, 2])
def test_one_index_is_a_slice(index: int) -> None:
    wide = [{"n": 2, "s": 4}, {"n": 1, "s": 3}]
    graph = against_runtime("Gather", X, np.array(index, np.int64), sizes=wide, axis=1)
    assert ("gather" in ops_of(graph)) == (index == 2)  # there may be fewer than three


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements(axis: int) -> None:
    against_runtime("GatherElements", Fed((5, 5, 5)), Fed((3, 5, 2), whole(-5, 5)), axis=axis)
    against_runtime("GatherElements", Fed(("n", 5)), Fed(("n", "s"), whole(-5, 5)), sizes=SIZES, axis=1)


@pytest.mark.parametrize(
    ("x", "rows", "batch"),
    [((4, 5, 6), (3, 2), 0), ((4, 5, 6), (2, 7, 3), 0), (("n", 4, 4, 3), ("n", 5, 2), 1), (("n", "s", 4, 4), ("n", "s", 2, 1), 2),
     ((3, 4), (2, 1), 0)],
)  # fmt: skip
def test_gather_nd(x: Any, rows: Any, batch: int) -> None:
    against_runtime("GatherND", Fed(x), Fed(rows, whole(-3, 3)), sizes=SIZES, batch_dims=batch)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(reduction: str) -> None:
    each = lambda rng, shape: np.argsort(rng.random(tuple(shape)), 1)  # noqa: E731  (no place twice: the order is open)
    against_runtime(
        "ScatterElements", Fed(("n", 5, 3)), Fed(("n", 5, 2), each), Fed(("n", 5, 2)), sizes=SIZES, opset=18, axis=1,
        reduction=reduction,
    )  # fmt: skip
    against_runtime("Scatter", Fed((5, 3)), Fed((2, 3), whole(0, 1)), np.ones((2, 3), np.float32), opset=9)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_scatter_nd(reduction: str, dtype: Any) -> None:
    rows = np.array([[0, 1], [2, -1], [-4, 0]], np.int64)
    x, new = Fed((4, 3, "s"), whole(-9, 9, dtype)), Fed((3, "s"), whole(-9, 9, dtype))
    against_runtime("ScatterND", x, rows, new, sizes=SIZES, opset=18, reduction=reduction)
    if reduction not in ("none", "mul"):  # the order does not matter
        again = np.array([[1, 1], [1, 1], [0, 0]], np.int64)
        against_runtime("ScatterND", x, again, new, sizes=SIZES, opset=18, reduction=reduction)


def test_the_last_write_wins() -> None:
    model = one_node("ScatterND", [Fed((3,)), ids(1, 1).reshape(2, 1), np.array([5, 6], np.float32)], 1, 18, {})
    assert interpret(capture_onnx(model).graph, [np.zeros(3, np.float32)])[0].tolist() == [0, 6, 0]


def test_an_unknown_reduction() -> None:
    model = one_node(
        "ScatterND", [Fed((3,)), ids(1).reshape(1, 1), np.ones(1, np.float32)], 1, 18, {"reduction": "add"}
    )
    model.graph.node[0].attribute[0].s = b"median"
    with pytest.raises(CaptureError, match="no reduction 'median'"):
        capture_onnx(model)


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_compress(axis: int | None) -> None:
    chosen = np.array([True, False, True, True])
    against_runtime("Compress", Fed((4, 4)), chosen, **({} if axis is None else {"axis": axis}))


def test_what_compress_leaves_must_be_known() -> None:
    model = one_node("Compress", [Fed((4,)), Fed((4,), lambda rng, shape: rng.random(shape) < 0.5)], 1, 17, {})
    with pytest.raises(NotFixed) as caught:
        capture_onnx(model)
    assert caught.value.fixes == ("in1",)


@pytest.mark.parametrize("op", ["NonZero", "Unique"])
def test_sizes_that_depend_on_the_data_are_refused(op: str) -> None:
    with pytest.raises(CaptureError, match="the size of its result depends on the data"):
        capture_onnx(one_node(op, [Fed(("n",))], 1, 17, {}))


@pytest.mark.parametrize(
    ("block", "attributes", "columns"),
    [([2, 2], {}, 20), ([2, 3], {"strides": [2, 1]}, 8), ([2, 2], {"dilations": [2, 1], "pads": [1, 0, 1, 0]}, 25)],
)
def test_col2im(block: list[int], attributes: dict[str, list[int]], columns: int) -> None:
    x = Fed(("n", 3 * int(np.prod(block)), columns))
    image = [4, 6] if columns == 8 else [5, 6]
    against_runtime("Col2Im", x, ids(*image), ids(*block), sizes=SIZES, opset=18, **attributes)
