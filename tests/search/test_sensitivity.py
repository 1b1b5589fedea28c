"""The methods fill the same table; the cheap ones agree with the measured one; pairs repair what sums get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from small_models import Angle, Batch, encoder_job, towers_job

from planish.compiler.errors import UsageError
from planish.compiler.graph import Node
from planish.compiler.interpret import Interpreter
from planish.search.budget import Bar
from planish.search.metrics import Scorer
from planish.search.sensitivity import METHODS, Hessian, Job, Table, fisher, pairwise, worth_measuring
from planish.search.sensitivity.curvature import directions
from planish.search.sensitivity.measured import measure_all
from planish.search.sensitivity.pairwise import neighbours
from planish.search.sensitivity.variants import Variants
from planish.search.sensitivity.work import single_threaded
from planish.search.units import nodes_of

TERM = Angle.term


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with single_threaded():
        yield


@pytest.fixture(scope="module")
def measured() -> Table:
    with single_threaded():
        return METHODS["measured"]().table(encoder_job())


def ranks(a: Table, b: Table, keys: list) -> float:
    return float(spearmanr([a.mean(*k)[TERM] for k in keys], [b.mean(*k)[TERM] for k in keys]).statistic)


# -- one table -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_something_of_every_choice_and_sample(name: str) -> None:
    job = towers_job()
    seen: list[tuple[str, int, int]] = []
    table = METHODS[name]().table(replace(job, progress=lambda *a: seen.append(a)))
    assert table.method == name and table.seconds > 0 and table.evaluations > 0 and table.known == 0
    assert set(table.losses) == {(u.name, p) for u in job.units for p in u.candidates}
    for (_, precision), losses in table.losses.items():
        assert set(losses) == {TERM} and losses[TERM].shape == (5,) and losses[TERM].dtype == np.float64
        assert (losses[TERM] == 0).all() if precision == "f32" else (losses[TERM] > 0).any()
    assert all(0 <= done <= total for _, done, total in seen)
    assert {what: done == total for what, done, total in seen} and seen[-1][1] == seen[-1][2]


def test_the_gradient_methods_rank_as_the_measured_one_does(measured: Table) -> None:
    job = encoder_job()
    keys = list(job.choices())
    fisher, hessian = (METHODS[name]().table(job) for name in ("fisher", "hessian"))
    assert ranks(fisher, measured, keys) > 0.95
    assert ranks(hessian, measured, keys) > 0.85
    between_units = [(u.name, "w4a16-g32") for u in job.units if "w4a16-g32" in u.candidates]
    assert ranks(fisher, measured, between_units) > 0.8  # precision apart: which units are the sensitive ones
    ratios = [fisher.mean(*k)[TERM] / measured.mean(*k)[TERM] for k in keys]
    assert 0.5 < np.median(ratios) < 2.0  # the size too
    per_sample = [spearmanr(fisher.losses[k][TERM], measured.losses[k][TERM]).statistic for k in between_units]
    assert np.mean(per_sample) > 0.3


def test_fisher_costs_a_fraction_of_the_measured_runs(measured: Table) -> None:
    assert METHODS["fisher"]().table(encoder_job()).evaluations < 0.25 * measured.evaluations


def test_results_are_the_same_again_and_change_with_the_seed() -> None:
    first, again, other = (METHODS["fisher"]().table(towers_job(seed=seed)) for seed in (0, 0, 1))
    for key, losses in first.losses.items():
        np.testing.assert_array_equal(losses[TERM], again.losses[key][TERM])
    assert any((first.losses[k][TERM] != other.losses[k][TERM]).any() for k in first.losses)


# -- curvature -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", ["angle", "power", "classes"])
def test_directions_have_the_curvature_of_the_loss_as_covariance(shape: str) -> None:
    reference = torch.tensor([[0.5, -1.0, 2.0, 0.3]], dtype=torch.float64)

    def loss(y: torch.Tensor) -> torch.Tensor:
        if shape == "angle":
            return 1 - torch.nn.functional.cosine_similarity(y, reference).sum()
        if shape == "power":
            return ((y - reference) ** 2).sum() / (reference**2).sum()
        return torch.nn.functional.kl_div(
            y.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="sum"
        )

    exact = torch.autograd.functional.hessian(loss, reference).reshape(4, 4)
    generator = torch.Generator().manual_seed(0)
    many = torch.cat([directions(shape, reference.float().repeat(500, 1), True, generator) for _ in range(40)])
    found = many.T @ many / len(many)
    assert torch.allclose(found.double(), exact, atol=0.04 * float(exact.abs().max()))


def test_the_projection_of_a_small_error_is_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many directions the second order formula meets the measured loss of a change that is small."""
    monkeypatch.setattr(fisher, "DIRECTIONS", 400)
    job = encoder_job(scorer=Scorer(Bar.parse("cosine >= 0.9 each")))
    job = replace(job, units=[replace(u, candidates=("f32", "bf16", "w8a16")) for u in job.units if u.kind == "linear"])
    estimated = fisher.Fisher()._estimate(job, list(job.choices()))
    losses, _, _ = measure_all(job, [(c,) for c in job.choices()], "")
    ratios = [estimated[c][TERM] / exact[TERM] for c, exact in zip(job.choices(), losses, strict=True)]
    assert 0.9 < np.median(ratios) < 1.1 and np.min(ratios) > 0.7 and np.max(ratios) < 1.4


