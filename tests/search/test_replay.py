"""A suffix run again gives what the whole graph would, and costs what lies behind the unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from small_models import Encoder, decision_graph, encoder_job, job_of, towers_job

from planish.compiler.graph import Graph, Node, Value
from planish.compiler.interpret import Interpreter, bind_symbols, interpret, to_torch
from planish.compiler.types import DType, TensorType
from planish.search.sensitivity import METHODS, Job
from planish.search.sensitivity import replay as replay_module
from planish.search.sensitivity.replay import Replay
from planish.search.sensitivity.variants import Variants
from planish.search.sensitivity.work import Context, Task, choices_of, measure, single_threaded
from planish.search.units import nodes_of


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors of these sizes gain nothing from threads."""
    with single_threaded():
        yield


def whole_run(job: Job, assignment: Mapping[str, str], batch: int) -> list[np.ndarray]:
    """The plain way: the interpreter over the whole graph, the units' results replaced by their quantised form."""
    variants = Variants(job.graph, job.store)
    values: dict[Value, torch.Tensor] = {}
    inputs = job.samples.batches[batch].inputs
    tensors = [to_torch(inputs[v.name], v.dtype) for v in job.graph.inputs]
    values.update(zip(job.graph.inputs, tensors, strict=True))
    env = bind_symbols(job.graph, [t.shape for t in tensors])
    owner = {n: u for u in job.units if u.name in assignment for n in nodes_of(job.graph, u)}

    def hook(node: Node, operands: object, outcome: tuple) -> tuple | None:
        values.update((v, o) for v, o in zip(node.inputs, operands, strict=True) if v is not None)  # type: ignore[call-overload]
        if node in owner:
            small = variants(0, [node], assignment[owner[node].name])
            return tuple(small({v.name: values[v] for v in node.operands if v in values}, env))
        return None

    return interpret(job.graph, inputs, hook=hook)


