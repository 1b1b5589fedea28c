"""Inputs of other sizes, made from one example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planish.cli.feed import Signature, by_name, from_file, made_up, resized, variants
from planish.compiler.errors import PlanishError, UsageError

MANIFEST = {
    "inputs": [
        {"name": "ids", "dtype": "i64", "shape": ["batch", "seq"]},
        {"name": "bias", "dtype": "f32", "shape": ["batch", 4, "2*seq"]},
    ],
    "symbols": [{"name": "batch", "min": 1, "max": 8}, {"name": "seq", "min": 2, "max": 64}],
}
SIGNATURE = Signature.of(MANIFEST)


def example() -> dict[str, np.ndarray]:
    return {"ids": np.arange(6).reshape(2, 3), "bias": np.arange(48, dtype=np.float32).reshape(2, 4, 6)}


def test_sizes_are_read_off_the_inputs() -> None:
    assert SIGNATURE.sizes_of(example()) == {"batch": 2, "seq": 3}


def test_data_is_cut_and_repeated() -> None:
    small = resized(SIGNATURE, example(), {"batch": 1, "seq": 2})
    assert small["ids"].tolist() == [[0, 1]]
    assert small["bias"].shape == (1, 4, 4)
    large = resized(SIGNATURE, example(), {"seq": 5})
    assert large["ids"].tolist() == [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]]
    assert large["bias"].shape == (2, 4, 10)
    assert all(a.flags.c_contiguous for a in large.values())


def test_variants_stay_in_bounds_and_differ() -> None:
    found = variants(SIGNATURE, {"batch": 2, "seq": 3})
    assert found[0] == {"batch": 2, "seq": 3}
    assert {"batch": 1, "seq": 2} in found
    assert {"batch": 7, "seq": 7} in found
    assert len({tuple(s.items()) for s in found}) == len(found)
    for sizes in found:
        SIGNATURE.check(sizes)


def test_usual_sizes_are_one_sample() -> None:
    assert SIGNATURE.usual() == {"batch": 1, "seq": 64}


@pytest.mark.parametrize(
    ("sizes", "sentence"), [({"batch": 9}, "outside the bounds 1..8"), ({"sec": 3}, "no dynamic dimension 'sec'")]
)
def test_sizes_that_do_not_fit(sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        SIGNATURE.check(sizes)


def test_made_up_data_fits_the_signature() -> None:
    arrays = made_up(SIGNATURE, {"batch": 3, "seq": 5})
    assert arrays["ids"].dtype == np.int64
    assert arrays["ids"].shape == (3, 5)
    assert (arrays["ids"] == 1).all()
    assert arrays["bias"].dtype == np.float32
    assert arrays["bias"].std() > 0.5


def test_examples_get_the_names_of_the_model() -> None:
    data = example()
    assert list(by_name(SIGNATURE, (data["ids"], data["bias"]), {})) == ["ids", "bias"]
    mixed = by_name(SIGNATURE, (data["bias"],), {"ids": data["ids"]})
    assert mixed["bias"] is data["bias"]
    with pytest.raises(PlanishError, match="the example has no 'bias'"):
        by_name(SIGNATURE, (), {"ids": data["ids"]})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, ids=np.ones(3))
    assert list(from_file(path)) == ["ids"]
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", np.ones(2))
    for name, sentence in (
        ("text.npz", "is no .npz file"),
        ("gone.npz", "there is no file"),
        ("one.npy", "without a name"),
    ):
        with pytest.raises(UsageError, match=sentence):
            from_file(tmp_path / name)
