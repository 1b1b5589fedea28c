"""The way of a model through the house, readable top to bottom: capture, passes, lower, build, package."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .assembly import Artifact, Built, joined, package
from .compiler.errors import UsageError
from .compiler.graph import Graph
from .compiler.pass_protocol import Instrument, Note, PassContext
from .compiler.pipeline import Pipeline
from .compiler.plan import Plan
from .compiler.profile import phase, profiling
from .compiler.target import Target, backend, find_target
from .passes import presets
from .passes.precision import CALIBRATION, PLAN, WEIGHTS, ResolvePlan
from .passes.weights.store import WeightStore

if TYPE_CHECKING:
    from .compiler.capture.captured import Captured
    from .decide import Wish
    from .search.workload import Workload

Progress = Callable[[str, int, int], None]


def build(
    graph: Graph,
    plan: Plan,
    target: Target,
    *,
    pipeline: Pipeline | None = None,
    calibration: Sequence[Mapping[str, np.ndarray]] = (),
    instruments: Sequence[Instrument] = (),
    progress: Progress | None = None,
    store: WeightStore | None = None,
) -> Built:
    """Everything after *decide*: a captured graph and a plan to machine code. Pure: ``graph`` is left as it is.

    Args:
        graph: as captured.
        plan: the precision of every part.
        target: with its level filled in.
        pipeline: passes in order; None is the target's preset.
        calibration: example inputs for weight methods that want some.
        instruments: around every pass.
        progress: called with (what, done, total).
        store: keeps what calibration found and the quantised weights, for the next build of the same model.

    Raises:
        UsageError: the plan does not fit the model or the target.
        PassError: a pass failed.
        LoweringError: the target has no kernel for a node.
        ToolchainError: there is no compiler, or it failed.
    """
    family = backend(target.backend)
    pipeline = preset(target) if pipeline is None else pipeline
    data = {PLAN: plan, CALIBRATION: list(calibration), WEIGHTS: store}
    context = PassContext(target=target, data=data, progress=progress)
    with profiling():
        with phase("passes"):
            working = graph.copy()
            working.meta["plan"] = plan.to_data()  # formats that carry metadata say by which plan they were made
            result = pipeline.run(working, context, instruments)
        with phase("lower"):
            program = family.lower(working, target)
        with phase("build"):
            binary, source = family.build(program, None if progress is None else partial(progress, "building kernels"))
    return Built(program, binary, source, working, result.notes, pipeline, context.data)


@dataclass(frozen=True)
class Prepared:
    """A model up to where precision is decided.

    Attributes:
        graph: the decision graph, in its final vocabulary and in float.
        rest: the passes from the one on that reads the plan.
        notes: of the passes that ran.
        pipeline: all of them.
    """

    graph: Graph
    rest: Pipeline
    notes: tuple[Any, ...]
    pipeline: Pipeline


def prepare(
    graph: Graph,
    target: Target,
    *,
    pipeline: Pipeline | None = None,
    pins: Plan | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The part of the way that is the same for every plan: ``build`` it with ``rest`` as the pipeline.

    Args:
        graph: as captured; left as it is.
        target: with its level filled in.
        pipeline: None is the target's preset.
        pins: precisions that are decided already; linears that they tell apart are not merged.
        progress: called with (what, done, total).

    Raises:
        UsageError: the pipeline never reads the plan; or a pin fits nothing.
    """
    pipeline = preset(target) if pipeline is None else pipeline
    working = graph.copy()
    context = PassContext(target=target, data={PLAN: pins or Plan(), CALIBRATION: []}, progress=progress)
    with phase("passes"):
        result = pipeline.until("quantize").run(working, context)
    return Prepared(working, pipeline.since("resolve-plan"), result.notes, pipeline)


def preset(target: Target) -> Pipeline:
    """The passes for ``target``, in order: those for every target with the target's own in their slots."""
    return presets.default().fill(backend(target.backend).passes(target))


