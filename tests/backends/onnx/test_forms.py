"""The lowering forms: every probe is a valid model that its baseline stands beside, and every form means what the IR means."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx
import pytest
from graph_harness import B, S, Sketch
from onnx_forms import SIZES, operators, takes
from onnx_harness import Session, difference

from planish.backends.onnx.forms import FORMS, form
from planish.compiler.types import DType

Write = Callable[[Sketch], None]


def same(write: Write, forms: Collection[str], *, opset: int = 23, slack: float = 1.0) -> Session:
    """The graph in these forms gives what the interpreter gives, at several sizes; the session, for a look at its operators."""
    sketch = Sketch()
    write(sketch)
    session = Session(sketch.graph, opset=opset, takes=takes(*forms))
    for env in SIZES:
        why = difference(session, sketch, env, slack=slack)
        assert why is None, why
    return session


# -- the list -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FORMS)
def test_probes_are_valid_models(name: str) -> None:
    found = FORMS[name]
    assert found.name == name
    base = FORMS[found.baseline]
    assert base.baseline == base.name, "a baseline is its own baseline"
    if found.reference is not None:
        asked, right = found.probe("f32").graph, found.reference("f32").graph
        assert [i.SerializeToString() for i in asked.input] == [i.SerializeToString() for i in right.input]
        constants = {t.raw_data for t in asked.initializer if len(t.raw_data) > 64}
        assert constants == {t.raw_data for t in right.initializer if len(t.raw_data) > 64}, "the same numbers"
    for dtype in found.dtypes:
        model = found.probe(dtype)
        onnx.checker.check_model(model)
        kinds = {i.type.tensor_type.elem_type for i in model.graph.input if i.name in ("x", "q")}
        assert kinds == {getattr(onnx.TensorProto, {"f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16"}[dtype])}
        assert model.SerializeToString() == found.probe(dtype).SerializeToString()


def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two forms"):
        form("matmul", "again")(FORMS["matmul"].probe)


# -- norms and GELU -------------------------------------------------------------------------------------------------------------
def normed(g: Sketch) -> None:
    x, y = g.input(B, S, 48), g.input(B, S, 48)
    weight, bias = g.const(np.linspace(0.5, 1.5, 48)), g.const(np.linspace(-1, 1, 48))
    g.output(g("layer_norm", g("add", x, y), weight, bias, axes=1, eps=1e-5))


def test_additions_before_norms_are_not_joined_with_them() -> None:
    session = same(normed, ["layer-normalization"])
    assert operators(session) == ["Sum", "LayerNormalization"]


def test_additions_stay_where_the_joined_operator_is_fast() -> None:
    session = same(normed, ["layer-normalization", "skip-layer-normalization"])
    assert operators(session) == ["Add", "LayerNormalization"]


@pytest.mark.parametrize(
    ("approximate", "name", "operator"),
    [
        ("none", "gelu-20", "Gelu"),
        ("tanh", "gelu-tanh-20", "Gelu"),
        ("quick", "quick-gelu", "com.microsoft:QuickGelu"),
    ],
)
def test_gelu(approximate: str, name: str, operator: str) -> None:
    def write(g: Sketch) -> None:
        g.output(g("gelu", g.input(B, S, 33), approximate=approximate))

    assert operators(same(write, [name], slack=4.0)) == [operator]
    assert operator not in operators(same(write, [], slack=4.0))


# -- attention -------------------------------------------------------------------------------------------------------------------
def attention(
    mask: str = "none", *, heads: int = 4, key_heads: int = 4, causal: bool = False, empty: str = "nan", apart: bool = True
) -> Write:  # fmt: skip
    def write(g: Sketch) -> None:
        operands = []
        for count in (heads, key_heads, key_heads):
            rows = g.input(B, S, count * 8)
            split = g("reshape", rows, shape=(B, S, count, 8))
            operands.append(g("transpose", split, perm=(0, 2, 1, 3)) if apart else None)
        if not apart:
            operands = [g.input(B, count, S, 8) for count in (heads, key_heads, key_heads)]
        extra = None
        if mask == "bool":
            extra = g.input(B, 1, 1, S, dtype=DType.bool, data=some_hidden)
        elif mask == "float":
            extra = g.input(B, 1, S, S)
        y = g("attention", *operands, extra, scale=8**-0.5, causal=causal, empty_row=empty)
        if apart:
            y = g("reshape", g("transpose", y, perm=(0, 2, 1, 3)), shape=(B, S, heads * 8))
        g.output(y)

    return write


def some_hidden(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A mask whose first row hides everything."""
    mask = rng.random(shape) < 0.7
    mask[0] = False
    return mask


def test_attention_reads_matrices_where_they_are() -> None:
    session = same(attention("bool", empty="zero"), ["attention-23"])
    found = operators(session)
    assert found.count("Attention") == 1
    assert "Transpose" not in found, "nothing is moved"


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_attention_of_opset_23(key_heads: int, causal: bool, apart: bool) -> None:
    session = same(attention(key_heads=key_heads, causal=causal, apart=apart), ["attention-23"])
    assert "Attention" in operators(session)


@pytest.mark.parametrize("empty", ["nan", "mean"])
def test_attention_that_gives_another_result_for_empty_rows_is_taken_apart(empty: str) -> None:
    session = same(attention("bool", empty=empty), ["attention-23", "multi-head-attention"])
    assert "Softmax" in operators(session)
    assert not any("Attention" in name for name in operators(session))


def test_multi_head_attention_takes_additive_masks() -> None:
    session = same(attention("float"), ["multi-head-attention", "attention-23"])
    assert "com.microsoft:MultiHeadAttention" in operators(session)


def test_attention_before_opset_23_is_taken_apart() -> None:
    session = same(attention("bool", empty="zero"), ["attention-23"], opset=21)
    assert "Attention" not in operators(session)
    assert "Softmax" in operators(session)


def test_shared_heads_have_no_multi_head_attention() -> None:
    session = same(attention(key_heads=2), ["multi-head-attention"])
    assert "com.microsoft:MultiHeadAttention" not in operators(session)


def test_causal_attention_that_is_shifted_is_taken_apart() -> None:
    def write(g: Sketch) -> None:
        q, k, v = (g.input(B, 2, n, 8) for n in (S, S + 3, S + 3))
        g.output(g("attention", q, k, v, scale=0.3, causal=True, causal_offset=3))

    assert "Softmax" in operators(same(write, ["attention-23"]))
