"""Attention of com.microsoft: as ONNX Runtime, or by what it is equal to where that has no CPU kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx_draws import coins, f32, ids, microsoft, tables
from onnx_single_ops import Single, compare

from planish.compiler.errors import CaptureError
from planish.compiler.interpret import interpret

COS, SIN = tables(32, 4)


def joint(mask: Any = None, past: Any = None, bias: Any = None, present: bool = False, **attributes: Any) -> Single:
    """Attention over one product for Q, K and V: batch 2, sequence 6, 4 heads of 4."""
    inputs = {"x": f32(2, 6, 16), "w": f32(16, 48) / 4, "b": f32(48), "m": mask, "p": past, "a": bias}
    free = {"x": ("b", "s", 16)} if mask is None and past is None and bias is None else {}
    outputs = ("y", "present") if present else ("y",)
    return microsoft("Attention", inputs, {"num_heads": 4, **attributes}, ("w", "b"), free, outputs)


def heads(q: Any = None, k: Any = None, v: Any = None, bias: Any = None, mask: Any = None, added: Any = None,
          past: Any = None, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Single:  # fmt: skip
    """MultiHeadAttention: batch 2, 6 queries, 7 keys, 4 heads of 4."""
    inputs = {
        "q": f32(2, 6, 16) if q is None else q, "k": f32(2, 7, 16) if k is None else k,
        "v": f32(2, 7, 16) if v is None else v, "b": bias, "m": mask, "a": added,
        "pk": None if past is None else past[0], "pv": None if past is None else past[1],
    }  # fmt: skip
    return microsoft("MultiHeadAttention", inputs, {"num_heads": 4, **attributes}, outputs=outputs)


def grouped(length: int = 5, past: int = 0, packed: bool = False, batch: int = 2, positions: Any = None,
            added: Any = None, sink: Any = None, norms: Any = None, **attributes: Any) -> Single:  # fmt: skip
    """GroupQueryAttention: 4 heads of 16, 2 for keys; as language model builders write it."""
    size, total = 16, length + past
    cos, sin = tables(32, size // 2) if attributes.get("do_rotary") else (None, None)
    shared = None if packed else f32(batch, length, 2 * size)
    before = [f32(batch, 2, past, size) if past else None for _ in range(2)]
    inputs = {
        "q": f32(batch, length, (8 if packed else 4) * size), "k": shared, "v": None if packed else f32(*shared.shape),
        "pk": before[0], "pv": before[1], "lengths": np.full(batch, total - 1, np.int32), "total": np.array(total, np.int32),
        "cos": cos, "sin": sin, "positions": positions, "a": added, "sink": sink, "ks": None, "vs": None,
        "qn": None if norms is None else norms[0], "kn": None if norms is None else norms[1],
    }  # fmt: skip
    return microsoft("GroupQueryAttention", inputs, {"num_heads": 4, "kv_num_heads": 2, **attributes},
                     ("cos", "sin", "qn", "kn"), outputs=("y", "pk1", "pv1"))  # fmt: skip


def padded(*lengths: int, total: int = 6) -> np.ndarray:
    return (np.arange(total) < np.array(lengths)[:, None]).astype(np.int32)


CASES = {
    "joint": joint(),
    "joint, causal": joint(unidirectional=1),
    "joint, kept": joint(present=True),
    "joint, scaled": joint(scale=0.3),
    "joint, ends": joint(np.array([6, 4], np.int32)),
    "joint, ends and starts": joint(np.array([6, 5, 1, 2], np.int32)),
    "joint, mask of keys": joint(padded(6, 4)),
    "joint, mask of keys, causal": joint(padded(6, 4), unidirectional=1),
    "joint, all masked": joint(padded(0, 4)),
    "joint, mask of pairs": joint(coins(2, 6, 6, rate=0.7).astype(np.int32)),
    "joint, behind others": joint(past=f32(2, 2, 4, 3, 4), present=True, unidirectional=1),
    "joint, behind others, masked": joint(padded(9, 7, total=9), f32(2, 2, 4, 3, 4), present=True),
    "joint, a bias": joint(bias=f32(2, 4, 6, 6)),
    "joint, one bias": joint(bias=f32(1, 4, 6, 6)),
    "joint, wide values": microsoft(
        "Attention", {"x": f32(2, 6, 16), "w": f32(16, 56), "b": f32(56)},
        {"num_heads": 4, "qkv_hidden_sizes": [16, 16, 24]}, ("w", "b"), {"x": ("b", "s", 16)},
    ),
    "apart": heads(),
    "apart, biases": heads(bias=f32(48)),
    "apart, mask": heads(mask=padded(7, 4, total=7)),
    "apart, ends": heads(mask=np.array([7, 4], np.int32)),
    "apart, added": heads(added=f32(2, 4, 6, 7)),
    "apart, wide values": heads(v=f32(2, 7, 24)),
    "apart, behind others": heads(
        k=f32(2, 6, 16), v=f32(2, 6, 16), past=(f32(2, 4, 3, 4), f32(2, 4, 3, 4)), outputs=("y", "k1", "v1")
    ),
    "apart, behind others, causal": heads(
        k=f32(2, 6, 16), v=f32(2, 6, 16), past=(f32(2, 4, 3, 4), f32(2, 4, 3, 4)), outputs=("y", "k1", "v1"),
        unidirectional=1,
    ),
    "apart, from a cache": heads(k=f32(2, 4, 7, 4), v=f32(2, 4, 7, 4)),
    "apart, from a cache, biases": heads(k=f32(2, 4, 7, 4), v=f32(2, 4, 7, 4), bias=f32(48)),
    "grouped": grouped(),
    "grouped, packed": grouped(packed=True),
    "grouped, scaled": grouped(scale=0.2),
    "grouped, rotated": grouped(do_rotary=1),
    "grouped, rotated in pairs": grouped(do_rotary=1, rotary_interleaved=1),
    "grouped, rotated, positions": grouped(do_rotary=1, positions=np.tile(np.arange(5), (2, 1))),
    "grouped, next token": grouped(1, 4),
    "grouped, next token, packed and rotated": grouped(1, 4, packed=True, do_rotary=1),
    "grouped, more of a prompt": grouped(3, 4, batch=1, do_rotary=1),
    "grouped, window": grouped(9, local_window_size=3),
    "grouped, next token, window": grouped(1, 9, local_window_size=3),
    "grouped, capped": grouped(softcap=2.0),
    "grouped, a silent key": grouped(smooth_softmax=1),
    "grouped, sinks": grouped(sink=f32(4)),
    "grouped, added": grouped(added=f32(1, 1, 5, 5)),
    "grouped, both ways": grouped(causal=0),
    "rotary": microsoft("RotaryEmbedding", {"x": f32(2, 5, 32), "p": np.array([0]), "c": COS, "s": SIN}, {}, ("c", "s"),
                        {"x": (2, "s", 32)}),
    "rotary, positions": microsoft(
        "RotaryEmbedding", {"x": f32(2, 5, 32), "p": ids(20, 2, 5, dtype=np.int64), "c": COS, "s": SIN}, {}, ("c", "s"),
        {"x": ("b", "s", 32), "p": ("b", "s")},
    ),
    "rotary, pairs from a place": microsoft(
        "RotaryEmbedding", {"x": f32(2, 4, 5, 8), "p": np.array([3]), "c": COS, "s": SIN}, {"interleaved": 1},
        ("c", "s", "p"),
    ),
    "rotary, a part": microsoft(
        "RotaryEmbedding", {"x": f32(2, 5, 48), "p": ids(20, 2, 5, dtype=np.int64), "c": COS, "s": SIN},
        {"num_heads": 4, "rotary_embedding_dim": 8}, ("c", "s"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_onnxruntime(name: str) -> None:
    CASES[name].check(1e-4, 1e-5)


def run(case: Single) -> list[np.ndarray]:
    return [np.asarray(v) for v in interpret(case.graph(), case.feed)]


@pytest.mark.parametrize("name", ["joint", "apart", "grouped", "grouped, rotated"])
def test_it_is_one_node(name: str) -> None:
    assert [n.op for n in CASES[name].graph().nodes].count("attention") == 1


def test_packed_operands() -> None:
    """Side by side in one operand: no CPU kernel of ONNX Runtime has that."""
    q, k, v, bias = f32(2, 6, 4, 4), f32(2, 6, 4, 4), f32(2, 6, 4, 4), f32(48)
    apart = [t.reshape(2, 6, 16) for t in (q, k, v)]
    want = run(heads(*apart, bias=bias))
    inputs: dict[str, Any] = {"q": np.stack([q, k, v], 3), "k": None, "v": None, "b": bias}
    compare(want, run(microsoft("MultiHeadAttention", inputs, {"num_heads": 4})))
    inputs = {"q": apart[0], "k": np.stack([k, v], 3), "v": None, "b": bias}
    compare(want, run(microsoft("MultiHeadAttention", inputs, {"num_heads": 4})))


def test_grouped_with_normed_heads() -> None:
    norms = f32(16), f32(16)
    case = grouped(norms=norms)
    feed = dict(case.feed)
    for name, weight in zip(("q", "k"), norms, strict=True):
        rows = feed[name].reshape(2, 5, -1, 16)
        normed = rows / np.sqrt(np.square(rows).mean(-1, keepdims=True) + 1e-6) * weight
        feed[name] = normed.reshape(feed[name].shape).astype(np.float32)
    plain = Single(
        case.op, {**case.inputs, **feed, "qn": None, "kn": None}, case.attributes, (), {}, case.outputs, case.domain
    )
    compare(run(plain), run(case))


@pytest.mark.parametrize("both", [True, False])
def test_relative_positions(both: bool) -> None:
    """As transformers computes them for T5."""
    from transformers.models.t5.modeling_t5 import T5Attention

    table = f32(32, 4)
    inputs = {"t": table, "q": np.array(150), "k": np.array(140)}
    case = microsoft(
        "RelativePositionBias", inputs, {"max_distance": 128, "is_bidirectional": int(both)}, ("t", "q", "k")
    )
    distance = torch.arange(140)[None, :] - torch.arange(150)[:, None]
    places = T5Attention._relative_position_bucket(distance, both, 32, 128)
    compare([table[places.numpy()].transpose(2, 0, 1)[None]], run(case))


def test_gated_relative_positions() -> None:
    """The gates of WavLM, as its paper has them."""
    query, query_bias, table, w, b, eco = f32(2, 5, 16), f32(16), f32(1, 4, 5, 5), f32(4, 8), f32(8), f32(1, 4, 1, 1)
    inputs = {"q": query, "qb": query_bias, "t": table, "w": w, "b": b, "e": eco}
    q = (query + query_bias).reshape(2, 5, 4, 4).transpose(0, 2, 1, 3)
    gates = 1 / (1 + np.exp(-(q @ w + b).reshape(2, 4, 5, 2, 4).sum(-1)))
    want = (gates[..., :1] * (gates[..., 1:] * eco - 1) + 2) * table
    got = run(microsoft("GatedRelativePositionBias", inputs, {"num_heads": 4}, ("w", "b")))
    compare([want.astype(np.float32)], got)


def test_refused() -> None:
    with pytest.raises(CaptureError, match="quantised cache"):
        grouped(kv_cache_bit_width=8).graph()
    with pytest.raises(CaptureError, match="do_rotary"):
        joint(do_rotary=1).graph()
    with pytest.raises(CaptureError, match="does not fit 6 keys"):
        joint(padded(4, 4, total=5)).graph()
    packed = {"x": f32(4, 16), "w": f32(16, 48), "b": f32(48), "o": ids(2, 2, 2), "c": ids(2, 3)}
    with pytest.raises(CaptureError, match="PackedAttention"):
        microsoft("PackedAttention", packed, {"num_heads": 4}).graph()
