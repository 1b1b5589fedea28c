"""The way of a model through the house, readable top to bottom: capture, passes, lower, build, package."""

from __future__ import annotations

import inspect
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .compiler.artifact.companions import beside
from .compiler.artifact.provenance import hash_bytes, tool_versions
from .compiler.artifact.writer import HostPart, Package, UnitPart
from .compiler.custom_ops import custom_op
from .compiler.errors import UsageError
from .compiler.graph import Graph
from .compiler.ops import schema
from .compiler.pass_protocol import Instrument, PassContext
from .compiler.pipeline import Pipeline, describe
from .compiler.plan import Plan
from .compiler.profile import phase, profiling
from .compiler.report import grouped, near_misses, op_counts
from .compiler.target import Target, backend, find_target
from .passes import presets
from .passes.precision import CALIBRATION, EXPANSION, PLAN, PRECISION, WEIGHTS

if TYPE_CHECKING:
    from .compiler.capture.torch_export import Captured
    from .decide import Wish
    from .passes.weights.store import WeightStore
    from .runtime.model import Model
    from .search.workload import Workload

Progress = Callable[[str, int, int], None]


@dataclass
class Artifact:
    """A compiled model: save it, or load it right away.

    Attributes:
        package: what goes into the file.
        graph: the graph as it was lowered, for inspection.
        report: how the compilation went: ``notes`` of the passes, ``seconds`` per phase, ``profile`` (phases within
            phases, with memory: ``compiler/profile.py``), how many ``launches``, and what stayed ``unfused`` and why
            (``compiler/report.py``).
        companions: name -> file of what :meth:`save` puts beside it: tokenizer and preprocessor of a Hugging Face folder.
    """

    package: Package
    graph: Graph
    report: dict[str, Any] = field(default_factory=dict)
    companions: Mapping[str, Path] = field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the file says about itself (``compiler/artifact/manifest.py`` lists the keys)."""
        return self.package.manifest

    @property
    def plan(self) -> Plan:
        """The precision plan the model was compiled with."""
        return Plan.of(self.report["plan"]) if self.report.get("plan") else Plan()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact: whole or not at all; and ``model.tokenizer/`` beside ``model.planish`` if there are companions.

        Raises:
            PlanishError: it cannot be written there.
        """
        with beside(path, self.companions):
            self.package.save(path)

    def load(self, threads: int | None = None, concurrency: int = 1) -> Model:
        """The model, running from a private temporary copy.

        Raises:
            ArtifactError: it needs an ISA that this CPU lacks.
        """
        from .runtime import load

        descriptor, path = tempfile.mkstemp(suffix=".planish")
        os.close(descriptor)
        try:
            self.package.save(path)
            return load(path, threads=threads, concurrency=concurrency)
        finally:
            os.unlink(path)  # the loaded model keeps the file open


@dataclass(frozen=True)
class Built:
    """One variant: the program, its shared object and text."""

    program: Any
    binary: bytes
    source: str
    graph: Graph
    notes: tuple[Any, ...]
    pipeline: Pipeline
    data: dict[str, Any]


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
    target: str | Target = "cpu",
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
) -> Artifact:
    """Compile a model into one file that runs without PyTorch.

    With a ``budget`` it is the cheapest version that is proved to meet it: precision is found per layer by measuring on this
    machine, and proved on samples that nothing was tuned on.

    Args:
        model: an ``nn.Module``, a ``torch.export.ExportedProgram``, the path of a ``.pt2`` file, or that of a local Hugging Face
            folder (config.json and safetensors), whose example inputs and dynamic shapes are derived where none are given.
        args, kwargs: example inputs as ``torch.export.export`` takes them; a lone tensor or mapping means the only
            argument or the keywords. They fix the shapes that ``dynamic_shapes`` leaves fixed, and int8 linears are smoothed on
            them, so make them typical.
        dynamic_shapes: torch.export's notation; every symbol ends with bounds.
        task: what a Hugging Face folder is compiled for (``feature-extraction``, ``text-classification``, ...); None goes by the
            architecture that its config.json names.
        target: ``cpu`` (this machine), ``cpu:portable``, ``cpu:avx2``, ``cpu:avx512-vnni``, ``cpu:avx512-bf16``.
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

    Returns:
        The artifact.

    Raises:
        CaptureError: the model cannot be captured; names every unsupported op with its source line.
        UsageError: an argument makes no sense.
        BudgetError: no plan meets the bar; says the best reached.
        PassError, LoweringError, ToolchainError: see :func:`build`.
    """
    chosen = find_target(target)
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
    order = _pipeline(pipeline, chosen).extended(passes)
    if progress is not None:
        progress("capturing the model", 0, 0)
    from .compiler.capture.huggingface import is_folder, load_folder
    from .compiler.capture.torch_export import capture

    companions: Mapping[str, Path] = {}
    folder_notes: list[str] = []
    if isinstance(model, (str, os.PathLike)) and is_folder(model):
        folder = load_folder(model, task)
        model, companions, folder_notes = folder.model, folder.companions, folder.notes
        if not args and not kwargs:
            kwargs, dynamic_shapes = folder.kwargs, dynamic_shapes or folder.dynamic_shapes
    elif task is not None:
        raise UsageError("a task is only for a Hugging Face folder", "leave it out")
    with profiling() as profile:
        with phase("capture"):
            captured = capture(model, args, kwargs, dynamic_shapes=dynamic_shapes, debug=debug)
        instruments = _instruments(captured, dump, check_each_pass)
        if wish is not None:
            artifact = _searched(wish, captured, plan, chosen, order, model, instruments, progress)
        else:
            batches = _batches(calibration, captured, progress)
            built = build(
                captured.graph,
                plan,
                chosen,
                pipeline=order,
                calibration=batches,
                progress=progress,
                instruments=instruments,
            )
            with phase("package"):
                artifact = package(captured, built, plan, chosen, model, batches)
    artifact.report["seconds"] = profile.seconds()
    artifact.report["profile"] = profile.to_data()
    artifact.companions = companions
    artifact.report["notes"] = [*folder_notes, *captured.notes, *artifact.report["notes"]]
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
    target: Target,
    pipeline: Pipeline,
    model: Any,
    instruments: Sequence[Instrument],
    progress: Progress | None,
) -> Artifact:
    """The cheapest artifact that meets the bar; the instruments watch the passes of the one that is chosen."""
    from .decide import decide

    prepared = prepare(captured.graph, target, pipeline=pipeline, pins=pins, progress=progress)

    def make(plan: Plan, batches: list[Mapping[str, np.ndarray]], store: WeightStore) -> tuple[Built, Artifact]:
        built = build(prepared.graph, plan, target, pipeline=prepared.rest, calibration=batches, store=store)
        built = replace(built, pipeline=prepared.pipeline, notes=(*prepared.notes, *built.notes))
        return built, package(captured, built, plan, target, model, batches)

    artifact = decide(
        wish, prepared.graph, captured.output_names, captured.examples, pins, target, captured.source, make, progress
    )
    if instruments:
        build(captured.graph, artifact.plan, target, pipeline=pipeline, instruments=instruments)
    return artifact


