"""Attention and rotary embedding of the standard against ONNX Runtime, and ONNX's own expectations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx_against_runtime import Fed, Operand, against_runtime, one_node, ops_of
from onnx_node_tests import outcomes

from planish.compiler.capture.onnx.capture import capture_onnx
from planish.compiler.errors import CaptureError
from planish.compiler.graph import Graph

SIZES = [{"n": 2, "q": 5, "k": 7, "past": 3}, {"n": 1, "q": 4, "k": 6, "past": 1}]
#: Their definition rounds to f16 after every op, and ONNX's numbers come from another order of sums.
ROUNDED = {"test_attention_4d_causal_fp16_expanded"}


def visible(rng: np.random.Generator, shape: Any) -> np.ndarray:
    """A mask of which no row is empty."""
    mask = rng.random(tuple(shape)) < 0.6
    mask[..., 0] = True
    return mask


def attention(
    *more: Operand, outputs: Any = 1, heads: tuple[int, int] = (4, 2), v: int = 5, **attributes: Any
) -> Graph:
    """[batch, heads, sequence, size] with fewer key heads than query heads, at sizes that vary."""
    of_q, of_k = heads
    operands = Fed(("n", of_q, "q", 6)), Fed(("n", of_k, "k", 6)), Fed(("n", of_k, "k", v))
    return against_runtime(
        "Attention", *operands, *more, sizes=SIZES, outputs=outputs, opset=23, rtol=1e-3, atol=1e-4, **attributes
    )


def test_node_tests() -> None:
    found = {case.name: result for case, result in outcomes("Attention", "RotaryEmbedding") if case.name not in ROUNDED}
    assert len(found) >= 140
    assert {n: r for n, r in found.items() if r.kind != "pass"} == {}


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("attributes", [{}, {"scale": 0.3}, {"is_causal": 1}], ids=str)
def test_attention_is_one_op(attributes: dict[str, Any], heads: tuple[int, int]) -> None:
    graph = attention(heads=heads, **attributes)
    assert ops_of(graph) == ["attention"]
    assert graph.nodes and next(iter(n for n in graph.nodes if n.op == "attention")).attrs["empty_row"] == "zero"


@pytest.mark.parametrize("shape", [("q", "k"), (1, "q", "k"), ("n", 1, "q", "k"), ("n", 4, "q", "k")], ids=str)
@pytest.mark.parametrize("draw", [visible, None], ids=["bool", "float"])
def test_masks(shape: tuple[Any, ...], draw: Any) -> None:
    mask = Fed(shape, draw) if draw else Fed(shape)
    graph = attention(mask)
    assert ops_of(graph).count("attention") == 1


def test_keys_and_values_from_before() -> None:
    past = Fed(("n", 2, "past", 6)), Fed(("n", 2, "past", 5))
    graph = attention(None, *past, outputs=3, is_causal=1)
    (node,) = (n for n in graph.nodes if n.op == "attention")
    assert str(node.attrs["causal_offset"]) == "past"


def test_heads_side_by_side() -> None:
    operands = Fed(("n", "q", 24)), Fed(("n", "k", 12)), Fed(("n", "k", 10))
    graph = against_runtime(
        "Attention", *operands, sizes=SIZES, opset=23, rtol=1e-3, atol=1e-4, q_num_heads=4, kv_num_heads=2
    )
    assert "attention" in ops_of(graph)


def test_softcap_and_products() -> None:
    graph = attention(softcap=0.7, heads=(4, 4), v=6)
    assert "tanh" in ops_of(graph)
    for mode in (0, 3):
        attention(outputs=[True, False, False, True], heads=(4, 4), v=6, qk_matmul_output_mode=mode)


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    """Both ways to write it: the op, and op by op."""
    from planish.compiler.interpret import interpret

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 2, 3, 4)).astype(np.float32) for _ in range(3))
    mask = np.array([[True, False, True], [False, False, False], [True, True, True]])
    for wanted in ([True], [True, False, False, True]):
        operands = [Fed((1, 2, 3, 4))] * 3 + [mask]
        graph = capture_onnx(one_node("Attention", operands, wanted, 23, {"qk_matmul_output_mode": 3})).graph
        y, *rest = interpret(graph, {"in0": q, "in1": k, "in2": v})
        assert not y[:, :, 1].any() and y[:, :, 0].any()
        assert all(not r[:, :, 1].any() for r in rest)


def test_the_scale_is_of_the_size_of_a_head() -> None:
    (node,) = (n for n in attention().nodes if n.op == "attention")
    assert node.attrs["scale"] == pytest.approx(1 / math.sqrt(6))


def test_heads_that_do_not_fit_are_refused() -> None:
    operands = [Fed((1, 3, 10))] * 3
    model = one_node("Attention", operands, 1, 23, {"q_num_heads": 3, "kv_num_heads": 3})
    with pytest.raises(CaptureError):
        capture_onnx(model)


def places(rng: np.random.Generator, shape: Any) -> np.ndarray:
    return rng.integers(0, 16, shape).astype(np.int64)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("turned", [0, 4])
def test_rotary_embedding(turned: int, interleaved: int) -> None:
    table = np.random.default_rng(3).uniform(-1, 1, (2, 16, (turned or 8) // 2)).astype(np.float32)
    more = {"rotary_embedding_dim": turned} if turned else {}
    heads = {"num_heads": 3} if turned else {}  # ONNX Runtime wants both or none
    for x in (Fed(("n", 3, "q", 8)), Fed(("n", "q", 24))):
        flat = {"num_heads": 3} if len(x.shape) == 3 else heads
        graph = against_runtime(
            "RotaryEmbedding", x, *table, Fed(("n", "q"), places), sizes=SIZES, opset=23, interleaved=interleaved,
            **more, **flat,
        )  # fmt: skip
        assert ops_of(graph).count("rotary") == 1


def test_rotary_tables_for_each_place() -> None:
    graph = against_runtime(
        "RotaryEmbedding", Fed(("n", 3, "q", 8)), Fed(("n", "q", 4)), Fed(("n", "q", 4)), sizes=SIZES, opset=23
    )
    assert ops_of(graph) == ["reshape", "reshape", "rotary"]
