"""The options of a search, and what they mean as arguments of ``planish.compile``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..compiler.errors import UsageError
from ..compiler.options import nearest
from ..compiler.plan import Plan, Rule
from ..compiler.precision import find_precision
from ..compiler.python_file import near_file
from .options import parse_dims

SOURCE = "[NAME=]SRC"
Calibration = Annotated[
    list[str] | None,
    typer.Option(
        "--calibration",
        metavar=SOURCE,
        help="Typical inputs: FILE.py:callable, .npz or .jsonl; NAME= makes it a slice.",
    ),
]
Evaluation = Annotated[
    list[str] | None,
    typer.Option("--evaluation", metavar=SOURCE, help="What to judge by (default: half of the calibration data)."),
]
ScoreOption = Annotated[
    str | None, typer.Option("--score", metavar="FILE.py:callable", help="Maps outputs to what is compared.")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="NAME=FILE.py:callable", help="A metric of your own for the budget to speak of."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="TEXT", help="The bar, for example 'cosine >= 0.99 each'; searches for what meets it."
    ),
]
Workloads = Annotated[
    list[str] | None,
    typer.Option(
        "--workload", metavar="NAME=N,...[@WEIGHT]", help="Sizes that are timed, for example batch=1,seq=128@0.7."
    ),
]
SearchThreads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads that are timed (default: 1).")]
Objective = Annotated[
    str | None, typer.Option("--objective", metavar="WHAT", help="latency (default), size, or 'latency then size'.")
]
EffortOption = Annotated[
    str | None,
    typer.Option("--effort", metavar="HOW", help="quick, standard (default), thorough, or a number of seconds."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of the splits and of all sampling (default: 0).")]
Coverage = Annotated[
    float | None,
    typer.Option("--coverage", metavar="SHARE", help="Share of inputs that 'each' is about (default: 0.99)."),
]
Confidence = Annotated[
    float | None, typer.Option("--confidence", metavar="SHARE", help="Confidence of the proof (default: 0.95).")
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="WHERE", help="Where losses are estimated: processes:N, dask://HOST:PORT or ray."
    ),
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Forget what an interrupted search of the same model and data has measured.")
]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="PLAN.toml", help="Build exactly this plan; with a budget, prove it.")
]
SavePlan = Annotated[
    Path | None, typer.Option("--save-plan", metavar="PLAN.toml", help="Write the plan that was found (or used) there.")
]

OBJECTIVES = ("latency", "size", "latency then size")


def search_arguments(
    *,
    calibration: Sequence[str] | None = None,
    evaluation: Sequence[str] | None = None,
    score: str | None = None,
    metrics: Sequence[str] | None = None,
    budget: str | None = None,
    workload: Sequence[str] | None = None,
    threads: int | None = None,
    objective: str | None = None,
    effort: str | None = None,
    seed: int | None = None,
    coverage: float | None = None,
    confidence: float | None = None,
    executor: str | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Keyword arguments for ``planish.compile``: only what was given.

    Raises:
        UsageError: an option makes no sense, or is for a search and there is no budget.
    """
    given: dict[str, Any] = {}
    if calibration:
        given["calibration"] = data_source("--calibration", calibration)
    if budget is None:
        only = {
            "--evaluation": evaluation, "--score": score, "--metric": metrics, "--workload": workload, "--threads": threads,
            "--objective": objective, "--effort": effort, "--seed": seed, "--coverage": coverage,
            "--confidence": confidence, "--executor": executor, "--restart": restart or None,
        }  # fmt: skip
        stray = [name for name, value in only.items() if value not in (None, [])]
        if stray:
            raise UsageError(
                f"{stray[0]} is for a search, and there is no --budget", "for example --budget 'cosine >= 0.99 each'"
            )
        return given
    if not calibration:
        raise UsageError(
            "a budget needs data to be judged on", "give --calibration FILE.py:callable, IN.npz or IN.jsonl"
        )
    given["budget"] = budget
    if evaluation:
        given["evaluation"] = data_source("--evaluation", evaluation)
    if score is not None:
        given["score"] = function("a score function", score)
    if metrics:
        given["metrics"] = dict(_metric(text) for text in metrics)
    from ..search.budget import Bar
    from ..search.effort import find_effort

    Bar.parse(budget, given.get("metrics"))  # a slip of the pen is told before any work is done
    if workload or threads:
        given["workload"] = parse_workload(workload or (), threads or 1)
    if objective is not None:
        if objective not in OBJECTIVES:
            raise UsageError(f"there is no objective {objective!r}", nearest(objective, OBJECTIVES))
        given["objective"] = objective
    if effort is not None:
        given["effort"] = _effort(effort)
        find_effort(given["effort"])
    for name, value in (("coverage", coverage), ("confidence", confidence)):
        if value is not None and not 0 < value < 1:
            raise UsageError(f"--{name} {value:g} is no share", "give a number between 0 and 1, for example 0.99")
    rest = {
        "seed": seed,
        "coverage": coverage,
        "confidence": confidence,
        "executor": executor,
        "restart": restart or None,
    }
    return {**given, **{name: value for name, value in rest.items() if value is not None}}


