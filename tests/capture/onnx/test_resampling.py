"""Resize, Upsample, GridSample and deformable convolution of ONNX models against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, against_runtime, one_node, ops_of
from onnx_node_tests import outcomes

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError

RNG = np.random.default_rng(13)
COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
PLANE = [{"n": 2, "h": 5, "w": 7}, {"n": 1, "h": 8, "w": 3}]
X = Fed((2, 3, 5, 7))
#: The size of the result varies, and stands in the model as another tensor's.
LIKE = [{"n": 2, "h": 5, "w": 7, "a": 8, "b": 11}, {"n": 1, "h": 9, "w": 6, "a": 4, "b": 5}]


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_node_tests() -> None:
    """Those of one node: the expanded ones are of the operators that they are made of."""
    found = {
        case.name: result
        for case, result in outcomes("Resize", "GridSample", "AffineGrid", "DeformConv", "Upsample")
        if len(case.model.graph.node) == 1
    }
    assert len(found) >= 60
    assert {n: r for n, r in found.items() if r.kind != "pass"} == {}


@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 0.6, 1.5), (1, 1, 1.7, 0.4)], ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_scales(mode: str, coordinates: str, scales: tuple[float, ...]) -> None:
    if coordinates == "align_corners" and not all(
        float(s * d).is_integer() for s, d in zip(scales, X.shape, strict=True)
    ):
        pytest.skip("the standard divides by the size before rounding, ONNX Runtime by that after it")
    against_runtime(
        "Resize", X, None, f32(*scales), mode=mode, coordinate_transformation_mode=coordinates, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("sizes", [(2, 3, 9, 4), (2, 3, 5, 14), (2, 3, 1, 1)], ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_sizes(mode: str, coordinates: str, sizes: tuple[int, ...]) -> None:
    against_runtime(
        "Resize",
        X,
        None,
        None,
        np.array(sizes),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_roundings(coordinates: str, rounding: str) -> None:
    attributes = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    for size in ((2, 3, 10, 4), (2, 3, 3, 13)):
        graph = against_runtime("Resize", X, None, None, np.array(size), **attributes)
        assert ops_of(graph) == ["gather", "gather"]


def test_cubic_without_what_lies_outside() -> None:
    for scales in ((1, 1, 2, 2), (1, 1, 0.6, 0.75)):
        against_runtime(
            "Resize", X, None, f32(*scales), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias(mode: str) -> None:
    x = Fed((2, 3, 12, 9))
    against_runtime(
        "Resize", x, None, None, np.array((2, 3, 5, 4)), opset=18, mode=mode, antialias=1, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_regions(mode: str) -> None:
    region = f32(0, 0, 0.2, -0.25, 1, 1, 0.9, 1.2)
    against_runtime(
        "Resize", X, region, None, np.array((2, 3, 4, 6)), mode=mode, coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=7.0, rtol=1e-3, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_policies_and_axes(policy: str) -> None:
    against_runtime(
        "Resize", X, None, None, np.array([9, 8]), opset=18, axes=[3, 2], keep_aspect_ratio_policy=policy, mode="linear",
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_nearest_of_integers() -> None:
    x = Fed((1, 2, 4, 4), lambda rng, shape: rng.integers(-9, 9, shape).astype(np.int32))
    against_runtime(
        "Resize", x, None, f32(1, 1, 2, 1.5), coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


# -- sizes that vary --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scales", [(1, 1, 2, 3), (1, 1, 0.5, 1.5)], ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES[:3])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_scales_of_planes_of_any_size(mode: str, coordinates: str, scales: tuple[float, ...]) -> None:
    x = Fed(("n", 3, "h", "w"))
    against_runtime(
        "Resize",
        x,
        None,
        f32(*scales),
        sizes=PLANE,
        mode=mode,
        coordinate_transformation_mode=coordinates,
        rtol=1e-3,
        atol=1e-4,
    )


def test_whole_scales_repeat() -> None:
    x = Fed(("n", 3, "h", "w"))
    for attributes in ({}, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}):
        graph = against_runtime("Resize", x, None, f32(1, 1, 2, 2), sizes=PLANE, mode="nearest", **attributes)
        assert set(ops_of(graph)) == {"reshape", "expand"}


@pytest.mark.parametrize("sizes", [("h", "w"), (5, 1)], ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES[:3])
def test_whole_scales_mix_neighbours(coordinates: str, sizes: tuple[Any, ...]) -> None:
    """Linear at a whole scale looks nothing up, and multiplies with no matrix; along an axis of one element it repeats it."""
    graph = against_runtime(
        "Resize", Fed(("n", 3, *sizes)), None, f32(1, 1, 2, 3), sizes=[*PLANE, {"n": 1, "h": 1, "w": 2}], mode="linear",
        coordinate_transformation_mode=coordinates,
    )  # fmt: skip
    assert not {"gather", "linear", "matmul"} & set(ops_of(graph))


@pytest.mark.parametrize("exclude", [0, 1])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_to_the_size_of_another_tensor(mode: str, coordinates: str, exclude: int) -> None:
    """As decoders of segmentation write it: the size is computed from the shape of another feature map."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    from planish.compiler.interpret import interpret

    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
    attributes |= {"exclude_outside": 1} if exclude and mode == "cubic" else {}
    nodes = [
        helper.make_node("Shape", ["x"], ["own"], end=2),
        helper.make_node("Shape", ["like"], ["theirs"], start=2),
        helper.make_node("Concat", ["own", "theirs"], ["size"], axis=0),
        helper.make_node("Resize", ["x", "", "", "size"], ["y"], **attributes),
    ]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("like", TensorProto.FLOAT, ["n", 1, "a", "b"]),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "a", "b"])
    unused = numpy_helper.from_array(np.zeros(0, np.float32), "unused")
    model = helper.make_model(
        helper.make_graph(nodes, "net", ports, [out], [unused]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    graph = capture_onnx(model).graph
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed, here in enumerate(LIKE):
        rng = np.random.default_rng(seed)
        feed = {
            "x": rng.standard_normal((here["n"], 3, here["h"], here["w"])).astype(np.float32),
            "like": np.zeros((here["n"], 1, here["a"], here["b"]), np.float32),
        }
        (want,) = session.run(None, feed)
        (got,) = interpret(graph, {v.name: feed[v.name] for v in graph.inputs})
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_regions_that_are_fed_are_named() -> None:
    operands = [X, Fed((8,)), None, np.array((2, 3, 4, 6))]
    model = one_node("Resize", operands, 1, 17, {"coordinate_transformation_mode": "tf_crop_and_resize"})
    with pytest.raises(CaptureError, match=r"'in1' decides a shape"):
        capture_onnx(model)


def test_upsample_of_old_opsets() -> None:
    from planish.compiler.interpret import interpret

    x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    for op, opset in (("Upsample", 9), ("Resize", 10)):
        model = one_node(op, [Fed((1, 2, 2, 2)), f32(1, 1, 2, 3)], 1, opset, {"mode": "nearest"})
        (got,) = interpret(capture_onnx(model).graph, {"in0": x})
        np.testing.assert_array_equal(got, x.repeat(2, 2).repeat(3, 3))


# -- places that are computed -----------------------------------------------------------------------------------------
def grid(rng: np.random.Generator, shape: Any) -> np.ndarray:
    return rng.uniform(-1.7, 1.7, shape).astype(np.float32)


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode: str, padding: str, align_corners: int) -> None:
    sizes = [{"n": 2, "h": 5, "w": 7, "a": 3, "b": 4}, {"n": 1, "h": 4, "w": 6, "a": 5, "b": 2}]
    against_runtime(
        "GridSample", Fed(("n", 3, "h", "w")), Fed(("n", "a", "b", 2), grid), sizes=sizes, opset=20, mode=mode,
        padding_mode=padding, align_corners=align_corners, rtol=1e-3, atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_in_a_volume(mode: str) -> None:
    x, places = Fed((2, 3, 4, 5, 6)), Fed((2, 2, 3, 4, 3), grid)
    against_runtime("GridSample", x, places, opset=20, mode=mode, padding_mode="reflection", rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_nothing_outside_of_the_grid_is_read(mode: str) -> None:
    """A place far outside reads nothing, whatever lies at the border; nor does one that is no number, which has no neighbours."""
    from planish.compiler.interpret import interpret

    x = np.full((1, 1, 3, 3), np.inf, np.float32)
    places = np.array([[9e30, 0.0], [-1e20, 5.0], [np.nan, 0.0]], np.float32).reshape(1, 1, 3, 2)
    model = one_node("GridSample", [Fed((1, 1, 3, 3)), Fed((1, 1, 3, 2))], 1, 20, {"align_corners": 1, "mode": mode})
    (got,) = interpret(capture_onnx(model).graph, {"in0": x, "in1": places})
    assert np.array_equal(got[0, 0, 0, :2], [0.0, 0.0])
    assert mode == "linear" or got[0, 0, 0, 2] == 0.0


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("space", [(3, 4), (2, 3, 4)], ids=str)
def test_affine_grid(space: tuple[int, ...], align_corners: int) -> None:
    theta = Fed(("n", len(space), len(space) + 1))
    size = np.array((2, 3, *space))
    against_runtime("AffineGrid", theta, size, sizes=[{"n": 2}], opset=20, align_corners=align_corners)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("group", "offset_group"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_deformable_convolution(group: int, offset_group: int, masked: bool) -> None:
    def weights(*shape: int) -> np.ndarray:
        return RNG.standard_normal(shape).astype(np.float32)

    sizes = [{"n": 2}, {"n": 1}]
    attributes: dict[str, Any] = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 0, 1]}
    offset = Fed(("n", offset_group * 12, 4, 6))
    mask = Fed(("n", offset_group * 6, 4, 6)) if masked else None
    operands = [Fed(("n", 4, 8, 5)), weights(6, 4 // group, 3, 2), offset, weights(6), mask]
    against_runtime(
        "DeformConv",
        *operands,
        sizes=sizes,
        opset=19,
        group=group,
        offset_group=offset_group,
        rtol=1e-3,
        atol=1e-3,
        **attributes,
    )
