"""``planish compile``: from a source to one file, and what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..compiler.artifact.companions import check_beside, folder_beside
from ..compiler.errors import UsageError
from ..compiler.profile import phase, profiling
from .extra import load_ops, load_pass
from .inspect import launches_in_words
from .needs import runs_on
from .options import Debug, Json, Model, Task, parse_precision
from .output import print_facts, print_heading, print_json, quoted, seconds, size
from .profile import print_profile
from .result import Measured, measure_result
from .source import Source, load_source


def compile_model(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="X.planish", help="The file to write (default: in this folder)."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", "-p", metavar="[GLOB=]PRECISION", help="f32, bf16 or w8a8-dynamic; for all or for some."
        ),
    ] = None,
    task: Task = None,
    target: Annotated[str, typer.Option("--target", help="What to compile for; planish targets lists them.")] = "cpu",
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
    and its tokenizer is copied to X.tokenizer beside X.planish. Nothing is downloaded.
    """
    plan = parse_precision(precision or ())
    passes = [load_pass(text, target) for text in extra or ()]
    if output is not None:
        check_output(output)
    source = load_source(model, task)
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
    with profiling() as profile, progress(silent=json) as report:
        artifact = compile_source(
            source.model,
            source.args,
            source.kwargs,
            dynamic_shapes=source.dynamic_shapes,
            target=target,
            precision=plan,
            passes=passes,
            pipeline=pipeline,
            dump=dump,
            check_each_pass=check_each_pass,
            progress=report,
            debug=debug,
        )
        artifact.companions = source.companions
        with phase("write"):
            artifact.save(path)
    artifact.report["profile"] = profile.to_data()
    took = time.perf_counter() - start
    result = measure_result(path, source) if measure else None
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
            }
        )
        return
    if profile_compile:
        print_profile(artifact.report["profile"])
    show(path, artifact, took, result, source, dump)


def check_output(path: Path) -> None:
    """Raise a UsageError where ``path`` cannot become an artifact: before the work, not after it."""
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder", f"write -o {path / 'model.planish'}")
    if path.suffix in (".py", ".pt2"):
        raise UsageError(f"-o {str(path)!r} would overwrite a source", f"write -o {path.stem}.planish")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {str(path.resolve().parent)!r} to write {path.name} to", "make it first")


def show(path: Path, artifact: Any, took: float, result: Measured | None, source: Source, dump: Path | None) -> None:
    """What came of it: speed, size, quality, where it runs, and the next command."""
    print_heading(f"{path} compiled in {seconds(took)}")
    facts: list[tuple[str, str]] = []
    if result is not None:
        facts += result.facts()
    facts.append(
        (
            "size",
            size(path.stat().st_size)
            + (f"; the source's weights are {size(result.source_bytes)}" if result and result.source_bytes else ""),
        )
    )
    facts.append(("kernels", kernels(artifact.report, path)))
    facts.append(("runs on", runs_on(artifact.manifest)))
    notes = [note for note in artifact.report.get("notes", ()) if _kind(note) == "warning"]
    facts += [("warning", str(note)) for note in notes[:5]]
    if dump is not None:
        facts.append(("dump", f"the graph after each pass is in {dump}"))
    if source.companions:
        facts.append(("beside it", f"{folder_beside(path)} with {', '.join(source.companions)}"))
    task = f" --task {source.task}" if source.task else ""
    facts.append(("next", f"planish verify {quoted(path)} --against {quoted(source.text)}{task}"))
    print_facts(facts)


def kernels(report: Mapping[str, Any], path: Path) -> str:
    """How many kernels run the model, and where to read why that many."""
    told = launches_in_words(report)
    return f"{told} (planish inspect {quoted(path)} --unfused says why)" if report.get("unfused") else told


def _kind(note: Any) -> str:
    return str(note.get("kind", "") if isinstance(note, dict) else getattr(note, "kind", ""))


@contextlib.contextmanager
def progress(silent: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A line on the terminal that says what is being done; nothing where stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if silent or not console.is_terminal:
        yield None
        return
    with console.status("capturing the model") as status:

        def report(what: str, done: int, total: int) -> None:
            if what:
                status.update(f"{what} ({done + 1} of {total})" if total else what)

        yield report
