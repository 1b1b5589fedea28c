"""Operators that move elements, and those that make tensors of sizes, against ONNX Runtime at sizes that vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of

from planish.compiler.capture.onnx.capture import NotFixed, capture_onnx
from planish.compiler.errors import CaptureError

SIZES = [{"n": 1, "s": 5}, {"n": 3, "s": 1}, {"n": 2, "s": 8}]
X = Fed(("n", "s", 4))
FAR = np.iinfo(np.int64).max


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def whole(low: int, high: int, dtype: Any = np.int64) -> Any:
    return lambda rng, shape: rng.integers(low, high, tuple(shape)).astype(dtype)


# -- another shape ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(0, -1), (-1, 4), (0, 0, 2, 2), (-1,), (0, 0, 1, 4)])
def test_reshape(shape: tuple[int, ...]) -> None:
    assert ops_of(against_runtime("Reshape", X, ids(*shape), sizes=SIZES)) == ["reshape"]


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(axis: int) -> None:
    against_runtime("Flatten", X, sizes=SIZES, axis=axis)


def test_squeeze_and_unsqueeze() -> None:
    narrow = Fed(("n", 1, "s", 1))
    against_runtime("Squeeze", narrow, ids(1, -1), sizes=SIZES)
    against_runtime("Squeeze", narrow, sizes=SIZES, opset=11, axes=[1])
    against_runtime("Unsqueeze", X, ids(0, -1), sizes=SIZES)
    against_runtime("Unsqueeze", X, sizes=SIZES, opset=11, axes=[2])


def test_an_axis_that_may_vary_cannot_be_squeezed() -> None:
    with pytest.raises(CaptureError, match="must be 1"):
        capture_onnx(one_node("Squeeze", [X, ids(1)], 1, 17, {}))


def test_sizes_are_known() -> None:
    graph = against_runtime("Shape", X, sizes=SIZES, start=1, end=3)
    assert set(ops_of(graph)) <= {"full", "concat", "reshape"}
    against_runtime("Size", X, sizes=SIZES)


@pytest.mark.parametrize("perm", [None, [0, 2, 1], [2, 0, 1]])
def test_transpose(perm: list[int] | None) -> None:
    against_runtime("Transpose", X, sizes=SIZES, **({} if perm is None else {"perm": perm}))


def test_expand_goes_both_ways() -> None:
    against_runtime("Expand", Fed(("n", 1, 4)), ids(3, 1), sizes=SIZES)
    against_runtime("Expand", Fed((4,)), ids(2, 3, 1), sizes=SIZES)


def test_tile() -> None:
    against_runtime("Tile", X, ids(2, 1, 3), sizes=SIZES)
    assert ops_of(against_runtime("Tile", Fed(("n", 1)), ids(1, 3), sizes=SIZES)) == ["expand"]


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    against_runtime("DepthToSpace", Fed(("n", 8, "s", 3)), sizes=SIZES, blocksize=2, mode=mode)


def test_space_to_depth() -> None:
    against_runtime("SpaceToDepth", Fed(("n", 3, 4, 6)), sizes=SIZES, blocksize=2)


@pytest.mark.parametrize(("batch", "time"), [(0, 1), (1, 0)])
def test_reverse_sequence(batch: int, time: int) -> None:
    lengths = Fed((4,), whole(1, 6))
    shape = (4, 5, "n") if batch == 0 else (5, 4, "n")
    against_runtime("ReverseSequence", Fed(shape), lengths, sizes=SIZES, batch_axis=batch, time_axis=time)


@pytest.mark.parametrize("upper", [0, 1])
def test_trilu(upper: int) -> None:
    against_runtime("Trilu", Fed(("n", "s", 4)), sizes=SIZES, upper=upper)
    against_runtime("Trilu", Fed(("n", "s", 4)), np.array(-1, np.int64), sizes=SIZES, upper=upper)
    against_runtime("Trilu", Fed(("n", "s", 4)), Fed((), whole(-2, 3)), sizes=SIZES, upper=upper)


def test_one_hot() -> None:
    values = np.array([-1, 2], np.float32)
    against_runtime("OneHot", Fed(("n", "s"), whole(-7, 7)), ids(5), values, sizes=SIZES)
    against_runtime("OneHot", Fed(("n",), whole(0, 5)), ids(5), Fed((2,)), sizes=SIZES, axis=0)


# -- cutting ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("start", "end", "axis", "step"),
    [(1, 3, 1, 1), (-3, FAR, 1, 1), (0, -1, 1, 1), (2, FAR, 1, 1), (0, 100, 2, 2), (1, FAR, 1, 2), (-1, -FAR, 1, -1),
     (3, 0, 2, -1), (-2, -FAR, 2, -2), (FAR, -FAR, 1, -1), (5, 2, 2, 1), (3, 2, 1, 1), (-1, 1, 2, -1)],
)  # fmt: skip
def test_slice(start: int, end: int, axis: int, step: int) -> None:
    against_runtime("Slice", X, ids(start), ids(end), ids(axis), ids(step), sizes=SIZES)


def test_slice_of_several_axes() -> None:
    against_runtime("Slice", X, ids(0, 1), ids(-1, 3), ids(1, -1), sizes=SIZES)
    against_runtime("Slice", X, ids(0, 0, 2), ids(1, 9, 4), sizes=SIZES)


def test_slice_by_attributes() -> None:
    against_runtime("Slice", X, sizes=SIZES, opset=9, starts=[1], ends=[3], axes=[2])


@pytest.mark.parametrize("sizes", [(1, 3), (4, 0), (2, 2)])
def test_split(sizes: tuple[int, ...]) -> None:
    against_runtime("Split", X, ids(*sizes), sizes=SIZES, outputs=2, axis=2)
    against_runtime("Split", X, sizes=SIZES, outputs=2, axis=2, opset=11, split=list(sizes))


def test_split_into_equal_parts() -> None:
    against_runtime("Split", X, sizes=SIZES, outputs=2, axis=-1)
    against_runtime("Split", Fed(("n", 7)), sizes=SIZES, outputs=3, axis=1, opset=18, num_outputs=3)


def test_concat() -> None:
    against_runtime("Concat", X, Fed(("n", 2, 4)), X, sizes=SIZES, axis=-2)


# -- padding ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [None, np.array(1.5, np.float32), Fed(())])
def test_pad_with_a_number(value: Any) -> None:
    against_runtime("Pad", X, ids(0, 1, 2, 0, 3, -1), value, sizes=SIZES)


def test_pad_some_axes() -> None:
    against_runtime("Pad", X, ids(1, 2), None, ids(-1), sizes=SIZES, opset=18)


def test_pad_by_attributes() -> None:
    against_runtime("Pad", X, sizes=SIZES, opset=10, pads=[0, 1, 0, 0, 0, 1], value=2.0)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
def test_pad_with_what_is_inside(mode: str) -> None:
    opset = 19 if mode == "wrap" else 17
    against_runtime("Pad", X, ids(0, 0, 2, 0, 0, 3), sizes=SIZES, opset=opset, mode=mode)
    wide = [{"n": 2, "s": 4}, {"n": 1, "s": 7}]
    against_runtime("Pad", X, ids(0, 2, 0, 0, 3, 0), sizes=wide, opset=opset, mode=mode)


@pytest.mark.parametrize("size", [3, 7, 4])
def test_center_crop_pad(size: int) -> None:
    """ONNX Runtime has no kernel of its own: it runs the definition, as the importer could."""
    against_runtime("CenterCropPad", Fed(("n", 4)), ids(size), opset=18, sizes=SIZES, axes=[1])


# -- made of sizes --------------------------------------------------------------------------------------------------------------
def test_a_shape_that_depends_on_the_data_names_the_input() -> None:
    with pytest.raises(NotFixed) as caught:
        capture_onnx(one_node("Expand", [Fed((4,)), Fed((2,), whole(1, 3))], 1, 17, {}))
    assert caught.value.fixes == ("in1",)
    assert "--fix in1=" in (caught.value.hint or "")


def test_eye_like() -> None:
    against_runtime("EyeLike", Fed(("n", "s")), sizes=SIZES, k=1)
    against_runtime("EyeLike", Fed(("n", "s")), sizes=SIZES, dtype=TensorProto.INT64)
