"""The numbers of `planish verify` against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from planish.cli.compare import compare, difference, leaves


def test_figures_of_a_small_case() -> None:
    expected = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    got = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    d = difference("y", got, expected)
    assert d.max_abs == 1.0
    assert d.mean_abs == 0.5
    assert d.relative == pytest.approx(math.sqrt(2) / math.sqrt(26))
    assert d.cosine == pytest.approx(25 / 26)
    assert d.min_cosine == 0.0  # the second row is orthogonal: the whole hides it
    assert (d.worst, d.got, d.expected) == ((1, 0), 0.0, 1.0)
    assert d.nonfinite == 0


def test_equal_outputs() -> None:
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    d = difference("y", x, x.copy())
    assert (d.max_abs, d.relative, d.nonfinite) == (0.0, 0.0, 0)
    assert d.cosine == pytest.approx(1.0)


def test_a_nan_on_one_side_is_the_worst_case() -> None:
    d = difference("y", np.array([1.0, np.nan, 9.0]), np.array([1.0, 2.0, 3.0]))
    assert (d.worst, d.nonfinite, d.max_abs) == ((1,), 1, math.inf)
    assert math.isnan(d.got)
    assert d.expected == 2.0


def test_equal_nan_and_infinity_agree() -> None:
    d = difference("y", np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0]))
    assert (d.nonfinite, d.max_abs) == (0, 0.0)


def test_opposite_infinities_do_not_agree() -> None:
    assert difference("y", np.array([np.inf]), np.array([-np.inf])).nonfinite == 1


def test_zero_rows_agree_with_zero_rows_only() -> None:
    assert difference("y", np.zeros((2, 3)), np.zeros((2, 3))).min_cosine == 1.0
    assert difference("y", np.zeros((1, 3)), np.ones((1, 3))).min_cosine == 0.0


def test_integers_count_what_differs() -> None:
    assert difference("y", np.array([1, 2, 3]), np.array([1, 5, 4])).mismatched == 2


def test_empty_and_scalar_outputs() -> None:
    assert difference("y", np.zeros((0, 4)), np.zeros((0, 4))).max_abs == 0.0
    assert difference("y", np.array(2.0), np.array(2.5)).max_abs == 0.5


def test_nests_are_flattened_with_their_paths() -> None:
    value = {"a": torch.ones(1), "b": (torch.ones(2), None), "c": {"d": np.ones(3)}}
    assert [(name, array.size) for name, array in leaves(value)] == [("a", 1), ("b.0", 2), ("c.d", 3)]


def test_bfloat16_outputs_can_be_compared() -> None:
    (d,) = compare(np.array([1.0, 2.0], np.float32), torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    assert d.max_abs == 0.0


@pytest.mark.parametrize(
    ("got", "sentence"),
    [({"a": np.ones(1)}, "has 1 outputs, the reference 2"), ({"a": np.ones(2), "b": np.ones(2)}, "has shape")],
)
def test_what_cannot_be_compared(got: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        compare(got, {"a": np.ones(2), "b": np.ones(3)})
