"""Where data comes from: iterables, datasets, files and slices of them, as streams of items."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.python_file import callable_in, called, near_file
from .dataset import Dataset

FORMS = "an iterable, a DataLoader, a dataset, IN.npz, IN.jsonl, FILE.py:callable, or {'slice name': data}"


@dataclass(frozen=True)
class Stream:
    """The items of one slice.

    Attributes:
        name: of the slice.
        items: each with the place it comes from in a file; empty text elsewhere. Read once.
        total: how many there are, where that is known.
        transform, label: as in ``planish.Dataset``.
    """

    name: str
    items: Iterable[tuple[str, Any]]
    total: int | None = None
    transform: Callable[[Any], Any] | None = None
    label: Any = None


def streams(source: Any, name: str) -> list[Stream]:
    """Open a source of data.

    Args:
        source: what was given.
        name: of the slice, where the source has none.

    Raises:
        UsageError: it is no data; there is no such file, or it cannot be read.
    """
    return list(_open(source, name, None, None, sliced=False))


def _open(source: Any, name: str, transform: Any, label: Any, *, sliced: bool) -> Iterator[Stream]:
    if isinstance(source, Dataset):
        transform, label, source = (
            source.transform or transform,
            label if source.label is None else source.label,
            source.source,
        )
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if ".py:" in text or text.endswith(".py"):
            made = called(callable_in(text, "data"), text, "data")
            if isinstance(made, (str, os.PathLike)) and os.fspath(made) == text:
                raise UsageError(f"{text} returns its own name", f"it must return {FORMS}")
            yield from _open(made, name, transform, label, sliced=sliced)
        else:
            yield _file(Path(text), name, transform, label)
    elif isinstance(source, Mapping):
        if sliced:
            raise UsageError(f"the slice {name!r} is made of slices", "a slice is one source of data")
        if not source:
            raise UsageError("the data has no slices", f"give {FORMS}")
        for key, value in source.items():
            if not isinstance(key, str) or not key.strip():
                raise UsageError(f"{key!r} is no name for a slice", "give {'slice name': data}")
            yield from _open(value, key, transform, label, sliced=True)
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        size = len(source)  # by position: datasets of PyTorch do not end when they are iterated
        yield Stream(name, (("", source[i]) for i in range(size)), size, transform, label)
    elif hasattr(source, "__iter__"):
        # how many items there are says little where they may be batches, and a loader may not even know
        yield Stream(name, (("", item) for item in source), None, transform, label)
    else:
        what = "a function" if callable(source) else f"a {type(source).__name__}"
        hint = "call it, and give what it returns" if callable(source) else f"give {FORMS}"
        raise UsageError(f"{what} is no data", hint)


def _file(path: Path, name: str, transform: Any, label: Any) -> Stream:
    if path.suffix not in (".npz", ".jsonl"):
        raise UsageError(f"{str(path)!r} is no data", f"give {FORMS}")
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", near_file(path))
    if path.suffix == ".jsonl":
        return Stream(name, _lines(path), None, transform, label)
    arrays = _arrays(path)
    count = len(next(iter(arrays.values())))
    rows = (("", {key: array[i] for key, array in arrays.items()}) for i in range(count))
    return Stream(name, rows, count, transform, label)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{number} is no JSON: {error.msg}", "each line is one item") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}") from None


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            raise ValueError("it holds one array without a name")
        with data:
            arrays = {key: data[key] for key in data.files}
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(
            f"{str(path)!r} is no .npz file: {error}", "np.savez('in.npz', input_name=array) writes one"
        ) from None
    if not arrays:
        raise UsageError(f"{str(path)!r} holds no arrays", "np.savez('in.npz', input_name=array) writes some")
    counts = {key: len(array) if array.ndim else None for key, array in arrays.items()}
    if None in counts.values() or len(set(counts.values())) > 1:
        listed = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items())
        raise UsageError(
            f"the arrays of {str(path)!r} do not agree on the number of samples: {listed}",
            "their first axis counts the samples",
        )
    return arrays
