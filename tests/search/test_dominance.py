"""What is finer than what, and which candidates are not worth a look."""

from __future__ import annotations

import pytest

from planish.compiler.precision import PRECISIONS, find_precision
from planish.search.cost import CostTable
from planish.search.dominance import finer, pointless
from planish.search.units import Unit


@pytest.mark.parametrize(
    ("fine", "coarse"),
    [
        ("f32", "bf16"), ("bf16", "w8a16"), ("w8a16", "w8a8-dynamic"), ("w8a8-dynamic", "w8a8"), ("w8a16", "w4a16-g32"),
        ("w4a16-g32", "w4a16-g64"), ("w4a16-g64", "w4a16"), ("w4a16", "w4a8"), ("w8a8-dynamic", "w4a8-g32"),
    ],
)  # fmt: skip
def test_finer(fine: str, coarse: str) -> None:
    assert finer(find_precision(fine), find_precision(coarse))
    assert not finer(find_precision(coarse), find_precision(fine))


@pytest.mark.parametrize(("a", "b"), [("w8a8", "w4a16"), ("w8a8", "w4a8-g32"), ("w8a8-dynamic", "w4a16-g32")])
def test_what_cannot_be_compared(a: str, b: str) -> None:
    assert not finer(find_precision(a), find_precision(b)) and not finer(find_precision(b), find_precision(a))


def test_nothing_is_finer_than_itself() -> None:
    assert not any(finer(p, p) for p in PRECISIONS.values())


def test_what_a_finer_one_beats_is_not_tried() -> None:
    unit = Unit("up", "linear", ("up",), 100, ("f32", "bf16", "w8a8-dynamic", "w4a16"))
    seconds = {("up", "f32"): 4e-4, ("up", "bf16"): 2e-4, ("up", "w8a8-dynamic"): 1e-4, ("up", "w4a16"): 2.1e-4}
    sizes = {("up", "f32"): 400.0, ("up", "bf16"): 200.0, ("up", "w8a8-dynamic"): 100.0, ("up", "w4a16"): 50.0}
    table = CostTable.of(seconds, sizes)
    found = pointless([unit], table, "latency")
    assert list(found) == [("up", "w4a16")]
    assert found["up", "w4a16"].endswith("which is finer, takes 200 us: not tried") or "bf16" in found["up", "w4a16"]
    assert pointless([unit], table, "size") == {} == pointless([unit], table, "latency then size")
    assert pointless([unit], CostTable.of(seconds, dict.fromkeys(sizes, 1.0)), "size").keys() == {
        ("up", "bf16"), ("up", "w8a8-dynamic"), ("up", "w4a16"),
    }  # fmt: skip
