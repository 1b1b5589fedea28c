"""Small models as decision graphs, with samples and scorers: what the tests of sensitivity stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from planish.compiler.capture.torch_export import capture
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.pass_protocol import PassContext
from planish.compiler.pipeline import Pipeline
from planish.compiler.plan import Plan
from planish.compiler.target import Capabilities, find_target
from planish.driver import preset
from planish.passes.precision import PLAN
from planish.passes.weights.store import WeightStore
from planish.search.sensitivity import Job
from planish.search.sensitivity.variants import calibrate_units
from planish.search.units import find_units

CAPABILITIES = Capabilities(
    {"linear": ("f32", "bf16", "w8a8-dynamic", "w8a16", "w4a16-g32", "w4a8-g32"), "attention": ("f32", "bf16"),
     "embedding": ("f32", "bf16", "w8a16"), "rest": ("f32",)}
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    inputs: dict[str, np.ndarray]
    rows: int
    labels: None = None
    batched: bool = True

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"sample[{i}]" for i in range(self.rows))

    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    batches: tuple[Batch, ...]
    sha256: str = "0123456789abcdef" * 4

    def __len__(self) -> int:
        return sum(b.rows for b in self.batches)


class Angle:
    """One term: 1 - cosine of the first output; of module level, so that it travels."""

    term = "cosine >= 0.9 each"

    def losses(self, reference: list[np.ndarray], outputs: list[np.ndarray], batch: Any) -> Mapping[str, np.ndarray]:
        a, b = (x[0].reshape(batch.rows, -1).astype(np.float64) for x in (reference, outputs))
        cosine = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
        return {self.term: np.maximum(0.0, 1.0 - cosine)}


class Block(nn.Module):
    """A transformer block, pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        batch, length, width = h.shape
        q, k, v = (
            f(h).reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        a = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(a)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """Token ids to one vector per text."""

    def __init__(self, width: int = 64, blocks: int = 2, words: int = 60) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(blocks))
        self.head = nn.Linear(width, 32)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Towers(nn.Module):
    """Two branches that know nothing of one another until the end; the second one flattens batch and time."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.join = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(64, 16)
        self.later = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = torch.relu(self.left(x))
        right = torch.tanh(self.right(x * 2)).reshape(-1, 32)
        left = torch.relu(self.later(left))
        return self.join(torch.cat([left.reshape(-1, 32), right], -1)).reshape(x.shape[0], -1)


def decision_graph(model: nn.Module, args: tuple, dynamic_shapes: Any = None) -> Graph:
    """The pipeline up to, not including, ``quantize``."""
    captured = capture(model.eval().requires_grad_(False), args, dynamic_shapes=dynamic_shapes)
    target = find_target("cpu:portable")
    items: list[Any] = []
    for item in preset(target).items:
        if item.name == "quantize":
            break
        items.append(item)
    graph = captured.graph.copy()
    Pipeline(tuple(items)).run(graph, PassContext(target=target, data={PLAN: Plan()}))
    return graph


def job_of(graph: Graph, inputs: Sequence[Mapping[str, np.ndarray]], **more: Any) -> Job:
    """A job over batches of inputs; weights calibrated on them."""
    rows = [len(next(iter(i.values()))) for i in inputs]
    batches = tuple(Batch(dict(i), n) for i, n in zip(inputs, rows, strict=True))
    units = find_units(graph, CAPABILITIES)
    store = WeightStore()
    calibrate_units(graph, units, [b.inputs for b in batches], store)
    references = [interpret(graph, b.inputs) for b in batches]
    return Job(graph, units, Samples(batches), references, more.pop("scorer", Angle()), store, **more)


def encoder_job(batches: tuple[tuple[int, int], ...] = ((4, 6), (3, 5)), **more: Any) -> Job:
    """The encoder over batches of (rows, length) with an outlier channel here and there, as trained models have them."""
    return replace(_encoder_job(batches), **more)


@cache
def _encoder_job(batches: tuple[tuple[int, int], ...]) -> Job:
    torch.manual_seed(0)
    model = Encoder()
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            block.norm1.weight[i] = 6.0
            block.down.weight[:, 3 * i] *= 5.0
    shapes = {"ids": {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("seq", min=2, max=32)}}
    graph = decision_graph(model, (torch.randint(0, 60, (2, 7)),), shapes)
    rng = np.random.default_rng(1)
    return job_of(graph, [{graph.inputs[0].name: rng.integers(0, 60, shape)} for shape in batches])


def towers_job(**more: Any) -> Job:
    """The two branches over batches of different sizes."""
    return replace(_towers_job(), **more)


@cache
def _towers_job() -> Job:
    torch.manual_seed(1)
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    graph = decision_graph(Towers(), (torch.randn(2, 5, 32),), shapes)
    rng = np.random.default_rng(2)
    return job_of(graph, [{"x": rng.standard_normal((n, 5, 32)).astype(np.float32)} for n in (2, 3)])
