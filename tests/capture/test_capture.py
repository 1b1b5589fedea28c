"""Names, lines, symbols, structure, weights: what a capture says besides the operations."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from capture.oracle import Function, check, compare, rebuilt, run
from torch import Tensor, nn
from torch.export import Dim

from planish.compiler.capture.torch_export import Captured, capture
from planish.compiler.types import DType, float_to_bf16

X = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7


class Block(nn.Module):
    """Attention and a feed-forward part, spelt as models spell them."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        batch, seq, width = x.shape
        q, k, v = (m(x).view(batch, seq, self.heads, -1).transpose(1, 2) for m in (self.query, self.key, self.value))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.norm(x + self.act(seen.transpose(1, 2).reshape(batch, seq, width)))


class Stack(nn.Module):
    """Two blocks that share their norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Block(), Block()])
        self.layers[1].norm = self.layers[0].norm

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * 2


SEQUENCE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def stack() -> Captured:
    shapes = {"x": {0: Dim("batch", min=1, max=9), 1: Dim("seq", max=70)}}
    others: list[Any] = [((torch.randn(n, s, 8),), {}) for n, s in ((1, 1), (4, 3), (9, 70))]
    return check(Stack().eval(), (SEQUENCE,), shapes=shapes, others=others, tolerance=1e-4)


def test_nodes_are_named_after_modules(stack: Captured) -> None:
    nodes = [n for n in stack.graph.nodes if n.op != "constant"]
    names = {n.name: n.op for n in nodes}
    assert len(names) == len(nodes), "unique"
    assert names["layers.0.query"] == "linear" and names["layers.1.value"] == "linear"
    assert names["layers.1"] == "attention" and names["layers.1.act"] == "gelu"
    assert names["layers.0.norm"] == "layer_norm"
    assert names["layers.0.transpose"] == names["layers.0.transpose_1"] == "transpose"
    assert names["mul"] == "mul"
    assert all(n.sources == (n.name,) for n in nodes)


def test_nodes_know_their_line(stack: Captured) -> None:
    lines = Path(__file__).read_text().splitlines()
    attention = next(n for n in stack.graph.nodes if n.op == "attention")
    assert attention.location is not None
    file, line = attention.location.rsplit(":", 1)
    assert file.endswith("test_capture.py") and "scaled_dot_product_attention" in lines[int(line) - 1]
    assert not Path(file).is_absolute()


def test_symbols_have_the_names_and_bounds_asked_for(stack: Captured) -> None:
    symbols = {s.name: (s.lower, s.upper) for s in stack.graph.symbols.values()}
    assert symbols == {"batch": (1, 9), "seq": (1, 70)}
    assert [str(d) for d in stack.graph.inputs[0].shape] == ["batch", "seq", "8"]
    assert stack.notes == []


def test_shared_weights_are_one_constant(stack: Captured) -> None:
    norms = [n for n in stack.graph.nodes if n.op == "layer_norm"]
    assert len(norms) == 2 and norms[0].inputs[1] is norms[1].inputs[1]
    assert {"layers.0.query.weight", "layers.1.query.weight"} <= set(stack.graph.constants)
    assert len({"layers.0.norm.weight", "layers.1.norm.weight"} & set(stack.graph.constants)) == 1


def test_attention_keeps_its_meaning(stack: Captured) -> None:
    attention = next(n for n in stack.graph.nodes if n.op == "attention")
    assert attention.attrs["causal"] is True and attention.attrs["scale"] == pytest.approx(0.5)
    assert attention.attrs["empty_row"] == "zero"


def test_the_source_hash_follows_weights_and_graph() -> None:
    model = Stack().eval()
    first = capture(model, SEQUENCE)
    assert first.source == capture(model, SEQUENCE).source == first.graph.meta["source"]
    assert len(first.source) == 64
    with torch.no_grad():
        model.layers[0].query.weight[0, 0] += 1  # type: ignore[union-attr, operator, index]
    assert capture(model, SEQUENCE).source != first.source
    assert capture(model, SEQUENCE, dynamic_shapes=({0: Dim("batch")},)).source != capture(model, SEQUENCE).source


# -- the call -------------------------------------------------------------------------------------------------------------
class Pair(nn.Module):
    """Two arguments, one with a default."""

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return x if scale is None else x * scale


def test_what_args_means() -> None:
    assert [i.name for i in capture(Pair(), X).inputs] == ["x"]
    assert [i.name for i in capture(Pair(), (X, X)).inputs] == ["x", "scale"]
    assert [i.name for i in capture(Pair(), {"x": X, "scale": X}).inputs] == ["x", "scale"]
    assert [i.name for i in capture(Pair(), [X], {"scale": X}).inputs] == ["x", "scale"]
    last = capture(Function(lambda x, named: x + named["y"]), (X, {"y": X}))  # a tuple's last element is an argument
    assert [(i.name, i.path) for i in last.inputs] == [("args.0", ("args", 0)), ("args.1.y", ("args", 1, "y"))]


class Cache(nn.Module):
    """Nested arguments."""

    def forward(
        self, x: Tensor, past: list[dict[str, Tensor]], flag: bool = True, skip: Tensor | None = None
    ) -> Tensor:
        total = x
        for layer in past:
            total = total + layer["key"] * layer["value"]
        return total if flag else x


def test_nested_arguments_are_named_by_their_path() -> None:
    past = [{"key": X, "value": X * 2}, {"key": X + 1, "value": X}]
    rows = Dim("rows", max=8)
    shapes = {"x": {0: rows}, "past": [{"key": {0: rows}, "value": {0: rows}}] * 2, "flag": None}
    captured = check(Cache(), (X,), {"past": past, "flag": True}, shapes=shapes)
    assert [i.name for i in captured.inputs] == ["x", "past.0.key", "past.0.value", "past.1.key", "past.1.value"]
    assert captured.inputs[2].path == ("kwargs", "past", 0, "value")
    assert list(captured.examples) == [i.name for i in captured.inputs] == [v.name for v in captured.graph.inputs]
    np.testing.assert_array_equal(captured.examples["past.1.key"], (X + 1).numpy())
    assert list(captured.graph.symbols) == ["rows"]
    flag = captured.input_structure["items"][1]
    assert flag["keys"] == ["past", "flag"] and flag["items"][1] == {"kind": "constant", "value": True}


def test_unused_inputs_stay() -> None:
    captured = capture(Function(lambda x, y: y + 1), (X, X))
    assert [v.name for v in captured.graph.inputs] == ["args.0", "args.1"]


# -- the result -----------------------------------------------------------------------------------------------------------
Point = namedtuple("Point", ["first", "second"])


class Nested(nn.Module):
    """All kinds of outputs."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = x + 1
        return {"a": y, "list": [y * 2, None, x], "tuple": (3, "word", True, y), "size": x.shape[0],
                "ordered": OrderedDict(k=x * 3), "point": Point(x * 4, 2.5), "computed": 2 * x.shape[0] + 1}  # fmt: skip


