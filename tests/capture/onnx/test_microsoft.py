"""Operators of com.microsoft that activate, multiply, convolve, normalise: as ONNX Runtime, or numpy where it has no kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_draws import f32, ids, microsoft, positive, u8
from onnx_single_ops import Single, compare

from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

_PADDED = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
_EPS = {"epsilon": 1e-5}

CASES = {
    "Gelu": microsoft("Gelu", {"x": f32(2, 3, 8)}, shapes={"x": ("b", 3, 8)}),
    "BiasGelu": microsoft("BiasGelu", {"x": f32(2, 3, 8), "b": f32(8)}, constants=("b",)),
    "FastGelu": microsoft("FastGelu", {"x": f32(2, 3, 8)}, shapes={"x": ("b", "s", 8)}),
    "FastGelu with a bias": microsoft("FastGelu", {"x": f32(2, 3, 8), "b": f32(8)}, constants=("b",)),
    "QuickGelu": microsoft("QuickGelu", {"x": f32(2, 3, 8)}, {"alpha": 1.702}),
    "QuickGelu, another slope": microsoft("QuickGelu", {"x": f32(2, 3, 8)}, {"alpha": 1.3}),
    "QuickGelu as SiLU": microsoft("QuickGelu", {"x": f32(2, 3, 8)}, {"alpha": 1.0}),
    "FusedMatMul": microsoft("FusedMatMul", {"a": f32(2, 3, 4), "b": f32(2, 5, 4)}, {"transB": 1, "alpha": 0.5}),
    "FusedMatMul, a weight": microsoft(
        "FusedMatMul", {"a": f32(2, 3, 4), "b": f32(5, 4)}, {"transB": 1, "alpha": 0.5}, ("b",), {"a": ("b", 3, 4)}
    ),
    "FusedMatMul, A turned": microsoft("FusedMatMul", {"a": f32(2, 4, 3), "b": f32(2, 4, 5)}, {"transA": 1}),
    "FusedMatMul, batch of A": microsoft("FusedMatMul", {"a": f32(3, 2, 6, 4), "b": f32(2, 6, 4, 5)}, {"transBatchA": 1}),
    "FusedMatMul, all turned": microsoft(
        "FusedMatMul", {"a": f32(4, 2, 6, 3), "b": f32(5, 2, 6, 4)},
        {"transBatchA": 1, "transA": 1, "transBatchB": 1, "transB": 1},
    ),
    "TransposeMatMul": microsoft("TransposeMatMul", {"a": f32(2, 3, 4), "b": f32(2, 5, 4)}, {"transB": 1, "alpha": 0.5}),
    "FusedGemm": microsoft(
        "FusedGemm", {"a": f32(3, 4), "b": f32(5, 4), "c": f32(5)}, {"transB": 1, "activation": "Relu"}, ("b", "c")
    ),
    "FusedGemm, a slope": microsoft(
        "FusedGemm", {"a": f32(3, 4), "b": f32(5, 4), "c": f32(5)},
        {"transB": 1, "activation": "LeakyRelu", "activation_alpha": 0.2}, ("b", "c"),
    ),
    "FusedGemm, two numbers": microsoft(
        "FusedGemm", {"a": f32(3, 4), "b": f32(4, 5)},
        {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4}, ("b",),
    ),
    "FusedConv": microsoft(
        "FusedConv", {"x": f32(2, 4, 7, 7), "w": f32(6, 4, 3, 3), "b": f32(6), "z": f32(2, 6, 7, 7)},
        {"activation": "Relu", **_PADDED}, ("w", "b"),
    ),
    "FusedConv, clipped": microsoft(
        "FusedConv", {"x": f32(2, 4, 7, 7), "w": f32(6, 4, 3, 3)},
        {"activation": "Clip", "activation_params": [0.0, 6.0], "kernel_shape": [3, 3]}, ("w",), {"x": ("b", 4, 7, 7)},
    ),
    "MatMulInteger16": microsoft(
        "MatMulInteger16", {"a": ids(200, 2, 3, 4, dtype=np.int16), "b": ids(200, 2, 4, 5, dtype=np.int16)}
    ),
    "NhwcMaxPool": microsoft("NhwcMaxPool", {"x": u8(2, 6, 6, 3)}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "Trilu": microsoft("Trilu", {"x": f32(2, 5, 5)}, {"upper": 1}),
    "Pad": microsoft(
        "Pad", {"x": f32(2, 3), "p": np.array([0, 1, 0, 2]), "v": np.array([1.5], np.float32)}, constants=("p", "v")
    ),
    "GatherND": microsoft("GatherND", {"x": f32(2, 3, 4), "i": np.array([[0, 1], [1, 2]])}),
    "ExpandDims": microsoft("ExpandDims", {"x": f32(2, 3), "a": np.array(-1, np.int32)}, constants=("a",)),
    "UnfoldTensor": microsoft("UnfoldTensor", {"x": f32(2, 9, 3)}, {"dim": 1, "size": 3, "step": 2}),
    "CDist": microsoft("CDist", {"a": f32(4, 3), "b": f32(5, 3)}, {"metric": "euclidean"}),
    "GridSample": microsoft(
        "GridSample", {"x": f32(1, 2, 5, 5), "g": f32(1, 4, 4, 2).clip(-1, 1)},
        {"mode": "bilinear", "padding_mode": "zeros", "align_corners": 0},
    ),
    "SkipLayerNormalization": microsoft(
        "SkipLayerNormalization",
        {"x": f32(2, 5, 16), "s": f32(2, 5, 16), "g": f32(16), "b": f32(16), "bias": f32(16)}, _EPS, ("g", "b", "bias"),
        {"x": ("b", "s", 16), "s": ("b", "s", 16)}, ("y", "", "", "sum"),
    ),
    "SkipLayerNormalization, one skip": microsoft(
        "SkipLayerNormalization", {"x": f32(2, 5, 16), "s": f32(1, 5, 16), "g": f32(16)}, _EPS, ("g",)
    ),
    "SkipLayerNormalization, no batch": microsoft(
        "SkipLayerNormalization", {"x": f32(2, 5, 16), "s": f32(5, 16), "g": f32(16)}, _EPS, ("g",)
    ),
    "SkipSimplifiedLayerNormalization": microsoft(
        "SkipSimplifiedLayerNormalization", {"x": f32(2, 5, 16), "s": f32(2, 5, 16), "g": f32(16)}, _EPS, ("g",),
        outputs=("y", "", "", "sum"),
    ),
    "SimplifiedLayerNormalization": Single(
        "SimplifiedLayerNormalization", {"x": f32(2, 5, 16), "g": f32(16)}, {"axis": -1, **_EPS}, ("g",)
    ),
    "EmbedLayerNormalization": microsoft(
        "EmbedLayerNormalization",
        {"ids": ids(20, 2, 5), "seg": ids(2, 2, 5), "w": f32(20, 16), "p": f32(8, 16), "s": f32(2, 16), "g": f32(16),
         "b": f32(16), "m": ids(2, 2, 5)},
        {}, ("w", "p", "s", "g", "b"), {"ids": ("b", 5), "seg": ("b", 5), "m": ("b", 5)}, ("y", "kept", "sum"),
    ),
    "EmbedLayerNormalization, words alone": microsoft(
        "EmbedLayerNormalization",
        {"ids": ids(20, 2, 5), "seg": None, "w": f32(20, 16), "p": f32(8, 16), "s": None, "g": f32(16), "b": f32(16)},
        {}, ("w", "p", "g", "b"), outputs=("y", "kept"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_onnxruntime(name: str) -> None:
    CASES[name].check()


def run(case: Single) -> list[np.ndarray]:
    return [np.asarray(v) for v in interpret(case.graph(), case.feed)]


def test_a_constant_matrix_is_a_weight() -> None:
    nodes = CASES["FusedMatMul, a weight"].graph().nodes
    assert next(n.op for n in nodes if n.op != "constant") == "linear"


def test_what_onnxruntime_has_no_cpu_kernel_for() -> None:
    x, bias, residual = f32(2, 3, 8), f32(8), f32(2, 3, 8)
    got = run(microsoft("BiasDropout", {"x": x, "b": bias, "r": residual}, outputs=("y", "mask")))
    compare([x + bias + residual], got[:1])
    assert got[1].all()
    compare([x + bias + residual], run(microsoft("BiasAdd", {"x": x, "b": bias, "s": residual})))
    half, gate = np.split(x + bias, 2, -1)
    want = half * torch.nn.functional.gelu(torch.from_numpy(gate)).numpy()
    compare([want], run(microsoft("BiasSplitGelu", {"x": x, "b": bias})))
    scores, added = f32(2, 3, 4, 8), f32(2, 1, 1, 8)
    case = microsoft("BiasSoftmax", {"x": scores, "b": added}, {"axis": 3, "is_inner_broadcast": 1})
    compare([torch.softmax(torch.from_numpy(scores + added), -1).numpy()], run(case))
    a, b = f32(2, 3, 4), f32(2, 4, 5)
    case = microsoft("FusedMatMulActivation", {"a": a, "b": b}, {"activation": "Relu", "alpha": 2.0})
    compare([np.maximum(2 * a @ b, 0)], run(case))
    q, r = u8(3, 4), u8(3, 4)
    case = microsoft("MulInteger", {"a": q, "z": np.uint8(3), "b": r, "y": np.uint8(7)}, outputs=("c",))  # type: ignore[dict-item]
    compare([(q.astype(np.int32) - 3) * (r.astype(np.int32) - 7)], run(case))


@pytest.mark.parametrize("last", [0, 1])
def test_group_norm(last: int) -> None:
    x, skip, bias, gamma, beta = f32(2, 4, 4, 8), f32(2, 8), f32(8), f32(8), f32(8)
    attributes = {"groups": 4, "activation": 1, "channels_last": last, "epsilon": 1e-5}
    given = x if last else x.transpose(0, 3, 1, 2)
    case = microsoft("SkipGroupNorm", {"x": given, "g": gamma, "b": beta, "s": skip, "d": bias}, attributes, ("g", "b"),
                     outputs=("y", "sum"))  # fmt: skip
    total = torch.from_numpy((x + skip[:, None, None] + bias).transpose(0, 3, 1, 2))
    normed = torch.nn.functional.group_norm(total, 4, torch.from_numpy(gamma), torch.from_numpy(beta), 1e-5)
    want = [torch.nn.functional.silu(normed).numpy(), total.numpy()]
    compare([w.transpose(0, 2, 3, 1) if last else w for w in want], run(case), atol=1e-5)


def test_convolution_with_channels_last() -> None:
    x, w, z = f32(2, 7, 7, 4), f32(6, 4, 3, 3), f32(2, 7, 7, 6)
    plain = torch.nn.functional.conv2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.from_numpy(w), padding=1)
    want = plain.numpy().transpose(0, 2, 3, 1)
    turned = np.ascontiguousarray(w.transpose(0, 2, 3, 1))  # as the optimizer writes it
    compare([want], run(microsoft("NhwcConv", {"x": x, "w": turned}, _PADDED, ("w",))), atol=1e-4)
    case = microsoft("NhwcFusedConv", {"x": x, "w": w, "b": None, "z": z}, {"activation": "Relu", **_PADDED}, ("w",))
    compare([np.maximum(want + z, 0)], run(case), atol=1e-4)


def test_refused() -> None:
    training = microsoft(
        "BiasDropout", {"x": f32(2, 8), "b": f32(8), "r": None, "p": None, "t": np.array(True)}, constants=("t",)
    )
    with pytest.raises(CaptureError, match="training is not supported"):
        training.graph()
    unknown = microsoft("FusedMatMulActivation", {"a": f32(2, 4), "b": f32(4, 5)}, {"activation": "Snake"})
    with pytest.raises(CaptureError, match="'Snake' is not supported"):
        unknown.graph()
    statistics = microsoft("SkipLayerNormalization", {"x": f32(2, 5, 8), "s": f32(2, 5, 8), "g": positive(8)}, _EPS,
                           ("g",), outputs=("y", "mean"))  # fmt: skip
    with pytest.raises(CaptureError, match="statistics"):
        statistics.graph()


@pytest.mark.parametrize(
    ("op", "why"), [("Inverse", "not supported"), ("Unique", "depends on the data"), ("QMoE", "experts")]
)
def test_known_and_not_read(op: str, why: str) -> None:
    with pytest.raises(CaptureError, match=f"com.microsoft::{op} .*{why}"):
        microsoft(op, {"x": f32(3, 3)}).graph()
