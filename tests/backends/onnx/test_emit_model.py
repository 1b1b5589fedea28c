"""What an exported model is, apart from its numbers: names, sizes, weights beside it, metadata, equal bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph_harness import Sketch
from onnx_harness import Session, difference, section
from op_samples import packs

from planish.backends.onnx.backend import BACKEND
from planish.backends.onnx.element_types import KERNELS, pack_i4
from planish.backends.onnx.emitter import Emitter
from planish.backends.onnx.lower import lower
from planish.codegen.program import Program
from planish.codegen.unit import describe
from planish.compiler.deferred import Deferred
from planish.compiler.dims import Dim, dim_max, dim_min, evaluate, floordiv, mod, symbol
from planish.compiler.errors import LoweringError
from planish.compiler.graph import Graph, Symbol
from planish.compiler.interpret import interpret
from planish.compiler.target import Target, find_target
from planish.compiler.types import DType, TensorType

CPU = Target("onnx", "CPUExecutionProvider")
F32, I64 = DType.f32, DType.i64


def small(rows: int = 64) -> Graph:
    """A layer with weights of ``rows`` x 8 and an activation, from two named modules."""
    graph = Graph("small")
    graph.symbols["n"] = Symbol("n", 1, 100)
    x = graph.add_input("tokens", TensorType(F32, (symbol("n"), 8)))
    weight = graph.add_constant(
        np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32), "encoder.weight"
    )
    h = graph.insert(
        "gather", [weight, graph.add_constant(np.arange(8), "ids")], {"axis": 0}, name="encoder.rows"
    ).output
    h = graph.insert("mul", [x, graph.insert("reduce_sum", [h], {"axes": (0,)}, name="encoder").output],
                     name="encoder.scale", sources=("encoder.scale", "encoder.weight")).output  # fmt: skip
    graph.outputs = [graph.insert("tanh", [h], name="head").output]
    return graph


def test_inputs_and_outputs_keep_their_names() -> None:
    graph = small()
    graph.meta["output_names"] = ["logits"]
    model = Session(graph).model
    assert [i.name for i in model.graph.input] == ["tokens"]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_nodes_name_the_modules_they_come_from() -> None:
    model = Session(small()).model
    (product,) = [n for n in model.graph.node if n.op_type == "Mul"]
    assert product.name == "encoder.scale/Mul_0"
    data = {p.key: p.value for p in product.metadata_props}
    assert json.loads(data["planish.sources"]) == ["encoder.scale", "encoder.weight"]
    names = [n.name for n in model.graph.node]
    assert len(names) == len(set(names)) and all(names)


def test_every_launch_is_named_by_a_node() -> None:
    unit = lower(small(), provider=CPU.level, opset=21)
    model = onnx.ModelProto.FromString(unit.model)
    named = {int(p.value) for n in model.graph.node for p in n.metadata_props if p.key == "planish.launch"}
    assert named == set(range(len(unit.description["launches"])))
    assert [launch["label"] for launch in unit.description["launches"]] == [
        "encoder.rows", "encoder", "encoder.scale", "head",
    ]  # fmt: skip


def test_metadata_says_what_made_it() -> None:
    graph = small()
    graph.meta.update(source="abc", plan={"encoder": "f32"})
    data = {p.key: p.value for p in Session(graph).model.metadata_props}
    assert data["planish.source"] == "abc"
    assert json.loads(data["planish.plan"]) == {"encoder": "f32"}
    assert data["planish.version"]


def test_equal_graphs_give_equal_bytes() -> None:
    for sketch, _, _ in list(packs().values())[::25]:
        assert (
            lower(sketch.graph, provider=CPU.level, opset=21).model
            == lower(sketch.graph.copy(), provider=CPU.level, opset=21).model
        )


def test_large_constants_lie_beside_the_model() -> None:
    unit = lower(small(rows=64), provider=CPU.level, opset=21)
    (entry,) = unit.description["weights"]
    assert (entry["bytes"], entry["dtype"], entry["shape"]) == (64 * 8 * 4, "float32", [64, 8])
    assert entry["gathered"]
    assert unit.description["weights_bytes"] == len(section(unit)) == 2048
    assert len(unit.model) < 2048
    assert not lower(small(rows=31), provider=CPU.level, opset=21).weights  # 992 bytes


def test_model_and_weights_as_files(tmp_path: Path) -> None:
    """As they lie in a folder: found by the checker and by a session, which read the weights beside the model."""
    graph = small()
    unit = lower(graph, provider=CPU.level, opset=21)
    (tmp_path / "model.onnx").write_bytes(unit.model)
    (tmp_path / "weights.bin").write_bytes(section(unit))
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=[CPU.level])
    x = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)
    (got,) = session.run(None, {"tokens": x})
    assert np.allclose(got, interpret(graph, [x])[0], atol=1e-6)


def test_a_constant_of_two_readers_is_kept_once() -> None:
    sketch = Sketch()
    big = sketch.random(32, 16)
    x = sketch.input(16)
    sketch.output(sketch("add", x, big), sketch("mul", x, big))
    unit = Session(sketch.graph).unit
    assert len(unit.weights) == 1
    assert len(unit.description["weights"]) == 1


def test_the_description_is_that_of_every_backend() -> None:
    described = describe(Program({}, [], []))
    unit = lower(small(), provider=CPU.level, opset=21)
    assert set(unit.description) == set(described)
    json.dumps(unit.description)


def test_weights_that_are_made_when_read() -> None:
    array = np.random.default_rng(1).standard_normal((32, 32)).astype(np.float32)
    graph = Graph()
    graph.symbols["n"] = Symbol("n", 1, 9)
    x = graph.add_input("x", TensorType(F32, (symbol("n"), 32)))
    at = Emitter(graph)
    name = at.constant(Deferred(lambda: array, array.shape, array.dtype), "later")
    placed = at.initializers.place({name, x.name})
    assert isinstance(placed.weights[0], Deferred)
    assert placed.bytes == array.nbytes


def test_int4_is_packed_two_to_a_byte() -> None:
    numbers = np.array([-8, 7, 1, -1, 3], np.int8)
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.INT4, dims=[5], raw_data=pack_i4(numbers).tobytes())
    assert onnx.numpy_helper.to_array(tensor).astype(np.int8).tolist() == numbers.tolist()


def test_outputs_that_are_inputs_constants_or_come_twice() -> None:
    sketch = Sketch()
    x = sketch.input(3)
    y = sketch("neg", x)
    sketch.output(x, y, y, sketch.const([1.0, 2.0]))
    session = Session(sketch.graph)
    assert difference(session, sketch, {}) is None
    assert len({o.name for o in session.model.graph.output}) == 4


B, S = symbol("b"), symbol("s")
SIZES: dict[str, Dim] = {
    "sum": B + S + 3, "product": B * S * 2, "halves": floordiv(S + 1, 2), "below zero": floordiv(S - 7, 2) + 4,
    "rest": mod(S, 3) + B, "least": dim_min(B, S), "most": dim_max(B * 2, S) - 1 + 1, "square": B * B + floordiv(S * B, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_computed(name: str) -> None:
    sketch = Sketch()
    x = sketch.input(S, B * 2 + 1)  # b itself stands nowhere
    one = sketch("reduce_sum", x, axes=(0, 1))
    sketch.output(sketch("full", value=SIZES[name], shape=(), dtype=I64), sketch("expand", one, shape=(2, SIZES[name])))
    session = Session(sketch.graph)
    for env in ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 4, "s": 33}):
        assert evaluate(SIZES[name], env) >= 0
        assert difference(session, sketch, env) is None


def test_a_size_is_computed_once() -> None:
    sketch = Sketch()
    x = sketch.input(S, 4)
    twice = [sketch("expand", sketch("reshape", x, shape=(1, S, 4)), shape=(n, S, 4)) for n in (2, 3)]
    sketch.output(*twice, sketch("full", value=S, shape=(S,), dtype=I64))
    assert [n.op_type for n in Session(sketch.graph).model.graph.node].count("Shape") == 1


def test_static_shapes_are_constants() -> None:
    sketch = Sketch()
    x = sketch.input(2, 3, 4)
    sketch.output(sketch("expand", sketch("reshape", x, shape=(6, 1, 4)), shape=(6, 5, 4)))
    kinds = {n.op_type for n in Session(sketch.graph).model.graph.node}
    assert kinds == {"Reshape", "Expand"}


@pytest.mark.parametrize("shape", [(B * 4, 6), (B, S, 24), (24, S, B), (B, 1, S, 4, 6), (S * B, 24), (0, 7)])
def test_reshape(shape: tuple[Dim, ...]) -> None:
    sketch = Sketch()
    given: tuple[Dim, ...] = (B, S, 4, 6) if S in shape or S * B in shape else (0, 3) if shape == (0, 7) else (B, 4, 6)
    sketch.output(sketch("reshape", sketch.input(*given), shape=shape))
    session = Session(sketch.graph)
    for env in ({"b": 3, "s": 5}, {"b": 1, "s": 1}, {"b": 0, "s": 5}, {"b": 2, "s": 0}):
        assert difference(session, sketch, env) is None


def test_a_size_that_no_input_tells_is_refused() -> None:
    graph = Graph()
    graph.symbols["n"] = Symbol("n", 1, 9)
    n = symbol("n")
    graph.add_input("x", TensorType(F32, (n * n,)))
    graph.outputs = [graph.insert("full", [], {"value": 1.0, "shape": (n,), "dtype": F32}).output]
    with pytest.raises(LoweringError, match="no input tells the size n"):
        BACKEND.lower(graph, CPU)


def test_states_are_refused() -> None:
    graph = small()
    graph.add_state("cache", TensorType(F32, (4,)))
    with pytest.raises(LoweringError, match="'cache'"):
        BACKEND.lower(graph, CPU)


def test_what_nobody_reads_is_not_written() -> None:
    sketch = Sketch()
    x = sketch.input(4)
    sketch("exp", sketch("add", x, sketch.random(64, 4)))
    sketch.output(sketch("neg", x))
    session = Session(sketch.graph)
    assert [n.op_type for n in session.model.graph.node] == ["Neg"]
    assert not session.unit.weights


def test_targets_have_short_names() -> None:
    assert find_target("onnx") == CPU
    assert find_target("onnx:cpu") == CPU
    assert find_target("onnx:openvino").level == "OpenVINOExecutionProvider"


def test_the_text_of_a_unit_can_be_read() -> None:
    unit = lower(small(), provider=CPU.level, opset=21)
    binary, text = BACKEND.build(unit)
    assert binary == unit.model
    assert "Tanh" in text and "encoder.scale" in text


@pytest.mark.parametrize("keep", [False, True])
def test_the_mean_over_space_is_a_pool(keep: bool) -> None:
    sketch = Sketch()
    sketch.output(sketch("reduce_mean", sketch.input(B, 4, 5, 6), axes=(-1, 2), keepdim=keep))
    session = Session(sketch.graph)
    assert session.model.graph.node[0].op_type == "GlobalAveragePool"
    assert difference(session, sketch, {"b": 3, "s": 1}) is None


def test_other_providers_get_their_own_operators() -> None:
    """What puts NaN back might not run there."""
    sketch = Sketch()
    x = sketch.input(4, 5)
    sketch.output(sketch("reduce_max", x, axes=(1,)), sketch("argmax", x, axis=1))
    kinds = [n.op_type for n in Session(sketch.graph, provider="QNNExecutionProvider").model.graph.node]
    assert kinds == ["ReduceMax", "ArgMax"]


@pytest.mark.parametrize("size", [{"b": 0, "s": 3}, {"b": 2, "s": 0}])
def test_empty_tensors(size: dict[str, int]) -> None:
    """Kernels that divide by, or walk along, an axis without elements."""
    sketch = Sketch()
    x, ids = sketch.input(B, S), sketch.input(S, B, dtype=I64)
    for op in ("cumsum", "cumprod", "logcumsumexp", "cummax", "sort"):
        for value in (x,) if op == "logcumsumexp" else (x, ids):
            for axis in (0, 1):
                sketch.graph.outputs += sketch.both(op, value, axis=axis)
    for op in ("reduce_sum", "reduce_prod", "reduce_mean"):
        sketch.graph.outputs += [sketch(op, x, axes=(axis,)) for axis in (0, 1)]
    wide = sketch("reshape", sketch.input(B, 4, S), shape=(B, 4, S, 1))
    sketch.graph.outputs += [
        sketch("softmax", x),
        sketch("group_norm", wide, None, None, groups=2),
        sketch("layer_norm", x),
    ]
    hidden, weight = sketch.input(B, 8), sketch.random(32, 8)
    steps = sketch.input(S, B, 32)
    for reverse in (False, True):
        sketch.graph.outputs += sketch.both("recurrent", steps, weight, hidden, hidden, cell="lstm", reverse=reverse)
    assert difference(Session(sketch.graph), sketch, size, slack=4.0) is None
    assert difference(Session(sketch.graph), sketch, {"b": 2, "s": 5}, slack=4.0) is None


def test_the_table_of_kernels_is_that_of_the_provider() -> None:
    """Every row, against the provider that is installed: an op that computes in a type that the table denies it would be cast
    for nothing; one that does not would not load."""
    import probe_kernels

    found = {op: probe_kernels.types(op) for op in KERNELS}
    assert {op: sorted(t) for op, t in KERNELS.items()} == {op: sorted(t) for op, t in found.items()}
