"""Workloads: what is timed."""

from __future__ import annotations

from typing import Any

import pytest
from data_models import images, text

import planish
from planish.compiler.errors import UsageError


def test_points_and_their_weights() -> None:
    work = planish.Workload([{"batch": 1, "seq": 16}, {"batch": 8, "seq": 32}], threads=2, weights=[3, 1])
    work.check(text().symbols)
    assert work.to_data() == {
        "dims": [{"batch": 1, "seq": 16}, {"batch": 8, "seq": 32}], "weights": [0.75, 0.25], "threads": 2,
    }  # fmt: skip
    assert planish.Workload({"batch": 1}) == planish.Workload([{"batch": 1}])
    assert planish.Workload([{"a": 1}, {"a": 2}]).weights == (0.5, 0.5)
    assert planish.Workload([{}]).dims == ({},)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": []}, "without sizes"),
        ({"dims": [3]}, "maps dimensions to sizes, not 3"),
        ({"dims": [{"batch": 0}]}, "batch = 0 is no size"),
        ({"dims": [{"batch": 1.5}]}, "batch = 1.5 is no size"),
        ({"dims": [{"batch": True}]}, "batch = True is no size"),
        ({"dims": [{"batch": 1}], "threads": 0}, "cannot run on 0 threads"),
        ({"dims": [{"batch": 1}], "weights": [1, 2]}, "1 points has 2 weights"),
        ({"dims": [{"batch": 1}], "weights": [-1]}, "-1 is no weight"),
        ({"dims": [{"batch": 1}], "weights": [float("nan")]}, "nan is no weight"),
        ({"dims": [{"batch": 1}], "weights": ["1"]}, "'1' is no weight"),
        ({"dims": [{"batch": 1}, {"batch": 2}], "weights": [0, 0]}, "every weight of the workload is 0"),
    ],
)
def test_a_bad_workload_is_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planish.Workload(**arguments)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"batch": 1}, "no size for 'seq'"),
        ({"batch": 1, "seq": 33}, "seq = 33 is outside the model's bounds 1..32"),
        ({"batch": 1, "sequence": 3}, "no such dimension"),
    ],
)
def test_a_workload_that_does_not_fit_the_model(dims: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planish.Workload([dims]).check(text().symbols)


def test_a_model_without_dynamic_dimensions_says_so() -> None:
    planish.Workload([{"batch": 3}]).check(images().symbols)
    with pytest.raises(UsageError, match="every dimension of this model is fixed"):
        planish.Workload([{"batch": 3}]).check({})
