"""Packed weights: where every element goes, what pads it, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from planish.backends.cpu.packing import layout_name, pack_bf16, pack_f32, pack_w8, packed_bytes
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
        packed = pack_f32(weight, isa)
    elif compute == "bf16":
        weight = weight.astype(np.uint16)
        packed = pack_bf16(weight, isa)
    else:
        weight = (weight % 127 + 1).astype(np.int8)
        packed, compensation = pack_w8(weight, isa)
        assert compensation.dtype == np.int32
        assert len(compensation) % tile_shape("w8a8", isa).lanes == 0
        np.testing.assert_array_equal(compensation[:n], -128 * weight.sum(axis=1, dtype=np.int32))
        assert not compensation[n:].any()
    assert packed.nbytes == packed_bytes(compute, n, k, isa)
    expected = np.zeros(packed.size, packed.dtype)
    for i in range(n):
        for j in range(k):
            expected[position(i, j, n, k, compute, isa)] = weight[i, j]
    np.testing.assert_array_equal(packed, expected)


def test_packing_takes_a_transposed_view() -> None:
    weight = np.arange(60, dtype=np.float32).reshape(4, 15)
    np.testing.assert_array_equal(pack_f32(weight.T, "avx2"), pack_f32(weight.T.copy(), "avx2"))


def test_layout_names_tell_layouts_apart() -> None:
    assert layout_name("f32", "avx512-vnni") == layout_name("f32", "avx512-bf16")
    names = {layout_name(c, isa) for c in STEP for isa in ("portable", "avx2", "avx512-vnni")}
    assert len(names) == 9


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
