"""``planish inspect``: what an artifact takes and gives, needs and holds, read without running any of its code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from json import dumps
from typing import Any

from ..runtime.archive import Archive
from .loading import existing
from .needs import runs_here, runs_on
from .options import ArtifactFile, Debug, Json
from .output import print_facts, print_heading, print_json, print_table, size

#: What the parts of the file are, by the beginning of their names.
PARTS = {
    "weights.bin": "weights",
    "units/": "code",
    "host/": "thread pool",
    "manifest.json": "manifest",
    "report.json": "report",
    "digest": "digest",
}

_NUMBER = re.compile(r"\.\d+(?=\.|$)")


def inspect(artifact: ArtifactFile, json: Json = False, debug: Debug = False) -> None:
    """Show what is in a compiled model.

    Inputs and outputs, precision per layer, size of each part, what it needs, pipeline and provenance. Runs none of its code.
    """
    archive = Archive(existing(artifact))
    try:
        manifest, report, sizes, digest = archive.manifest, archive.report(), archive.sizes(), archive.digest
    finally:
        archive.close()
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
            ("not here", runs_here(manifest) or ""),
            ("parts", ", ".join(f"{part} {size(total)}" for part, total in _parts(sizes).items())),
        ]
    )
    print_heading("precision per layer")
    print_table(layers(manifest["units"][0]["launches"]), ("layer", "kernel", "precision", ""), right=(3,))
    print_heading("provenance")
    print_facts(
        [
            ("plan", _plain({k: v for k, v in manifest["plan"].items() if k != "layers"})),
            ("pipeline", manifest["pipeline"]),
            ("custom ops", ", ".join(f"{op} {v}" for op, v in manifest["ops"].items() if "." in op)),
            ("tools", ", ".join(f"{tool} {version}" for tool, version in manifest["tools"].items())),
            ("source", _plain(manifest["source"])),
            ("calibration", _plain(manifest["calibration"])),
            ("digest", digest),
        ]
    )


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
        key = (_NUMBER.sub(".*", name), launch["label"], launch["precision"])
        groups.setdefault(key, []).append(name)
    return [
        (_with_ranges(shape, names), label, precision, f"x{len(names)}" if len(names) > 1 else "")
        for (shape, label, precision), names in groups.items()
    ]


def _with_ranges(shape: str, names: Sequence[str]) -> str:
    """``layer.*.dense`` with the numbers it stands for, ``layer.0..5.dense``; the star stays where there are several."""
    numbers = [_NUMBER.findall(name) for name in names]
    if any(len(n) != 1 for n in numbers):
        return shape if any(numbers) else names[0]
    values = sorted({int(n[0].strip(".")) for n in numbers})
    if values == list(range(values[0], values[-1] + 1)):
        return shape.replace(".*", f".{values[0]}" if len(values) == 1 else f".{values[0]}..{values[-1]}")
    return shape


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
