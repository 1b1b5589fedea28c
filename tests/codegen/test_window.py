"""Kernels over windows, of group statistics and of recurrent layers, called on arrays that end where their data ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_harness import RUNNABLE, SANITIZE, Kernel, build_kernels, sanitizer_environment
from torch.nn import functional as F

from planish.backends.cpu.lower_recurrent import packed_gates
from planish.backends.cpu.packing import pack_f32
from planish.codegen.specs import GroupStatsSpec, LinearSpec, Operand, RecurrentSpec, RowProgram, Step, WindowSpec

STORE = RowProgram((Operand("f32"),), (Step("store", "", (0, "acc")),))
WINDOWS = tuple(WindowSpec(kind, "f32", STORE) for kind in ("depthwise", "max", "mean", "fold"))  # type: ignore[arg-type]
DENSE = LinearSpec("f32", STORE, patches=True)
SPECS = (*WINDOWS, DENSE, GroupStatsSpec("f32", 1e-5), RecurrentSpec("lstm"), RecurrentSpec("gru"))
LEVELS = sorted({RUNNABLE[0], RUNNABLE[-1]})


def kernels(isa: str) -> list[Kernel]:
    return build_kernels(SPECS, isa, SANITIZE)


class Case:
    """A random window over a random image: [n, h, w, c] in, [n, oh, ow, c] out."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.n, self.c = int(rng.integers(1, 4)), int(rng.choice([1, 3, 16, 37, 70]))
        self.kernel = rng.integers(1, 5, 2)
        self.stride, self.dilation = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
        self.padding = np.array([int(rng.integers(0, k // 2 + 1)) for k in self.kernel])
        reach = self.dilation * (self.kernel - 1) + 1
        self.size = np.maximum(reach - 2 * self.padding, 1) + rng.integers(0, 9, 2)
        self.out = (self.size + 2 * self.padding - reach) // self.stride + 1
        self.x = rng.standard_normal((self.n, *self.size, self.c)).astype(np.float32)
        self.rng = rng

    def geometry(self, size: np.ndarray, out: np.ndarray, width: int) -> list[int]:
        axes = [[int(v[i]) for v in (size, out, self.kernel, self.stride, self.dilation, self.padding)] for i in (0, 1)]
        h, w = (int(d) for d in size)
        return [1, 1, 1, 1, 1, 0, *axes[0], *axes[1], h * w * width, 0, w * width, width]

    def torch_arguments(self) -> tuple[list[int], ...]:
        return tuple([int(d) for d in v] for v in (self.stride, self.padding, self.dilation))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("isa", LEVELS)
def test_windows(isa: str, seed: int) -> None:
    depthwise, largest, mean, fold, dense, *_ = kernels(isa)
    case = Case(seed)
    n, c, kernel = case.n, case.c, [int(k) for k in case.kernel]
    stride, padding, dilation = case.torch_arguments()
    image = torch.from_numpy(case.x).permute(0, 3, 1, 2)
    out = np.empty((n, *case.out, c), np.float32)
    lies = case.geometry(case.size, case.out, c)

    taps = case.rng.standard_normal((kernel[0] * kernel[1], c)).astype(np.float32)
    depthwise([case.x, taps, out], [n, c, *lies, 0, c], workers=1 + seed % 3)
    filters = torch.from_numpy(taps.T.reshape(c, 1, *kernel).copy())
    np.testing.assert_allclose(
        out, F.conv2d(image, filters, None, stride, padding, dilation, c).permute(0, 2, 3, 1), atol=1e-4
    )

    largest([case.x, None, out], [n, c, *lies, 0, c], workers=1 + seed % 3)
    want = F.max_pool2d(F.pad(image, (padding[1],) * 2 + (padding[0],) * 2, value=-np.inf), kernel, stride, 0, dilation)
    np.testing.assert_array_equal(out, want.permute(0, 2, 3, 1))

    if dilation == [1, 1]:
        for divisor, include in ((0, False), (-1, True)):
            mean([case.x, None, out], [n, c, *lies, divisor, c], workers=1 + seed % 3)
            want = F.avg_pool2d(image, kernel, stride, padding, False, include)
            np.testing.assert_allclose(out, want.permute(0, 2, 3, 1), atol=1e-5)

    weight = case.rng.standard_normal((21, c, *kernel)).astype(np.float32)
    packed = pack_f32(weight.transpose(0, 2, 3, 1).reshape(21, -1), isa)
    product = np.empty((n, *case.out, 21), np.float32)
    rows = int(np.prod(product.shape[:-1]))
    dense([case.x, packed, product], [rows, 21, kernel[0] * kernel[1] * c, 0, 21, *lies, c, 0], workers=1 + seed % 3)
    want = F.conv2d(image, torch.from_numpy(weight), None, stride, padding, dilation).permute(0, 2, 3, 1)
    np.testing.assert_allclose(product, want, atol=1e-3)

    whole = np.array(
        [
            (o - 1) * s - 2 * p + d * (k - 1) + 1
            for o, s, p, d, k in zip(case.out, stride, padding, dilation, kernel, strict=True)
        ]
    )
    if (whole > 0).all():
        spread = case.rng.standard_normal((n, *case.out, kernel[0] * kernel[1] * c)).astype(np.float32)
        back = np.empty((n, *whole, c), np.float32)
        fold(
            [spread, None, back], [n, c, *case.geometry(case.out, whole, spread.shape[-1]), 0, c], workers=1 + seed % 3
        )
        place = (
            torch.eye(spread.shape[-1]).reshape(-1, kernel[0] * kernel[1], c).transpose(1, 2).reshape(-1, c, *kernel)
        )
        want = F.conv_transpose2d(
            torch.from_numpy(spread).permute(0, 3, 1, 2), place, None, stride, padding, 0, 1, dilation
        )
        np.testing.assert_allclose(back, want.permute(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(6, 2), (37, 1), (70, 70)])
@pytest.mark.parametrize("isa", LEVELS)
def test_group_statistics(isa: str, channels: int, groups: int) -> None:
    kernel = kernels(isa)[5]
    rng = np.random.default_rng(channels)
    x = (rng.standard_normal((2, 19, channels)) + 30).astype(np.float32)  # a mean far from zero loses nothing
    gamma, beta = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    scale, shift = np.empty((2, channels), np.float32), np.empty((2, channels), np.float32)
    kernel([x, gamma, beta, scale, shift], [2, 19, channels, groups, 19 * channels, channels], workers=2)
    got = x * scale[:, None] + shift[:, None]
    want = F.group_norm(
        torch.from_numpy(x).transpose(1, 2).double(), groups, *(torch.from_numpy(v).double() for v in (gamma, beta))
    )
    np.testing.assert_allclose(got, want.transpose(1, 2).float(), atol=3e-4)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("isa", LEVELS)
def test_recurrent(isa: str, cell: str) -> None:
    kernel = kernels(isa)[6 if cell == "lstm" else 7]
    torch.manual_seed(0)
    for length, batch, hidden, workers in ((4, 3, 5, 1), (3, 20, 65, 2), (5, 2, 70, 3)):
        net: torch.nn.Module = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(hidden, hidden, bias=False)
        x = torch.randn(length, batch, hidden)
        gates = (x @ net.weight_ih_l0.T).detach().numpy()
        packed = packed_gates(net.weight_hh_l0.detach().numpy(), gates.shape[2] // hidden, isa)
        steps, last, cells = (
            np.empty(s, np.float32) for s in ((length, batch, hidden), (batch, hidden), (batch, hidden))
        )
        strides = [batch * gates.shape[2], gates.shape[2], batch * hidden, hidden]
        ends = [last, cells if cell == "lstm" else None]
        kernel([gates, packed, None, None, None, steps, *ends], [length, batch, hidden, *strides, 0], workers=workers)
        want, state = net(x)
        np.testing.assert_allclose(steps, want.detach().numpy(), atol=1e-5)
        for got, end in zip(ends, state if cell == "lstm" else [state], strict=False):
            assert got is not None
            np.testing.assert_allclose(got, end[0].detach().numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(SANITIZE, reason="is what runs these tests")
def test_under_sanitizers() -> None:
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here), "-k", RUNNABLE[-1]]
    done = subprocess.run(
        command, env=sanitizer_environment(), cwd=here.parent.parent.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
