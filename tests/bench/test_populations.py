"""The distributions that the promise is checked on: what is drawn, and that draws differ."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from planish.bench.populations import draw_digits


def test_digits_are_images_that_the_seed_decides() -> None:
    first, again, other = draw_digits(50, 3), draw_digits(50, 3), draw_digits(50, 4)
    stacked = np.stack([sample["images"] for sample in first])
    assert stacked.shape == (50, 1, 8, 8) and stacked.dtype == np.float32
    assert stacked.min() >= 0 and stacked.max() <= 1 and stacked.mean() > 0.1
    assert all(np.array_equal(a["images"], b["images"]) for a, b in zip(first, again, strict=True))
    seen = {sample["images"].tobytes() for sample in first}
    assert len(seen) == 50 and not seen & {sample["images"].tobytes() for sample in other}
