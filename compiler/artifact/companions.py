"""What lies beside an artifact: ``model.tokenizer/`` by ``model.planish``, with tokenizer, preprocessor and label map."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import PlanishError, UsageError

SUFFIX = ".tokenizer"


def folder_beside(artifact: str | os.PathLike[str]) -> Path:
    """``model.tokenizer`` for ``model.planish``."""
    path = Path(artifact)
    return path.with_name((path.stem if path.suffix == ".planish" else path.name) + SUFFIX)


def check_beside(artifact: str | os.PathLike[str], files: Mapping[str, Path]) -> None:
    """Nothing is overwritten but an earlier folder of the kind.

    Raises:
        UsageError: at its place is a file, or a folder with other files.
    """
    target = folder_beside(artifact)
    if not files or not target.exists():
        return
    foreign = not target.is_dir() or not (target / "config.json").is_file()
    if foreign and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(
            f"{str(target)!r} is in the way of the tokenizer's files", "move it, or choose another name with -o"
        )


@contextlib.contextmanager
def beside(artifact: str | os.PathLike[str], files: Mapping[str, Path]) -> Iterator[None]:
    """Copy ``files`` (name -> file) beside ``artifact``, which is written inside the ``with``; whole or not at all.

    Raises:
        UsageError: see :func:`check_beside`.
        PlanishError: they cannot be read or written.
    """
    if not files:
        yield
        return
    check_beside(artifact, files)
    target = folder_beside(artifact).resolve()
    try:
        staged = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    except OSError as error:
        raise PlanishError(f"{target} cannot be written: {error.strerror}") from error
    try:
        try:
            for name, file in files.items():
                shutil.copyfile(file, staged / name)
            mask = os.umask(0)
            os.umask(mask)
            staged.chmod(0o777 & ~mask)
        except OSError as error:
            raise PlanishError(f"{target} cannot be written: {error.strerror} ({error.filename})") from error
        yield
        old = staged.with_name(f"{staged.name}-old")
        if target.exists():  # a folder that holds something cannot be replaced in one step
            target.rename(old)
        staged.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
