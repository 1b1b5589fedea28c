"""``planish bisect``: which pass, layer or input carries the error of a compiled model."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..compiler.errors import UsageError
from .options import Debug, Dim, Fix, Json, Model, Task, parse_dim_wishes, parse_fixed, parse_precision
from .output import print_facts, print_heading, print_json, print_table, quoted
from .progress import Report, progress
from .search_options import Calibration, PlanFile, ScoreOption, data_source, function, plan_argument
from .source import Source, load_source

if TYPE_CHECKING:
    from ..search.bisect import Bisection

#: Samples that ranges and weights are found on, as a search at its standard effort does.
CALIBRATION = 64
#: Units and samples that are shown; --json has all of them.
MOST_UNITS, MOST_SAMPLES = 12, 5


def bisect(
    model: Model,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", "-p", metavar="[GLOB=]PRECISION", help="As for planish compile."),
    ] = None,
    plan: PlanFile = None,
    calibration: Calibration = None,
    score: ScoreOption = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric", metavar="METRIC", help="A metric, or NAME=FILE.py:callable (default: relative-error)."
        ),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples to look at.")] = 16,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of samples.")] = 0,
    target: Annotated[str, typer.Option("--target", help="What to compile for.")] = "cpu",
    task: Task = None,
    dim: Dim = None,
    fix: Fix = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the pass, the layer or the input that carries the error of a plan.

    Runs the graph after every pass, every layer alone and with all before it at its precision, and the compiled model, each
    against the float outputs. Ends with one sentence, and with the command that leaves the guilty layer in float.
    """
    asked = plan_argument(parse_precision(precision or ()), plan, None)
    if asked is None:
        raise UsageError(
            "a model in float has no error to look for", "give --precision w8a8-dynamic, or --plan PLAN.toml"
        )
    if not calibration:
        raise UsageError("an error is looked for on data", "give --calibration FILE.py:callable, IN.npz or IN.jsonl")
    data = data_source("--calibration", calibration)
    bar, metrics = _metric(metric)
    source = load_source(model, task, parse_dim_wishes(dim), parse_fixed(fix))
    with progress(silent=json) as report:
        found = _search(source, asked, data, score, bar, metrics, samples, seed, target, report, debug)
    command = _command(source, precision or (), plan, found.pins)
    if json:
        print_json(as_data(found, command))
        return
    show(found, command)


def _metric(text: str | None) -> tuple[str, dict[str, Any]]:
    """A bar that any metric can be judged by (what it asks for plays no part), and metrics of the user's own."""
    from ..search.metrics import metric as named

    name, equals, place = (text or "relative-error").partition("=")
    if equals:
        own = function("a metric", place)
        upward = getattr(own, "better", "lower") == "higher"  # what a function does not say of itself is an error
        return f"{name} {'>=' if upward else '<='} 0 mean", {name: own}
    return f"{name} {'>=' if named(name).better == 'higher' else '<='} 0.5 mean", {}


def _search(
    source: Source, asked: Any, data: Any, score: str | None, bar: str, metrics: dict[str, Any], count: int, seed: int,
    target: str, report: Report | None, debug: bool,
) -> Bisection:  # fmt: skip
    from ..assembly import package
    from ..compiler.capture.intake import take_in
    from ..compiler.plan import Plan
    from ..compiler.profile import profiling
    from ..compiler.target import find_target
    from ..driver import build, prepare
    from ..passes.weights.store import WeightStore
    from ..search.bisect import Trail, bisection, planned, unit_errors
    from ..search.budget import Bar
    from ..search.metrics import Scorer
    from ..search.samples import load_samples
    from ..search.sensitivity import Job
    from ..search.units import find_units

    chosen, plan, parsed = find_target(target), Plan.of(asked), Bar.parse(bar, metrics)
    with profiling():
        captured = take_in(
            source.model, source.args, source.kwargs, dynamic_shapes=source.dynamic_shapes, dims=source.dims,
            fixed=source.fixed, debug=debug,
        ).captured  # fmt: skip
        given = load_samples(data, captured.graph, progress=report)
        looked_at = given.sample(count, seed)
        batches = [batch.inputs for batch in given.sample(CALIBRATION, seed).batches]
        scorer, store = Scorer(parsed, score, captured.output_names), WeightStore()
        trail = Trail(looked_at, scorer, report)
        built = build(
            captured.graph, plan, chosen, calibration=batches, instruments=[trail], progress=report, store=store
        )
        artifact = package(captured, built, plan, chosen, source.model, batches)
        if report is not None:
            report("running the compiled model", 0, 0)
        with artifact.load(threads=1) as model:
            compiled = [_widened(model.flat(batch.inputs), built.graph) for batch in looked_at.batches]
        graph = prepare(captured.graph, chosen, pins=plan).graph
        units = planned(find_units(graph, chosen, plan))
        job = Job(graph, units, looked_at, trail.references, scorer, store, report, seed=seed)
        return bisection(trail, unit_errors(job), compiled, str(parsed.terms[0]))