def data_source(option: str, values: Sequence[str]) -> str | dict[str, str]:
    """One source as it stands, or slices by name.

    Raises:
        UsageError: a file is not there, a slice has no name or is named twice.
    """
    named: dict[str, str] = {}
    for value in values:
        name, equals, source = value.partition("=")
        if not equals or Path(value).exists():
            if len(values) > 1:
                raise UsageError(
                    f"{option} is given several times, and {value!r} has no name", f"write {option} NAME={value}"
                )
            _check_data(option, value)
            return value
        if not name.strip():
            raise UsageError(f"{option} {value!r} has no name in front of the =", f"write {option} NAME={source}")
        if name.strip() in named:
            raise UsageError(f"{option} names the slice {name.strip()!r} twice")
        _check_data(option, source)
        named[name.strip()] = source
    return named


def _check_data(option: str, source: str) -> None:
    path = Path(source)
    if ".py:" in source or source.endswith(".py"):
        function("a source of data", source)
        return
    if path.suffix not in (".npz", ".jsonl"):
        raise UsageError(f"{option} {source!r} is no data", "give FILE.py:callable, IN.npz or IN.jsonl")
    if not path.is_file():
        raise UsageError(f"there is no file {source!r}", near_file(path))


def function(what: str, text: str) -> Any:
    """``FILE.py:callable`` as the callable; ``what`` it is wanted for: "a metric".

    Raises:
        UsageError: not of this form, no such file or name, or it is no callable.
    """
    from ..compiler.python_file import callable_in

    return callable_in(text, what)


def _metric(text: str) -> tuple[str, Any]:
    name, equals, place = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise UsageError(
            f"--metric {text!r} is not of the form NAME=FILE.py:callable", "for example --metric wer=my.py:wer"
        )
    return name.strip(), function("a metric", place)


def parse_workload(values: Sequence[str], threads: int) -> Any:
    """``["batch=1,seq=128@0.7", "batch=8,seq=64@0.3"]`` as a ``Workload``; without values one at the example's sizes.

    Raises:
        UsageError: a value is not of this form, or only some have a weight.
    """
    from ..search.workload import Workload

    dims: list[Mapping[str, int]] = []
    weights: list[float] = []
    for value in values:
        sizes, at, weight = value.partition("@")
        point = parse_dims([sizes], "--workload")
        if not point:
            raise UsageError(f"--workload {value!r} names no size", "for example --workload batch=1,seq=128")
        dims.append(point)
        if at:
            try:
                weights.append(float(weight))
            except ValueError:
                raise UsageError(
                    f"--workload {value!r} ends with no number", "for example batch=1,seq=128@0.7"
                ) from None
    if weights and len(weights) != len(dims):
        raise UsageError(
            "some workloads have a weight and some have none", "write @WEIGHT behind all of them or behind none"
        )
    return Workload(dims or [{}], threads, weights or None)


def _effort(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def plan_argument(precision: Any, plan: Path | None, budget: str | None) -> Any:
    """What ``planish.compile`` takes as ``precision``.

    Args:
        precision: what ``--precision`` said: None, a name, or a mapping of patterns.
        plan: the file of ``--plan``.
        budget: the bar, where there is one.

    Raises:
        UsageError: both are given; the file is no plan; or "auto" without a bar.
    """
    if plan is not None:
        if precision is not None:
            raise UsageError("--plan and --precision both say what computes in which precision", "give one of them")
        read = Plan.read(plan)
        # with a bar, what no rule speaks of would be searched for: a plan means float there
        return read if budget is None else Plan((*read.rules, Rule("*", find_precision("f32"))))
    rest = precision.get("*") if isinstance(precision, Mapping) else precision
    if rest == "auto":
        if budget is None:
            raise UsageError("--precision auto finds what meets a bar, and there is no --budget",
                             "for example --budget 'cosine >= 0.99 each'")  # fmt: skip
        return {k: v for k, v in precision.items() if k != "*"} if isinstance(precision, Mapping) else None
    return precision
