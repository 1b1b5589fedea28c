"""Random PyTorch modules, eager against interpreted against compiled; and that the fuzz itself would see a fault.

``tests/fuzz.py`` tries many more; what it found is a test of its own where the fault was.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fuzz
import pytest
import torch
from random_modules import Program, lanes_of
from random_modules_check import check, difference
from random_modules_draw import precision_of, random_program
from random_modules_shrink import shrunk
from torch.utils import _pytree as pytree

from planish.backends.cpu import isa

QUICK = range(900, 910)


def test_random_modules() -> None:
    outcomes = check({f"n{seed}": random_program(seed) for seed in QUICK}, isa.detect(), flags=("-O0",))
    failed = [f"{name}: {o.status}, {o.stage}: {o.reason}" for name, o in outcomes.items() if o.failed]
    assert not failed, "\n".join(failed)
    assert sum(o.status == "ok" for o in outcomes.values()) > len(QUICK) / 2


@pytest.mark.slow
def test_a_minute_of_random_modules() -> None:
    """As many as fit; the seeds are none of the recorded run's."""
    options = {"level": "", "full": False, "length": fuzz.LENGTH}
    results = fuzz.run(range(100_000, 101_000), 2, 50.0, options, None, True)
    bad = [e for e in results.values() if e["status"] in ("disagree", "error", "crash")]
    assert not bad, "\n".join([*(str(e) for e in bad), *(fuzz.shrink(e["seed"], options, 60.0) for e in bad[:2])])
    assert any(e["status"] == "ok" for e in results.values())


# -- the modules -------------------------------------------------------------------------------------------------------
def test_a_seed_is_a_module() -> None:
    for seed in (3, 21, 46):
        one, two = random_program(seed), random_program(seed)
        assert one.source == two.source
        scope: dict = {}
        exec(compile(one.source, "module", "exec"), scope)  # the text stands on its own
        loaded = one.load()
        for env in one.sizes:
            with torch.no_grad():
                here = pytree.tree_leaves(scope["Model"]().eval()(*scope["inputs"](**env)))
                there = pytree.tree_leaves(loaded.model(*loaded.inputs(**env)))
            assert all(
                torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(here, there, strict=True)
            )


def test_modules_differ() -> None:
    programs = [random_program(seed) for seed in range(40)]
    words = Counter(
        w for p in programs for s in p.body for w in s.text.replace("(", " ( ").split() if w[:2] in ("F.", "to")
    )
    assert len(words) > 60
    assert any(p.dynamic for p in programs)
    assert not all(p.dynamic for p in programs)
    assert {precision_of(seed) for seed in range(60)} == {"f32", "bf16", "w8a8-dynamic"}
    assert len({i.dtype for p in programs for i in p.inputs}) >= 6
    assert sum(len(p.body) for p in programs) / len(programs) > 5


# -- that a fault would be seen ----------------------------------------------------------------------------------------
def test_what_is_wrong_is_a_difference() -> None:
    want = torch.randn(4, 33)
    lanes = [want, want * (1 + 1e-6), want * (1 - 1e-6)]
    assert difference(want * (1 + 5e-7), want, lanes, "f32") is None
    assert difference(want * (1 + 1e-4), want, lanes, "f32")
    assert difference(want.double(), want, lanes, "f32")
    assert difference(want[:3], want, lanes, "f32")
    holed = want.clone()
    holed[0, 0] = float("nan")
    assert difference(holed, want, lanes, "f32")
    assert difference(holed, holed, lanes, "f32") is None
    whole = torch.arange(5)
    assert difference(whole, whole, [whole] * 3, "f32") is None
    assert difference(whole + (whole == 4), whole, [whole] * 3, "f32")
    assert difference(want * 1.01, want, [want] * 3, "w8a8-dynamic") is None
    assert difference(want * 1.1, want, [want] * 3, "w8a8-dynamic")


def holding(text: str) -> Program:
    return next(
        p
        for p in map(random_program, range(400))
        if p.dynamic and len(p.body) > 5 and any(text in s.text for s in p.body[1:-1])
    )


def test_a_failing_module_is_cut_down() -> None:
    whole = holding("F.gelu(")
    small = shrunk(whole, lambda p: any("F.gelu(" in s.text for s in p.body), 30.0)
    assert len(small.body) == 1
    assert not small.dynamic
    for env in small.sizes:
        assert set(small.outputs) <= set(lanes_of(small, env)[0])


def test_what_nothing_reads_is_left_out() -> None:
    program = next(p for p in map(random_program, range(100)) if len(p.body) > 4)
    first = program.body[0].writes[0]
    alone = program.with_outputs(first)
    assert len(alone.body) < len(program.body)
    assert alone.outputs == (first,)
    assert replace(alone, seed=alone.seed).pruned() == alone


# -- the run -----------------------------------------------------------------------------------------------------------
#: Stands for the worker: seed 5 kills it, the others are fine.
FAKE = """
import json, os, signal, sys
for line in sys.stdin:
    for seed in json.loads(line)["seeds"]:
        if seed == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        print(json.dumps({"seed": seed, "status": "ok", "stage": "", "reason": ""}), flush=True)
    print(json.dumps({"done": True}), flush=True)
"""


def test_a_module_that_kills_its_worker_is_found() -> None:
    worker = fuzz.Worker((sys.executable, "-c", FAKE))
    found = {e["seed"]: e["status"] for e in worker.ask(range(8), {})}
    worker.close()
    assert found == {**dict.fromkeys(range(8), "ok"), 5: "crash"}


def test_a_broken_worker_ends_the_run() -> None:
    worker = fuzz.Worker((sys.executable, "-c", "raise ValueError('broken')"))
    with pytest.raises(RuntimeError, match="broken"):
        worker.ask([1], {})
    worker.close()


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def ask(self: fuzz.Worker, seeds: list[int], options: dict) -> list[dict]:
        asked.extend(seeds)
        return [{"seed": s, "status": "ok", "stage": "", "reason": ""} for s in seeds]

    monkeypatch.setattr(fuzz.Worker, "ask", ask)
    journal = tmp_path / "journal"
    options = {"level": "", "full": False}
    assert sorted(fuzz.run(range(40), 1, 60.0, options, journal, True)) == list(range(40))
    with journal.open("a") as file:
        file.write('{"seed": 41, "sta')  # a line that was cut off
    assert sorted(fuzz.run(range(50), 2, 60.0, options, journal, True)) == list(range(50))
    assert sorted(asked) == list(range(50))
    assert fuzz.seeds_of("3,7,20:23") == [3, 7, 20, 21, 22]


def test_reasons_are_counted() -> None:
    entry = {"seed": 0, "status": "refused", "reason": "no aten.foo at <random module 3>:40"}
    text = fuzz.summary({0: entry, 1: {**entry, "seed": 1, "reason": "no aten.foo at <random module 4>:44"}})
    assert "2 refused" in text
    assert "refused 2: no aten.foo" in text