def test_the_structure_of_the_output_is_plain_data() -> None:
    model = Nested()
    captured = capture(model, X, dynamic_shapes=({0: Dim("rows", max=8)},))
    assert json.loads(json.dumps(captured.structure)) == captured.structure == captured.graph.meta["structure"]
    assert captured.output_names == ["a", "list.0", "list.2", "tuple.3", "size", "ordered.k", "point.first", "computed"]
    for rows in (3, 1, 5):
        x = torch.randn(rows, 4)
        outputs = run(captured, (x,), {})
        got, wanted = rebuilt(captured.structure, outputs), model(x)
        assert got["size"] == rows and got["computed"] == 2 * rows + 1
        assert got["tuple"][:3] == (3, "word", True) and got["list"][1] is None and got["point"]["second"] == 2.5
        np.testing.assert_array_equal(got["list"][2], x)
        np.testing.assert_array_equal(got["tuple"][3], wanted["a"])
        np.testing.assert_array_equal(got["ordered"]["k"], wanted["ordered"]["k"])
        np.testing.assert_array_equal(got["point"]["first"], wanted["point"].first)
    kinds = dict(zip(captured.structure["keys"], (i["kind"] for i in captured.structure["items"]), strict=True))
    assert kinds == {"a": "tensor", "list": "list", "tuple": "tuple", "size": "int", "ordered": "dict",
                     "point": "namedtuple", "computed": "int"}  # fmt: skip


def test_a_lone_tensor_and_a_tuple() -> None:
    assert capture(Pair(), X).structure == {"kind": "tensor", "index": 0}
    assert capture(Pair(), X).output_names == ["output"]
    assert capture(Function(lambda x: (x, x + 1)), X).output_names == ["output.0", "output.1"]


def test_model_outputs_keep_their_class_and_keys() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return outputs.BaseModelOutput(last_hidden_state=x + 1, hidden_states=(x, x * 2))

    captured = capture(Model(), X)
    assert captured.structure["kind"] == "object" and captured.structure["class"] == "BaseModelOutput"
    assert captured.structure["keys"] == ["last_hidden_state", "hidden_states"]
    assert captured.output_names == ["last_hidden_state", "hidden_states.0", "hidden_states.1"]


# -- dynamic dimensions ---------------------------------------------------------------------------------------------------
def sizes(captured: Captured) -> dict[str, tuple[int, int]]:
    """Bounds by symbol."""
    return {s.name: (s.lower, s.upper) for s in captured.graph.symbols.values()}


