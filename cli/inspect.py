"""``planish inspect``: what an artifact takes and gives, needs and holds, read without running any of its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import dumps
from typing import Annotated, Any

import typer

from ..compiler.report import shape_of, with_ranges
from ..errors import UsageError
from ..runtime.archive import Archive
from .loading import existing
from .needs import choice, chosen, runs_here, runs_on
from .options import ArtifactFile, Debug, Json
from .output import print_facts, print_heading, print_json, print_lines, print_table, size

#: What the parts of the file are, by the beginning of their names.
PARTS = {
    "weights.bin": "weights",
    "units/": "code",
    "host/": "thread pool",
    "manifest.json": "manifest",
    "report.json": "report",
    "digest": "digest",
}


def inspect(
    artifact: ArtifactFile,
    unfused: Annotated[
        bool, typer.Option("--unfused", help="Show what runs apart from its neighbours, and why.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is in a compiled model.

    Inputs and outputs, precision per layer, size of each part, what it needs, pipeline and provenance. Runs none of its code.
    """
    archive = Archive(existing(artifact))
    try:
        manifest, report, sizes, digest = archive.manifest, archive.report(), archive.sizes(), archive.digest
    finally:
        archive.close()
    if unfused and not json:
        show_unfused(str(artifact), report)
        return
    if json:
        print_json(
            {"artifact": str(artifact), "digest": digest, "sizes": sizes, "manifest": manifest, "report": report}
        )
        return
    show(str(artifact), manifest, report, sizes, digest)


def show(
    name: str, manifest: Mapping[str, Any], report: Mapping[str, Any], sizes: Mapping[str, int], digest: str
) -> None:
    """The same for people."""
    print_heading(f"{name}: {manifest['name']}, {size(sum(sizes.values()))}")
    bounds = ", ".join(f"{s['name']} {s['min']}..{s['max']}" for s in manifest["symbols"])
    print_facts(
        [
            ("inputs", "\n".join(_port(p) for p in manifest["inputs"])),
            ("outputs", "\n".join(_port(p) for p in manifest["outputs"])),
            ("dimensions", bounds or "all fixed"),
            ("left out", ", ".join(manifest["absent_inputs"])),
            ("runs on", runs_on(manifest)),
            ("here", _here(manifest)),
            ("not here", runs_here(manifest) or ""),
            ("kernels", launches_in_words(report)),
            ("parts", ", ".join(f"{part} {size(total)}" for part, total in _parts(sizes).items())),
        ]
    )
    shown = chosen(manifest)[0] or manifest["units"][0]
    several = f" of {shown['name']}" if len(manifest["units"]) > 1 else ""
    print_heading(f"precision per layer{several}")
    print_table(layers(shown["launches"]), ("layer", "kernel", "precision", ""), right=(3,))
    print_heading("provenance")
    print_facts(
        [
            ("plan", _plain({k: v for k, v in (manifest["plan"] or {}).items() if k not in ("layers", "variants")})),
            ("pipeline", manifest["pipeline"]),
            ("custom ops", ", ".join(f"{op} {v}" for op, v in manifest["ops"].items() if "." in op)),
            ("tools", ", ".join(f"{tool} {version}" for tool, version in manifest["tools"].items())),
            ("source", _plain(manifest["source"])),
            ("calibration", _plain(manifest["calibration"])),
            ("digest", digest),
        ]
    )


def _here(manifest: Mapping[str, Any]) -> str:
    """Which of several variants runs on this machine; empty where there is no choice, or none runs."""
    unit, skipped = chosen(manifest)
    return choice(str(unit["name"]), skipped) if unit is not None and len(manifest["units"]) > 1 else ""


#: The heading of each kind of finding (``compiler/report.py``).
_KINDS = {
    "kernel": "kernels that run apart from their neighbours",
    "copy": "data that is only moved",
    "rule": "what passes left as it was",
}
#: Places that are named of one finding.
_PLACES = 3


def launches_in_words(report: Mapping[str, Any]) -> str:
    """How many kernels run a model, in one line; empty where the report does not say."""
    counts = report.get("launches")
    if not isinstance(counts, Mapping):
        return ""
    parts = [f"{counts['ops']} ops in {counts['launches']} launches, {counts['fused']} of them fused from several ops"]
    if counts["apart"]:
        parts.append(f"{counts['apart']} apart from their neighbours" if counts["apart"] > 1 else "1 apart")
    if counts["copies"]:
        parts.append(f"{counts['copies']} cop{'ies' if counts['copies'] > 1 else 'y'}")
    return "; ".join(parts)


def show_unfused(name: str, report: Mapping[str, Any]) -> None:
    """What stayed unfused, equal findings on one line, each with the reason.

    Raises:
        UsageError: the artifact has no report that says so.
    """
    groups = report.get("unfused")
    if not isinstance(groups, Sequence):
        raise UsageError(f"{name} does not say what stayed unfused", "compile it again with this version of planish")
    print_heading(f"{name}: {launches_in_words(report)}")
    if not groups:
        print_facts([("unfused", "nothing: every kernel is part of its neighbours where it can be")])
    for kind, heading in _KINDS.items():
        same = [g for g in groups if g["kind"] == kind]
        if same:
            print_heading(heading)
        for g in same:
            line = f", {g['location']}" if g["location"] else ""
            print_lines(f"{g['count']:>3} x {g['what']}", [f"at  {_where(g['where'])}{line}", f"why {g['reason']}"])


def _where(places: Sequence[str]) -> str:
    more = len(places) - _PLACES
    return ", ".join(places[:_PLACES]) + (f" and {more} more" if more > 0 else "")


def layers(launches: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Layer, kernel, precision and count of the launches; equal blocks of a stack (``layer.0``, ``layer.1``) share a line.

    A launch is filed under the module it begins with, and those beside it (query, key and value merged into one linear).
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for launch in launches:
        first, *more = launch["sources"] or [launch["label"]]
        parent, _, leaf = first.rpartition(".")
        beside = [name.rpartition(".")[2] for name in more if parent and name.rpartition(".")[0] == parent]
        leaves = list(dict.fromkeys([leaf, *(beside if launch["kernel"] == "LinearSpec" else [])]))
        shown = leaf if len(leaves) == 1 else "{" + ",".join(leaves) + "}"
        name = f"{parent}.{shown}" if parent else shown
        key = (shape_of(name), launch["label"], launch["precision"])
        groups.setdefault(key, []).append(name)
    return [
        (with_ranges(shape, names), label, precision, f"x{len(names)}" if len(names) > 1 else "")
        for (shape, label, precision), names in groups.items()
    ]


def _plain(value: Any) -> str:
    """Data of the manifest as short text."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "\n".join(f"{key} = {_inline(item)}" for key, item in value.items())
    return _inline(value)


def _inline(value: Any) -> str:
    text = value if isinstance(value, str) else dumps(value)
    return text if len(text) <= 160 else text[:157] + "..."


def _port(port: Mapping[str, Any]) -> str:
    return f"{port['name']}: {port['dtype']}[{', '.join(map(str, port['shape']))}]"


def _parts(sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each part of the file, the largest first."""
    found: dict[str, int] = {}
    for name, count in sizes.items():
        part = next((part for start, part in PARTS.items() if name.startswith(start)), name)
        found[part] = found.get(part, 0) + count
    return dict(sorted(found.items(), key=lambda item: -item[1]))
