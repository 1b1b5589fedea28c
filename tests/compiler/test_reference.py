"""What ops mean, where torch has no op of that meaning to compare with in ``tests/capture``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from planish.compiler.reference import REFERENCE


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more", "dilation"),
    [((3,), (2,), (1,), (1,), (1,)), ((5, 2), (3, 2), (1, 0), (0, 1), (1, 2)),
     ((2, 1, 3), (1, 2, 1), (0, 0, 1), (0, 1, 0), (2, 1, 1))],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fold_is_the_second_half_of_a_transposed_convolution(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], more: tuple[int, ...],
    dilation: tuple[int, ...], dtype: torch.dtype,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    x = torch.randn(2, 3, *range(4, 4 + len(kernel)))
    weight = torch.randn(3, 2, *kernel)
    taps = weight.movedim((0, 1), (-1, -2)).reshape(-1, 3)
    fn = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(kernel)]
    attrs = {"kernel": kernel, "stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
    for special in (False, True):
        if special:
            x[0, 0].view(-1)[2], x[1, 2].view(-1)[3] = float("inf"), float("nan")
        want = fn(x, weight, None, stride, padding, more, 1, dilation).movedim(1, -1)
        got = REFERENCE["fold"](attrs, F.linear(x.movedim(1, -1), taps).to(dtype))
        assert isinstance(got, torch.Tensor)
        assert got.dtype == dtype
        close = 1e-5 if dtype is torch.float32 else 5e-2
        torch.testing.assert_close(got.float(), want, rtol=close, atol=close, equal_nan=True)
