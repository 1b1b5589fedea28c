"""Products of integers and of narrow weights in ONNX Runtime, against the interpreter; and what legalize makes of a plan."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph_harness import B, S, Sketch
from onnx_forms import SIZES, operators, takes
from onnx_harness import Session, difference

from planish.backends.onnx.forms import FORMS
from planish.backends.onnx.legalize import LegalizeOnnx
from planish.backends.onnx.precisions import precisions
from planish.backends.onnx.table import Row, Table
from planish.compiler.graph import Graph, Value
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.target import Target
from planish.compiler.tolerance import MODEL, relative_distance
from planish.compiler.types import DType
from planish.compiler.verify import verify
from planish.passes.precision import CALIBRATION

CPU = Target("onnx", "CPUExecutionProvider")
RNG = np.random.default_rng(3)


def table(*forms: str, slow: Sequence[str] = (), times: dict[str, float] | None = None) -> Table:
    """A provider that takes these forms and gains by them, takes ``slow`` ones and loses, and takes nothing else."""
    assert {*forms, *slow} <= set(FORMS)
    rows = [Row(f, "f32", True, (times or {}).get(f, 1.0), 2.0, "probed") for f in forms]
    rows += [Row(f, "f32", True, 1.0, 0.5, "probed") for f in slow]
    return Table("CPUExecutionProvider", "test", "test", tuple(rows))


def legal(graph: Graph, known: Table, calibration: Sequence[dict[str, np.ndarray]] = (), **options: Any) -> list[str]:
    """Legalise in place; the changes that were noted."""
    context = PassContext(target=CPU, data={CALIBRATION: list(calibration)})
    LegalizeOnnx(table=known, **options).run(graph, context)
    verify(graph)
    return [note.text for note in context.notes if note.kind == "change"]


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op not in ("constant", "full")]


def weight(g: Sketch, n: int = 24, k: int = 64, groups: int = 1, dtype: DType = DType.i8) -> Value:
    """A dequantised constant."""
    high = 127 if dtype is DType.i8 else 7
    values = RNG.integers(-high, high + 1, (n, k))
    scale = RNG.uniform(0.5, 1.5, (n, groups)).astype(np.float32) * 0.1 / high
    return g("dequantize", g.const(values, dtype), g.const(scale))


def bias(g: Sketch, n: int = 24) -> Value:
    return g.const(RNG.standard_normal(n))


def agrees(sketch: Sketch, forms: Sequence[str], slack: float = 1.0, opset: int = 21) -> Session:
    session = Session(sketch.graph, opset=opset, takes=takes(*forms))
    for env in SIZES:
        why = difference(session, sketch, env, slack=slack)
        assert why is None, why
    return session


# -- products -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["dynamic-u8s8-linear", "dynamic-u8u8-linear", "qdq-u8s8-linear", ""])
def test_one_range_found_at_run_time(form: str) -> None:
    g = Sketch()
    x = g("dequantize", *g.both("quantize_tensor", g.input(B, S, 64)))
    g.output(g("linear", x, weight(g), bias(g)), g("linear", x, weight(g, 7)))
    found = operators(agrees(g, [form] if form else [], slack=4.0))
    assert found.count("DynamicQuantizeLinear") == 1, "linears that read one value share its rounding"
    assert found.count("com.microsoft:MatMulIntegerToFloat") == (2 if form.startswith("dynamic") else 0)


@pytest.mark.parametrize("zero", [None, 100])
@pytest.mark.parametrize("form", ["static-u8s8-linear", "dynamic-u8u8-linear", "qdq-u8s8-linear", ""])
def test_a_range_known_at_compile_time(form: str, zero: int | None) -> None:
    g = Sketch()
    operands = [g.const(np.float32(0.05)), g.const(np.uint8(0 if zero is None else zero))][: 1 if zero is None else 2]
    q = g("quantize", g.input(B, S, 64), *operands, dtype=DType.u8, division=True)
    g.output(g("linear", g("dequantize", q, *operands), weight(g), bias(g)))
    found = operators(agrees(g, [form] if form else [], slack=4.0))
    whole = form in ("static-u8s8-linear", "dynamic-u8u8-linear")
    assert ("com.microsoft:MatMulIntegerToFloat" in found) == whole
    assert ("MatMul" in found) != whole


@pytest.mark.parametrize("form", ["static-u8s8-linear", "dynamic-u8u8-linear"])
def test_integers_are_multiplied_exactly(form: str) -> None:
    """With scales of one and sums that f32 holds, no bit may differ: a kernel that saturates pairs of products would show."""
    g = Sketch()
    full = lambda rng, shape: np.where(rng.random(shape) < 0.5, 255.0, 0.0).astype(np.float32)  # noqa: E731
    one, zero = g.const(np.float32(1)), g.const(np.uint8(0))
    q = g("quantize", g.input(B, S, 64, data=full), one, zero, dtype=DType.u8, division=True)
    signs = np.where(RNG.random((24, 64)) < 0.5, 127, -127)
    w = g("dequantize", g.const(signs, DType.i8), g.const(np.ones((24, 1))))
    g.output(g("linear", g("dequantize", q, one, zero), w))
    session = Session(g.graph, takes=takes(form))
    inputs = g.inputs({"b": 3, "s": 17})
    assert np.array_equal(session(inputs)[0], interpret(g.graph, inputs)[0])


@pytest.mark.parametrize("bits", [8, 4])
def test_a_form_that_rounds_more_than_the_plan_says_is_told(bits: int) -> None:
    def changes(*forms: str) -> list[str]:
        g = Sketch()
        g.output(g("linear", g.input(B, S, 128), weight(g, 24, 128, 4, DType.i8 if bits == 8 else DType.i4)))
        return legal(g.graph, table(*forms))

    assert changes(f"matmul-nbits-{bits}") == changes() == []
    (told,) = changes(f"matmul-nbits-{bits}", f"matmul-nbits-{bits}-int8")
    assert "(1 of them)" in told and "int8" in told


@pytest.mark.parametrize(
    ("dtype", "groups"), [(DType.i8, 1), (DType.i8, 2), (DType.i4, 2), (DType.i4, 4), (DType.i4, 1)]
)
@pytest.mark.parametrize("kind", ["nbits", "int4", "plain"])
def test_narrow_weights(dtype: DType, groups: int, kind: str) -> None:
    g = Sketch()
    g.output(g("linear", g.input(B, S, 128), weight(g, 24, 128, groups, dtype), bias(g)))
    bits = 8 if dtype is DType.i8 else 4
    forms = {"nbits": [f"matmul-nbits-{bits}"], "int4": ["dequantize-int4-linear"], "plain": []}[kind]
    session = Session(
        g.graph, optimize=kind == "nbits", takes=takes(*forms)
    )  # optimised, int4 becomes MatMulNBits on int8
    for env in SIZES:
        assert difference(session, g, env, slack=4.0) is None
    assert ("com.microsoft:MatMulNBits" in operators(session)) == (kind == "nbits")
    if kind != "plain" and dtype is DType.i4:
        stored = session.unit.description["weights_bytes"]
        assert stored < 24 * 128, "two numbers to a byte"


def test_groups_that_no_block_divides_are_multiplied_as_floats() -> None:
    g = Sketch()
    g.output(g("linear", g.input(B, S, 60), weight(g, 24, 60, 3)))
    assert operators(agrees(g, ["matmul-nbits-8"], slack=4.0)) == ["MatMul"]


def test_activations_of_narrow_weights_are_rounded_only_where_that_pays() -> None:
    g = Sketch()
    g.output(g("linear", g.input(B, S, 128), weight(g, 24, 128, 4, DType.i4)))
    levels = []
    for forms in (["matmul-nbits-4"], ["matmul-nbits-4", "matmul-nbits-4-int8"]):
        (node,) = Session(g.graph, takes=takes(*forms)).model.graph.node
        levels += [a.i for a in node.attribute if a.name == "accuracy_level"]
    assert levels == [1, 4]


# -- legalize ------------------------------------------------------------------------------------------------------------------
def rowwise(g: Sketch) -> None:
    """Two linears on int8 rows, as the pass ``quantize`` writes them."""
    x = g("dequantize", *g.both("quantize_dynamic", g.input(B, S, 64)))
    g.output(g("linear", x, weight(g), bias(g)), g("linear", x, weight(g, 7)))


def test_a_scale_for_each_row_becomes_one_and_is_noted() -> None:
    g = Sketch()
    rowwise(g)
    before = [interpret(g.graph, g.inputs({"b": 3, "s": 17}))]
    changes = legal(g.graph, table("dynamic-u8s8-linear"))
    assert ops(g.graph).count("quantize_tensor") == 1
    assert "quantize_dynamic" not in ops(g.graph)
    assert len(changes) == 1
    assert "one scale" in changes[0]
    for a, b in zip(before[0], interpret(g.graph, g.inputs({"b": 3, "s": 17})), strict=True):
        assert 0 < relative_distance(a, b) < MODEL[DType.i8]
    agrees(g, ["dynamic-u8s8-linear"], slack=4.0)


def test_rows_keep_their_scales_where_meaning_must_stay() -> None:
    g = Sketch()
    rowwise(g)
    assert legal(g.graph, table("dynamic-u8s8-linear"), exact=True) == []
    assert "quantize_dynamic" in ops(g.graph)
    agrees(g, ["dynamic-u8s8-linear"], slack=4.0)


def test_without_a_fast_product_activations_stay_float() -> None:
    g = Sketch()
    rowwise(g)
    (change,) = legal(g.graph, table(slow=["dynamic-u8s8-linear"]))
    assert "stay float" in change
    assert set(ops(g.graph)) == {"dequantize", "linear"}


def test_centred_rows_are_taken_back() -> None:
    """Centring serves a symmetric scale; with a zero point it would cost two passes for nothing. The sum must stay right."""
    g = Sketch()
    x = g.input(B, S, 64, data=lambda rng, shape: rng.standard_normal(shape).astype(np.float32) + 2)
    ends = [g(op, x, axes=(2,), keepdim=True) for op in ("reduce_max", "reduce_min")]
    half = g("full", value=0.5, shape=(), dtype=DType.f32)
    centre = g("mul", g("add", *ends), half)
    values = RNG.integers(-127, 128, (24, 64)).astype(np.int8)
    scale = np.full((24, 1), 0.001, np.float32)
    back = g("dequantize", *g.both("quantize_dynamic", g("sub", x, centre)))
    y = g("linear", back, g("dequantize", g.const(values, DType.i8), g.const(scale)), bias(g))
    sums = g.const((values * scale).sum(1))
    g.output(g("add", y, g("mul", centre, sums)))
    inputs = g.inputs({"b": 2, "s": 5})
    (before,) = interpret(g.graph, inputs)
    legal(g.graph, table("dynamic-u8s8-linear"))
    assert ops(g.graph) == ["quantize_tensor", "dequantize", "dequantize", "linear"]
    assert relative_distance(before, interpret(g.graph, inputs)[0]) < MODEL[DType.i8]


@pytest.mark.parametrize("zero", [None, -20])
def test_static_int8_becomes_uint8(zero: int | None) -> None:
    g = Sketch()
    operands = [g.const(np.float32(0.05)), *([] if zero is None else [g.const(np.int8(zero))])]
    q = g("quantize", g.input(B, S, 64), *operands, dtype=DType.i8)
    g.output(g("linear", g("dequantize", q, *operands), weight(g), bias(g)))
    inputs = g.inputs({"b": 3, "s": 17})
    (before,) = interpret(g.graph, inputs)
    assert legal(g.graph, table("static-u8s8-linear")) == []
    assert next(n for n in g.graph.nodes if n.op == "quantize").output.dtype is DType.u8
    assert relative_distance(before, interpret(g.graph, inputs)[0]) < 1e-3
    agrees(g, ["static-u8s8-linear"], slack=4.0)


def test_a_zero_point_is_given_up_where_only_symmetric_int8_is_fast() -> None:
    g = Sketch()
    operands = [g.const(np.float32(0.02)), g.const(np.int8(-128))]
    q = g("quantize", g.input(B, S, 64, data=lambda rng, shape: np.abs(rng.standard_normal(shape)).astype(np.float32)),
          *operands, dtype=DType.i8)  # fmt: skip
    g.output(g("linear", g("dequantize", q, *operands), weight(g)))
    inputs = g.inputs({"b": 3, "s": 17})
    (before,) = interpret(g.graph, inputs)
    (change,) = legal(g.graph, table("qdq-s8s8-linear"))
    assert "zero point" in change
    node = next(n for n in g.graph.nodes if n.op == "quantize")
    assert g.graph.array(node.operands[2]) == 0
    assert relative_distance(before, interpret(g.graph, inputs)[0]) < MODEL[DType.i8]


def test_bf16_becomes_f32_and_back_at_the_outputs() -> None:
    g = Sketch()
    x = g.input(B, S, 64, dtype=DType.bf16)
    w = g.const(RNG.standard_normal((24, 64)), DType.bf16)
    low = g("linear", x, w, out_dtype=DType.f32)
    half = g("cast", low, dtype=DType.bf16)
    g.output(low, half, g("relu", half))
    (change,) = legal(g.graph, table("matmul"))
    assert "bf16" in change
    assert [v.dtype for v in g.graph.outputs] == [DType.f32, DType.bf16, DType.bf16]
    assert [n.output.dtype for n in g.graph.nodes if n.op == "linear"] == [DType.f32]
    agrees(g, [])


def test_merged_linears_are_parted_for_attention_on_matrices() -> None:
    g = Sketch()
    y = g("linear", g.input(B, S, 64), weight(g, 72), bias(g, 72))
    g.output(*(g("relu", g("slice", y, axis=2, start=a, end=a + 24)) for a in (48, 0, 24)))
    inputs = g.inputs({"b": 2, "s": 5})
    before = interpret(g.graph, inputs)
    assert legal(g.graph, table("attention-23")) == []
    assert ops(g.graph).count("linear") == 3
    assert "slice" not in ops(g.graph)
    for a, b in zip(before, interpret(g.graph, inputs), strict=True):
        assert np.allclose(a, b, rtol=1e-6, atol=1e-6)
    kept = Sketch()
    y = kept("linear", kept.input(B, S, 64), weight(kept, 72))
    kept.output(kept("slice", y, axis=2, start=0, end=24), kept("relu", y))
    legal(kept.graph, table("attention-23"))
    assert ops(kept.graph).count("linear") == 1, "something reads all of it"


def test_gelu_by_tanh_where_it_is_rounded_behind() -> None:
    times = {"gelu-20": 1.3, "gelu-tanh-20": 1.0}
    for read_elsewhere in (False, True):
        g = Sketch()
        y = g("gelu", g.input(B, S, 64))
        smooth = g("mul", y, g.const(np.linspace(0.5, 1, 64)))
        g.output(g("linear", g("dequantize", *g.both("quantize_tensor", smooth)), weight(g)))
        if read_elsewhere:
            g.output(y)
        changes = legal(g.graph, table("dynamic-u8s8-linear", "gelu-20", "gelu-tanh-20", times=times))
        (node,) = (n for n in g.graph.nodes if n.op == "gelu")
        assert node.attrs["approximate"] == ("none" if read_elsewhere else "tanh")
        assert bool(changes) is not read_elsewhere


# -- convolutions ---------------------------------------------------------------------------------------------------------------
def block(g: Sketch) -> None:
    """A residual block in int8, as the pass ``quantize`` writes it: what convolutions read is rounded, the rest is float."""
    x = g.input(B, 8, 12, 12)

    def conv(value: Value, name: str, kernel: int, symmetric: bool = False) -> Value:
        operands = [g.const(np.float32(0.05)), *([] if symmetric else [g.const(np.int8(-10))])]
        rounded = g("dequantize", g("quantize", value, *operands, dtype=DType.i8), *operands)
        filters = g.const(RNG.integers(-127, 128, (8, 8, kernel, kernel)), DType.i8)
        scale = g.const(RNG.uniform(0.5, 1.5, (8, 1, 1, 1)) * 0.002 / kernel)
        attrs = {"stride": (1, 1), "padding": (kernel // 2,) * 2, "dilation": (1, 1), "groups": 1}
        return g("conv", rounded, g("dequantize", filters, scale), bias(g, 8), **attrs)

    start = g("relu", conv(x, "stem", 3))
    pooled = g("max_pool", start, kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1))
    inner = g("relu", conv(pooled, "a", 1, symmetric=True))
    end = g("relu", g("add", conv(inner, "b", 3), pooled))
    g.output(g("reduce_mean", end, axes=(2, 3), keepdim=False))


def quantised_block() -> tuple[Sketch, list[str], list[np.ndarray], dict[str, np.ndarray]]:
    g = Sketch()
    block(g)
    inputs = g.inputs({"b": 2, "s": 1})
    before = interpret(g.graph, inputs)
    changes = legal(g.graph, table("qdq-u8s8-conv"), [g.inputs({"b": 4, "s": 1}, seed) for seed in range(4)])
    return g, changes, before, inputs


def test_results_of_int8_convolutions_are_stored_in_eight_bits() -> None:
    g, changes, before, inputs = quantised_block()
    assert any("stored in eight bits" in c for c in changes)
    assert relative_distance(before[0], interpret(g.graph, inputs)[0]) < MODEL[DType.i8]
    for node in g.graph.nodes:
        if node.op in ("add", "max_pool"):
            assert all(v.node is not None and v.node.op == "dequantize" for v in node.operands)
        if node.op == "relu":
            (q,) = node.output.users
            assert q.op == "quantize"
            assert g.graph.array(q.operands[2]) == 0, "all levels are for what a ReLU leaves"


def test_onnx_runtime_runs_the_block_on_integers() -> None:
    g, _, _, inputs = quantised_block()
    session = Session(g.graph, takes=takes("qdq-u8s8-conv"))
    want, got = interpret(g.graph, inputs), session(inputs)
    assert relative_distance(want[0], got[0]) < MODEL[DType.i8] / 5
    kernels = optimised(session)
    assert kernels.count("QLinearConv") == 3
    assert "QLinearAdd" in kernels
    assert not {"Conv", "Add", "Relu"} & set(kernels), kernels


def test_without_calibration_nothing_is_rounded() -> None:
    g = Sketch()
    block(g)
    count = ops(g.graph).count("quantize")
    assert legal(g.graph, table("qdq-u8s8-conv")) == []
    assert ops(g.graph).count("quantize") == count


def optimised(session: Session) -> list[str]:
    """Types of the nodes that ONNX Runtime makes of a model."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        ort.InferenceSession(session.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]


# -- what a plan may ask for ----------------------------------------------------------------------------------------------------
def test_precisions_are_those_that_pay() -> None:
    nothing = precisions(table("matmul"))
    assert nothing["linear"] == ("f32",)
    assert nothing["conv"] == ("f32",)
    some = precisions(table("dynamic-u8s8-linear", "qdq-u8s8-conv", slow=["static-u8s8-linear", "matmul-nbits-4"]))
    assert some["linear"] == ("f32", "w8a8-dynamic", "w4a16", "w4a16-g64", "w4a16-g32")
    assert some["conv"] == ("f32", "w8a8")
