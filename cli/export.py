"""``planish export``: the ONNX model of an artifact, as a folder that needs ``onnxruntime`` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..compiler.errors import UsageError
from ..runtime.archive import Archive
from .loading import existing
from .options import ArtifactFile, Debug, Json
from .output import print_facts, print_heading, print_json, quoted, size


def export(
    artifact: ArtifactFile,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to make (default: X-onnx).")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="onnx:EP", help="Which variant (default: the first for ONNX Runtime)."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a compiled model as a plain ONNX model.

    The folder gets model.onnx (with model.onnx.data), session.json with the options of the session, and run.py, which needs
    numpy and onnxruntime alone.
    """
    if target is not None and not target.startswith("onnx:"):
        raise UsageError(f"--target {target!r} is no execution provider of ONNX Runtime", "for example onnx:cpu")
    path = existing(artifact)
    folder = output if output is not None else Path(f"{path.stem}-onnx")
    from ..backends.onnx.export import export as write

    archive = Archive(path)
    try:
        made = write(archive, folder, target)
    finally:
        archive.close()
    settings = made.settings
    if json:
        print_json(
            {"folder": str(made.folder), "unit": made.unit, "files": dict(made.files), "session": settings.to_data()}
        )
        return
    print_heading(f"{made.folder} holds {made.unit} of {path}")
    least = f" {settings.least} or newer" if settings.least else ""
    print_facts(
        [
            ("files", ", ".join(f"{name} {size(count)}" for name, count in made.files.items())),
            ("runs on", f"{settings.provider}: pip install {settings.package}; ONNX Runtime{least}, numpy, no planish"),
            ("next", f"python {quoted(made.folder / 'run.py')}"),
        ]
    )