@pytest.mark.parametrize("make", [encoder_job, towers_job])
def test_every_choice_gives_what_a_whole_run_gives(make) -> None:
    job = make()
    context = Context(job.graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
    chosen = choices_of(job.units)
    found = measure(context, Task(tuple(chosen)))
    assert len(found.losses) == len(chosen) > 10
    for ((unit, precision),), losses in zip(chosen, found.losses, strict=True):
        expected = np.concatenate([
            job.scorer.losses(job.references[b], whole_run(job, {unit: precision}, b), batch)[job.scorer.term]
            for b, batch in enumerate(job.samples.batches)
        ])  # fmt: skip
        np.testing.assert_allclose(
            losses[job.scorer.term], expected, rtol=2e-3, atol=1e-10, err_msg=f"{unit} {precision}"
        )
        assert (losses[job.scorer.term] > 0).any(), f"{unit} at {precision} changes nothing"


def test_several_units_at_once_give_what_a_whole_run_gives() -> None:
    for job in (encoder_job(), towers_job()):
        names = [u.name for u in job.units if u.kind == "linear"]
        context = Context(job.graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
        for a, b in ((0, 1), (1, 2), (0, len(names) - 1)):
            choices = tuple(
                ((names[a], p), (names[b], q)) for p in ("w8a16", "w4a16-g32") for q in ("w4a8-g32", "bf16")
            )
            found = measure(context, Task(choices))
            for choice, losses in zip(choices, found.losses, strict=True):
                expected = np.concatenate([
                    job.scorer.losses(job.references[i], whole_run(job, dict(choice), i), batch)[job.scorer.term]
                    for i, batch in enumerate(job.samples.batches)
                ])  # fmt: skip
                np.testing.assert_allclose(losses[job.scorer.term], expected, rtol=2e-2, atol=1e-9, err_msg=str(choice))


def test_stacked_and_one_by_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    job = encoder_job()
    context = Context(job.graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
    task = Task(tuple(choices_of(job.units)))
    assert Replay(job.graph, [nodes_of(job.graph, job.units[0])], lambda *a: None).symbol == "batch"  # type: ignore[arg-type,return-value]
    stacked = measure(context, task)
    monkeypatch.setattr(replay_module, "MOST_STACKED_BYTES", 1)
    single = measure(context, task)
    assert stacked.evaluations == single.evaluations
    for a, b in zip(stacked.losses, single.losses, strict=True):
        np.testing.assert_allclose(a[job.scorer.term], b[job.scorer.term], rtol=1e-3, atol=1e-11)


def test_a_model_that_mixes_its_batch_is_not_stacked_and_right() -> None:
    class Mixing(Encoder):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found = super().forward(ids)
            return found - found.mean(0, keepdim=True)

    torch.manual_seed(0)
    shapes = {"ids": {0: torch.export.Dim("batch", min=2, max=64)}}
    graph = decision_graph(Mixing(32, 1), (torch.randint(0, 60, (3, 7)),), shapes)
    job = job_of(graph, [{graph.inputs[0].name: np.random.default_rng(0).integers(0, 60, (4, 7))}])
    assert Replay(graph, [nodes_of(graph, u) for u in job.units], lambda *a: None).symbol is None  # type: ignore[arg-type,return-value]
    context = Context(graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
    chosen = choices_of(job.units)[:6]
    for ((unit, precision),), losses in zip(chosen, measure(context, Task(tuple(chosen))).losses, strict=True):
        expected = job.scorer.losses(job.references[0], whole_run(job, {unit: precision}, 0), job.samples.batches[0])
        np.testing.assert_allclose(losses[job.scorer.term], expected[job.scorer.term], rtol=2e-3, atol=1e-9)


def test_the_work_is_what_lies_behind_the_units() -> None:
    """Counted in nodes, not in seconds: far less than a full run for every candidate."""
    job = encoder_job()
    table = METHODS["measured"]().table(job)
    nodes = sum(n.op != "constant" for n in job.graph.nodes)
    batches, candidates = len(job.samples.batches), sum(1 for _ in job.choices())
    plain = candidates * nodes * batches
    context = Context(job.graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
    replay = Replay(job.graph, [context.nodes(u.name) for u in job.units], lambda *a: None)  # type: ignore[arg-type,return-value]
    behind = sum(
        (len(u.candidates) - 1) * (len(replay.affected([i])[1]) + len(context.nodes(u.name)))
        for i, u in enumerate(job.units)
    )
    assert behind * batches <= table.evaluations <= (behind + 4 * nodes) * batches  # a few float runs, shared
    assert table.evaluations < 0.62 * plain
    late = [u for u in job.units if u.sources == ("head",)]
    alone = measure(context, Task(tuple(choices_of(late))))
    assert (
        alone.evaluations <= (nodes + 3 * (len(late[0].candidates) - 1)) * batches
    )  # the last unit costs next to nothing


def test_what_later_units_do_not_need_is_dropped() -> None:
    job = encoder_job()
    units = [nodes_of(job.graph, u) for u in job.units]
    replay = Replay(job.graph, units, Variants(job.graph, job.store))
    run = replay.start(0, job.samples.batches[0].inputs)
    for i in range(len(units)):
        replay.advance(run, i, replay.suffix([i]))
        assert len(run.values) <= 10, f"{len(run.values)} values alive at unit {i}"
    total = sum(len(n.outputs) for n in job.graph.nodes if n.op != "constant")
    assert total > 40


def test_a_change_that_changes_nothing_is_not_run() -> None:
    """Weights and inputs that bf16 holds exactly."""
    g = Graph()
    x = g.add_input("x", TensorType(DType.f32, (4, 32)))
    w = g.add_constant(np.eye(32, dtype=np.float32) * 2, "w")
    y = g.insert("linear", [x, w], name="exact").output
    g.outputs = [g.insert("tanh", [y], name="after").output]
    job = job_of(g, [{"x": np.arange(128, dtype=np.float32).reshape(4, 32) / 4}])
    context = Context(job.graph, job.units, job.samples.batches, job.references, job.scorer, job.store)
    found = measure(context, Task(((("exact", "bf16"),),)))
    assert found.evaluations == 2  # the float linear and its bf16 form; tanh did not run
    assert not found.losses[0][job.scorer.term].any()


def test_the_interpreter_evaluates_one_node() -> None:
    job = towers_job()
    interpreter = Interpreter(job.graph)
    node = next(n for n in job.graph.nodes if n.op == "relu")
    (result,) = interpreter.evaluate(node, [torch.tensor([-1.0, 2.0])], {})
    assert result.tolist() == [0.0, 2.0]
