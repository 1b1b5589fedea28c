"""Samples of data for a model: rows along its batch axis, put together into batches of equal shape, never padded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..compiler.errors import UsageError
from .layout import Layout

#: Rows of a batch, at most.
BATCH = 16


@dataclass(frozen=True)
class Sample:
    """One row of data.

    Attributes:
        id: what it is called in messages and reports: ``questions[12]``.
        slice: the slice it belongs to.
        inputs: by graph input name; those with the batch axis have it with size 1.
        label: what the model should have said, without the batch axis; None where there are no labels.
    """

    id: str
    slice: str
    inputs: dict[str, np.ndarray]
    label: np.ndarray | None = None

    @cached_property
    def digest(self) -> bytes:
        """sha256 of the inputs; two samples with the same one are the same to the model."""
        state = hashlib.sha256()
        for name in sorted(self.inputs):
            _feed(state, name, self.inputs[name])
        return state.digest()


@dataclass(frozen=True)
class Batch:
    """Rows that run together.

    Attributes:
        inputs: by graph input name, batch axis first where the model has one.
        rows: how many samples these are.
        ids, slices: of each row.
        labels: ``[rows, ...]``; None where there are no labels.
        batched: whether axis 0 of the outputs counts the rows; else the batch is one sample and the outputs are all its own.
    """

    inputs: dict[str, np.ndarray]
    rows: int
    ids: tuple[str, ...]
    slices: tuple[str, ...]
    labels: np.ndarray | None = None
    batched: bool = True


@dataclass(frozen=True)
class Samples:
    """Samples in the order of their batches: scores of one batch after the other line up with ``ids`` and ``slices``.

    Attributes:
        batches: of rows of equal shape, in the order in which the first of each was given.
        layout: how rows sit in the model's inputs.
        notes: what was noticed while they were read.
    """

    batches: tuple[Batch, ...]
    layout: Layout
    notes: tuple[str, ...] = field(default=(), compare=False)

    @staticmethod
    def of(samples: Iterable[Sample], layout: Layout, notes: Sequence[str] = ()) -> Samples:
        """Put samples together into batches.

        Raises:
            UsageError: the model takes more rows at a time than there are samples of some shape.
        """
        return Samples(tuple(_batches(list(samples), layout)), layout, tuple(notes))

    def __len__(self) -> int:
        return sum(batch.rows for batch in self.batches)

    def __iter__(self) -> Iterator[Sample]:
        """Every sample, in the order of the batches."""
        for batch in self.batches:
            yield from self._rows(batch)

    def _rows(self, batch: Batch) -> Iterator[Sample]:
        for row in range(batch.rows):
            inputs = {
                name: array[row : row + 1] if name in self.layout.batched and batch.batched else array
                for name, array in batch.inputs.items()
            }
            label = None if batch.labels is None else batch.labels[row]
            yield Sample(batch.ids[row], batch.slices[row], inputs, label)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The name of every sample."""
        return tuple(i for batch in self.batches for i in batch.ids)

    @cached_property
    def slices(self) -> tuple[str, ...]:
        """The slice of every sample."""
        return tuple(s for batch in self.batches for s in batch.slices)

    @cached_property
    def slice_names(self) -> tuple[str, ...]:
        """The slices there are, sorted."""
        return tuple(sorted(set(self.slices)))

    @property
    def counts(self) -> dict[str, int]:
        """Slice -> number of samples."""
        return {name: self.slices.count(name) for name in self.slice_names}

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        return bool(self.batches) and all(batch.labels is not None for batch in self.batches)

    @cached_property
    def sha256(self) -> str:
        """Of the data in order: names and slices, inputs and labels."""
        state = hashlib.sha256()
        for sample in self:
            state.update(f"{sample.id}\0{sample.slice}\0".encode())
            for name in sorted(sample.inputs):
                _feed(state, name, sample.inputs[name])
            if sample.label is not None:
                _feed(state, "label", sample.label)
        return state.hexdigest()

    def take(self, ids: Iterable[str]) -> Samples:
        """Those samples, in the order they have here.

        Raises:
            KeyError: one is not there.
        """
        wanted = set(ids)
        missing = wanted - set(self.ids)
        if missing:
            raise KeyError(sorted(missing)[0])
        return Samples.of((s for s in self if s.id in wanted), self.layout)

    def sample(self, count: int, seed: int = 0) -> Samples:
        """At most ``count`` samples drawn by seed, each slice with its share of them, in the order they have here."""
        if count >= len(self):
            return self
        # samples of every slice in random order, each placed where its share of the draw is reached
        placed: list[tuple[float, str]] = []
        for name in self.slice_names:
            ids = [i for i, s in zip(self.ids, self.slices, strict=True) if s == name]
            random.Random(f"{seed}/{name}").shuffle(ids)
            placed += [((k + 0.5) / len(ids), i) for k, i in enumerate(ids)]
        return self.take(i for _, i in sorted(placed)[:count])


def _feed(state: hashlib._Hash, name: str, array: np.ndarray) -> None:
    state.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
    state.update(np.ascontiguousarray(array).data)


def _batches(samples: Sequence[Sample], layout: Layout) -> Iterator[Batch]:
    """Group rows of equal shape; inputs without the batch axis have to be equal outright."""
    groups: dict[object, list[Sample]] = {}
    for sample in samples:
        key = tuple(
            (name, array.shape) if name in layout.batched else (name, array.shape, array.tobytes())
            for name, array in sample.inputs.items()
        )
        label = None if sample.label is None else (sample.label.shape, sample.label.dtype.str)
        groups.setdefault((key, label), []).append(sample)
    for rows in groups.values():
        for start, stop in _parts(len(rows), layout, rows[0]):
            yield _batch(rows[start:stop], layout)


def _parts(rows: int, layout: Layout, example: Sample) -> Iterator[tuple[int, int]]:
    """Cut ``rows`` into as few parts as go, each within what the model takes at a time."""
    least, most = layout.rows
    size = max(min(BATCH, most), least)
    count = -(-rows // size)
    if rows < least * count:
        count = rows // least
    if not count or -(-rows // count) > most:
        raise UsageError(
            f"the model takes {least} to {most} rows at a time, and there are only {rows} samples of the shape of {example.id}",
            "export the model with a batch from 1 on",
        )
    for part in range(count):
        yield rows * part // count, rows * (part + 1) // count


def _batch(rows: Sequence[Sample], layout: Layout) -> Batch:
    inputs = {
        name: np.concatenate([r.inputs[name] for r in rows]) if name in layout.batched else array
        for name, array in rows[0].inputs.items()
    }
    labels = None if rows[0].label is None else np.stack([np.asarray(r.label) for r in rows])
    return Batch(
        inputs, len(rows), tuple(r.id for r in rows), tuple(r.slice for r in rows), labels, layout.has_rows,
    )  # fmt: skip