def test_the_trace_is_that_of_the_hessian_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the explicit second derivative of the loss in a unit's output, by torch."""
    monkeypatch.setattr(fisher, "DIRECTIONS", 300)
    job = encoder_job(((1, 3),), scorer=Scorer(Bar.parse("cosine >= 0.9 each")))
    unit = next(u for u in job.units if u.name.endswith("blocks.1.down"))
    job = replace(job, units=[replace(unit, candidates=("f32", "w4a16-g32"))])
    (node,) = nodes_of(job.graph, unit)
    ids = [torch.from_numpy(job.samples.batches[0].inputs["ids"])]
    reference = torch.from_numpy(job.references[0][0])
    given: list[torch.Tensor] = []

    def loss(y: torch.Tensor) -> torch.Tensor:
        def hook(n: Node, operands: object, outcome: tuple) -> tuple | None:
            if n is node:
                given.append(outcome[0])
                return (y,)
            return None

        (out,) = Interpreter(job.graph, hook)(ids)
        return 1 - torch.nn.functional.cosine_similarity(out, reference).sum()

    with torch.no_grad():
        loss(torch.zeros(()).expand(1, 3, 64))
    point = given[0].clone()
    exact = torch.autograd.functional.hessian(loss, point).reshape(point.numel(), -1)
    assert exact.trace() > 0
    small = Variants(job.graph, job.store)(0, [node], "w4a16-g32")
    x: list[torch.Tensor] = []
    read = lambda n, operands, outcome: x.append(operands[0]) if n is node else None  # noqa: E731
    with torch.no_grad():
        Interpreter(job.graph, read)(ids)
        (made,) = small({node.inputs[0].name: x[0]}, {"batch": 1, "seq": 3})
    energy = float((made - point).square().sum())
    expected = 0.5 * float(exact.trace()) / point.numel() * energy
    (found,) = Hessian()._estimate(job, list(job.choices())).values()
    assert found[TERM][0] == pytest.approx(expected, rel=0.15)


# -- sums and pairs ------------------------------------------------------------------------------------------------------
def joint(job: Job, assignments: list[dict[str, str]]) -> list[float]:
    found, _, _ = measure_all(job, [tuple(a.items()) for a in assignments], "")
    return [float(losses[TERM].mean()) for losses in found]


def test_a_sum_predicts_what_units_lose_together(measured: Table) -> None:
    job = encoder_job()
    linears = [u for u in job.units if u.kind == "linear"]
    rng = np.random.default_rng(0)
    assignments = [
        {u.name: str(rng.choice(["w8a16", "w8a8-dynamic", "w4a16-g32"])) for u in linears} for _ in range(12)
    ]
    truth = joint(job, assignments)
    guess = [measured.predict(a)[TERM] for a in assignments]
    assert spearmanr(truth, guess).statistic > 0.6
    assert 0.4 < np.median(np.array(guess) / truth) < 2.5


def test_pairs_bring_the_prediction_closer(measured: Table) -> None:
    job = encoder_job()
    linears = [u for u in job.units if u.kind == "linear"]
    table = Table(dict(measured.losses), method="measured")
    every = [
        ((a.name, "w4a16-g32"), (b.name, "w4a16-g32")) for i, a in enumerate(linears) for b in linears[i + 1 :]
    ]  # fmt: skip
    pairwise(job, table, every)
    assert len(table.pairs) == len(every)
    rng = np.random.default_rng(1)
    assignments = []
    for _ in range(8):
        chosen = sorted(rng.choice(len(linears), 4, replace=False))
        assignments.append({linears[i].name: "w4a16-g32" for i in chosen})
    truth = np.array(joint(job, assignments))
    added = np.array([table.predict(a, pairs=False)[TERM] for a in assignments])
    corrected = np.array([table.predict(a)[TERM] for a in assignments])
    assert np.abs(corrected - truth).mean() < 0.5 * np.abs(added - truth).mean()


