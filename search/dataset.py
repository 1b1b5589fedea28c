"""Data with what planish cannot know of it: how an item becomes inputs, and which part is the label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..compiler.errors import UsageError


@dataclass(frozen=True)
class Dataset:
    """A source of data, with a transform and a label.

    Attributes:
        source: an iterable, a DataLoader, a Hugging Face dataset, the path of a .npz or .jsonl file, ``FILE.py:callable``, or
            ``{"slice name": source}``.
        transform: an item of the source to the model's inputs: a mapping by input name, a tuple in the order of the inputs, or
            a lone array. None: items are inputs already.
        label: the key or the position of the label in an item, which is taken out of the inputs; or a function of the item that
            returns it. Labels are numbers, one or an array for each sample.

    Raises:
        UsageError: transform is no function, or label neither key, position nor function.
    """

    source: Any
    transform: Callable[[Any], Any] | None = None
    label: str | int | Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, Dataset):
            raise UsageError("a planish.Dataset of a planish.Dataset has two transforms", "make one of them")
        if self.transform is not None and not callable(self.transform):
            raise UsageError(f"transform is a function of an item, not a {type(self.transform).__name__}")
        if self.label is not None and (
            isinstance(self.label, bool) or not (isinstance(self.label, (str, int)) or callable(self.label))
        ):
            raise UsageError(
                f"label is a key, a position or a function of an item, not a {type(self.label).__name__}",
                "label='label' for items that are mappings, label=1 for pairs",
            )
