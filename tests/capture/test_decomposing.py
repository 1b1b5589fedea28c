"""What torch's decompositions take for granted about sizes is noticed."""

from __future__ import annotations

import pytest
import torch
from capture.oracle import Function
from torch import Tensor
from torch.export import Dim

from planish.compiler.capture.decomposing import decompose
from planish.compiler.capture.torch_export import capture
from planish.compiler.errors import CaptureError

POOL = torch.ops.aten.adaptive_avg_pool2d.default


def exported(sizes: dict[int, Dim]) -> torch.export.ExportedProgram:
    module = Function(lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 3).relu())
    return torch.export.export(module, (torch.randn(2, 3, 12, 12),), dynamic_shapes=((sizes,),))


def by_size(x: Tensor, output_size: list[int]) -> Tensor:
    """Right for the size at hand alone."""
    return torch.stack([x[..., :4], x[..., 4:8], x[..., 8:12]]) if x.shape[3] == 12 else x


def test_a_size_that_a_decomposition_fixes() -> None:
    program = exported({3: Dim("width", min=4, max=40)})
    with pytest.raises(CaptureError, match="adaptive_avg_pool2d as simpler operations for some sizes only") as caught:
        decompose(program, {POOL: by_size})
    assert "narrow their bounds" in str(caught.value.hint)


def test_sizes_that_it_does_not_look_at() -> None:
    decompose(exported({0: Dim("batch", min=1, max=40)}), {POOL: by_size})


def test_conditions_that_always_hold() -> None:
    def small(x: Tensor, output_size: list[int]) -> Tensor:
        return x.relu() if x.shape[3] <= 64 else x

    decompose(exported({3: Dim("width", min=4, max=40)}), {POOL: small})
    with pytest.raises(CaptureError):
        decompose(exported({3: Dim("width", min=4, max=100)}), {POOL: small})


def test_through_capture() -> None:
    """Ops that torch decomposes still take any size."""
    batch = Dim("batch", min=1, max=9)
    capture(Function(lambda x: torch.special.xlog1py(x, x)), (torch.rand(3, 4),), dynamic_shapes=(({0: batch},),))
