"""Items of data to samples: by input name, in the types and shapes the model takes, checked, and rows told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from ..compiler.errors import PlanishError, UsageError
from ..compiler.graph import Graph
from ..compiler.options import nearest
from .batches import Sample, Samples
from .conversion import Unfit, as_array, converted, fit_shapes
from .layout import Layout
from .sources import Stream, streams

Progress = Callable[[str, int, int], None]
LABEL_HINT = "planish.Dataset(data, label=...) says which part is the label"


def load_samples(
    source: Any, graph: Graph, *, name: str = "data", progress: Progress | None = None, limit: int | None = None
) -> Samples:
    """Read data for a model.

    A sample is one row along the model's batch axis (:class:`~planish.search.layout.Layout`), or one item where it has none.
    Items are mappings by input name, tuples in the order of the inputs, or a lone array for a model with one input; of numpy,
    PyTorch or plain lists; with or without the batch axis, which shows in their rank. Integers are converted where no value
    changes, and floats to the model's type. Nothing is guessed: what is no input has to be named as the label. Samples that are
    the same in every byte count once.

    Args:
        source: an iterable, DataLoader, Hugging Face dataset, .npz (samples first) or .jsonl path, ``FILE.py:callable``,
            ``{"slice name": source}``, or a ``planish.Dataset``. A generator is read once.
        graph: the model; its inputs, outputs and symbols are looked at.
        name: of the slice, where the source names none.
        progress: called with ("reading data", samples read, how many or 0).
        limit: samples of each slice, at most.

    Raises:
        UsageError: a sample does not fit the model, a float input holds NaN or infinity, a slice has no samples, or the source
            is no data. The message names the sample.
    """
    layout = Layout.of(graph)
    found: dict[tuple[bytes, bytes], Sample] = {}
    twice = 0
    for stream in streams(source, name):
        count = 0
        for sample in _limited(_Reader(layout, stream).samples(), limit):
            count += 1
            label = b"" if sample.label is None else sample.label.tobytes()
            twice += (sample.digest, label) in found
            found.setdefault((sample.digest, label), sample)
            if progress is not None:
                progress("reading data", count, stream.total if stream.total and count <= stream.total else 0)
        if not count:
            raise UsageError(
                f"the slice {stream.name!r} has no samples" if stream.name != name else "the data has no samples"
            )
    notes = [layout.words]
    if twice:
        notes.append(f"{twice} samples are the same as others and count once")
    return Samples.of(found.values(), layout, notes)


def _limited(samples: Iterator[Sample], limit: int | None) -> Iterator[Sample]:
    for number, sample in enumerate(samples):
        yield sample
        if limit is not None and number + 1 >= limit:
            return


@dataclass
class _Reader:
    """Reads one stream; ``count`` is how many samples there were, and names the next."""

    layout: Layout
    stream: Stream
    count: int = 0

    def samples(self) -> Iterator[Sample]:
        """Every sample of the stream.

        Raises:
            UsageError: one does not fit.
        """
        items = iter(self.stream.items)
        while True:
            try:
                where, item = next(items)
            except StopIteration:
                return
            except PlanishError:
                raise
            except Exception as error:
                raise UsageError(f"the data raised {type(error).__name__} at {self._id()}: {error}") from error
            try:
                yield from self._rows(item)
            except Unfit as problem:
                place = f" ({where})" if where else ""
                raise UsageError(f"the sample {self._id()}{place}: {problem}", problem.hint) from None

    def _id(self) -> str:
        return f"{self.stream.name}[{self.count}]"

    def _rows(self, item: Any) -> Iterator[Sample]:
        label, rest = self._labelled(item)
        arrays = {
            port.name: converted(value, port.dtype, port.name)
            for port, value in zip(self.layout.inputs, self._by_input(rest), strict=True)
        }
        rows = self._split(arrays)
        labels = [None] if label is None else _labels(label, len(rows), alone=rows[0][1])
        for row, (inputs, _) in enumerate(rows):
            fit_shapes(inputs, self.layout)
            yield Sample(self._id(), self.stream.name, inputs, labels[row if len(labels) > 1 else 0])
            self.count += 1

    # -- parts of an item --------------------------------------------------------------------------------------------
    def _labelled(self, item: Any) -> tuple[Any, Any]:
        """The label (None without one) and the inputs of an item."""
        label, transform = self.stream.label, self.stream.transform
        inputs = item if transform is None else self._call(transform, item, "transform")
        if label is None:
            return None, inputs
        if callable(label):
            return self._call(label, item, "label"), inputs
        if isinstance(label, str):
            holder = item if isinstance(item, Mapping) and label in item else inputs
            if not isinstance(holder, Mapping):
                raise Unfit(f"its label is {label!r}, and it is a {type(holder).__name__}, not a mapping")
            if label not in holder:
                raise Unfit(f"it has no label {label!r}", nearest(label, map(str, holder)))
            value = holder[label]
            if isinstance(inputs, Mapping):
                inputs = {key: part for key, part in inputs.items() if key != label}
            return value, inputs
        if not isinstance(item, (tuple, list)) or not -len(item) <= label < len(item):
            size = f"has {len(item)} parts" if isinstance(item, (tuple, list)) else f"is a {type(item).__name__}"
            raise Unfit(f"its label is part {label}, and it {size}")
        if transform is None:
            parts = list(item)
            del parts[label]
            inputs = parts[0] if len(parts) == 1 and _is_nest(parts[0]) else tuple(parts)
        return item[label], inputs

    def _call(self, function: Callable[[Any], Any], item: Any, what: str) -> Any:
        try:
            return function(item)
        except PlanishError:
            raise
        except Exception as error:
            raise Unfit(f"{what} raised {type(error).__name__}: {error}") from error

    def _by_input(self, item: Any) -> list[Any]:
        """The parts of an item in the order of the model's inputs."""
        names = [p.name for p in self.layout.inputs]
        takes = f"the model takes {', '.join(names)}"
        if isinstance(item, Mapping):
            given = dict(_leaves(item))
            unknown = [key for key in given if key not in names]
            missing = [key for key in names if key not in given]
            if missing:
                near = nearest(missing[0], unknown, f"{takes}, and it has {', '.join(given) or 'nothing'}")
                raise Unfit(f"it has no {missing[0]!r}", near)
            if unknown:
                raise Unfit(
                    f"the model has no input {unknown[0]!r}", f"{LABEL_HINT}; transform=... leaves other parts out"
                )
            return [given[key] for key in names]
        if isinstance(item, (tuple, list)) and (len(names) > 1 or _is_nest(item)):
            if len(item) > len(names):
                raise Unfit(f"it has {len(item)} parts, and {takes}", LABEL_HINT)
            if len(item) < len(names):
                raise Unfit(f"it has {len(item)} of {len(names)} parts", takes)
            return list(item)
        if len(names) > 1:
            raise Unfit(f"it is one {type(item).__name__}", f"{takes}: give a mapping by name, or a tuple")
        return [item]

    # -- rows --------------------------------------------------------------------------------------------------------
    def _split(self, arrays: dict[str, np.ndarray]) -> list[tuple[dict[str, np.ndarray], bool]]:
        """The rows of an item, each with the batch axis, and whether the item was one row without it."""
        layout = self.layout
        ranks = {p.name: len(p.shape) for p in layout.inputs}
        forms: dict[str, bool] = {}
        for key, array in arrays.items():
            lone = key in layout.batched and array.ndim == ranks[key] - 1
            if array.ndim != ranks[key] and not lone:
                shape = next(p.shape for p in layout.inputs if p.name == key)
                raise Unfit(
                    f"{key} has the shape {list(array.shape)}, and the model takes [{', '.join(map(str, shape))}]"
                )
            if key in layout.batched:
                forms[key] = lone
        if not forms:
            return [(arrays, True)]
        if len(set(forms.values())) > 1:
            with_axis = next(k for k, lone in forms.items() if not lone)
            without = next(k for k, lone in forms.items() if lone)
            raise Unfit(f"{with_axis} has a batch axis, and {without} has none")
        if next(iter(forms.values())):
            return [({k: a[None] if k in forms else a for k, a in arrays.items()}, True)]
        counts = {key: len(arrays[key]) for key in forms}
        if len(set(counts.values())) > 1:
            raise Unfit(
                f"its inputs do not agree on the number of rows: {', '.join(f'{k} {n}' for k, n in counts.items())}"
            )
        rows = next(iter(counts.values()))
        if not rows:
            raise Unfit("it has no rows")
        return [({k: a[i : i + 1] if k in forms else a for k, a in arrays.items()}, False) for i in range(rows)]


def _is_nest(value: Any) -> bool:
    """Whether a value is made of parts; numbers in lists, however deep, are an array."""
    if isinstance(value, (tuple, list)):
        return any(not isinstance(v, Number) and (not isinstance(v, list) or _is_nest(v)) for v in value)
    return isinstance(value, Mapping)


def _leaves(item: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The parts of nested mappings and sequences, by their path: ``past.0.key``."""
    for key, value in item.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}.")
        elif isinstance(value, (tuple, list)) and _is_nest(value):
            yield from _leaves(dict(enumerate(value)), f"{path}.")
        else:
            yield path, value


def _labels(label: Any, rows: int, alone: bool) -> Sequence[np.ndarray]:
    """The label of every row."""
    array = as_array(label, "the label")
    if array.dtype.kind not in "biuf":
        raise Unfit(
            f"its label is {array.dtype.type.__name__}, not numbers", "label= may be a function that returns a number"
        )
    if alone or (rows == 1 and array.ndim == 0):
        return [array]
    if not array.ndim or len(array) != rows:
        raise Unfit(f"its label has the shape {list(array.shape)}, and it has {rows} rows")
    return [np.asarray(array[i]) for i in range(rows)]
