"""Models compiled, saved, loaded and run: several sizes, lower ISA levels, passes checked one by one, equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.export import Dim

import planish
from planish.backends.cpu import isa
from planish.runtime.model import Model

#: Norm of the difference over the norm of the result, by precision.
DISTANCE = {None: 2e-5, "bf16": 3e-2, "w8a8-dynamic": 6e-2}
BATCH, SEQ = Dim("batch", min=1, max=8), Dim("seq", min=1, max=40)


class Mlp(nn.Module):
    """Linears without anything between two of them, and one that shares its input with another."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 50), nn.Linear(50, 24)
        self.norm, self.side, self.head = nn.LayerNorm(24), nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
        return self.head(self.side(y)), y


class Pooled(nn.Module):
    """An encoder layer of PyTorch's own with mean pooling over a padding mask, as sentence embeddings have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(50, 32), nn.Embedding(64, 32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 48), nn.Linear(48, 32)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        batch, length = ids.shape
        x = self.embed(ids) + self.position(torch.arange(length))
        q, k, v = (
            m(self.first(x)).view(batch, length, 4, 8).transpose(1, 2) for m in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-1, -2) / 8**0.5
        scores = scores.masked_fill(~mask[:, None, None, :].bool(), float("-inf"))
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, 32))
        x = x + self.down(nn.functional.silu(self.up(self.second(x))))
        weight = mask.unsqueeze(-1).float()
        return nn.functional.normalize((x * weight).sum(1) / weight.sum(1).clamp(min=1e-9), dim=-1)


Inputs = Mapping[str, Tensor]


def text(batch: int, seq: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch * 100 + seq)
    mask = torch.ones(batch, seq, dtype=torch.int64)
    if batch > 1:
        mask[1, seq // 2 + 1 :] = 0
    return {"input_ids": torch.randint(3, 50, (batch, seq), generator=generator), "attention_mask": mask}


def renamed(batch: int, seq: int) -> Inputs:
    ids, mask = text(batch, seq).values()
    return {"ids": ids, "mask": mask}


def rows(batch: int, seq: int) -> Inputs:
    return {"x": torch.randn(batch, seq, 24, generator=torch.Generator().manual_seed(seq))}


def bert() -> nn.Module:
    return zoo.MODELS["bert"].build("sdpa")


both = {0: BATCH, 1: SEQ}
#: Name -> (module, example inputs at a size, dynamic shapes).
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Inputs], dict[str, Any]]] = {
    "bert": (bert, text, {"input_ids": both, "attention_mask": both}),
    "mlp": (Mlp, rows, {"x": both}),
    "pooled": (Pooled, renamed, {"ids": both, "mask": both}),
}  # fmt: skip


@cache
def source(name: str) -> nn.Module:
    """The model, in eval mode, the same in every test."""
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # initial weights are too small for attention to look anywhere
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    return model


def flat(result: Any) -> dict[str, np.ndarray]:
    """The tensors of a result by name."""
    if isinstance(result, (Tensor, np.ndarray)):
        return {"": np.asarray(result.detach() if isinstance(result, Tensor) else result)}
    items = result.items() if isinstance(result, Mapping) else enumerate(result)
    return {f"{key}{inner}": array for key, value in items for inner, array in flat(value).items()}


def distance(want: np.ndarray, got: np.ndarray) -> float:
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    a, b = want.astype(np.float64), got.astype(np.float64)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(a) or 1.0))


def compare(name: str, model: Model, precision: str | None, sizes: tuple[tuple[int, int], ...]) -> None:
    """Run beside eager at every size."""
    module, (_, make, _) = source(name), MODELS[name]
    for batch, seq in sizes:
        inputs = make(batch, seq)
        with torch.no_grad():
            want = flat(module(**inputs))
        feed: dict[str, Any] = {k: v.numpy() for k, v in inputs.items()}
        got = flat(model(**feed))
        assert got.keys() == want.keys()
        for key, array in want.items():
            if array.dtype.kind == "f":
                limit = DISTANCE[precision]
                assert distance(array, got[key]) <= limit, f"{name} {precision} {key} at {batch} x {seq}"
            elif precision is None:
                np.testing.assert_array_equal(got[key], array)


def compiled(
    name: str, precision: str | None, level: str, folder: Path, **options: Any
) -> tuple[planish.Artifact, Model]:
    """Compile, save and load."""
    _, make, shapes = MODELS[name]
    artifact = planish.compile(
        source(name), kwargs=make(2, 9), dynamic_shapes=shapes, target=f"cpu:{level}", precision=precision, **options
    )
    path = folder / f"{name}.planish"
    artifact.save(path)
    return artifact, planish.load(path, threads=2)


SIZES = ((2, 9), (1, 1), (3, 17), (8, 40))


@pytest.mark.parametrize("name", ["mlp", "pooled"])
def test_float32(name: str, tmp_path: Path) -> None:
    artifact, model = compiled(name, None, isa.detect(), tmp_path)
    with model:
        compare(name, model, None, SIZES)
    assert artifact.manifest["outputs"]


@pytest.mark.parametrize("precision", ["bf16", "w8a8-dynamic"])
@pytest.mark.parametrize("name", ["mlp", "pooled"])
def test_low_precision(name: str, precision: str, tmp_path: Path) -> None:
    _, model = compiled(name, precision, isa.detect(), tmp_path)
    with model:
        compare(name, model, precision, SIZES)
        used = {launch["precision"] for launch in model.manifest["units"][0]["launches"]}
    assert precision in used


@pytest.mark.parametrize("precision", [None, "w8a8-dynamic"])
@pytest.mark.parametrize("level", [level for level in isa.available() if level in ("portable", "avx2")])
def test_lower_levels(level: str, precision: str | None, tmp_path: Path) -> None:
    _, model = compiled("bert", precision, level, tmp_path)
    with model:
        compare("bert", model, precision, ((2, 9), (1, 1), (3, 17)))


def test_passes_checked_one_by_one(tmp_path: Path) -> None:
    """The verifier and the numeric check around every pass, on a mixed plan."""
    plan = {"encoder.layer.0.*": "bf16", "*": "w8a8-dynamic"}
    _, make, shapes = MODELS["bert"]
    artifact = planish.compile(
        source("bert"),
        kwargs=make(2, 9),
        dynamic_shapes=shapes,
        precision=plan,
        check_each_pass=True,
        dump=tmp_path / "dump",
    )
    assert any((tmp_path / "dump").iterdir())
    with artifact.load() as model:
        compare("bert", model, "w8a8-dynamic", ((2, 9), (3, 17)))
        used = {launch["precision"] for launch in model.manifest["units"][0]["launches"]}
    assert {"bf16", "w8a8-dynamic"} <= used


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    """Same model, plan and toolchain: the same artifact."""
    compiled("mlp", None, isa.detect(), tmp_path)
    first = (tmp_path / "mlp.planish").read_bytes()
    compiled("mlp", None, isa.detect(), tmp_path)
    assert (tmp_path / "mlp.planish").read_bytes() == first


def test_a_module_that_returns_what_it_was_given(tmp_path: Path) -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x, x + y, x

    x, y = torch.randn(3, 4), torch.randn(4)
    with planish.compile(Same(), (x, y)).load() as model:
        a, b, c = model(x.numpy(), y.numpy())
    np.testing.assert_array_equal(a, x)
    np.testing.assert_array_equal(b, x + y)
    np.testing.assert_array_equal(c, x)
    assert not np.shares_memory(a, c)
