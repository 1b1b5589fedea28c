"""Calibration: what is gathered, in which sweeps, how much memory it takes, and what a store saves."""

from __future__ import annotations

import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from planish.compiler import interpret as interpreting
from planish.compiler.capture.torch_export import capture
from planish.compiler.errors import UsageError
from planish.compiler.graph import Graph, Node
from planish.compiler.pass_protocol import PassContext
from planish.compiler.precision import PRECISIONS
from planish.passes import calibrate as calibrating
from planish.passes.calibrate import MOST_EXTREMES, MOST_ROWS, calibrate
from planish.passes.precision import CALIBRATION, CHOICES, WEIGHTS, Choice
from planish.passes.quantize import Quantize, quantized, requests_of
from planish.passes.recipe import Recipe, Statistics, recipe_key
from planish.passes.weights.store import WeightStore
from planish.passes.windows import windows
from planish.testing import capture_function


def chain(width: int, layers: int, rows: int = 4) -> Graph:
    """Linears one behind the other, with a nonlinearity between them."""
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh())]
    return capture_function(nn.Sequential(*parts), (torch.randn(rows, width),))[0]


def data(graph: Graph, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    (x,) = graph.inputs
    return [{x.name: rng.standard_normal(x.shape).astype(np.float32)} for _ in range(count)]


def requests(graph: Graph, precision: str, weights: str | None = None) -> list:
    return requests_of([n for n in graph.nodes if n.op == "linear"], PRECISIONS[precision], weights)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many nodes each run of the interpreter had."""
    found: list[int] = []
    inner = interpreting.Interpreter.__call__

    def call(self: interpreting.Interpreter, *args: object, **kwargs: object) -> object:
        found.append(sum(n.op == "linear" for n in self.graph.nodes))
        return inner(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(interpreting.Interpreter, "__call__", call)
    return found


def test_statistics_are_those_of_all_rows() -> None:
    graph = chain(16, 1, rows=200)
    batches = data(graph, 5)
    store = WeightStore()
    (request,) = requests(graph, "w8a8", "gptq")
    calibrate(graph, [request], batches, store)
    found: Statistics = store.get(("statistics", *request.statistics_key(graph)), Statistics)
    rows = np.concatenate([next(iter(b.values())) for b in batches])
    assert found.seen == 1000 and found.rows.shape == (MOST_ROWS, 16) and found.extremes.shape == (MOST_EXTREMES, 16)
    np.testing.assert_array_equal(found.low, rows.min(axis=0))
    np.testing.assert_array_equal(found.high, rows.max(axis=0))
    assert (found.channels.counts.sum(axis=1) == 1000).all() and found.moment is None
    every = {row.tobytes() for row in rows}
    assert {row.tobytes() for row in (*found.rows, *found.extremes)} <= every
    reach = np.abs(rows).max(axis=1)
    assert np.abs(found.extremes).max(axis=1).mean() > np.quantile(reach, 0.75)


def test_the_sample_of_rows_is_even() -> None:
    """Rows of a short batch have the same chance as those of a long one."""
    rng = np.random.default_rng(0)
    early = []
    for _ in range(30):
        found = Statistics()
        for size in (600, 50, 350):
            rows = np.full((size, 1), float(size))
            sample = rows[:MOST_ROWS]
            found.merge(sample, rows.min(0), rows.max(0), size, rng, MOST_ROWS)
        early.append([np.mean(found.rows == size) for size in (600, 50, 350)])
    np.testing.assert_allclose(np.mean(early, axis=0), [0.6, 0.05, 0.35], atol=0.04)


def test_second_moments_take_turns(runs: list[int]) -> None:
    graph = chain(64, 4)
    batches = data(graph, 3)
    calibrate(graph, requests(graph, "w4a16-g32"), batches, WeightStore(), share=0.25)
    assert runs == [1] * 3 + [2] * 3 + [3] * 3  # the first reads the input: nothing has to run for it
    runs.clear()
    calibrate(graph, requests(graph, "w4a16-g32"), batches, WeightStore(), share=10)
    assert runs == [3] * 3
    runs.clear()
    calibrate(graph, requests(graph, "w8a8-dynamic"), batches, WeightStore(), share=0)
    assert runs == [3] * 3


def peak(graph: Graph, asked: list, count: int) -> int:
    """The most that numpy and Python held beside the model and the data while calibrating."""
    batches = data(graph, count)
    tracemalloc.start()
    calibrate(graph, asked, batches, WeightStore())
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_data() -> None:
    graph = chain(256, 2, rows=64)
    for asked in (
        requests(graph, "w4a16-g64"),
        requests_of([n for n in graph.nodes if n.op == "linear"], PRECISIONS["w8a8"], "rtn", "minmax"),
    ):
        assert peak(graph, asked, 96) < 1.1 * peak(graph, asked, 24) + (1 << 18)


def test_memory_stays_below_twice_the_model() -> None:
    """What a wide layer adds is less than the layer itself: a sample of rows, its weight in int8, and no second moment."""
    small, large = chain(768, 2, rows=64), chain(768, 5, rows=64)
    layers = sum(a.nbytes for a in large.constants.values()) - sum(a.nbytes for a in small.constants.values())
    grown = peak(large, requests(large, "w4a16-g64"), 5) - peak(small, requests(small, "w4a16-g64"), 5)
    assert grown < 0.75 * layers


def test_activations_are_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most: list[int] = []
    inner = interpreting.Interpreter._node

    def node(self: interpreting.Interpreter, g: Graph, n: Node, operands: object, env: object) -> tuple:
        outcome = inner(self, g, n, operands, env)  # type: ignore[arg-type]
        if n.op != "constant":
            for tensor in outcome:
                alive.add(tensor)
            most.append(len(alive))
        return outcome

    monkeypatch.setattr(interpreting.Interpreter, "_node", node)
    graph = chain(32, 6)
    calibrate(graph, requests(graph, "w8a8-dynamic"), data(graph, 4), WeightStore())
    assert len(most) == 4 * 10 and max(most) <= 3 and not len(alive)


def test_what_a_store_holds_is_not_made_again(runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    inner = calibrating.make_recipe

    def make(graph: Graph, request: object, statistics: Statistics | None) -> Recipe:
        made.append(request.nodes[0].name)  # type: ignore[attr-defined]
        return inner(graph, request, statistics)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrating, "make_recipe", make)
    graph, store = chain(32, 3), WeightStore()
    batches = data(graph, 2)

    def build(precision: str, names: list[str]) -> PassContext:
        choices = {("linear", name): Choice(precision) for name in names}
        context = PassContext(data={CHOICES: choices, CALIBRATION: batches, WEIGHTS: store})
        Quantize().run(graph.copy(), context)
        return context

    names = [n.name for n in graph.nodes if n.op == "linear"]
    notes = build("w4a16-g32", names).notes
    assert made == names and runs
    runs.clear()
    assert build("w4a16-g32", names).notes == notes and build("w4a16-g32", names[1:]).notes == notes[1:]
    assert made == names and not runs, "nothing is computed twice"
    build("w8a8-dynamic", names[:2])
    assert made == [*names, *names[:2]] and not runs, "rows were gathered before"
    build("w8a8", names[:1])
    assert made == [*names, *names[:2], names[0]] and not runs, "the first reads the input"
    quantized(graph, [n for n in graph.nodes if n.name == names[0]], PRECISIONS["w8a8"], store=store)
    assert len(made) == 6


def test_a_store_tells_weights_methods_and_data_apart() -> None:
    graph, store = chain(32, 1), WeightStore()
    (plain,) = requests(graph, "w8a8")
    others = [*requests(graph, "w8a8", "rtn"), *requests(graph, "w8a16"),
              *requests_of(plain.nodes, plain.precision, None, "mse")]  # fmt: skip
    keys = {recipe_key(graph, r, store) for r in (plain, *others)}
    changed = graph.copy()
    ref = next(n for n in changed.nodes if n.op == "linear").inputs[1].node.attrs["ref"]
    changed.constants[ref] = changed.constants[ref] + 1
    keys |= {recipe_key(changed, r, store) for r in requests(changed, "w8a8")}
    assert len(keys) == 5
    calibrate(graph, [plain], data(graph, 2), store)
    first: Recipe = store.get(recipe_key(graph, plain, store), lambda: None)
    calibrate(graph, [plain], data(graph, 2, seed=9), store)
    second: Recipe = store.get(recipe_key(graph, plain, store), lambda: None)
    assert first.range.scale != second.range.scale


def test_data_that_does_not_fit_is_refused() -> None:
    graph = chain(16, 2)
    good = data(graph, 1)[0]
    for bad in (np.nan, np.inf, -np.inf):
        batch = {name: np.where(np.arange(16) == 3, bad, x).astype(np.float32) for name, x in good.items()}
        with pytest.raises(UsageError, match="NaN or infinity in front of"):
            calibrate(graph, requests(graph, "w8a8"), [good, batch], WeightStore())
    with pytest.raises(UsageError, match="the inputs are"):
        calibrate(graph, requests(graph, "w8a8"), [{"other": good[graph.inputs[0].name]}], WeightStore())


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(4, 4, (3, 2), stride=2, dilation=2, groups=2),
        nn.Conv1d(2, 3, 4),
        nn.Conv3d(2, 2, 2),
    ],
)
def test_windows_times_weights_are_the_convolution(conv: nn.Module) -> None:
    rank = conv.weight.dim() - 2
    x = torch.randn(2, conv.in_channels, *[8] * rank)
    graph, _ = capture_function(conv, (x,))
    (node,) = [n for n in graph.nodes if n.op == "conv"]
    found = windows(x.numpy(), node, 10**6, np.random.default_rng(0))
    weight, groups = conv.weight.detach().numpy(), conv.groups
    width = weight[0].size
    parts = [
        found[:, g * width : (g + 1) * width] @ w.reshape(len(w), -1).T
        for g, w in enumerate(np.split(weight, groups))
    ]  # fmt: skip
    want = (conv(x) - conv.bias.reshape(1, -1, *[1] * rank)).detach().numpy()
    got = np.moveaxis(np.concatenate(parts, axis=1).reshape(2, *want.shape[2:], -1), -1, 1)
    np.testing.assert_allclose(got, want, atol=1e-4)
    some = windows(x.numpy(), node, 5, np.random.default_rng(0))
    assert {r.tobytes() for r in some} <= {r.tobytes() for r in found} and len(some) == 5


def test_a_table_is_rounded_whatever_looks_it_up(runs: list[int]) -> None:
    """Ids of any length are no rows to gather statistics of."""

    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 8)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.table(ids))

    seq = torch.export.Dim("seq", min=1, max=16)
    program = torch.export.export(Lookup(), (torch.zeros(1, 4, dtype=torch.int64),), dynamic_shapes=({1: seq},))
    graph, store = capture(program).graph, WeightStore()
    nodes = [n for n in graph.nodes if n.op in ("embedding", "gather")]
    asked = requests_of(nodes, PRECISIONS["w8a16"])
    name = graph.inputs[0].name
    calibrate(graph, asked, [{name: np.zeros((1, n), np.int64)} for n in (3, 7)], store)
    assert len(asked) == 1 and recipe_key(graph, asked[0], store) in store and not runs