def test_a_pair_is_exactly_what_was_measured(measured: Table) -> None:
    job = encoder_job()
    table = Table(dict(measured.losses), method="measured")
    pairwise(job, table, 5)
    assert len(table.pairs) == 5
    for (a, b), extra in table.pairs.items():
        (truth,) = joint(job, [dict([a, b])])
        assert table.predict(dict([a, b]))[TERM] == pytest.approx(truth, rel=1e-4)
        assert extra[TERM] == pytest.approx(truth - table.mean(*a)[TERM] - table.mean(*b)[TERM], rel=1e-2, abs=1e-9)


def test_pairs_worth_measuring_are_neighbours_and_large(measured: Table) -> None:
    job = encoder_job()
    found = worth_measuring(job, measured, 6)
    assert len(found) == 6 and all(a[0] != b[0] for a, b in found)
    near = neighbours(job.graph, job.units)
    names = [u.name for u in job.units]
    assert all(names.index(a) < names.index(b) for a, b in near)
    up = next(n for n in names if n.endswith("blocks.0.up"))
    assert (up, up.replace("up", "down")) in near and (names[0], names[-1]) not in near
    assert sum((a[0], b[0]) in near for a, b in found) >= 3
    only = worth_measuring(job, measured, 50, dict.fromkeys(names, ("bf16",)))
    assert {p for pair in only for _, p in pair} == {"bf16"}


def test_pairs_of_an_estimated_table_are_measured_against_measured_units() -> None:
    job = towers_job()
    table = METHODS["fisher"]().table(job)
    a, b = ((u.name, "w4a16-g32") for u in job.units[:2])
    pairwise(job, table, [(a, b)])
    alone = joint(job, [dict([a]), dict([b])])
    (both,) = joint(job, [dict([a, b])])
    assert table.pairs[a, b][TERM] == pytest.approx(both - sum(alone), rel=1e-2, abs=1e-10)


# -- the journal ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["measured", "fisher"])
def test_what_the_journal_holds_is_not_done_again(name: str) -> None:
    import json

    kept: dict[str, str] = {}
    put = lambda key, data: kept.__setitem__(key, json.dumps(data))  # noqa: E731
    get = lambda key: json.loads(kept[key]) if key in kept else None  # noqa: E731
    first = METHODS[name]().table(towers_job(get=get, put=put))
    assert kept and all("cosine" in data for data in kept.values())
    again = METHODS[name]().table(towers_job(get=get, put=put))
    assert again.known == sum(1 for _ in towers_job().choices()) and again.evaluations == 0
    for key, losses in first.losses.items():
        np.testing.assert_array_equal(losses[TERM], again.losses[key][TERM])


def test_an_interrupted_table_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import planish.search.sensitivity.measured as module

    monkeypatch.setattr(module, "PER_TASK", 1)
    job = towers_job()
    kept: dict[str, Any] = {}

    def put(key: str, data: Any) -> None:
        if len(kept) == 7:
            raise KeyboardInterrupt
        kept[key] = data

    with pytest.raises(KeyboardInterrupt):
        METHODS["measured"]().table(replace(job, put=put))
    assert len(kept) == 7
    whole, resumed = (
        METHODS["measured"]().table(replace(job, get=get)) for get in (None, kept.get)
    )  # fmt: skip
    assert resumed.known == 7 and 0 < resumed.evaluations < whole.evaluations
    for key, losses in whole.losses.items():
        np.testing.assert_array_equal(losses[TERM], resumed.losses[key][TERM])


# -- misuse --------------------------------------------------------------------------------------------------------------
class Broken(Angle):
    def losses(self, reference: list, outputs: list, batch: Batch) -> dict[str, np.ndarray]:
        found = dict(super().losses(reference, outputs, batch))
        return found if outputs is reference else {self.term: found[self.term] * np.nan}


def test_a_loss_that_is_no_number_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"the loss of cosine >= 0.9 each is nan with .* in"):
        METHODS["measured"]().table(towers_job(scorer=Broken()))
