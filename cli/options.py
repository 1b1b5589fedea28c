"""Options that several commands share, and the small languages of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to use (default: what the process may use).")
]
ArtifactFile = Annotated[Path, typer.Argument(metavar="X.planish", help="A compiled model.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="FILE.py:callable, FILE.pt2, FILE.onnx or a local Hugging Face folder.")
]
Task = Annotated[
    str | None,
    typer.Option("--task", metavar="TASK", help="What a Hugging Face folder is for (default: by its architecture)."),
]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dims", metavar="NAME=N,...", help="Sizes of the dynamic dimensions, for example batch=1,seq=128."),
]

Dim = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        metavar="NAME=N|LOW..HIGH|NAME",
        help="What a run-time dimension is: one size, bounds, or the size of another one.",
    ),
]
Fix = Annotated[
    list[str] | None,
    typer.Option(
        "--fix", metavar="INPUT=VALUE[,...]", help="Make an input of an ONNX model that decides shapes a constant."
    ),
]


def parse_precision(values: Sequence[str]) -> str | dict[str, str] | None:
    """``["enc.*=bf16", "w8a8-dynamic"]`` as the plan ``{"enc.*": "bf16", "*": "w8a8-dynamic"}``; None for no value.

    The value without a pattern is for everything that no pattern matched; patterns keep their order, the first that
    matches wins.

    Raises:
        UsageError: two values without a pattern, or an empty pattern or precision.
    """
    plan: dict[str, str] = {}
    rest: str | None = None
    for value in values:
        pattern, equals, precision = value.rpartition("=")
        if not precision.strip() or (equals and not pattern.strip()):
            raise UsageError(
                f"--precision {value!r} is neither a precision nor GLOB=PRECISION",
                "for example --precision 'encoder.*=bf16'",
            )
        if equals:
            if pattern.strip() in plan:
                raise UsageError(f"--precision names the pattern {pattern.strip()!r} twice")
            plan[pattern.strip()] = precision.strip()
        elif rest is not None:
            raise UsageError(
                f"--precision was given two defaults, {rest!r} and {value!r}",
                f"say which layers are meant: 'GLOB={value}'",
            )
        else:
            rest = precision.strip()
    if not plan:
        return rest
    return plan if rest is None or "*" in plan else {**plan, "*": rest}


def parse_dims(values: Sequence[str] | None, option: str = "--dims") -> dict[str, int]:
    """``["batch=1,seq=128"]`` as ``{"batch": 1, "seq": 128}``.

    Raises:
        UsageError: not of the form NAME=N, or a size below zero.
    """
    sizes: dict[str, int] = {}
    for item in (part for value in values or () for part in value.split(",") if part.strip()):
        name, _, size = (s.strip() for s in item.partition("="))
        if not name or not size.isdecimal():
            raise UsageError(
                f"{option} {item.strip()!r} is not of the form NAME=N", f"for example {option} batch=1,seq=128"
            )
        sizes[name] = int(size)
    return sizes


def parse_dim_wishes(values: Sequence[str] | None) -> dict[str, int | tuple[int, int] | str]:
    """``["batch=1", "seq=1..512", "past=seq"]`` as ``{"batch": 1, "seq": (1, 512), "past": "seq"}``.

    Raises:
        UsageError: not of this form, the bounds are the wrong way round, or a dimension is named twice.
    """
    wishes: dict[str, int | tuple[int, int] | str] = {}
    for value in values or ():
        name, _, what = (s.strip() for s in value.rpartition("="))  # a dimension of an ONNX file may be called anything
        low, dots, high = (s.strip() for s in what.partition(".."))
        if not name or not what or (dots and not (low.isdecimal() and high.isdecimal())) or what.startswith("-"):
            raise UsageError(
                f"--dim {value!r} does not say what a dimension is",
                "for example --dim batch=1 --dim seq=1..512 --dim past=seq",
            )
        if name in wishes:
            raise UsageError(f"--dim names the dimension {name!r} twice")
        if dots and int(low) > int(high):
            raise UsageError(f"--dim {value!r}: the lower bound is above the upper one", f"--dim {name}={high}..{low}")
        wishes[name] = (int(low), int(high)) if dots else int(what) if what.isdecimal() else what
    return wishes


def parse_fixed(values: Sequence[str] | None) -> dict[str, object]:
    """``["axes=0,1", "k=5"]`` as ``{"axes": [0, 1], "k": 5}``; numbers may have a fraction, and truth values are true or false.

    Raises:
        UsageError: not of this form, or an input is named twice.
    """
    fixed: dict[str, object] = {}
    for value in values or ():
        name, _, text = (s.strip() for s in value.partition("="))
        found = [_number(part.strip()) for part in text.split(",") if part.strip()] if text not in ("", "[]") else []
        if not name or not text or None in found:
            raise UsageError(
                f"--fix {value!r} is not of the form INPUT=VALUE[,VALUE...]", "for example --fix axes=0,1 --fix k=5"
            )
        if name in fixed:
            raise UsageError(f"--fix names the input {name!r} twice")
        fixed[name] = found[0] if len(found) == 1 and not text.endswith(",") else found
    return fixed


def _number(text: str) -> bool | int | float | None:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
