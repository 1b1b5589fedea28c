"""``planish report``: what a search found as one HTML file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError
from ..runtime.archive import Archive
from .loading import existing
from .options import ArtifactFile, Debug, Json
from .output import print_facts, print_json, size


def report(
    artifact: ArtifactFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="REPORT.html", help="The file to write (default: X.html beside X.planish)."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write what the search found as one HTML file.

    Every trial against quality, what each layer would lose at each precision, the model as it runs, its kernels against the
    machine's limit, and the samples that fared worst. The file needs no network and no JavaScript.
    """
    archive = Archive(existing(artifact))
    try:
        manifest, data = archive.manifest, archive.report()
    finally:
        archive.close()
    path = output or artifact.with_suffix(".html")
    if path.suffix not in (".html", ".htm"):
        raise UsageError(f"-o {str(path)!r} is no HTML file", f"write -o {path.with_suffix('.html').name}")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {str(path.resolve().parent)!r} to write {path.name} to", "make it first")
    from ..search.report import render_report

    text = render_report(data, manifest, artifact.name)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
        return
    print_facts([("written", f"{path}, {size(path.stat().st_size)}; open it in a browser")], indent=0)
