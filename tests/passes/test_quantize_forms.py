"""Every precision as QDQ: the form in the graph, and what the interpreter makes of it against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph, Node
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.precision import PRECISIONS, kind_of_node
from planish.compiler.types import DType, bf16_to_float, float_to_bf16
from planish.compiler.verify import verify
from planish.passes.calibrate import calibrate
from planish.passes.precision import CALIBRATION, CHOICES, WEIGHTS, Choice
from planish.passes.quantize import Quantize, quantized, requests_of
from planish.passes.weights.store import WeightStore
from planish.testing import capture_function

K = 64
LINEAR = ("w8a8-dynamic", "w8a8", "w8a16", "w4a16-g64", "w4a16-g32", "w4a8-g64", "w4a8-g32")


def batches(graph: Graph, count: int = 3, seed: int = 1) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        {
            v.name: rng.integers(0, 10, v.shape) if v.dtype.is_integer
            else (rng.standard_normal(v.shape) * np.linspace(0.2, 3, v.shape[-1])).astype(np.float32)
            for v in graph.inputs
        }
        for _ in range(count)
    ]  # fmt: skip


def apply(
    graph: Graph, precision: str, data: list[dict[str, np.ndarray]], *, weights: str | None = None,
    observer: str | None = None, store: WeightStore | None = None, kinds: tuple[str, ...] = ("linear", "conv", "embedding"),
) -> tuple[Graph, PassContext]:  # fmt: skip
    """``graph`` with all its linears, convolutions and lookups in ``precision``; and the context."""
    done = graph.copy()
    choices = {
        (kind_of_node(n), n.name): Choice(precision, weights, observer)
        for n in done.nodes if kind_of_node(n) in kinds
    }  # fmt: skip
    context = PassContext(data={CHOICES: choices, CALIBRATION: data, WEIGHTS: store})
    Quantize().run(done, context)
    verify(done)
    return done, context


def linear_model() -> Graph:
    torch.manual_seed(0)
    return capture_function(nn.Linear(K, 24), (torch.randn(7, K),))[0]


def only(graph: Graph, op: str) -> Node:
    (node,) = [n for n in graph.nodes if n.op == op]
    return node


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("weights", ["rtn", "smoothquant", "gptq", None])
@pytest.mark.parametrize("precision", LINEAR)
def test_a_linear_is_what_numpy_makes_of_its_constants(precision: str, weights: str | None) -> None:
    graph = linear_model()
    data = batches(graph)
    done, context = apply(graph, precision, data, weights=weights)
    (got,), (exact,) = interpret(done, data[0]), interpret(graph, data[0])
    assert 1e-5 < distance(got, exact) < (0.12 if "w4" in precision else 0.03)

    def reading(node: Node) -> np.ndarray:
        """The operand of the linear, by hand from the constants."""
        q, scale = (done.array(v) for v in node.inputs[:2])
        assert q is not None and scale is not None
        return q.astype(np.float32) * np.repeat(
            scale, q.shape[1] // scale.shape[1] if scale.shape[1] > 1 else 1, axis=1
        )

    linear = only(done, "linear")
    w = linear.inputs[1].node
    assert w.op == "dequantize" and w.inputs[0].dtype is (DType.i4 if "w4" in precision else DType.i8)
    group = PRECISIONS[precision].weight.group_size
    assert done.array(w.inputs[1]).shape == (24, K // group if group else 1)
    x = next(iter(data[0].values()))
    back = linear.inputs[0].node
    chain = [back]
    while chain[-1].inputs[0].node is not None:
        chain.append(chain[-1].inputs[0].node)
    offsets: Any = 0.0
    if precision.endswith("a16") or "a16-" in precision:
        assert [n.op for n in chain] == ["cast", "cast"] and chain[1].output.dtype is DType.bf16
        x = bf16_to_float(float_to_bf16(x))
    else:
        smooth = [n for n in chain if n.op in ("mul", "sub")]
        for node in reversed(smooth):
            constant = done.array(node.inputs[1])
            if constant is None:  # rows centred at run time
                middle = (x.max(axis=1, keepdims=True) + x.min(axis=1, keepdims=True)) / 2
                offsets = middle
                x = x - middle
            else:
                x = x * constant if node.op == "mul" else x - constant
        if precision == "w8a8":
            quantise = only(done, "quantize")
            assert quantise.attrs["dtype"] is DType.i8 and back.inputs[1:] == quantise.inputs[1:]
            scale = done.array(quantise.inputs[1])
            zero = done.array(quantise.inputs[2]) if len(quantise.inputs) > 2 else None
            assert scale.shape == () and scale.dtype == np.float32
            assert zero is None or (zero.shape == () and zero.dtype == np.int8)
            low = -127 if zero is None else -128
            steps = np.clip(np.rint(x / scale) + (0 if zero is None else zero), low, 127)
            x = (steps - (0.0 if zero is None else np.float32(zero))).astype(np.float32) * scale
        else:
            amax = np.abs(x).max(axis=1, keepdims=True)
            x = np.clip(np.rint(x * (127 / amax)), -127, 127) * (amax / 127)
    wide = reading(w)
    want = x @ wide.T + done.array(linear.inputs[2]) + offsets * wide.sum(axis=1)
    assert distance(got, want) < 2e-3  # the odd tie of rounding may fall the other way
    assert sum("relative output error" in n.text for n in context.notes) == 1


def test_static_ranges_saturate_and_use_a_zero_point_where_values_are_one_sided() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(K, 96), nn.Linear(96, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    graph, _ = capture_function(Two(), (torch.randn(5, K),))
    data = batches(graph)
    done, _ = apply(graph, "w8a8", data, weights="rtn", observer="minmax")
    _, second = [n for n in done.nodes if n.op == "quantize"]
    assert len(second.inputs) == 3 and int(done.array(second.inputs[2])) == -128
    far = {name: x * 1000 for name, x in data[0].items()}
    (near,), (clipped,) = interpret(done, data[0]), interpret(done, far)
    assert np.isfinite(clipped).all() and np.abs(clipped).max() < 20 * np.abs(near).max()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 10, 3, padding=1), nn.Conv2d(6, 12, 3, stride=2, groups=3), nn.Conv2d(6, 6, 5, padding=2, groups=6),
        nn.Conv1d(6, 4, 4, dilation=2, bias=False), nn.Conv3d(6, 3, 2),
    ],
)  # fmt: skip
def test_convolutions_have_a_range_and_a_step_per_channel(conv: nn.Module) -> None:
    rank = conv.weight.dim() - 2
    graph, _ = capture_function(conv, (torch.randn(2, 6, *[9] * rank),))
    data = batches(graph)
    done, context = apply(graph, "w8a8", data)
    node = only(done, "conv")
    x, w = node.inputs[0].node, node.inputs[1].node
    assert x.op == w.op == "dequantize" and x.inputs[0].node.op == "quantize"
    assert done.array(w.inputs[0]).shape == tuple(conv.weight.shape)
    assert done.array(w.inputs[1]).shape == (conv.weight.shape[0], *[1] * (rank + 1))
    (got,), (want,) = interpret(done, data[0]), interpret(graph, data[0])
    assert 1e-5 < distance(got, want) < 0.02
    (note,) = context.notes
    told = float(note.text.rsplit("-> ", 1)[1])
    assert told == pytest.approx(distance(got, want) ** 2, rel=0.8), "the error told is that of the sampled windows"


def test_convolutions_of_one_input_share_its_quantisation() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return self.a(x), self.b(x), self.c(x)

    graph, _ = capture_function(Two(), (torch.randn(2, 3, 6, 6),))
    done, _ = apply(graph, "w8a8", batches(graph))
    assert sum(n.op == "quantize" for n in done.nodes) == 2  # of one geometry together


@pytest.mark.parametrize("precision", ["bf16", "w8a16"])
def test_lookups(precision: str) -> None:
    torch.manual_seed(0)
    graph, _ = capture_function(nn.Embedding(10, 32), (torch.arange(4),))
    data = batches(graph)
    done, _ = apply(graph, precision, data)
    (got,), (want,) = interpret(done, data[0]), interpret(graph, data[0])
    assert 1e-4 < distance(got, want) < 0.01
    ops = [n.op for n in done.nodes if n.op != "constant"]
    lookup = next(n.op for n in graph.nodes if kind_of_node(n) == "embedding")
    if precision == "bf16":
        assert ops == [lookup, "cast"]
        ids = next(iter(data[0].values()))
        np.testing.assert_array_equal(
            got, bf16_to_float(float_to_bf16(graph.array(only(graph, lookup).inputs[0])))[ids]
        )
    else:
        assert ops == [lookup, lookup, "dequantize"]
        assert sorted(a.shape for a in done.constants.values()) == [(10, 1), (10, 32)]


def test_what_cannot_be_done_stays_float_and_is_said() -> None:
    graph = linear_model()
    done, context = apply(graph, "w4a16", batches(graph))  # groups of 128 for 64 inputs
    assert [n.op for n in done.nodes if n.op != "constant"] == ["linear"]
    assert [(n.kind, n.text) for n in context.notes] == [
        ("miss", "linear stays float: groups of 128 do not divide its 64 inputs")
    ]
    conv, _ = capture_function(nn.Conv2d(3, 4, 3), (torch.randn(1, 3, 5, 5),))
    for precision in ("w8a8-dynamic", "w4a16-g32"):
        _, context = apply(conv, precision, batches(conv))
        assert [n.kind for n in context.notes] == ["miss"]


def test_a_static_range_needs_data() -> None:
    graph = linear_model()
    with pytest.raises(UsageError, match="w8a8 needs example data"):
        apply(graph, "w8a8", [])
    for precision in ("w8a16", "w4a16-g32", "w4a8-g32", "w8a8-dynamic"):
        done, _ = apply(graph, precision, [])
        assert any(n.op == "dequantize" for n in done.nodes)


@pytest.mark.parametrize(("keys", "message"), [({"weights": "gpqt"}, "'gpqt'"), ({"observer": "msee"}, "'msee'")])
def test_unknown_methods(keys: dict[str, str], message: str) -> None:
    graph = linear_model()
    with pytest.raises(UsageError, match=message):
        apply(graph, "w8a8", batches(graph), **keys)


# -- units on their own ---------------------------------------------------------------------------------------------------
class Block(nn.Module):
    """Linears that share an input, one behind them, and an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(K, K), nn.Linear(K, K), nn.Linear(K, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q = self.a(x).reshape(1, -1, 2, K // 2).transpose(1, 2)
        k = self.b(x).reshape(1, -1, 2, K // 2).transpose(1, 2)
        y = nn.functional.scaled_dot_product_attention(q, k, k)
        return torch.tanh(self.c(y.transpose(1, 2).reshape(-1, K))), q


@pytest.mark.parametrize("precision", ["f32", "bf16", *LINEAR])
def test_a_unit_alone_computes_what_it_does_in_the_graph(precision: str) -> None:
    torch.manual_seed(0)
    graph, _ = capture_function(Block(), (torch.randn(9, K),))
    data = batches(graph)
    store = WeightStore()
    pair = [n for n in graph.nodes if n.op == "linear"][:2]
    before = [str(n) for n in graph.nodes]
    calibrate(graph, requests_of(pair, PRECISIONS[precision]), data, store)
    alone = quantized(graph, pair, PRECISIONS[precision], store=store)
    verify(alone)
    assert [v.name for v in alone.inputs] == [graph.inputs[0].name] and len(alone.outputs) == 2
    assert [str(n) for n in graph.nodes] == before
    whole = graph.copy()
    context = PassContext(data={
        CHOICES: {("linear", n.name): Choice(precision) for n in pair}, CALIBRATION: data, WEIGHTS: store,
    })  # fmt: skip
    Quantize().run(whole, context)
    whole.outputs = [next(n for n in reversed(list(whole.nodes)) if n.name == p.name and n.op in ("linear", "add")).output
                     for p in pair]  # fmt: skip
    whole.sweep()
    for got, want in zip(interpret(alone, data[0]), interpret(whole, data[0]), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_unit_of_attention_or_lookup_alone() -> None:
    torch.manual_seed(0)
    graph, _ = capture_function(Block(), (torch.randn(9, K),))
    (attention,) = [n for n in graph.nodes if n.op == "attention" or "attention" in n.op]
    alone = quantized(graph, [attention], PRECISIONS["bf16"], store=WeightStore())
    assert [v.name for v in alone.inputs] == list(dict.fromkeys(v.name for v in attention.operands))
    assert any(n.op == "cast" for n in alone.nodes) == (attention.op == "attention")
    table, _ = capture_function(nn.Embedding(10, 32), (torch.arange(4),))
    (lookup,) = [n for n in table.nodes if kind_of_node(n) == "embedding"]
    alone = quantized(table, [lookup], PRECISIONS["w8a16"], store=WeightStore())
    assert [v.name for v in alone.inputs] == [table.inputs[0].name] and len(alone.outputs) == 1
    with pytest.raises(UsageError, match="w8a8-dynamic is not for lookups"):
        quantized(table, [lookup], PRECISIONS["w8a8-dynamic"], store=WeightStore())
