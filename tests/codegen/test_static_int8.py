"""Products of statically quantised int8, and quantisation in tiles, against numpy: exact, at every ISA level.

The scales of columns are one, so that the kernels hand out their int32 sums as f32.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import RUNNABLE, SANITIZE, Kernel, build_kernels

from planish.backends.cpu.packing import packed
from planish.backends.cpu.static_int8 import starting_sums
from planish.codegen.linear import MAX_K_INT8, MAX_K_SHIFTED, tile_shape
from planish.codegen.specs import LinearSpec, Operand, RowProgram, Step, WindowSpec
from planish.compiler.errors import LoweringError

GUARD = 77.0
ZEROS = (-128, -7, 0, 1, 127)
SHAPES = [(1, 1, 1), (1, 200, 77), (2, 3, 5), (3, 16, 33), (7, 31, 3), (9, 49, 8), (13, 97, 7), (40, 100, 130)]

#: y = acc + bias, with rows of y wider than N.
BIAS = RowProgram(
    (Operand("f32"), Operand("f32")),
    (Step("load", "b", (0,)), Step("add", "y", ("acc", "b")), Step("store", "", (1, "y"))),
)
STORE = RowProgram((Operand("f32"),), (Step("store", "", (0, "acc")),))
#: q = relu(acc), quantised with constants of the launch: 1 / scale, the range less the zero point, the zero point.
NUMBERS = tuple(Operand(dtype, "constant") for dtype in ("f32", "f32", "f32", "i32"))
LOADS = (
    Step("load", "inv", (0,)), Step("load", "low", (1,)), Step("load", "high", (2,)), Step("load", "zero", (3,), "i32"),
)  # fmt: skip


def quantizing(value: str, mode: str) -> tuple[Step, ...]:
    """Steps that quantise ``value`` and store it to operand 4."""
    return (
        *LOADS,
        Step("quantize", "q", (value, "inv", "low", "high", "zero"), "i32", mode),
        Step("store", "", (4, "q")),
    )


QUANTIZED = RowProgram((*NUMBERS, Operand("i8b")), (Step("relu", "y", ("acc",)), *quantizing("y", "i8,stored")))
READ_TOO = RowProgram(
    (*NUMBERS, Operand("i8b"), Operand("i32")), (*quantizing("acc", "i8"), Step("store", "", (5, "q")))
)
#: The same as a second loop over the tile.
FIRST = RowProgram((), (Step("relu", "y", ("acc",)), Step("store", "", (-1, "y"))))
SECOND = RowProgram((*NUMBERS, Operand("i8b")), quantizing("row", "i8,stored"))

SPECS = (
    LinearSpec("w8a8", BIAS, static=True),
    LinearSpec("w8a8", STORE, patches=True, static=True),
    LinearSpec("w8a8", STORE, patches=True, grouped=True, static=True),
    WindowSpec("depthwise", "i8b", STORE),
    LinearSpec("w8a8", QUANTIZED, static=True),
    LinearSpec("w8a8", READ_TOO, static=True),
    LinearSpec("w8a8", FIRST, row=SECOND, static=True),
)
PLAIN, DENSE, GROUPED, DEPTHWISE, TILE, KEPT, TWICE = range(len(SPECS))


@cache
def kernels(isa: str) -> list[Kernel]:
    return build_kernels(SPECS, isa, SANITIZE)


def product(isa: str, x: np.ndarray, w: np.ndarray, zero: int, workers: int = 1) -> np.ndarray:
    """``(x - zero) @ w.T`` by the kernel; x int8, from memory that ends where it ends."""
    (m, k), n = x.shape, w.shape[0]
    biased = (x.astype(np.int16) + 128).astype(np.uint8)
    y = np.full((m, n + 3), GUARD, np.float32)
    weights = [np.asarray(packed(w, "w8a8", isa)), np.ones(n, np.float32), starting_sums(w, zero, isa)]
    kernels(isa)[PLAIN]([biased, None, *weights, np.zeros(n, np.float32), y], [m, n, k, k, 0, n + 3], workers=workers)
    assert (y[:, n:] == GUARD).all()
    return y[:, :n]


def check(isa: str, x: np.ndarray, w: np.ndarray, zero: int, workers: int = 1) -> None:
    want = (x.astype(np.int64) - zero) @ w.astype(np.int64).T
    np.testing.assert_array_equal(product(isa, x, w, zero, workers), want.astype(np.float32))


def random_int8(rng: np.random.Generator, *shape: int, low: int = -127) -> np.ndarray:
    return rng.integers(low, 128, shape).astype(np.int8)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("zero", ZEROS)
def test_sums_are_exact_for_ragged_sizes_and_any_zero_point(isa: str, zero: int) -> None:
    rng = np.random.default_rng(zero + 128)
    for m, n, k in SHAPES:
        check(isa, random_int8(rng, m, k, low=-128), random_int8(rng, n, k), zero, 1 + m % 2)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 40), n=st.integers(1, 120), k=st.integers(1, 70), zero=st.integers(-128, 127),
    isa=st.sampled_from(RUNNABLE),
)  # fmt: skip
def test_any_size(m: int, n: int, k: int, zero: int, isa: str) -> None:
    rng = np.random.default_rng(k)
    check(isa, random_int8(rng, m, k, low=-128), random_int8(rng, n, k), zero, 1 + m % 3)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("x", "zero", "w"), [(127, -128, 127), (127, -128, -127), (-128, 127, 127), (-128, 127, -127)])
def test_sums_reach_the_limit_of_int32(isa: str, x: int, zero: int, w: int) -> None:
    k = MAX_K_SHIFTED
    check(isa, np.full((2, k), x, np.int8), np.full((2, k), w, np.int8), zero)


def test_longer_sums_are_refused() -> None:
    long = np.ones((1, MAX_K_SHIFTED + 1), np.int8)
    assert starting_sums(long, 0, "avx2")[0] == 0
    with pytest.raises(LoweringError, match="overflow"):
        starting_sums(long, 3, "avx2")
    with pytest.raises(LoweringError, match="overflow"):
        starting_sums(np.ones((1, MAX_K_INT8 + 1), np.int8), 0, "avx2")
    with pytest.raises(LoweringError, match="-128"):
        starting_sums(np.full((1, 4), -128, np.int8), 0, "avx2")


# -- windows -----------------------------------------------------------------------------------------------------------
class Image:
    """A random int8 window over a random image, channels last; padded as far as windows make sense."""

    def __init__(self, seed: int, channels: int) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.n, self.channels = int(rng.integers(1, 3)), channels
        self.kernel, self.stride, self.dilation = rng.integers(1, 4, 2), rng.integers(1, 3, 2), rng.integers(1, 3, 2)
        self.padding = rng.integers(0, 3, 2)
        reach = self.dilation * (self.kernel - 1) + 1
        self.size = np.maximum(reach - 2 * self.padding, 1) + rng.integers(0, 6, 2)
        self.out = (self.size + 2 * self.padding - reach) // self.stride + 1
        self.x = random_int8(rng, self.n, *self.size, channels, low=-128)
        self.zero = int(rng.integers(-128, 128))

    @property
    def biased(self) -> np.ndarray:
        return (self.x.astype(np.int16) + 128).astype(np.uint8)

    @property
    def rows(self) -> int:
        return int(self.n * np.prod(self.out))

    def geometry(self) -> list[int]:
        fields = (self.size, self.out, self.kernel, self.stride, self.dilation, self.padding)
        axes = [[int(v[i]) for v in fields] for i in (0, 1)]
        h, w = (int(d) for d in self.size)
        return [1, 1, 1, 1, 1, 0, *axes[0], *axes[1], h * w * self.channels, 0, w * self.channels, self.channels]

    def windows(self) -> np.ndarray:
        """x less the zero point, i64 [n, oh, ow, kh, kw, channels]; outside of x 0."""
        (ph, pw), (kh, kw), (sh, sw), (dh, dw) = self.padding, self.kernel, self.stride, self.dilation
        wide = np.pad(self.x.astype(np.int64) - self.zero, ((0, 0), (ph, ph + kh * dh), (pw, pw + kw * dw), (0, 0)))
        oh, ow = self.out
        taps = [
            [wide[:, i * dh : i * dh + oh * sh : sh, j * dw : j * dw + ow * sw : sw][:, :oh, :ow] for j in range(kw)]
            for i in range(kh)
        ]
        return np.stack([np.stack(row, 3) for row in taps], 3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("isa", RUNNABLE)
def test_what_lies_outside_of_an_image_counts_as_the_zero_point(isa: str, seed: int) -> None:
    image = Image(seed, (1, 3, 4, 16, 37)[seed % 5])
    w = random_int8(image.rng, 21, *image.kernel, image.channels)
    flat = np.ascontiguousarray(w.reshape(21, -1))
    out = np.empty((image.rows, 21), np.float32)
    weights = [np.asarray(packed(flat, "w8a8", isa)), np.ones(21, np.float32), starting_sums(flat, image.zero, isa)]
    sizes = [image.rows, 21, flat.shape[1], 0, 21, *image.geometry(), image.channels, 128 + image.zero]
    kernels(isa)[DENSE]([image.biased, None, *weights, out], sizes, workers=1 + seed % 3)
    want = np.einsum("nhwijc,oijc->nhwo", image.windows(), w.astype(np.int64)).reshape(out.shape)
    np.testing.assert_array_equal(out, want.astype(np.float32))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("isa", RUNNABLE)
def test_groups_of_channels(isa: str, seed: int) -> None:
    groups, inputs, outputs = 3, (1, 4, 5, 18)[seed], (21, 16, 7, 50)[seed]
    image = Image(seed, groups * inputs)
    w = random_int8(image.rng, groups, outputs, *image.kernel, inputs)
    blocks = [np.ascontiguousarray(b.reshape(outputs, -1)) for b in w]
    lanes = tile_shape("w8a8", isa).lanes
    weights = [np.asarray(packed(b, "w8a8", isa)) for b in blocks]
    columns = np.ones((groups, -(-outputs // lanes) * lanes), np.float32)
    starts = np.concatenate([starting_sums(b, image.zero, isa) for b in blocks])
    out = np.empty((image.rows, groups * outputs), np.float32)
    sizes = [image.rows, outputs, blocks[0].shape[1], 0, groups * outputs, *image.geometry(), inputs, 128 + image.zero, groups,
             weights[0].size]  # fmt: skip
    kernels(isa)[GROUPED](
        [image.biased, None, np.concatenate(weights), columns, starts, out], sizes, workers=1 + seed % 2
    )
    parts = np.split(image.windows(), groups, axis=-1)
    want = [np.einsum("nhwijc,oijc->nhwo", part, b.astype(np.int64)) for part, b in zip(parts, w, strict=True)]
    np.testing.assert_array_equal(out, np.concatenate(want, -1).reshape(out.shape).astype(np.float32))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("isa", RUNNABLE)
def test_channels_of_their_own(isa: str, seed: int) -> None:
    image = Image(seed, (1, 3, 16, 37, 70, 64)[seed])
    w = random_int8(image.rng, *image.kernel, image.channels)
    out = np.empty((image.rows, image.channels), np.float32)
    sizes = [image.n, image.channels, *image.geometry(), 128 + image.zero, image.channels]
    kernels(isa)[DEPTHWISE]([image.biased, w.astype(np.float32), out], sizes, workers=1 + seed % 3)
    want = np.einsum("nhwijc,ijc->nhwc", image.windows(), w.astype(np.int64)).reshape(out.shape)
    np.testing.assert_array_equal(out, want.astype(np.float32))


# -- quantisation in the tile ------------------------------------------------------------------------------------------
def quantized(y: np.ndarray, scale: np.float32, zero: int) -> np.ndarray:
    """The contract, in numpy."""
    steps = np.rint(y.astype(np.float32) * (np.float32(1) / scale)) + zero
    return np.clip(np.where(np.isnan(steps), zero, steps), -128, 127).astype(np.int8)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("zero", ZEROS)
def test_a_tile_quantises_to_biased_bytes(isa: str, zero: int) -> None:
    rng = np.random.default_rng(zero + 200)
    numbers = [np.array([v], np.float32) for v in (0, -128 - zero, 127 - zero)] + [np.array([zero], np.int32)]
    for m, n, k in SHAPES:
        x, w = random_int8(rng, m, k), random_int8(rng, n, k)
        columns = (rng.random(n) * 0.02).astype(np.float32)
        columns[: n // 9] = np.nan
        columns[n // 9 : n // 5] = np.inf
        weights = [np.asarray(packed(w, "w8a8", isa)), columns, starting_sums(w, 0, isa)]
        with np.errstate(invalid="ignore"):
            acc = (x.astype(np.int64) @ w.astype(np.int64).T).astype(np.float32) * columns
        scale = np.float32(0.013 * np.sqrt(k))
        numbers[0][0] = np.float32(1) / scale
        biased = (x.astype(np.int16) + 128).astype(np.uint8)
        strides = [0, 0, 0, 0, n + 3]
        for number, values in ((TILE, np.where(acc < 0, 0, acc)), (TWICE, np.where(acc < 0, 0, acc)), (KEPT, acc)):
            out = np.full((m, n + 3), 7, np.uint8)
            kept = np.zeros((m, n), np.int32)
            more, strides_more = ([kept], [n]) if number == KEPT else ([], [])
            kernels(isa)[number]([biased, None, *weights, *numbers, out, *more], [m, n, k, k, *strides, *strides_more])
            with np.errstate(invalid="ignore"):
                want = quantized(values, scale, zero)
            np.testing.assert_array_equal(out[:, :n].astype(np.int16) - 128, want)
            assert (out[:, n:] == 7).all()
            assert number != KEPT or (kept == want).all()
