"""``planish targets``: what can be compiled for, what each needs, whether it runs here; and asking a provider what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..compiler.errors import UsageError
from .options import Debug, Json
from .output import print_facts, print_heading, print_json, print_table, seconds
from .progress import progress

if TYPE_CHECKING:
    from ..backends.onnx.providers import Provider
    from ..backends.onnx.table import Table

#: What a level adds, for people.
_ADDS = {
    "portable": "plain C++: any CPU that the compiler knows",
    "avx2": "8 floats at once, fused multiply-add",
    "avx512-vnni": "16 floats at once, int8 dot products",
    "avx512-bf16": "bfloat16 dot products",
}

Target = Annotated[
    str | None, typer.Argument(metavar="[TARGET]", help="Show what is known of one target, as onnx:openvino.")
]
Probe = Annotated[
    str | None,
    typer.Option(
        "--probe", metavar="onnx:PROVIDER", help="Ask an execution provider what it takes, and keep the answers."
    ),
]
Python = Annotated[
    Path | None,
    typer.Option(
        "--python", metavar="PATH", help="Environment (or its Python) that the provider to probe is installed in."
    ),
]
Forms = Annotated[
    list[str] | None, typer.Option("--form", metavar="NAME", help="Probe this lowering form only, without keeping it.")
]


def targets(
    target: Target = None,
    probe: Probe = None,
    python: Python = None,
    form: Forms = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List the targets, and whether they run here; or ask an execution provider of ONNX Runtime what it takes."""
    if probe is None and (python is not None or form):
        option = "--python" if python is not None else "--form"
        raise UsageError(f"{option} says how to probe, and nothing is to be probed", "add --probe onnx:PROVIDER")
    if target is not None and probe is not None:
        raise UsageError("a target and --probe were given", "--probe TARGET shows what it has learned")
    if probe is not None:
        _probe(probe, python, form, json)
    elif target is not None:
        _show(target, json)
    else:
        _list(json)


def _list(json: bool) -> None:
    from ..backends.onnx.providers import PROVIDERS

    document = [*_levels(), *map(_provider, PROVIDERS.values())]
    default = next(str(t["name"]) for t in document if t["default"])
    if json:
        print_json({"default": default, "targets": document})
        return
    rows = [("cpu", "yes", f"this machine: {default}")]
    for entry in document:
        missing = entry["missing"]
        if "table" in entry:
            what = entry["version"] or f"{entry['adds']}; install {entry['needs'][0]}"
            what += f"; table: {entry['table']['described']}"
        else:
            what = str(entry["adds"]) + (f"; this CPU lacks {', '.join(missing)}" if missing else "")
        rows.append((str(entry.get("short_name") or entry["name"]), "yes" if entry["runs_here"] else "no", what))
    print_table(rows, header=("target", "runs here", ""))


def _levels() -> list[dict[str, Any]]:
    """The levels of the CPU backend."""
    from ..backends.cpu.isa import detect, level, missing_flags
    from ..codegen.specs import ISA_LEVELS

    here = detect()
    return [
        {
            "name": f"cpu:{name}",
            "runs_here": not missing_flags(name),
            "default": name == here,
            "needs": list(level(name).cpu_flags),
            "missing": missing_flags(name),
            "adds": _ADDS[name],
        }
        for name in ISA_LEVELS
    ]


def _provider(provider: Provider) -> dict[str, Any]:
    """An execution provider, as JSON holds it."""
    from ..backends.onnx.table import table_for

    missing = provider.missing()
    table = table_for(provider)
    return {
        "name": f"onnx:{provider.name}",
        "short_name": f"onnx:{provider.short}",
        "runs_here": missing is None,
        "default": False,
        "needs": [provider.wheel],
        "missing": [] if missing is None else [missing],
        "adds": provider.runs_on,
        "version": provider.version(),
        "opset": provider.opset,
        "static_shapes": provider.static_shapes,
        "table": _summary(table),
    }


def _summary(table: Table) -> dict[str, Any]:
    return {
        "described": table.described(),
        "origin": table.origin,
        "version": table.version,
        "cpu": table.cpu,
        "rows": len(table.rows),
        "taken": sum(row.taken for row in table.rows),
    }


def _show(text: str, json: bool) -> None:
    """One target."""
    if not text.startswith("onnx"):
        from ..compiler.target import find_target

        name = str(find_target(text))
        entry = next(t for t in _levels() if t["name"] == name)
        if json:
            print_json(entry)
            return
        print_heading(name)
        missing = ", ".join(entry["missing"])
        print_facts([("adds", entry["adds"]), ("needs", ", ".join(entry["needs"])), ("this CPU lacks", missing)])
        return
    provider = _find(text)
    from ..backends.onnx.table import table_for

    _print_table(_provider(provider), table_for(provider), json)


def _probe(text: str, python: Path | None, forms: list[str] | None, json: bool) -> None:
    """Ask a provider, keep the answers and show them."""
    provider = _find(text)
    from ..backends.onnx.probe import probe
    from ..backends.onnx.table import store

    with progress(json, f"asking {provider.name}") as report:
        table = probe(provider, python=python, forms=forms, progress=report)
    path = None if forms else store(provider, table)
    entry = {**_provider(provider), "version": table.version, "table": _summary(table)}
    _print_table(entry | {"kept": None if path is None else str(path)}, table, json)


def _find(text: str) -> Provider:
    from ..backends.onnx.providers import PROVIDERS, find_provider

    if text.strip() in ("onnx", "onnx:"):
        short = ", ".join(f"onnx:{p.short}" for p in PROVIDERS.values())
        raise UsageError("onnx is a family of targets", f"one of it is {short}")
    return find_provider(text)


def _print_table(entry: Mapping[str, Any], table: Table, json: bool) -> None:
    if json:
        print_json({**entry, "rows": table.to_data()["rows"]})
        return
    print_heading(str(entry["name"]))
    print_facts(
        [
            ("runs on", str(entry["adds"])),
            ("installed", str(entry["version"]) or f"no: it needs {entry['missing'][0]}"),
            (
                "models",
                f"opset {entry['opset']}, {'fixed shapes only' if entry['static_shapes'] else 'dynamic shapes'}",
            ),
            ("table", table.described()),
            ("kept in", str(entry.get("kept") or "")),
        ]
    )
    rows = []
    for row in table.rows:
        time = "" if row.seconds is None else seconds(row.seconds)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        rows.append((row.form, row.dtype, "yes" if row.taken else "no", time, ratio, row.reason))
    print_table(rows, header=("form", "type", "taken", "a call", "as fast as float", ""), right=(3, 4))