def test_no_bound_is_infinite() -> None:
    captured = capture(nn.Linear(4, 4), X, dynamic_shapes=({0: Dim("rows")},))
    assert sizes(captured) == {"rows": (1, 4096)}
    assert any("'rows' has no upper bound" in n and "4096" in n for n in captured.notes)


def test_an_example_of_size_one_stays_dynamic() -> None:
    model = Function(lambda x, y: x @ y + x.sum(0, keepdim=True) @ y)
    shapes = (({0: Dim("rows", max=8), 1: Dim("inner", max=8)}, {0: Dim("inner", max=8)}),)
    example = (X[:1, :1], X[:1])
    others: list[Any] = [((torch.randn(r, k), torch.randn(k, 4)), {}) for r, k in ((3, 2), (8, 1), (1, 8))]
    captured = check(model, example, shapes=shapes, others=others)
    assert sizes(captured) == {"rows": (1, 8), "inner": (1, 8)}
    assert captured.examples["args.0"].shape == (1, 1) and captured.examples["args.1"].shape == (1, 4)
    assert any("size of 1" in n for n in captured.notes)


def test_hints_and_derived_dimensions() -> None:
    auto = capture(nn.Linear(4, 4), X[:1], dynamic_shapes=({0: Dim.AUTO},))
    assert sizes(auto) == {"input_dim0": (1, 4096)}
    bounded = capture(nn.Linear(4, 4), X, dynamic_shapes=({0: Dim.DYNAMIC(min=2, max=50)},))  # type: ignore[operator]
    assert sizes(bounded)["input_dim0"][1] == 50
    half = Dim("half", max=20)
    model = Function(lambda x: x.reshape(-1, 2) + 1)
    for rows in (6, 2):
        derived = check(model, (torch.randn(rows),), shapes=(({0: 2 * half},),), others=[((torch.randn(40),), {})])
        assert sizes(derived) == {"half": (1, 20)} and str(derived.graph.inputs[0].shape[0]) == "2*half"
        assert [str(d) for d in derived.graph.outputs[0].shape] == ["half", "2"]