def compile(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    task: str | None = None,
    dims: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    target: str | Target | Sequence[str | Target] = "cpu",
    precision: Any = None,
    passes: Iterable[Any] = (),
    pipeline: str | Pipeline | None = None,
    dump: str | os.PathLike[str] | None = None,
    check_each_pass: bool = False,
    progress: Progress | None = None,
    debug: bool = False,
    calibration: Any = None,
    evaluation: Any = None,
    score: Callable[..., Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    budget: str | None = None,
    workload: Workload | None = None,
    objective: str = "latency",
    effort: str | float = "standard",
    seed: int = 0,
    coverage: float = 0.99,
    confidence: float = 0.95,
    executor: str | None = None,
    journal: str | os.PathLike[str] | None = None,
    restart: bool = False,
    improved: Callable[[Artifact], None] | None = None,
    strict: bool = False,
) -> Artifact:
    """Compile a model into one file that runs without PyTorch.

    With a ``budget`` it is the cheapest version that is proved to meet it: precision is found per layer by measuring on this
    machine, and proved on samples that nothing was tuned on.

    Args:
        model: an ``nn.Module``, a ``torch.export.ExportedProgram``, the path of a ``.pt2`` file, that of a ``.onnx`` file or an
            ``onnx.ModelProto``, or that of a local Hugging Face folder (config.json and safetensors); the last three need no
            example: theirs is derived where none is given.
        args, kwargs: example inputs as ``torch.export.export`` takes them; a lone tensor or mapping means the only
            argument or the keywords. They fix the shapes that ``dynamic_shapes`` leaves fixed, and int8 linears are smoothed on
            them, so make them typical. Of an ONNX model arrays by name, or in the order of its inputs.
        dynamic_shapes: torch.export's notation; every symbol ends with bounds.
        task: what a Hugging Face folder is compiled for (``feature-extraction``, ``text-classification``, ...); None goes by the
            architecture that its config.json names.
        dims: run-time dimension by name -> a size, bounds (inclusive), or the name of the dimension that it equals:
            ``{"batch": 1, "seq": (1, 512)}``. Of an ONNX model also wider bounds than the 1 to 4096 that are assumed.
        fixed: inputs of an ONNX model that decide shapes -> what they are from now on: ``{"axes": [0]}``.
        target: ``cpu`` (this machine), ``cpu:portable``, ``cpu:avx2``, ``cpu:avx512-vnni``, ``cpu:avx512-bf16``; an execution
            provider of ONNX Runtime, as ``onnx:cpu`` or ``onnx:openvino``; or several, the preferred first: one artifact with a
            variant for each, of which the loader takes the first that runs where it is. The plan is one; with a budget it is
            searched for on the first target, and proved again on every other that runs here.
        precision: None (f32), a name (``bf16``, ``w8a8-dynamic``), ``{glob of source names: name}``, a plan, or a TOML file.
            With a budget: None or "auto" decides everything, anything else pins what it matches.
        passes: extra passes and rules; ``planish.after("fuse", mine)`` says where, else they run in the slot ``custom``.
        pipeline: replaces the preset: its text form, or a ``Pipeline``.
        dump: folder for the graph after every pass.
        check_each_pass: verify the graph and compare its numbers with the source's after every pass.
        progress: called with (what, done, total) as work proceeds.
        debug: show torch.export's own log.
        calibration: typical inputs: an iterable of samples, a DataLoader, a Hugging Face dataset, a ``.npz`` or ``.jsonl``
            path, ``FILE.py:callable``, a ``planish.Dataset`` that says which part is the label, or ``{"slice": any of these}``.
        evaluation: what the bar is proved on; None holds out half of ``calibration``.
        score: maps the outputs (and, with a second parameter, the inputs) to what the metric compares, rows first.
        metrics: metrics of your own by name, for the budget to speak of.
        budget: the bar: ``METRIC[(output)] OP NUMBER [mean | each | pNN | worst-slice]``, several joined by "and".
        workload: sizes and threads that are timed; None: the example's sizes, one thread.
        objective: ``latency``, ``size`` or ``latency then size``.
        effort: ``quick``, ``standard``, ``thorough``, or seconds.
        seed: of the splits and of every sampling.
        coverage, confidence: of the promise: "each" holds for at least this share of inputs, at this confidence.
        executor: where losses are estimated: None (here), ``processes:N``, ``dask://HOST:PORT``, ``ray``.
        journal: file that an interrupted search goes on from; None: one in the user's cache.
        restart: forget what the journal holds.
        improved: called with every artifact that is better than the ones before, the float model first.
        strict: what an execution provider leaves to another is an error; without, it is a warning in the notes.

    Returns:
        The artifact.

    Raises:
        CaptureError: the model cannot be captured; names every unsupported op with its source line.
        UsageError: an argument makes no sense.
        BudgetError: no plan meets the bar (says the best reached), or the variant of another target misses it.
        PassError, LoweringError, ToolchainError: see :func:`build`.
        LoweringError: also where ``strict``, and a node is not taken by the execution provider that it is for.
    """
    chosen = find_targets(target)
    plan = Plan.of(None if budget is not None and precision == "auto" else precision)
    wish: Wish | None = None
    if budget is not None:
        from .decide import Wish

        wish = Wish(
            budget, calibration, evaluation, score, metrics or {}, workload, objective, effort, seed, coverage, confidence,
            executor, None if journal is None else Path(journal), restart, improved,
        )  # fmt: skip
        wish.check()
    elif evaluation is not None or score is not None or metrics or executor is not None:
        raise UsageError("there is nothing to evaluate without a budget", 'for example budget="cosine >= 0.99 each"')
    passes = tuple(passes)
    variants = [(each, _pipeline(pipeline, each).extended(passes)) for each in chosen]
    variants[1:] = [(each, _adapting(order)) for each, order in variants[1:]]
    if progress is not None:
        progress("capturing the model", 0, 0)
    from .compiler.capture.intake import take_in

    with profiling() as profile:
        with phase("capture"):
            taken = take_in(
                model, args, kwargs, dynamic_shapes=dynamic_shapes, task=task, dims=dims, fixed=fixed, debug=debug
            )
        captured, model = taken.captured, taken.model
        if wish is not None:
            instruments = _instruments(captured, dump, check_each_pass)
            artifact = _searched(wish, captured, plan, variants, model, instruments, progress)
        else:
            batches = _batches(calibration, captured, progress)
            store = WeightStore() if len(variants) > 1 else None
            made = []
            for each, order in variants:
                built = build(
                    captured.graph,
                    plan,
                    each,
                    pipeline=order,
                    calibration=batches,
                    progress=progress,
                    instruments=_instruments(captured, _dump_of(dump, each, chosen), check_each_pass),
                    store=store,
                )
                with phase("package"):
                    made.append(package(captured, built, plan, each, model, batches))
            artifact = joined(made)
        with phase("place"):
            _place(artifact, strict)
    artifact.report["seconds"] = profile.seconds()
    artifact.report["profile"] = profile.to_data()
    artifact.companions = taken.companions
    artifact.examples = captured.examples
    notes: list[Any] = [*taken.notes, *captured.notes]
    if captured.made_up and calibration is None and any(rule.precision.activation.dtype == "i8" for rule in plan.rules):
        notes.append(Note("int8 was fitted to inputs that are made up; give calibration data", "warning"))
    artifact.report["notes"] = [*notes, *artifact.report["notes"]]
    return artifact


def _batches(calibration: Any, captured: Captured, progress: Progress | None) -> list[Mapping[str, np.ndarray]]:
    """What is calibrated on: the data, or else the example."""
    if calibration is None:
        return [captured.examples] if captured.examples else []
    from .search.samples import load_samples

    return [batch.inputs for batch in load_samples(calibration, captured.graph, progress=progress).batches]


def _searched(
    wish: Wish,
    captured: Captured,
    pins: Plan,
    variants: Sequence[tuple[Target, Pipeline]],
    model: Any,
    instruments: Sequence[Instrument],
    progress: Progress | None,
) -> Artifact:
    """The cheapest artifact that meets the bar on the first target, with a variant for each of the others.

    The instruments watch the passes of the first variant's build, once it is chosen.
    """
    from .decide import Other, decide

    (target, pipeline), *rest = variants
    prepared = prepare(captured.graph, target, pipeline=pipeline, pins=pins, progress=progress)

    def make(plan: Plan, batches: list[Mapping[str, np.ndarray]], store: WeightStore) -> tuple[Built, Artifact]:
        built = build(prepared.graph, plan, target, pipeline=prepared.rest, calibration=batches, store=store)
        built = replace(built, pipeline=prepared.pipeline, notes=(*prepared.notes, *built.notes))
        return built, package(captured, built, plan, target, model, batches)

    def other(target: Target, pipeline: Pipeline) -> Other:
        def make(plan: Plan, batches: list[Mapping[str, np.ndarray]], store: WeightStore) -> tuple[Built, Artifact]:
            built = build(captured.graph, plan, target, pipeline=pipeline, calibration=batches, store=store)
            return built, package(captured, built, plan, target, model, batches)

        return Other(target, make)

    artifact = decide(
        wish, prepared.graph, captured.output_names, captured.examples, pins, target, captured.source, make, progress,
        [other(*each) for each in rest],
    )  # fmt: skip
    if instruments:
        build(captured.graph, artifact.plan, target, pipeline=pipeline, instruments=instruments)
    return artifact


def find_targets(given: str | Target | Sequence[str | Target]) -> list[Target]:
    """One target or several, each with its level filled in.

    Raises:
        UsageError: there is none of the name, none at all, or one is given twice.
    """
    found = [find_target(each) for each in ([given] if isinstance(given, (str, Target)) else given)]
    if not found:
        raise UsageError("there is no target to compile for", "for example target='cpu'")
    if twice := next((each for each in found if found.count(each) > 1), None):
        raise UsageError(f"the target {twice} is given twice", "each variant is built once")
    return found


def _place(artifact: Artifact, strict: bool) -> None:
    """Ask who runs what of every variant that is divided among execution providers, and report it.

    Raises:
        LoweringError, UsageError: see ``Backend.placed``.
    """
    told = {}
    for unit in artifact.package.units:
        found = backend(Target.parse(unit.target).backend).placed(unit, strict=strict)
        if found is None:
            continue
        told[unit.name] = found
        if away := found["elsewhere"]:
            shown = "; ".join(away[:3]) + (f"; and {len(away) - 3} more" if len(away) > 3 else "")
            count = "a node" if len(away) == 1 else f"{len(away)} nodes"
            text = f"{found['provider']} leaves {count} of {unit.name} to others: {shown}"
            artifact.report["notes"].append(Note(text, "warning", by="place"))
    if told:
        artifact.report["placement"] = told
        assert isinstance(artifact.package.report, dict)
        artifact.package.report["placement"] = told


def _dump_of(dump: str | os.PathLike[str] | None, target: Target, targets: Sequence[Target]) -> Path | None:
    """The folder for the graphs of one target: its own where there are several."""
    if dump is None or len(targets) == 1:
        return None if dump is None else Path(dump)
    return Path(dump) / str(target).replace(":", "-")


def _pipeline(given: str | Pipeline | None, target: Target) -> Pipeline:
    if given is None:
        return preset(target)
    if isinstance(given, Pipeline):
        return given
    return Pipeline.parse(given, known_passes(target))


def _adapting(pipeline: Pipeline) -> Pipeline:
    """``pipeline`` for a plan that was made for another target: what its own lacks becomes the nearest that it has."""
    return Pipeline(tuple(replace(i, nearest=True) if isinstance(i, ResolvePlan) else i for i in pipeline.items))


def known_passes(target: Target | None = None) -> dict[str, Callable[..., Any]]:
    """Every pass there is by name: those for every target, the target's own, and those of plugins.

    Raises:
        UsageError: two passes have the same name.
    """
    from .compiler.plugins import registered_passes

    own = (
        {}
        if target is None
        else {p.name: type(p) for ps in backend(target.backend).passes(target).values() for p in ps}
    )
    return {**registered_passes({**presets.PASSES, **own})}


def _instruments(captured: Captured, dump: str | os.PathLike[str] | None, check: bool) -> list[Instrument]:
    from .compiler.instruments import Dump, Verify
    from .compiler.numeric_check import NumericCheck

    found: list[Instrument] = []
    if dump is not None:
        found.append(Dump(Path(dump)))
    if check:
        if not captured.examples:
            raise UsageError("the numbers cannot be checked without example inputs", "give args or kwargs")
        found.extend([Verify(), NumericCheck(captured.examples)])
    return found
