"""Forms of matrix products and convolutions: float, integers with scales known or found at run time, narrow weights."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import ModelProto, TensorProto

from .forms import form
from .probe_graph import BATCH, LENGTH, MICROSOFT, ProbeGraph

#: In and out of the linears: those of a small encoder.
K, N = 384, 1152
#: Channels, width of images and taps of the convolutions: those of the second stage of a ResNet.
CHANNELS, WIDTH, TAPS = 128, 28, 3
GROUP = 32


def _start(dtype: str, opset: int = 21) -> tuple[ProbeGraph, str]:
    graph = ProbeGraph(dtype, opset)
    return graph, graph.input("x", [BATCH, LENGTH, K])


@form("matmul", "MatMul with a constant matrix, and Add", floats=True)
def matmul(dtype: str) -> ModelProto:
    g, x = _start(dtype)
    return g.model(g("Add", g("MatMul", x, g.floats(K, N, scale=K**-0.5)), g.floats(N)), 3)


@form("gemm", "Gemm on rows", baseline="matmul", floats=True)
def gemm(dtype: str) -> ModelProto:
    g = ProbeGraph(dtype)
    x = g.input("x", [BATCH, K])
    rows = g("Reshape", g("Expand", g("Unsqueeze", x, g.array(np.array([1]))), g.array(np.array([1, LENGTH, 1]))),
             g.array(np.array([-1, K])))  # fmt: skip
    return g.model(g("Gemm", rows, g.floats(N, K, scale=K**-0.5), g.floats(N), transB=1), 2)


@form("conv", "Conv, 3 x 3", floats=True)
def conv(dtype: str) -> ModelProto:
    g = ProbeGraph(dtype)
    x = g.input("x", [1, CHANNELS, WIDTH, WIDTH])
    w = g.floats(CHANNELS, CHANNELS, TAPS, TAPS, scale=(CHANNELS * TAPS**2) ** -0.5)
    return g.model(g("Conv", x, w, g.floats(CHANNELS), pads=[1] * 4, kernel_shape=[TAPS] * 2), 4)


# -- integers with scales ---------------------------------------------------------------------------------------------------
def _extremes(g: ProbeGraph, signed: bool, *shape: int) -> tuple[str, type[np.integer]]:
    """Weights at the ends of their range alone: where a kernel adds pairs of products in 16 bits, their sums saturate."""
    kind = np.int8 if signed else np.uint8
    return g.choice(*shape, of=(-127, 127) if signed else (1, 255), dtype=kind), kind


def _weights(g: ProbeGraph, signed: bool) -> tuple[str, str, str]:
    """Integers ``[K, N]``, their scales and zero points, one for each column."""
    w, kind = _extremes(g, signed, K, N)
    return w, g.positive(N, scale=0.01 * K**-0.5), g.array(np.full(N, 0 if signed else 128, kind))


def _range(g: ProbeGraph, x: str, dynamic: bool) -> tuple[str, str, str]:
    """``x`` as uint8, its scale and zero point."""
    if dynamic:
        q, scale, zero = g("DynamicQuantizeLinear", x, outputs=3)
        return q, scale, zero
    scale, zero = g.array(np.float32(0.03)), g.array(np.uint8(128))
    return g("QuantizeLinear", x, scale, zero), scale, zero


def _integers(dtype: str, dynamic: bool, signed: bool, exact: bool) -> ModelProto:
    """MatMulIntegerToFloat; ``exact``: on what the integers stand for, which no kernel can get wrong."""
    g, x = _start(dtype)
    q, scale, zero = _range(g, x, dynamic)
    w, steps, w_zero = _weights(g, signed)
    bias = g.floats(N)
    if exact:
        back = g("MatMul", g("DequantizeLinear", q, scale, zero), g("DequantizeLinear", w, steps, w_zero, axis=1))
        return g.model(g("Add", back, bias), 3)
    inputs = (q, w, scale, steps, zero, None if signed else w_zero, bias)
    return g.model(g("MatMulIntegerToFloat", *inputs, domain=MICROSOFT), 3)


for _name, _dynamic, _signed in (
    ("dynamic-u8s8-linear", True, True), ("dynamic-u8u8-linear", True, False), ("static-u8s8-linear", False, True),
):  # fmt: skip
    form(
        _name,
        f"{'DynamicQuantizeLinear' if _dynamic else 'QuantizeLinear'}, MatMulIntegerToFloat on {'u8s8' if _signed else 'u8u8'}, "
        "a scale for each column",
        baseline="matmul",
        rounds=True,
        reference=partial(_integers, dynamic=_dynamic, signed=_signed, exact=True),
    )(partial(_integers, dynamic=_dynamic, signed=_signed, exact=False))


def _standard(dtype: str) -> ModelProto:
    g, x = _start(dtype)
    q, scale, zero = _range(g, x, True)
    w, steps, _ = _weights(g, signed=True)
    bias = g.floats(N)
    wide = g("Cast", g("MatMulInteger", q, w, zero), to=TensorProto.FLOAT)
    return g.model(g("Add", g("Mul", wide, g("Mul", scale, steps)), bias), 3)


form(
    "dynamic-u8s8-standard-linear",
    "DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Add",
    baseline="matmul",
    rounds=True,
    reference=partial(_integers, dynamic=True, signed=True, exact=True),
)(_standard)


# -- QDQ: integers by the standard's means, which the provider recognises ------------------------------------------------------
_ACTIVATIONS = {"u8": (np.uint8, 128), "s8": (np.int8, 0), "u16": (np.uint16, 32768)}


def _qdq(g: ProbeGraph, x: str, kind: str, step: float) -> str:
    """``x`` rounded to integers and back."""
    dtype, middle = _ACTIVATIONS[kind]
    scale, zero = g.array(np.float32(step if kind != "u16" else step / 256)), g.array(dtype(middle))
    return str(g("DequantizeLinear", g("QuantizeLinear", x, scale, zero), scale, zero))


def _qdq_linear(dtype: str, activation: str, signed: bool) -> ModelProto:
    g, x = _start(dtype)
    w, steps, zero = _weights(g, signed)
    back = g("DequantizeLinear", w, steps, zero, axis=1)
    y = g("Add", g("MatMul", _qdq(g, x, activation, 0.03), back), g.floats(N))
    return g.model(_qdq(g, y, activation, 0.05), 3)


def _qdq_conv(dtype: str, activation: str, signed: bool) -> ModelProto:
    g = ProbeGraph(dtype)
    x = g.input("x", [1, CHANNELS, WIDTH, WIDTH])
    w, kind = _extremes(g, signed, CHANNELS, CHANNELS, TAPS, TAPS)
    zero = g.array(np.full(CHANNELS, 0 if signed else 128, kind))
    steps = g.positive(CHANNELS, scale=0.01 * (CHANNELS * TAPS**2) ** -0.5)
    back = g("DequantizeLinear", w, steps, zero, axis=0)
    y = g("Conv", _qdq(g, x, activation, 0.03), back, pads=[1] * 4, kernel_shape=[TAPS] * 2)
    return g.model(_qdq(g, y, activation, 0.05), 4)


for _name, _activation, _signed in (
    ("u8s8", "u8", True),
    ("u8u8", "u8", False),
    ("s8s8", "s8", True),
    ("u16s8", "u16", True),
):
    form(
        f"qdq-{_name}-linear", f"MatMul between DequantizeLinear and QuantizeLinear, {_name}, a scale for each column",
        baseline="matmul", rounds=True,
    )(partial(_qdq_linear, activation=_activation, signed=_signed))  # fmt: skip
    form(
        f"qdq-{_name}-conv", f"Conv between DequantizeLinear and QuantizeLinear, {_name}, a scale for each channel",
        baseline="conv", rounds=True,
    )(partial(_qdq_conv, activation=_activation, signed=_signed))  # fmt: skip


# -- narrow weights -----------------------------------------------------------------------------------------------------------
def _nbits(dtype: str, bits: int, accuracy: int) -> ModelProto:
    g, x = _start(dtype)
    w = g.integers(N, K // GROUP, GROUP * bits // 8, low=0, high=255, dtype=np.uint8)
    scales = g.positive(N, K // GROUP, scale=0.2 / 2**bits * K**-0.5)
    attrs = {"K": K, "N": N, "bits": bits, "block_size": GROUP, "accuracy_level": accuracy}
    return g.model(g("MatMulNBits", x, w, scales, None, None, g.floats(N), domain=MICROSOFT, **attrs), 3)


for _bits in (4, 8):
    form(
        f"matmul-nbits-{_bits}", f"MatMulNBits on {_bits}-bit weights in groups of {GROUP}, activations as they are",
        baseline="matmul", floats=True, rounds=True,
    )(partial(_nbits, bits=_bits, accuracy=1))  # fmt: skip
    form(
        f"matmul-nbits-{_bits}-int8",
        f"MatMulNBits on {_bits}-bit weights in groups of {GROUP}, activations rounded to int8 group by group",
        baseline="matmul", floats=True, rounds=True,
    )(partial(_nbits, bits=_bits, accuracy=4))  # fmt: skip


@form("dequantize-int8-linear", "MatMul on DequantizeLinear of an int8 constant, a scale for each column", baseline="matmul",
      floats=True)  # fmt: skip
def dequantize_int8(dtype: str) -> ModelProto:
    g, x = _start(dtype)
    w = g.integers(K, N, low=-127, high=127, dtype=np.int8)
    back = g("DequantizeLinear", w, g.positive(N, scale=0.01 * K**-0.5), axis=1)
    return g.model(g("Add", g("MatMul", x, back), g.floats(N)), 3)


@form("dequantize-int4-linear", "MatMul on DequantizeLinear of an int4 constant in groups of 32 (opset 21)", baseline="matmul",
      floats=True)  # fmt: skip
def dequantize_int4(dtype: str) -> ModelProto:
    g, x = _start(dtype)
    back = g("DequantizeLinear", g.int4(K, N), g.positive(K // GROUP, N, scale=0.1 * K**-0.5), axis=0, block_size=GROUP)
    return g.model(g("Add", g("MatMul", x, back), g.floats(N)), 3)
