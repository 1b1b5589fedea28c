"""Explaining a plan: shares, what each candidate would change, and names that are not quite right."""

from __future__ import annotations

import json
import math

import pytest
import report_sample as sample

from planish.compiler.errors import UsageError
from planish.search.explain import as_data, candidates, facts, lines, select
from planish.search.record import Record, record_of


@pytest.fixture
def record() -> Record:
    found = record_of(sample.report(3))
    assert found is not None
    return found


def test_shares_of_the_loss_are_of_the_whole(record: Record) -> None:
    found = lines(record)
    assert [line.name for line in found] == [u.name for u in record.units]
    assert math.isclose(sum(line.share for line in found), 1.0)
    quickest = max(found, key=lambda line: line.speedup or 0)
    assert quickest.float_seconds == pytest.approx((quickest.seconds or 0) * (quickest.speedup or 0))


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("encoder.layer.1.attention.self.query+key+value", 1),
        ("encoder.layer.1.attention.self.key", 1),  # a source of a merged unit
        ("encoder.layer.1", 5),  # a module
        ("*.output.dense", 6),
        ("encoder.layer.[02].intermediate.dense", 2),
    ],
)
def test_a_name_a_source_a_module_or_a_glob(record: Record, pattern: str, count: int) -> None:
    assert len(select(record, pattern)) == count


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("encoder.layer.1.intermediat.dense", "'encoder.layer.1.intermediate.dense'"),
        ("intermediate.dense", "'encoder.layer.0.intermediate.dense'"),
        ("zzz", "planish explain"),
    ],
)
def test_a_name_that_is_not_there(record: Record, pattern: str, near: str) -> None:
    with pytest.raises(UsageError, match="no unit") as caught:
        select(record, pattern)
    assert near in (caught.value.hint or "")


def test_every_candidate_has_a_verdict_that_fits_its_figures(record: Record) -> None:
    for unit in record.units:
        found = candidates(record, unit)
        assert [c.precision for c in found if c.chosen] == [unit.chosen]
        for c in found:
            assert c.verdict
            if c.saves is not None and not c.chosen and c.verdict.startswith("saves"):
                assert c.saves > 0
            if c.verdict.startswith("takes"):
                assert c.saves is not None and c.saves <= 0


def test_facts_say_rank_and_gain(record: Record) -> None:
    (unit,) = select(record, "encoder.layer.0.intermediate.dense")
    said = dict(facts(record, unit))
    assert "of all units together (number" in said["sensitivity"]
    assert "x)" in said["cost"]
    assert json.loads(json.dumps(as_data(record, [unit])))[0]["precision"] == unit.chosen
