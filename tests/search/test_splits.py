"""Division of data: no leaks, enough for the proof, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from data_models import images, text

from planish.compiler.errors import UsageError
from planish.search.budget import Bar
from planish.search.samples import Sample, Samples, load_samples, split
from planish.search.splits import DEVELOPMENT_LEAST

EACH = Bar.parse("cosine >= 0.99 each")


def data(*sizes: int, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return load_samples({f"s{i}": random.standard_normal((n, 2, 3)) for i, n in enumerate(sizes)}, images())


def digests(samples: Samples) -> set[bytes]:
    return {s.digest for s in samples}


def test_half_is_held_out_and_nothing_is_in_two_parts() -> None:
    samples = data(1000)
    splits = split(samples, None, EACH, seed=1)
    parts = (splits.calibration, splits.development, splits.final)
    assert [len(p) for p in parts] == [500, 200, 300]
    assert set().union(*(p.ids for p in parts)) == set(samples.ids)
    assert sum(len(digests(p)) for p in parts) == len(set().union(*map(digests, parts))) == 1000


def test_slices_are_divided_alike() -> None:
    splits = split(data(800, 200, 50), None, EACH, seed=1)
    assert splits.calibration.counts == {"s0": 400, "s1": 100, "s2": 25}
    assert splits.final.counts == {"s0": 240, "s1": 60, "s2": 15}
    assert splits.development.counts == {"s0": 160, "s1": 40, "s2": 10}


def test_a_seed_is_a_division() -> None:
    samples = data(900)
    first, again, other = (split(samples, None, EACH, seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256
    assert first.final.ids == again.final.ids
    assert first.sha256 != other.sha256
    assert set(first.final.ids) != set(other.final.ids)


def test_another_slice_leaves_a_division_alone() -> None:
    alone, together = (split(data(*sizes), None, None, seed=5) for sizes in ((600,), (600, 400)))
    assert set(alone.calibration.ids) == {i for i in together.calibration.ids if i.startswith("s0")}


def test_final_gets_what_the_proof_needs() -> None:
    splits = split(data(2 * (299 + DEVELOPMENT_LEAST)), None, EACH)
    assert len(splits.final) == 299
    assert len(splits.development) == DEVELOPMENT_LEAST
    with pytest.raises(UsageError) as error:
        split(data(660), None, EACH)
    assert "662 samples are needed to prove 'cosine >= 0.99 each' at 95 % confidence, and 660 were given" in str(
        error.value
    )
    assert "299 for the proof, 32 for the search, and as many to calibrate on" in str(error.value)
    assert len(split(data(200), None, Bar.parse("cosine >= 0.9 p95")).final) == 60
    assert len(split(data(200), None, EACH, coverage=0.95, confidence=0.9).final) == 60


def test_evaluation_data_is_for_judging_alone() -> None:
    samples, evaluation = data(40), data(400, seed=1)
    splits = split(samples, evaluation, EACH)
    assert digests(splits.calibration) == digests(samples)
    assert digests(splits.development) | digests(splits.final) == digests(evaluation)
    assert len(splits.final) == 299
    with pytest.raises(UsageError, match=r"331 samples of evaluation data are needed .* and 330 were given"):
        split(samples, data(330, seed=1), EACH)


def test_evaluation_data_is_taken_out_of_the_calibration() -> None:
    samples = data(500)
    evaluation = samples.take(samples.ids[:400])
    splits = split(samples, evaluation, EACH)
    assert len(splits.calibration) == 100
    assert not digests(splits.calibration) & digests(evaluation)
    assert splits.notes == ("400 samples of the evaluation data were left out of the calibration",)
    with pytest.raises(UsageError, match="every sample of the calibration data is in the evaluation data too"):
        split(samples, samples, EACH)


def test_samples_with_the_same_bytes_stay_together() -> None:
    """The same inputs under many names, labels and slices: all of them are in one part."""
    base = data(60, 60)
    copies = [Sample(f"{s.id}/{i}", s.slice if i else "s1", s.inputs, np.asarray(i)) for s in base for i in range(6)]
    for seed in range(5):
        splits = split(Samples.of(copies, base.layout), None, Bar.parse("cosine >= 0.9 p90"), seed)
        parts = [digests(p) for p in (splits.calibration, splits.development, splits.final)]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 120
        assert sum(map(len, (splits.calibration, splits.development, splits.final))) == 720


def test_every_slice_has_what_the_worst_needs() -> None:
    bar = Bar.parse("cosine >= 0.9 worst-slice")
    splits = split(data(300, 70), None, bar)
    assert splits.final.counts["s1"] >= 30
    with pytest.raises(UsageError, match=r"the slice 's1' needs 60 samples to prove .* and 58 were given"):
        split(data(300, 58), None, bar)
    with pytest.raises(UsageError, match=r"the slice 's1' needs 30 samples of evaluation data .* and 29 were given"):
        split(data(10, 10), data(300, 29, seed=1), bar)


def test_a_slice_of_one_is_proved_on_not_lost() -> None:
    splits = split(data(700, 1), None, EACH)
    assert splits.final.counts["s1"] == 1
    assert "s1" not in splits.calibration.counts


def test_without_a_bar_any_data_will_do() -> None:
    splits = split(data(8))
    assert [len(p) for p in (splits.calibration, splits.development, splits.final)] == [4, 1, 3]


def test_ragged_data_is_divided_by_sample() -> None:
    samples = load_samples([(np.full(2 + i % 7, i), np.ones(2 + i % 7, int)) for i in range(800)], text())
    splits = split(samples, None, EACH)
    lengths = [
        np.mean([s.inputs["ids"].shape[1] for s in p]) for p in (splits.calibration, splits.development, splits.final)
    ]
    assert np.ptp(lengths) < 0.8  # not the short ones here and the long ones there


def test_too_few_rows_for_the_model_are_an_error() -> None:
    items = [(np.full(2 + i, i), np.ones(2 + i, int)) for i in range(30)]
    with pytest.raises(UsageError, match="takes 2 to 64 rows at a time"):
        load_samples(items, text((2, 64)))