def _widened(arrays: Any, graph: Any) -> list[Any]:
    """Outputs with bf16 as f32, as the interpreter's are."""
    from ..compiler.types import DType, bf16_to_float

    return [bf16_to_float(a) if v.dtype is DType.bf16 else a for v, a in zip(graph.outputs, arrays, strict=True)]


def _command(source: Source, precision: Any, plan: Path | None, pins: tuple[str, ...]) -> str:
    """What would leave the guilty unit in float; empty where there is none."""
    if not pins:
        return ""
    if plan is not None:
        rules = "\n".join(f'[[rule]]\nmatch = "{name}"\nprecision = "f32"' for name in pins)
        return f"put in front of the other rules of {plan}:\n{rules}"
    options = [*(f"{name}=f32" for name in pins), *precision]
    task = f" --task {source.task}" if source.task else ""
    return f"planish compile {quoted(source.text)}{task} " + " ".join(f"-p {shlex.quote(o)}" for o in options)


def as_data(found: Bisection, command: str) -> dict[str, Any]:
    """Everything as JSON-able data."""
    jump = found.jump
    return {
        "metric": found.term.split()[0],
        "passes": [{**dataclasses.asdict(s), "broke": s.broke} for s in found.steps],
        "first_jump": jump.name if jump else None,
        "units": [{**dataclasses.asdict(u), "share": found.share(u)} for u in found.units],
        "samples": [dataclasses.asdict(s) for s in found.samples],
        "kernels": {"distance": found.kernels[0], "allowed": found.kernels[1]},
        "loss": found.losses,
        "verdict": found.verdict,
        "pins": list(found.pins),
        "command": command,
    }


def show(found: Bisection, command: str) -> None:
    """The same for people: passes, units, samples, kernels, the verdict."""
    term, jump = found.term, found.jump
    name = term.split()[0]
    print_heading("after each pass")
    rows = [
        (
            s.name if len(s.name) <= 48 else s.name[:45] + "...", str(s.nodes), f"{s.distance:.2g}", _loss(s.losses[term]),
            "changed the numbers" if s.broke else "here the loss rises most" if s is jump else "",
        )
        for s in found.steps
    ]  # fmt: skip
    print_table(rows, ("pass", "nodes", "off by", f"loss in {name}", ""), right=(1, 2, 3))
    if found.units:
        print_heading("each unit alone, and with all before it")
        parts = [
            (u.name, u.precision, _loss(u.alone[term]), f"{found.share(u):.0%}", _loss(u.together[term]), _signed(u.added[term]))
            for u in found.ranked[:MOST_UNITS]
        ]  # fmt: skip
        print_table(parts, ("unit", "precision", "alone", "share", "up to here", "adds"), right=(2, 3, 4, 5))
        more = len(found.units) - MOST_UNITS
        if more > 0:
            print_facts([("", f"{more} more lose less; --json has them all")])
    print_heading("samples that fared worst")
    print_table(
        [(s.name, s.slice, *(f"{v:.6g}" for v in s.scores.values())) for s in found.samples[:MOST_SAMPLES]],
        ("sample", "slice", name), right=(2,),
    )  # fmt: skip
    distance, allowed = found.kernels
    print_facts([("kernels", f"{distance:.2g} of the norm away from the last graph; up to {allowed:.0e} is rounding")])
    print_heading(found.verdict)
    if command:
        print_facts([("next", command)])


def _loss(value: float) -> str:
    return f"{value:.3g}"


def _signed(value: float) -> str:
    return f"{value:+.2g}"