def test_sizes_that_divide_and_round() -> None:
    ones = torch.ones(4, 4, 3)
    model = Function(
        lambda x: (F.conv1d(x.T[None], ones, stride=2, padding=1), x[: x.shape[0] // 3], x[1::3], x[-2:], x[:-2])
    )
    others: list[Any] = [((torch.randn(n, 4),), {}) for n in (6, 7, 8, 9, 33)]
    check(model, (torch.randn(12, 4),), shapes=(({0: Dim.AUTO},),), others=others)


def test_names_that_are_no_identifiers() -> None:
    captured = capture(Function(lambda d: d["a-b"] + 1), ({"a-b": X},), dynamic_shapes=(({"a-b": {0: Dim.AUTO}},),))
    assert all(name.isidentifier() for name in captured.graph.symbols)


# -- weights --------------------------------------------------------------------------------------------------------------
def test_bf16_weights_are_bits() -> None:
    model = nn.Linear(4, 3).to(torch.bfloat16)
    captured = check(model, (X.bfloat16(),), tolerance=1e-2)
    weight = next(n for n in captured.graph.nodes if n.op == "linear").inputs[1]
    array = captured.graph.array(weight)
    assert weight is not None and weight.dtype is DType.bf16 and array is not None and array.dtype == np.uint16
    np.testing.assert_array_equal(array, float_to_bf16(model.weight.float().detach().numpy()))
    assert captured.examples["input"].dtype == np.uint16


class Buffers(nn.Module):
    """A persistent buffer, one that is not, and a constant made in forward."""

    kept: Tensor
    passing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("passing", torch.arange(4.0) * 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept + self.passing + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_buffers_and_lifted_constants() -> None:
    captured = check(Buffers(), (X,))
    assert {"kept", "passing"} <= set(captured.graph.constants) and len(captured.graph.constants) == 3


def test_tied_embeddings_and_views_of_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids)) + self.table.weight[0].sum()

    captured = check(Tied(), (torch.tensor([[1, 2], [3, 9]]),))
    assert len([c for c in captured.graph.constants.values() if c.shape == (10, 4)]) == 1


def test_what_only_torch_can_compute_of_constants_is_folded() -> None:
    table = torch.eye(4) * 2 + torch.arange(16.0).reshape(4, 4) / 50
    captured = check(Function(lambda x: x @ torch.linalg.inv(table.T + 1)), (X,), tolerance=1e-4)
    assert any(name.startswith("folded.") for name in captured.graph.constants)


# -- where a model comes from ---------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_program_and_a_file_give_the_same(tmp_path: Path) -> None:
    model, shapes = Stack().eval(), ({0: Dim("batch", max=9)},)
    program = torch.export.export(model, (SEQUENCE,), dynamic_shapes=shapes, strict=False)
    torch.export.save(program, tmp_path / "stack.pt2")
    expected = model(SEQUENCE[:1])
    for source in (program, tmp_path / "stack.pt2", str(tmp_path / "stack.pt2")):
        captured = capture(source)
        compare(run(captured, (SEQUENCE[:1],), {}), captured.graph.outputs, expected.detach(), 1e-5)
        assert captured.class_name == "Stack" and [i.name for i in captured.inputs] == ["x"]
        np.testing.assert_array_equal(captured.examples["x"], SEQUENCE.numpy())
        assert [(s.lower, s.upper) for s in captured.graph.symbols.values()] == [(1, 9)]


def test_a_program_in_core_aten() -> None:
    model = Stack().eval()
    program = torch.export.export(model, (SEQUENCE,), strict=False).run_decompositions()
    captured = capture(program)
    compare(run(captured, (SEQUENCE,), {}), captured.graph.outputs, model(SEQUENCE).detach(), 1e-5)
    ops = [n.op for n in captured.graph.nodes]
    assert ops.count("linear") == 6 and ops.count("layer_norm") == 2


def test_training_mode_is_restored_and_not_captured() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    captured = capture(model, X)
    assert [m.training for m in model.modules()] == [True, True, False, True]
    model.eval()
    compare(run(captured, (X,), {}), captured.graph.outputs, model(X).detach(), 1e-5)
    assert torch.is_grad_enabled() and torch.backends.mha.get_fastpath_enabled()
    assert not logging.getLogger("torch").disabled


def test_encoder_layers_without_their_fused_paths() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    captured = check(model, (SEQUENCE,), {"src_key_padding_mask": padding}, tolerance=1e-4)
    assert [n.op for n in captured.graph.nodes].count("linear") >= 6


@pytest.mark.parametrize("weights", [False, True])
def test_multi_head_attention(weights: bool) -> None:
    class Self(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.mha(x, x, x, need_weights=weights)[0]

    rows = {0: Dim("batch", max=8), 1: Dim("seq", max=16)}
    check(Self().eval(), (SEQUENCE,), shapes=(rows,), others=[((torch.randn(3, 7, 8),), {})], tolerance=1e-4)


def test_recurrent_layers_of_fixed_length() -> None:
    check(nn.LSTM(4, 6, batch_first=True).eval(), (torch.randn(2, 3, 4),), tolerance=1e-5)
    check(nn.GRU(4, 6, batch_first=True).eval(), (torch.randn(2, 3, 4),), tolerance=1e-5)


def test_a_convolutional_net() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 1, 1, groups=4),
        nn.SiLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.Softmax(-1),
    ).eval()  # fmt: skip
    batch = Dim("batch", max=8)
    check(model, (torch.randn(2, 3, 16, 16),), shapes=({0: batch},), others=[((torch.randn(1, 3, 16, 16),), {})])


def test_attention_shapes_and_masks() -> None:
    q, k, v = (torch.randn(2, 4, s, 8, generator=torch.Generator().manual_seed(s)) for s in (5, 6, 6))
    hidden = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    hidden[1, :, 2] = False  # a row that sees nothing gives zeros
    sdpa = F.scaled_dot_product_attention
    check(Function(lambda q, k, v: sdpa(q, k, v, hidden)), (q, k, v))
    check(Function(lambda q, k, v: sdpa(q, k, v, torch.ones(5, 6).tril().log().clamp(min=-9), scale=0.3)), (q, k, v))
    check(Function(lambda q, k, v: sdpa(q, k, v, is_causal=True)), (q, k, v))
    check(Function(lambda q, k, v: sdpa(q, k[:, :2], v[:, :2], enable_gqa=True)), (q, k, v))
    check(Function(lambda q, k, v: sdpa(q[0], k[0], v[0], hidden[0, 0])), (q, k, v))
    check(Function(lambda q, k, v: sdpa(q[0, 0], k[0, 0], v[0, 0])), (q, k, v))
    check(Function(lambda q, k, v: sdpa(q[None], k[None], v[None], hidden[None])), (q, k, v))
    check(Function(lambda q, k, v: sdpa(q, k[:, :1], v[:, :1])), (q, k, v))


def test_autocast_and_no_grad_regions() -> None:
    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = x * 2
            with torch.autocast("cpu", enabled=False):
                z = self.linear(y)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                w = self.linear(z)
            return w.float() + y

    check(Regions().eval(), (X,), tolerance=1e-2)
    program = torch.export.export(Regions().train(), (X,), strict=False)  # traced with gradients: regions stay
    captured = capture(program)
    compare(run(captured, (X,), {}), captured.graph.outputs, program.module()(X).detach(), 1e-2)
