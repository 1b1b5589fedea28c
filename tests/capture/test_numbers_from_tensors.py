"""Sizes that go through tensors, slices that count from the end by a size, and data that only an assertion looks at."""

from __future__ import annotations

import pytest
import torch
from capture.oracle import Function, check
from torch import Tensor
from torch.export import Dim

from planish.compiler.capture.torch_export import capture
from planish.compiler.errors import CaptureError

SEQ = ({1: Dim("seq", min=2, max=20)},)


def example(length: int) -> Tensor:
    return torch.randn(2, length, 3, generator=torch.Generator().manual_seed(length))


def test_a_size_in_a_tensor_bounds_a_slice() -> None:
    table = torch.arange(80.0).reshape(40, 2)

    def windows(x: Tensor) -> Tensor:
        span = torch.tensor(x.shape[1])
        return table[20 - span : 20 + span] * x.sum()

    captured = check(
        Function(windows), (example(5),), shapes=(SEQ,), others=[((example(20),), {}), ((example(2),), {})]
    )
    assert str(captured.graph.outputs[0].shape[0]) == "2*seq"


def test_a_slice_that_may_count_from_the_end_is_refused() -> None:
    def windows(x: Tensor) -> Tensor:
        return torch.arange(64.0)[10 - torch.tensor(x.shape[1]) :]

    with pytest.raises(CaptureError, match="counts from the end depends on the sizes"):
        capture(Function(windows), (example(5),), dynamic_shapes=(SEQ,))


def test_a_slice_counts_from_the_end_by_a_size() -> None:
    def rotated(x: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.cat([x, x * 2], dim=1)
        return wide[:, -x.shape[1] :], wide[:, -x.shape[1]]

    check(Function(rotated), (example(5),), shapes=(SEQ,), others=[((example(9),), {}), ((example(2),), {})])


def test_what_an_assertion_alone_reads_is_left_out() -> None:
    def checked(x: Tensor) -> Tensor:
        torch._check((x > 0).sum().item() <= x.numel())
        return x + 1

    captured = check(Function(checked), (example(5),), shapes=(SEQ,), others=[((example(9),), {})])
    assert [n.op for n in captured.graph.nodes if n.op not in ("constant", "full")] == ["add"]


def test_a_number_out_of_the_data_is_refused() -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * x.max().item()

    with pytest.raises(CaptureError, match="reads a number out of the data"):
        capture(Function(scaled), (example(5),))
