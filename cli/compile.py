"""``planish compile``: from a source to one file, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..compiler.artifact.companions import check_beside, folder_beside
from ..compiler.errors import BudgetError, UsageError
from ..compiler.profile import phase, profiling
from .early import EarlyResults, Interrupted
from .extra import load_ops, load_pass
from .inspect import launches_in_words
from .needs import runs_on
from .options import Debug, Dim, Fix, Json, Model, Task, parse_dim_wishes, parse_fixed, parse_precision
from .output import print_facts, print_heading, print_json, quoted, seconds, size
from .profile import print_profile
from .progress import progress
from .result import Measured, measure_result
from .search_options import (
    Budget,
    Calibration,
    Confidence,
    Coverage,
    EffortOption,
    Evaluation,
    ExecutorOption,
    Metrics,
    Objective,
    PlanFile,
    Restart,
    SavePlan,
    ScoreOption,
    SearchThreads,
    Seed,
    Workloads,
    plan_argument,
    search_arguments,
)
from .source import Source, load_source

#: Notes of a kind that are shown.
MOST_NOTES = 5


def compile_model(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="X.planish", help="The file to write (default: in this folder)."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            "-p",
            metavar="[GLOB=]PRECISION",
            help="f32, bf16, w8a8-dynamic, ...; for all or for some. With a budget it pins; auto decides the rest.",
        ),
    ] = None,
    task: Task = None,
    dim: Dim = None,
    fix: Fix = None,
    budget: Budget = None,
    calibration: Calibration = None,
    evaluation: Evaluation = None,
    score: ScoreOption = None,
    metric: Metrics = None,
    workload: Workloads = None,
    threads: SearchThreads = None,
    objective: Objective = None,
    effort: EffortOption = None,
    seed: Seed = None,
    coverage: Coverage = None,
    confidence: Confidence = None,
    executor: ExecutorOption = None,
    restart: Restart = False,
    plan: PlanFile = None,
    save_plan: SavePlan = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="What to compile for (default: cpu); several times: a variant for each, the preferred first.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="What an execution provider leaves to another one is an error.")
    ] = False,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            "--pass", metavar="PASS[@after=NAME]", help="One more pass: FILE.py:Class, or name{option=value}."
        ),
    ] = None,
    ops: Annotated[
        list[str] | None,
        typer.Option("--ops", metavar="FILE.py", help="A file or module that registers custom ops of the model."),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", metavar="TEXT", help="Passes in place of the usual ones.")
    ] = None,
    dump: Annotated[
        Path | None, typer.Option("--dump", metavar="DIR", help="Write the graph after each pass there.")
    ] = None,
    check_each_pass: Annotated[
        bool, typer.Option("--check-each-pass", help="Check the numbers after each pass.")
    ] = False,
    profile_compile: Annotated[
        bool, typer.Option("--profile-compile", help="Show where the time and the memory of the compilation go.")
    ] = False,
    measure: Annotated[bool, typer.Option(help="Measure speed and quality at the end.")] = True,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a model into one file that runs without PyTorch.

    The callable returns (module, args[, kwargs[, dynamic_shapes]]). For a folder, inputs and bounds are derived and printed,
    and its tokenizer is copied to X.tokenizer beside X.planish. Nothing is downloaded. For an ONNX file an example is made up;
    --dim fixes or bounds what varies, for every kind of model.

    With --budget and --calibration the precision of every layer is searched for: the fastest (or smallest) model, measured
    here, that is proved to meet the budget. An interrupted search goes on when the same command is run again.
    """
    asked = plan_argument(parse_precision(precision or ()), plan, budget)
    wanted = search_arguments(
        calibration=calibration, evaluation=evaluation, score=score, metrics=metric, budget=budget, workload=workload,
        threads=threads, objective=objective, effort=effort, seed=seed, coverage=coverage, confidence=confidence,
        executor=executor, restart=restart,
    )  # fmt: skip
    if save_plan is not None:
        check_plan_file(save_plan)
    targets = target or ["cpu"]
    passes = [load_pass(text, targets[0]) for text in extra or ()]
    if output is not None:
        check_output(output)
    source = load_source(model, task, parse_dim_wishes(dim), parse_fixed(fix))
    for text in ops or ():  # behind the model's file, whose folder is on the path now
        load_ops(text)
    path = output or Path(f"{source.name}.planish")
    check_output(path)
    check_beside(path, source.companions)
    if source.facts and not json:
        print_heading(f"{source.text} as it is compiled")
        print_facts(source.facts)

    from ..driver import compile as compile_source

    start = time.perf_counter()
    early = EarlyResults(path)
    if budget is not None:
        wanted["improved"] = early
    try:
        with profiling() as profile, progress(silent=json) as report:
            artifact = compile_source(
                source.model,
                source.args,
                source.kwargs,
                dynamic_shapes=source.dynamic_shapes,
                dims=source.dims,
                fixed=source.fixed,
                target=targets,
                strict=strict,
                precision=asked,
                passes=passes,
                pipeline=pipeline,
                dump=dump,
                check_each_pass=check_each_pass,
                progress=report,
                debug=debug,
                **wanted,
            )
            artifact.companions = source.companions
            with phase("write"):
                artifact.save(path)
                if save_plan is not None:
                    save_plan.write_text(artifact.plan.to_toml(), encoding="utf-8")
        early.done()
    except KeyboardInterrupt:
        if budget is None:
            raise
        early.done()
        raise interrupted(path, early.written) from None
    except BaseException as error:
        early.take_back()
        if isinstance(error, BudgetError) and error.hint is None:
            error.hint = "ask for less, or for --effort thorough"
        raise
    artifact.report["profile"] = profile.to_data()
    took = time.perf_counter() - start
    source = source.with_example(artifact.examples)
    result = measure_result(path, source, *workload_of(artifact.report)) if measure else None
    if json:
        print_json(
            {
                "artifact": str(path),
                "seconds": took,
                "bytes": path.stat().st_size,
                "folder": source.derived,
                "companions": str(folder_beside(path)) if source.companions else None,
                "manifest": artifact.manifest,
                "report": artifact.report,
                "measured": result.as_dict() if result else None,
                "dump": str(dump) if dump else None,
                "plan": artifact.plan.to_data(),
                "plan_file": str(save_plan) if save_plan else None,
            }
        )
        return
    if profile_compile:
        print_profile(artifact.report["profile"])
    show(path, artifact, took, result, source, dump, save_plan)


