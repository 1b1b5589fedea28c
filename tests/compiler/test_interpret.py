"""The interpreter: what goes in and comes out."""

from __future__ import annotations

import numpy as np

from planish.compiler.interpret import to_torch


def test_an_axis_of_one_may_run_backwards() -> None:
    array = np.arange(6.0)[:1][::-1]
    assert array.flags.c_contiguous
    assert array.strides[0] < 0
    np.testing.assert_array_equal(to_torch(array).numpy(), [0.0])


def test_what_cannot_be_written_is_copied() -> None:
    array = np.arange(6.0)
    array.flags.writeable = False
    tensor = to_torch(array)
    tensor += 1
    np.testing.assert_array_equal(array, np.arange(6.0))
