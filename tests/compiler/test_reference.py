"""What ops mean, where torch has no op of that meaning to compare with in ``tests/capture``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from planish.compiler.errors import PassError
from planish.compiler.graph import Graph
from planish.compiler.interpret import interpret
from planish.compiler.ops_anchor import scale_group
from planish.compiler.reference import REFERENCE
from planish.compiler.types import DType, TensorType


def test_a_scale_serves_a_group_of_neighbours() -> None:
    rng = np.random.default_rng(0)
    q = rng.integers(-8, 8, (5, 24)).astype(np.int8)
    for groups in (1, 2, 3, 8, 24):
        scale = rng.uniform(0.5, 2, (5, groups)).astype(np.float32)
        graph = Graph()
        w = graph.add_constant(q, "w", DType.i4)
        s = graph.add_constant(scale, "s")
        graph.outputs = [graph.insert("dequantize", [w, s]).output]
        assert graph.outputs[0].type == TensorType(DType.f32, (5, 24))
        assert scale_group(w.type, s.type) == (None if groups in (1, 24) else 24 // groups)
        (got,) = interpret(graph, {})
        np.testing.assert_array_equal(got, q.astype(np.float32) * np.repeat(scale, 24 // groups, 1))


def test_a_scale_that_divides_nothing_is_refused() -> None:
    graph = Graph()
    w = graph.add_constant(np.zeros((5, 24), np.int8), "w", DType.i4)
    s = graph.add_constant(np.ones((5, 7), np.float32), "s")
    with pytest.raises(PassError, match="do not broadcast"):
        graph.insert("dequantize", [w, s])


def test_four_bits_are_for_weights() -> None:
    graph = Graph()
    w = graph.add_constant(np.zeros((5, 24), np.int8), "w", DType.i4)
    for op, operands in (("add", [w, w]), ("neg", [w]), ("linear", [w, w])):
        with pytest.raises(PassError, match="i4 is for weights alone"):
            graph.insert(op, operands)
    with pytest.raises(PassError, match="i4 is for weights alone"):
        graph.insert("cast", [graph.insert("dequantize", [w, graph.add_constant(np.ones(1, np.float32), "s")]).output],
                     {"dtype": DType.i4})  # fmt: skip


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
