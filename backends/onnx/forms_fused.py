"""Forms of what has an operator of its own in newer opsets or in ONNX Runtime's domain: norms, GELU, attention, rotary."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from .forms import form
from .probe_graph import BATCH, LENGTH, MICROSOFT, ProbeGraph

WIDTH, INNER = 384, 1536
HEADS, KEY_HEADS, HEAD = 12, 4, 32
#: Tokens of the attention forms, where the length counts squared.
TOKENS = 64


def _rows(dtype: str, opset: int = 21, width: int = WIDTH) -> tuple[ProbeGraph, str]:
    graph = ProbeGraph(dtype, opset)
    return graph, graph.input("x", [BATCH, LENGTH, width])


# -- norms ------------------------------------------------------------------------------------------------------------------
def _spread(g: ProbeGraph, x: str, centred: bool) -> str:
    """``x`` over the root of its mean square along the last axis, less its mean before that if ``centred``."""
    axes, eps = g.array(np.array([-1])), g.number(1e-5)
    if centred:
        x = g("Sub", x, g("ReduceMean", x, axes))
    variance = g("ReduceMean", g("Mul", x, x), axes)
    return str(g("Div", x, g("Sqrt", g("Add", variance, eps))))


@form("layer-norm-decomposed", "ReduceMean, Sub, Mul, ReduceMean, Add, Sqrt, Div, Mul, Add", floats=True)
def layer_norm_decomposed(dtype: str) -> ModelProto:
    g, x = _rows(dtype)
    return g.model(g("Add", g("Mul", _spread(g, x, True), g.floats(WIDTH)), g.floats(WIDTH)), 3)


@form("layer-normalization", "LayerNormalization", baseline="layer-norm-decomposed", floats=True)
def layer_normalization(dtype: str) -> ModelProto:
    g, x = _rows(dtype)
    return g.model(g("LayerNormalization", x, g.floats(WIDTH), g.floats(WIDTH), epsilon=1e-5), 3)


@form("sum-layer-normalization", "Sum of two, LayerNormalization; ONNX Runtime fuses Add in front of one, but not Sum",
      floats=True)  # fmt: skip
def sum_layer_normalization(dtype: str) -> ModelProto:
    g, x = _rows(dtype)
    both = g("Sum", x, g.input("residual", [BATCH, LENGTH, WIDTH]))
    return g.model(g("LayerNormalization", both, g.floats(WIDTH), g.floats(WIDTH), epsilon=1e-5), 3)


@form("skip-layer-normalization", "SkipLayerNormalization: the sum of two, normalised", baseline="sum-layer-normalization",
      floats=True)  # fmt: skip
def skip_layer_normalization(dtype: str) -> ModelProto:
    g, x = _rows(dtype)
    residual = g.input("residual", [BATCH, LENGTH, WIDTH])
    inputs = (x, residual, g.floats(WIDTH), g.floats(WIDTH))
    return g.model(g("SkipLayerNormalization", *inputs, domain=MICROSOFT, epsilon=1e-5), 3)


@form("rms-norm-decomposed", "Mul, ReduceMean, Add, Sqrt, Div, Mul", floats=True)
def rms_norm_decomposed(dtype: str) -> ModelProto:
    g, x = _rows(dtype)
    return g.model(g("Mul", _spread(g, x, False), g.floats(WIDTH)), 3)


@form("rms-normalization-23", "RMSNormalization of opset 23", baseline="rms-norm-decomposed", floats=True)
def rms_normalization(dtype: str) -> ModelProto:
    g, x = _rows(dtype, opset=23)
    return g.model(g("RMSNormalization", x, g.floats(WIDTH), epsilon=1e-5), 3)


# -- GELU -------------------------------------------------------------------------------------------------------------------
@form("gelu-decomposed", "Erf between Mul and Add", floats=True)
def gelu_decomposed(dtype: str) -> ModelProto:
    g, x = _rows(dtype, width=INNER)
    root, one, half = (g.number(v) for v in (0.5**0.5, 1.0, 0.5))
    return g.model(g("Mul", g("Mul", x, g("Add", g("Erf", g("Mul", x, root)), one)), half), 3)


def _gelu(name: str, doc: str, op: str, domain: str = "", **attrs: Any) -> None:
    def probe(dtype: str) -> ModelProto:
        g, x = _rows(dtype, width=INNER)
        return g.model(g(op, x, domain=domain, **attrs), 3)

    form(name, doc, baseline="gelu-decomposed", floats=True)(probe)


_gelu("gelu-20", "Gelu of opset 20", "Gelu")
_gelu("gelu-tanh-20", "Gelu of opset 20 by tanh", "Gelu", approximate="tanh")
_gelu("fast-gelu", "FastGelu, by tanh", "FastGelu", MICROSOFT)
_gelu("quick-gelu", "QuickGelu, by a sigmoid", "QuickGelu", MICROSOFT, alpha=1.702)


@form("bias-gelu", "BiasGelu: Add and GELU", baseline="gelu-decomposed", floats=True)
def bias_gelu(dtype: str) -> ModelProto:
    g, x = _rows(dtype, width=INNER)
    return g.model(g("BiasGelu", x, g.floats(INNER), domain=MICROSOFT), 3)


# -- attention ----------------------------------------------------------------------------------------------------------------
def _operands(dtype: str, opset: int, key_heads: int = HEADS) -> tuple[ProbeGraph, list[str]]:
    g = ProbeGraph(dtype, opset)
    widths = {"q": HEADS * HEAD, "k": key_heads * HEAD, "v": key_heads * HEAD}
    return g, [g.input(name, [BATCH, TOKENS, width]) for name, width in widths.items()]


def _bias(g: ProbeGraph) -> str:
    return g.input("mask", [BATCH, 1, TOKENS, TOKENS])


def _products(dtype: str, integers: bool) -> ModelProto:
    """Attention as its two products; with ``integers``, queries and keys go through int8."""
    g, operands = _operands(dtype, 21)
    if integers:
        step, zero = g.array(np.float32(0.03)), g.array(np.int8(0))
        for i in (0, 1):
            operands[i] = g("DequantizeLinear", g("QuantizeLinear", operands[i], step, zero), step, zero)
    apart, together = g.array(np.array([0, 0, HEADS, HEAD])), g.array(np.array([0, 0, HEADS * HEAD]))
    q, k, v = (
        g("Transpose", g("Reshape", x, apart), perm=perm)
        for x, perm in zip(operands, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scores = g("Add", g("MatMul", g("Mul", q, g.number(HEAD**-0.5)), k), _bias(g))
    context = g("Transpose", g("MatMul", g("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return g.model(g("Reshape", context, together), 3)


@form("attention-decomposed", "Transpose, MatMul, Mul, Add, Softmax, MatMul, Transpose", floats=True)
def attention_decomposed(dtype: str) -> ModelProto:
    return _products(dtype, integers=False)


@form("attention-int8-scores", "the same with queries and keys between QuantizeLinear and DequantizeLinear, int8",
      baseline="attention-decomposed", rounds=True)  # fmt: skip
def attention_int8_scores(dtype: str) -> ModelProto:
    return _products(dtype, integers=True)


@form("attention-23", "Attention of opset 23 on [batch, tokens, heads * width] with an additive mask",
      baseline="attention-decomposed", floats=True)  # fmt: skip
def attention_23(dtype: str) -> ModelProto:
    g, operands = _operands(dtype, 23)
    return g.model(g("Attention", *operands, _bias(g), q_num_heads=HEADS, kv_num_heads=HEADS), 3)


@form("multi-head-attention", "MultiHeadAttention on three matrices with an additive mask", baseline="attention-decomposed",
      floats=True)  # fmt: skip
def multi_head_attention(dtype: str) -> ModelProto:
    g, operands = _operands(dtype, 21)
    inputs = (*operands, None, None, _bias(g))
    return g.model(g("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=HEADS), 3)


@form(
    "group-query-attention",
    "GroupQueryAttention: causal, fewer key heads",
    baseline="attention-decomposed",
    floats=True,
)
def group_query_attention(dtype: str) -> ModelProto:
    g, operands = _operands(dtype, 21, KEY_HEADS)
    shape = g("Shape", operands[0], end=1)
    last = g("Expand", g.array(np.array([TOKENS - 1], np.int32)), shape)
    inputs = (*operands, None, None, last, g.array(np.int32(TOKENS)))
    y, _, _ = g("GroupQueryAttention", *inputs, domain=MICROSOFT, outputs=3, num_heads=HEADS, kv_num_heads=KEY_HEADS)
    return g.model(y, 3)


# -- rotary -------------------------------------------------------------------------------------------------------------------
@form("rotary-decomposed", "Split, Mul, Sub, Add, Concat on [batch, heads, tokens, width]", floats=True)
def rotary_decomposed(dtype: str) -> ModelProto:
    g = ProbeGraph(dtype)
    x = g.input("x", [BATCH, HEADS, TOKENS, HEAD])
    cos, sin = g.floats(TOKENS, HEAD // 2), g.floats(TOKENS, HEAD // 2)
    a, b = g("Split", x, axis=-1, num_outputs=2, outputs=2)
    left = g("Sub", g("Mul", a, cos), g("Mul", b, sin))
    return g.model(g("Concat", left, g("Add", g("Mul", b, cos), g("Mul", a, sin)), axis=-1), 4)


def _rotary(dtype: str, opset: int, domain: str) -> ModelProto:
    g = ProbeGraph(dtype, opset)
    x = g.input("x", [BATCH, HEADS, TOKENS, HEAD])
    positions = g.input("positions", [BATCH, TOKENS], TensorProto.INT64)
    cos, sin = g.floats(TOKENS, HEAD // 2), g.floats(TOKENS, HEAD // 2)
    rows = g("Mod", positions, g.array(np.int64(TOKENS)))
    order = (rows, cos, sin) if domain else (cos, sin, rows)
    return g.model(g("RotaryEmbedding", x, *order, domain=domain), 4)


@form("rotary-embedding-23", "RotaryEmbedding of opset 23", baseline="rotary-decomposed", floats=True)
def rotary_embedding(dtype: str) -> ModelProto:
    return _rotary(dtype, 23, "")


@form("microsoft-rotary-embedding", "RotaryEmbedding of ONNX Runtime", baseline="rotary-decomposed", floats=True)
def microsoft_rotary_embedding(dtype: str) -> ModelProto:
    return _rotary(dtype, 21, MICROSOFT)