def _pipeline(given: str | Pipeline | None, target: Target) -> Pipeline:
    if given is None:
        return preset(target)
    if isinstance(given, Pipeline):
        return given
    return Pipeline.parse(given, known_passes(target))


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


def package(
    captured: Captured,
    built: Built,
    plan: Plan,
    target: Target,
    model: Any,
    calibration: Sequence[Mapping[str, np.ndarray]],
) -> Artifact:
    """Put binary, weights, manifest and report together."""
    from .backends.cpu import isa, toolchain
    from .codegen.unit import describe as describe_unit

    family = backend(target.backend)
    host, host_source = family.build_host()
    level = isa.level(target.level)
    machine = platform.machine() if level.machine == "any" else level.machine
    unit = UnitPart(
        f"{target.backend}-{target.level}", built.binary, built.source, describe_unit(built.program),
        built.program.weights, machine, level.cpu_flags, isa.compiler_flags(target.level),
    )  # fmt: skip
    notes = [str(n) for n in built.notes]
    launches, apart = family.explain(built.graph, built.program)
    report = {
        "notes": notes,
        "launches": launches.as_dict(),
        "graph": {"captured": op_counts(captured.graph), "lowered": op_counts(built.graph)},
        "unfused": [group.as_dict() for group in grouped([*apart, *near_misses(built.notes)])],
        "plan": plan.to_data(),
        "precision": built.data.get(PRECISION, {}),
    }
    content = Package(
        name=captured.class_name or captured.graph.name,
        units=[unit],
        hosts=[HostPart(host, host_source, machine)],
        structure=captured.structure,
        plan={
            "rules": plan.to_data(),
            "expansion": built.data.get(EXPANSION, {}),
            "layers": built.data.get(PRECISION, {}),
        },
        pipeline=str(built.pipeline),
        passes={describe(p): p.version for p in built.pipeline},
        ops={op: schema(op).version for op in sorted(_ops(built.graph) | _custom(captured.graph))},
        tools=tool_versions(toolchain.find_compiler().version),
        source={"sha256": captured.source},
        calibration=_hash_of(calibration),
        absent_inputs=_absent(captured, model),
        report=report,
    )
    return Artifact(content, built.graph, {**report, "notes": list(built.notes)})


def _ops(graph: Graph) -> set[str]:
    found = {n.op for n in graph.nodes}
    for node in graph.nodes:
        for region in node.regions:
            found |= _ops(region)
    return found


def _custom(graph: Graph) -> set[str]:
    """Registered ops of the source: those taken apart are not in the graph any more, but the artifact stands on them."""
    return {n.op for n in graph.nodes if custom_op(n.op) is not None}


def _hash_of(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any] | None:
    if not batches:
        return None
    parts = [part for batch in batches for name in sorted(batch) for part in
             (name.encode(), str(batch[name].shape).encode(), np.ascontiguousarray(batch[name]).tobytes())]  # fmt: skip
    return {"sha256": hash_bytes(*parts), "batches": len(batches)}


def _absent(captured: Captured, model: Any) -> list[str]:
    """Parameters of the source's forward that this artifact was compiled without."""
    forward = getattr(model, "forward", None)
    if forward is None:
        return []
    given = {str(i.path[1]) for i in captured.inputs if len(i.path) > 1} | {i.name for i in captured.inputs}
    positional = {i.path[1] for i in captured.inputs if i.path[0] == "args" and len(i.path) > 1}
    return [
        name for position, (name, p) in enumerate(inspect.signature(forward).parameters.items())
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in given and position not in positional
    ]  # fmt: skip
