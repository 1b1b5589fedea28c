"""``planish run``: arrays from a .npz file in, arrays to a .npz file out."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..errors import PlanishError, UsageError
from .compare import leaves
from .feed import Arrays, Signature, from_file, made_up, shown
from .loading import open_model
from .needs import choice
from .options import ArtifactFile, Debug, Dims, Json, Threads, parse_dims
from .output import print_facts, print_json, print_table, quoted, seconds


def run_model(
    artifact: ArtifactFile,
    input: Annotated[Path | None, typer.Option("--input", "-i", metavar="IN.npz", help="Arrays by input name.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT.npz", help="Where outputs go.")] = None,
    dims: Dims = None,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not say which of several variants runs.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a compiled model once.

    Without --input it is fed made-up data, to see that it runs. Of an artifact with several variants, the first that runs here
    is taken, and named on stderr.
    """
    if output is not None and not output.resolve().parent.is_dir():
        raise UsageError(f"there is no folder {str(output.resolve().parent)!r} to write {output.name} to")
    with open_model(artifact, threads) as model:
        if len(model.manifest["units"]) > 1 and not quiet:
            print(choice(model.unit, model.skipped), file=sys.stderr)
        signature = Signature.of(model.manifest)
        if input is not None:
            arrays = from_file(input)
            sizes = signature.sizes_of(arrays)
        else:
            sizes = {**signature.usual(), **parse_dims(dims)}
            signature.check(sizes)
            arrays = made_up(signature, sizes)
        start = time.perf_counter()
        result = dict(leaves(model(**arrays)))
        took = time.perf_counter() - start
    if output is not None:
        save(output, result)
    described = {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in result.items()}
    if json:
        print_json(
            {
                "outputs": described,
                "seconds": took,
                "sizes": sizes,
                "unit": model.unit,
                "skipped": model.skipped,
                "written": str(output) if output else None,
            }
        )
        return
    print_table([(name, str(a.dtype), str(list(a.shape)), _sample(a)) for name, a in result.items()])
    made = "" if input is not None else f" on made-up data ({shown(sizes)})"
    facts = [("took", f"{seconds(took)}{made}, the first call of a fresh process")]
    facts.append(("written", str(output)) if output else ("next", f"planish bench {quoted(artifact)}"))
    print_facts(facts)


def save(path: Path, arrays: Arrays) -> None:
    """Write a .npz file under its final name only when it is complete.

    Raises:
        PlanishError: it cannot be written there.
    """
    try:
        _save(path, arrays)
    except OSError as error:
        raise PlanishError(f"{path} cannot be written: {error.strerror}") from error


def _save(path: Path, arrays: Arrays) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for one of the arrays
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sample(array: np.ndarray) -> str:
    """The first few numbers."""
    first = ", ".join(f"{v:.4g}" if array.dtype.kind == "f" else str(v) for v in array.ravel()[:4])
    return f"{first}{', ...' if array.size > 4 else ''}"
