"""Where the time goes: phases, what they are part of, and how they are shown."""

from __future__ import annotations

import threading

import pytest

from planish.cli.profile import print_profile, summed_up
from planish.compiler.profile import phase, profiling, record


def test_phases_know_what_they_are_part_of() -> None:
    with phase("outside"):
        record("nobody listens", 1.0)
    with profiling() as profile:
        with phase("passes"):
            record("fuse", 0.25, nodes=(9, 4))
            with phase("calibrate", "8 batches"):
                record("batch", 0.5)
        with profiling() as inner:
            assert inner is profile, "a compilation inside of another is part of it"
            with pytest.raises(ZeroDivisionError), phase("lower"):
                1 / 0
        other = threading.Thread(target=lambda: record("of another thread", 9.0))
        other.start()
        other.join()
        with phase("passes"):
            pass
    paths = [p.path for p in profile.phases]
    assert paths == [
        ("passes",), ("passes", "fuse"), ("passes", "calibrate"), ("passes", "calibrate", "batch"), ("lower",), ("passes",),
    ]  # fmt: skip
    assert list(profile.seconds()) == ["passes", "lower"]
    assert profile.seconds()["passes"] == profile.phases[0].seconds + profile.phases[-1].seconds
    first, fuse, *_ = profile.to_data()
    assert fuse == {"phase": ["passes", "fuse"], "seconds": 0.25, "peak_bytes": fuse["peak_bytes"], "nodes": [9, 4]}
    assert first["peak_bytes"] >= fuse["peak_bytes"] > 2**20
    assert profile.phases[2].detail == "8 batches"


def test_short_phases_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def entry(path: str, took: float, **more: object) -> dict[str, object]:
        return {"phase": path.split("/"), "seconds": took, "peak_bytes": 2**20, **more}

    phases = [
        entry("passes", 90.0), entry("passes/a", 0.1), entry("passes/b", 80.0, nodes=[5, 3]), entry("passes/c", 0.2),
        entry("passes/d", 0.3), entry("lower", 0.001), entry("build", 10.0), entry("build/x", 0.01, detail="only one"),
    ]  # fmt: skip
    shown = [("/".join(p["phase"]), round(p["seconds"], 3)) for p in summed_up(phases, 100.0)]
    assert shown == [
        ("passes", 90.0), ("passes/b", 80.0), ("passes/3 short ones", 0.6), ("lower", 0.001), ("build", 10.0), ("build/x", 0.01),
    ]  # fmt: skip
    print_profile(phases)
    text = capsys.readouterr().out
    assert "5 -> 3 nodes" in text
    assert "80.0 %" in text
    assert "only one" in text
