"""The yardstick: measured peaks, and the time that the roofline allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from planish.backends.cpu import peaks as peaks_module
from planish.backends.cpu.isa import available
from planish.backends.cpu.peaks import Peaks, measure, peaks, source
from planish.codegen.specs import ISA_LEVELS
from planish.runtime.timing import interleaved

PEAKS = Peaks("avx2", 1, 100.0, 200.0, 400.0, ((10, 50.0), (100, 5.0)))


def test_the_slower_of_work_and_traffic_sets_the_limit() -> None:
    assert PEAKS.seconds(1000, 1, "f32") == 10.0
    assert PEAKS.seconds(1000, 1, "bf16") == 5.0
    assert PEAKS.seconds(1000, 1, "w8a8-dynamic") == 2.5
    assert PEAKS.seconds(0, 10, "f32") == 0.2  # fits the small buffer
    assert PEAKS.seconds(0, 1000, "f32") == 200.0  # larger than every buffer: the slowest


@pytest.mark.parametrize("isa", ISA_LEVELS)
def test_every_level_has_its_loops(isa: str) -> None:
    text = source(isa)
    for name in ("peak_f32", "peak_bf16", "peak_i8", "read_all"):
        assert f"double {name}(" in text


@pytest.mark.parametrize("isa", available())
def test_measured_peaks_are_plausible(isa: str) -> None:
    found = measure(isa)
    # Between a tenth of an operation and a thousand in each of a billion cycles a second: loops that a compiler has
    # removed, or that count wrong, are far outside.
    for rate in (found.f32, found.bf16, found.i8):
        assert 1e8 < rate < 1e12 * 2
    assert all(1e8 < rate < 1e12 * 2 for _, rate in found.bandwidth)


def test_peaks_are_kept_and_only_rise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLANISH_CACHE_DIR", str(tmp_path))
    first = Peaks("portable", 1, 5.0, 5.0, 5.0, ((10, 5.0),))
    second = Peaks("portable", 1, 4.0, 6.0, 5.0, ((10, 7.0),))
    results = iter([first, second])
    monkeypatch.setattr(peaks_module, "measure", lambda isa, threads: next(results))
    assert peaks("portable") == first
    assert peaks("portable") == first  # from disk: nothing was measured
    assert peaks("portable", fresh=True) == Peaks("portable", 1, 5.0, 6.0, 5.0, ((10, 7.0),))


def test_contenders_are_called_in_turn() -> None:
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0.0, least=3)
    assert order == ["a", "b"] * 4  # the first round warms up
    assert len(times["a"].seconds) == len(times["b"].seconds) == 3
    assert min(times["a"].seconds) <= times["a"].median <= max(times["a"].seconds)
