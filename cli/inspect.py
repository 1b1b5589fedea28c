"""``planish inspect``: what an artifact takes and gives, needs and holds, read without running any of its code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.archive import Archive
from .loading import existing
from .needs import runs_here, runs_on
from .options import ArtifactFile, Debug, Json
from .output import print_facts, print_heading, print_json, size

#: What the parts of the file are, by the beginning of their names.
PARTS = {
    "weights.bin": "weights",
    "units/": "code",
    "manifest.json": "manifest",
    "report.json": "report",
    "digest": "digest",
}


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
    print_heading(f"{name}  ({size(sum(sizes.values()))})")
    bounds = ", ".join(f"{n} {b['min']}..{b['max']}" for n, b in manifest["symbols"].items())
    print_facts(
        [
            ("inputs", "\n".join(_port(p) for p in manifest["inputs"])),
            ("outputs", "\n".join(_port(p) for p in manifest["outputs"])),
            ("dimensions", bounds or "all fixed"),
            ("runs on", runs_on(manifest)),
            ("not here", runs_here(manifest) or ""),
            ("parts", ", ".join(f"{part} {size(total)}" for part, total in _parts(sizes).items())),
            ("digest", digest),
        ]
    )


def _port(port: Mapping[str, Any]) -> str:
    return f"{port['name']}: {port['dtype']}[{', '.join(map(str, port['shape']))}]"


def _parts(sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each part of the file, the largest first."""
    found: dict[str, int] = {}
    for name, count in sizes.items():
        part = next((part for start, part in PARTS.items() if name.startswith(start)), name)
        found[part] = found.get(part, 0) + count
    return dict(sorted(found.items(), key=lambda item: -item[1]))
