"""Scores of a compiled model's outputs against the float model's, for every term of a bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..compiler.errors import UsageError
from ..compiler.options import nearest
from ..compiler.types import bf16_to_float
from .batches import Batch, Samples
from .budget import CONFIDENCE, COVERAGE, Bar, Term
from .metrics_base import Metric
from .metrics_table import named as metric
from .score import Score
from .verdict import Verdict

__all__ = ["Metric", "Scorer", "metric"]

Arrays = Sequence[np.ndarray]


class Scorer:
    """Turns outputs into scores and losses, term by term.

    Outputs are lists of arrays in the order of the model's outputs, batch axis first where the model has one; bf16 comes as
    ``uint16`` bits. Results are keyed by ``str(term)``.
    """

    def __init__(
        self, bar: Bar, score: Callable[..., Any] | str | None = None, output_names: Sequence[str] = ("output",)
    ) -> None:
        """A scorer.

        Args:
            bar: what is asked.
            score: maps outputs to what the metrics compare: ``f(outputs)`` or ``f(outputs, inputs)``, see
                :class:`~planish.search.score.Score`; a callable or ``FILE.py:callable``. None: the outputs as they are.
            output_names: of the model, in order.

        Raises:
            UsageError: a term names an output that is not there.
        """
        self.bar = bar
        self.names = tuple(output_names)
        self.score = None if score is None else Score.of(score, self.names)
        for term in bar.terms:
            if term.output is not None and term.output not in self.names and self.score is None:
                raise UsageError(f"the model has no output {term.output!r}", nearest(term.output, self.names))

    @property
    def words(self) -> str | None:
        """The name of the function that maps outputs to what is compared; None: they are compared as they are."""
        return None if self.score is None else self.score.name

    @property
    def against(self) -> str:
        """What scores are taken against: "the float model", "labels" or both."""
        kinds = {
            "labels" if t.kind.needs_labels and t.kind.identical is None else "the float model" for t in self.bar.terms
        }
        return " and ".join(sorted(kinds, reverse=True))

    def check(self, samples: Samples) -> None:
        """Compare what the bar needs with what the samples have.

        Raises:
            UsageError: a metric needs labels, and there are none.
        """
        for term in self.bar.terms:
            if term.kind.needs_labels and not samples.labelled:
                raise UsageError(
                    f"{term.metric} needs labels, and the data has none",
                    "planish.Dataset(data, label=...) says which part is the label",
                )

    def scores(self, reference: Arrays, outputs: Arrays, batch: Batch) -> dict[str, np.ndarray]:
        """The scores of one batch, f64 ``[rows]`` for every term but those that need the whole split.

        Raises:
            UsageError: a metric cannot score these outputs, or scores NaN; names the sample.
        """
        compared = _Compared(self, reference, outputs, batch)
        return {str(t): self._scores(t, compared, batch) for t in self.bar.terms if not t.kind.whole}

    def finish(
        self, references: Sequence[Arrays], outputs: Sequence[Arrays], samples: Samples
    ) -> dict[str, np.ndarray]:
        """The scores of the terms that look at a sample among all others: f64 ``[samples]`` for a whole split.

        Args:
            references, outputs: batch by batch.
            samples: the split.
        """
        whole = [t for t in self.bar.terms if t.kind.whole]
        if not whole:
            return {}
        compared = [_Compared(self, *b) for b in zip(references, outputs, samples.batches, strict=True)]
        found = {}
        for term in whole:
            parts = [c.of(term) for c in compared]
            widths = {p[0].shape[1:] for p in parts}
            if len(widths) > 1:
                raise UsageError(
                    f"{term.metric} compares samples with one another, and their outputs differ in shape",
                    "give a score function that makes one vector of each, a mean over the tokens for example",
                )
            reference, output = (np.concatenate([p[side] for p in parts]) for side in (0, 1))
            values = term.kind.per_sample(reference, output, None)
            found[str(term)] = _checked(term, values, reference, output, samples.ids)
        return found

    def all_scores(
        self, references: Sequence[Arrays], outputs: Sequence[Arrays], samples: Samples
    ) -> dict[str, np.ndarray]:
        """The scores of a whole split for every term, f64 ``[samples]`` in the order of ``samples.ids``."""
        self.check(samples)
        parts = [
            self.scores(reference, output, batch)
            for reference, output, batch in zip(references, outputs, samples.batches, strict=True)
        ]
        whole = self.finish(references, outputs, samples)
        return {
            str(t): whole[str(t)] if t.kind.whole else np.concatenate([p[str(t)] for p in parts])
            for t in self.bar.terms
        }

    def losses(self, reference: Arrays, outputs: Arrays, batch: Batch) -> dict[str, np.ndarray]:
        """Losses >= 0 of one batch, f64 ``[rows]`` for every term, by the metric that moves smoothly with the error."""
        compared = _Compared(self, reference, outputs, batch)
        found = {}
        for term in self.bar.terms:
            a, b = compared.of(term)
            smooth = term.kind.smooth(a)
            if smooth is term.kind and smooth.needs_labels and batch.labels is None:
                raise UsageError(
                    f"{term.metric} needs labels, and the sample {batch.ids[0]} has none",
                    "planish.Dataset(..., label=...)",
                )
            values = np.asarray(smooth.losses(a, b, batch.labels), np.float64)
            found[str(term)] = np.where(np.isnan(values) | _broken(a, b), np.inf, values)
        return found

    def weights(self, samples: Samples) -> dict[str, np.ndarray | None]:
        """What each sample counts in a mean, by term; None where all count the same."""
        found: dict[str, np.ndarray | None] = {}
        for term in self.bar.terms:
            parts = [term.kind.weights(b.labels, b.rows) for b in samples.batches]
            known = [p for p in parts if p is not None]
            found[str(term)] = np.concatenate(known) if len(known) == len(parts) and parts else None
        return found

    def verdicts(
        self,
        scores: Mapping[str, np.ndarray],
        samples: Samples,
        confidence: float = CONFIDENCE,
        coverage: float = COVERAGE,
    ) -> list[Verdict]:
        """What the scores of a split prove, term by term."""
        weights = self.weights(samples)
        return [
            t.judge(
                np.asarray(scores[str(t)]), samples.slices, confidence, coverage, weights=weights[str(t)], ids=samples.ids
            )
            for t in self.bar.terms
        ]  # fmt: skip

    def _scores(self, term: Term, compared: _Compared, batch: Batch) -> np.ndarray:
        reference, output = compared.of(term)
        if term.kind.needs_labels and batch.labels is None:
            raise UsageError(
                f"{term.metric} needs labels, and the sample {batch.ids[0]} has none", "planish.Dataset(..., label=...)"
            )
        values = term.kind.per_sample(reference, output, batch.labels)
        return _checked(term, values, reference, output, batch.ids)


class _Compared:
    """The arrays that the terms compare, ``[rows, ...]``, each found once."""

    def __init__(self, scorer: Scorer, reference: Arrays, outputs: Arrays, batch: Batch) -> None:
        self._scorer, self._batch = scorer, batch
        self._raw = ([_widened(a) for a in reference], [_widened(a) for a in outputs])
        self._found: dict[str | None, tuple[np.ndarray, np.ndarray]] = {}
        self._scored: tuple[Any, Any] | None = None

    def of(self, term: Term) -> tuple[np.ndarray, np.ndarray]:
        if term.output not in self._found:
            reference, output = (self._one(term, side) for side in (0, 1))
            if reference.shape != output.shape:
                raise UsageError(
                    f"{term.metric} compares shape {list(output.shape)} with the float model's {list(reference.shape)}"
                )
            self._found[term.output] = reference, output
        return self._found[term.output]

    def _one(self, term: Term, side: int) -> np.ndarray:
        score, names = self._scorer.score, self._scorer.names
        if score is not None:
            if self._scored is None:
                a, b = (score(arrays, self._batch) for arrays in self._raw)
                self._scored = a, b
            made = self._scored[side]
            if isinstance(made, Mapping):
                key = term.output if term.output is not None else next(iter(made))
                if key in made:
                    return made[key]
            elif term.output is None:
                return made
        if term.output is not None and term.output not in names:
            raise UsageError(f"there is no output {term.output!r} to compare", nearest(term.output, names))
        array = self._raw[side][0 if term.output is None else names.index(term.output)]
        if not self._batch.batched:
            return array[None]
        if not array.ndim or len(array) != self._batch.rows:
            name = term.output or names[0]
            raise UsageError(
                f"the output {name!r} of shape {list(array.shape)} has no row for each of the {self._batch.rows} samples",
                "compare another output, or give a score function",
            )
        return array


def _widened(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    return (
        bf16_to_float(array) if array.dtype == np.uint16 else array
    )  # no tensor of the IR is an unsigned 16-bit integer


def _broken(reference: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Rows whose output is NaN somewhere and the reference nowhere."""
    if output.dtype.kind != "f":
        return np.zeros(len(output), bool)
    axes = tuple(range(1, output.ndim))
    return np.isnan(output).any(axis=axes) & ~np.isnan(reference).any(axis=axes)


def _checked(
    term: Term, values: np.ndarray, reference: np.ndarray, output: np.ndarray, ids: Sequence[str]
) -> np.ndarray:
    """Scores without NaN: outputs that a precision broke score worst; a NaN of the float model or the metric is an error."""
    values = np.asarray(values, np.float64)
    for row in np.flatnonzero(np.isnan(values) | _broken(reference, output)).tolist():
        a, b = reference[row], output[row]
        if a.dtype.kind == "f" and np.isnan(a).any():
            raise UsageError(f"the float model's output is NaN for the sample {ids[row]}", "leave such inputs out")
        if b.dtype.kind != "f" or np.isfinite(b).all() or not np.isfinite(a).all():
            raise UsageError(
                f"{term.metric} is NaN for the sample {ids[row]}", "a score has to be a number for every sample"
            )
        values = values.copy()
        values[row] = term.kind.worst
    return values
