"""A large batch runs in parts, with the results of the whole, whatever the size of the last part and the threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import planish
from planish.runtime import Model


class Block(nn.Module):
    """Per element: a table by its ids, a feed-forward layer, and two outputs of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.up, self.down, self.norm = (
            nn.Embedding(11, 64),
            nn.Linear(64, 256),
            nn.Linear(256, 64),
            nn.LayerNorm(64),
        )

    def forward(self, x: Tensor, ids: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x + self.table(ids) * scale)
        y = y + self.down(torch.relu(self.up(y)))
        return y, y.mean(1)


def inputs(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, 96, 64, generator=generator),
        "ids": torch.randint(0, 11, (batch, 96), generator=generator),
        "scale": torch.rand(64, generator=generator),
    }


@pytest.fixture(scope="module")
def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="module")
def artifact(block: nn.Module) -> planish.Artifact:
    batch = torch.export.Dim("batch", min=1, max=64)
    return planish.compile(block, (), inputs(2), dynamic_shapes={"x": {0: batch}, "ids": {0: batch}, "scale": None})


@pytest.mark.parametrize("threads", [1, 2])
def test_parts_give_what_the_whole_gives(block: nn.Module, artifact: planish.Artifact, threads: int) -> None:
    with artifact.load(threads=threads) as model:
        for batch in (1, 2, 37, 64, 37):
            given = inputs(batch, seed=batch)
            with torch.inference_mode():
                want = block(**given)
            got = model(**given)
            bound = model.bind(**given)
            for a, b, c in zip(got, bound(), want, strict=True):
                np.testing.assert_allclose(a, c.numpy(), rtol=1e-4, atol=1e-5)
                np.testing.assert_array_equal(a, b)


def test_the_arena_is_that_of_a_part(artifact: planish.Artifact) -> None:
    with artifact.load(threads=1) as model:
        one, most = model.arena_bytes(batch=1), model.arena_bytes(batch=64)
        assert one < most < 40 * one, "64 elements of 96 rows outgrow a second-level cache, so they run in parts"


def test_an_id_out_of_range_in_a_later_part_is_found(artifact: planish.Artifact) -> None:
    with artifact.load(threads=1) as model:
        given = inputs(64)
        given["ids"][60, 5] = 11
        with pytest.raises(planish.RunError):
            model(**given)
        check_recovers(model)


def check_recovers(model: Model) -> None:
    assert np.isfinite(model(**inputs(64))[0]).all()
