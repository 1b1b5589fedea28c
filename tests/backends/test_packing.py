"""Packed weights: where every element goes, what pads it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.cpu.packing import (
    check_group,
    layout_name,
    pack_bf16,
    pack_f32,
    pack_scales,
    pack_w8,
    packed,
    packed_bytes,
)
from planish.codegen.linear import MAX_K_INT8, STEP, tile_shape
from planish.codegen.specs import ISA_LEVELS
from planish.compiler.errors import LoweringError

SHAPES = [(1, 1), (16, 4), (48, 8), (49, 3), (97, 7), (33, 13), (5, 100)]


def position(n: int, k: int, total_n: int, total_k: int, compute: str, isa: str) -> int:
    """Index in the packed array of element (n, k), from the layout's definition."""
    shape, step = tile_shape(compute, isa), STEP[compute]
    steps, vectors = -(-total_k // step), -(-total_n // shape.lanes)
    panel, vector = divmod(n // shape.lanes, shape.vectors)
    wide = min(shape.vectors, vectors - panel * shape.vectors)
    start = panel * shape.vectors * shape.lanes * steps * step
    return start + (((k // step) * wide + vector) * shape.lanes + n % shape.lanes) * step + k % step


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("compute", ["f32", "bf16", "w8a8"])
def test_every_element_is_where_the_layout_says_and_the_rest_is_zero(
    compute: str, shape: tuple[int, int], isa: str
) -> None:
    n, k = shape
    weight = np.arange(1, n * k + 1).reshape(n, k)
    if compute == "f32":
        weight = weight.astype(np.float32)
        result = pack_f32(weight, isa)
    elif compute == "bf16":
        weight = weight.astype(np.uint16)
        result = pack_bf16(weight, isa)
    else:
        weight = (weight % 127 + 1).astype(np.int8)
        result, compensation = pack_w8(weight, isa)
        assert compensation.dtype == np.int32
        assert len(compensation) % tile_shape("w8a8", isa).lanes == 0
        np.testing.assert_array_equal(compensation[:n], -128 * weight.sum(axis=1, dtype=np.int32))
        assert not compensation[n:].any()
    assert result.nbytes == packed_bytes(compute, n, k, isa)
    expected = np.zeros(result.size, result.dtype)
    for i in range(n):
        for j in range(k):
            expected[position(i, j, n, k, compute, isa)] = weight[i, j]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_that_meets_bf16_has_the_inner_two_of_four_swapped(shape: tuple[int, int], isa: str) -> None:
    n, k = shape
    weight = (np.arange(n * k) % 255 - 127).reshape(n, k).astype(np.int8)
    result = np.asarray(packed(weight, "w8a16", isa))
    assert result.nbytes == packed_bytes("w8a16", n, k, isa)
    expected = np.zeros(result.size, np.int8)
    for i in range(n):
        for j in range(k):
            at = position(i, j, n, k, "w8a16", isa)
            expected[at - at % 4 + (0, 2, 1, 3)[at % 4]] = weight[i, j]
    np.testing.assert_array_equal(result, expected)


#: Byte and nibble (0: the lower) of the eight values of a word.
NIBBLES = {
    "w4a16": [(0, 0), (2, 0), (0, 1), (2, 1), (1, 0), (3, 0), (1, 1), (3, 1)],
    "w4a8": [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 1), (3, 1)],
}


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("compute", ["w4a16", "w4a8"])
@pytest.mark.parametrize("shape", [(1, 32), (16, 64), (49, 96), (97, 32)])
def test_int4_lies_two_to_a_byte(shape: tuple[int, int], compute: str, isa: str) -> None:
    n, k = shape
    weight = np.random.default_rng(n).integers(-8, 8, shape).astype(np.int8)
    result = np.asarray(packed(weight, compute, isa))
    assert result.dtype == np.uint8 and result.nbytes == packed_bytes(compute, n, k, isa)
    assert result.nbytes == -(-n // tile_shape(compute, isa).lanes) * tile_shape(compute, isa).lanes * k // 2
    expected = np.zeros(result.size, np.uint8)
    for i in range(n):
        for j in range(k):
            byte, nibble = NIBBLES[compute][j % 8]
            at = position(i, j - j % 8, n, k, compute, isa) // 2 + byte
            expected[at] |= (int(weight[i, j]) + (8 if compute == "w4a8" else 0) & 15) << 4 * nibble
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_scales_of_groups_lie_in_panels(dtype: type, isa: str) -> None:
    for n, groups in ((5, 1), (97, 3)):
        scales = np.arange(1, n * groups + 1).reshape(n, groups).astype(dtype)
        result = pack_scales(scales, isa)
        shape = tile_shape("w4a8", isa)
        vectors = -(-n // shape.lanes)
        expected = np.zeros(vectors * shape.lanes * groups, dtype)
        for i in range(n):
            for g in range(groups):
                panel, vector = divmod(i // shape.lanes, shape.vectors)
                wide = min(shape.vectors, vectors - panel * shape.vectors)
                start = panel * shape.vectors * shape.lanes * groups
                expected[start + (g * wide + vector) * shape.lanes + i % shape.lanes] = scales[i, g]
        np.testing.assert_array_equal(result, expected)


def test_int4_refuses_what_is_out_of_range_or_does_not_divide() -> None:
    for wrong in (8, -9):
        with pytest.raises(LoweringError, match="leaves the range"):
            packed(np.full((1, 32), wrong, np.int8), "w4a8", "avx2")
    with pytest.raises(LoweringError, match="leaves the range"):
        packed(np.ones((1, 32), np.int16), "w4a16", "avx2")
    with pytest.raises(LoweringError, match="48 inputs do not divide into groups of 32"):
        packed(np.ones((1, 48), np.int8), "w4a16", "avx2")
    for k, size in ((96, 64), (96, 48), (96, 0)):
        with pytest.raises(LoweringError, match="do not divide"):
            check_group(k, size)
    check_group(96, 96)


def test_packing_takes_a_transposed_view() -> None:
    weight = np.arange(60, dtype=np.float32).reshape(4, 15)
    np.testing.assert_array_equal(pack_f32(weight.T, "avx2"), pack_f32(weight.T.copy(), "avx2"))


def test_layout_names_tell_layouts_apart() -> None:
    assert layout_name("f32", "avx512-vnni") == layout_name("f32", "avx512-bf16")
    names = {layout_name(c, isa) for c in STEP for isa in ("portable", "avx2", "avx512-vnni")}
    assert len(names) == 18


def test_int8_refuses_what_could_overflow() -> None:
    weight = np.ones((1, MAX_K_INT8 + 1), np.int8)
    with pytest.raises(LoweringError, match="overflow"):
        pack_w8(weight, "portable")
    worst = np.full((1, MAX_K_INT8), 127, np.int8)
    _, compensation = pack_w8(worst, "portable")
    assert compensation[0] == -128 * 127 * MAX_K_INT8


def test_int8_refuses_minus_128_and_other_types() -> None:
    with pytest.raises(LoweringError, match="-128"):
        pack_w8(np.array([[1, -128]], np.int8), "avx2")
    with pytest.raises(LoweringError, match="int8"):
        pack_w8(np.array([[1, 2]], np.int16), "avx2")


def test_only_matrices_are_packed() -> None:
    with pytest.raises(LoweringError, match="no matrix"):
        pack_f32(np.zeros((2, 3, 4), np.float32), "avx2")