def workload_of(report: Mapping[str, Any]) -> tuple[Mapping[str, int] | None, int | None]:
    """Sizes and threads at which a search timed first; None and None where there was none."""
    found = report.get("search", {}).get("workload")
    return (found["dims"][0], found["threads"]) if found else (None, None)


def check_output(path: Path) -> None:
    """Raise a UsageError where ``path`` cannot become an artifact: before the work, not after it."""
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder", f"write -o {path / 'model.planish'}")
    if path.suffix in (".py", ".pt2", ".onnx"):
        raise UsageError(f"-o {str(path)!r} would overwrite a source", f"write -o {path.stem}.planish")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {str(path.resolve().parent)!r} to write {path.name} to", "make it first")


def check_plan_file(path: Path) -> None:
    """Raise a UsageError where ``path`` cannot become a plan."""
    if path.suffix != ".toml":
        raise UsageError(f"--save-plan {str(path)!r} is no TOML file", f"write {path.stem or 'plan'}.toml")
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {str(path.resolve().parent)!r} to write {path.name} to", "make it first")


def interrupted(path: Path, written: bool) -> Interrupted:
    """What a user who stopped a search is told."""
    kept = f"; {path} holds the best so far, which is not proved yet" if written else ""
    return Interrupted(f"interrupted, and what was measured is kept{kept}", "run the same command again to go on")


def show(
    path: Path, artifact: Any, took: float, result: Measured | None, source: Source, dump: Path | None,
    plan_file: Path | None = None,
) -> None:  # fmt: skip
    """What came of it: what was proved where something was searched for; speed, size, quality, where it runs, what is next."""
    print_heading(f"{path} compiled in {seconds(took)}")
    facts: list[tuple[str, str]] = []
    searched = "search" in artifact.report
    if searched:
        from .search_result import search_facts

        print_facts(search_facts(artifact.report))
        print_heading("the file")
    if result is not None:
        facts += [(name, words) for name, words in result.facts() if not searched or name == "speed"]
    facts.append(
        (
            "size",
            size(path.stat().st_size)
            + (f"; the source's weights are {size(result.source_bytes)}" if result and result.source_bytes else ""),
        )
    )
    facts.append(("kernels", kernels(artifact.report, path)))
    facts.append(("runs on", runs_on(artifact.manifest)))
    facts += placement(artifact.report)
    for kind in ("change", "warning"):
        notes = [note for note in artifact.report.get("notes", ()) if _kind(note) == kind]
        facts += [(kind, str(note)) for note in notes[:MOST_NOTES]]
        if len(notes) > MOST_NOTES:
            facts.append(("", f"and {len(notes) - MOST_NOTES} more; --json lists them"))
    facts += [("example", str(note)) for note in artifact.report.get("notes", ()) if _kind(note) == "example"]
    if dump is not None:
        facts.append(("dump", f"the graph after each pass is in {dump}"))
    if source.companions:
        facts.append(("beside it", f"{folder_beside(path)} with {', '.join(source.companions)}"))
    if plan_file is not None:
        facts.append(
            (
                "plan",
                f"{plan_file}; planish compile {quoted(source.text)} --plan {quoted(plan_file)} builds exactly this",
            )
        )
    if searched:
        facts.append(
            ("why", f"planish explain {quoted(path)}, or planish report {quoted(path)} -o {quoted(path.stem)}.html")
        )
    task = f" --task {source.task}" if source.task else ""
    facts.append(("next", f"planish verify {quoted(path)} --against {quoted(source.text)}{task}"))
    print_facts(facts)


def placement(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who runs how much of each variant for ONNX Runtime."""
    facts = []
    for unit, told in report.get("placement", {}).items():
        if told["why_not"]:
            facts.append(("not opened", f"{unit}: {told['why_not']}"))
        elif told["nodes"]:
            shares = ", ".join(f"{count} nodes on {provider}" for provider, count in told["nodes"].items())
            facts.append(("who runs", f"{unit}: {shares} ({told['version']})"))
    return facts


def kernels(report: Mapping[str, Any], path: Path) -> str:
    """How many kernels run the model, and where to read why that many."""
    told = launches_in_words(report)
    return f"{told} (planish inspect {quoted(path)} --unfused says why)" if report.get("unfused") else told


def _kind(note: Any) -> str:
    return str(note.get("kind", "") if isinstance(note, dict) else getattr(note, "kind", ""))
