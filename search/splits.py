"""Three parts of the data that share no sample: to calibrate on, to search on, and to prove on once."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..compiler.errors import UsageError
from .batches import Sample, Samples
from .budget import CONFIDENCE, COVERAGE, Bar

#: Samples that the search needs at least to look at while it goes.
DEVELOPMENT_LEAST = 32
#: Of the data held out, the share that the proof gets: more samples leave room for a miss.
FINAL_SHARE = 0.6


@dataclass(frozen=True)
class Splits:
    """The data of a search.

    Attributes:
        calibration: what weights, ranges and sensitivities are found on.
        development: what trials are judged on while the search goes on.
        final: looked at once, for the proof.
        notes: what was left out, and why.
    """

    calibration: Samples
    development: Samples
    final: Samples
    notes: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of all three."""
        parts = (self.calibration, self.development, self.final)
        return hashlib.sha256("".join(p.sha256 for p in parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Need:
    """Samples that the final split needs: in all, and of each slice."""

    total: int
    each: int

    def of(self, sizes: Mapping[str, int]) -> int:
        return max(self.total, self.each * len(sizes) if self.each > 1 else 0)


def split(
    samples: Samples,
    evaluation: Samples | None = None,
    bar: Bar | None = None,
    seed: int = 0,
    *,
    confidence: float = CONFIDENCE,
    coverage: float = COVERAGE,
) -> Splits:
    """Divide data for a search; by seed, slice by slice, and samples with the same bytes stay together.

    Args:
        samples: all there is; with ``evaluation``, what to calibrate on.
        evaluation: what to judge by. None: half of ``samples`` is held out.
        bar: the final split gets at least the samples that it takes to prove it. None: any number.
        seed: of the division.
        confidence, coverage: of the proof.

    Raises:
        UsageError: there are too few samples; says how many it takes.
    """
    needs = _Need(*(1, 1) if bar is None else bar.needs(confidence, coverage))
    why = "" if bar is None else f" to prove '{bar}' at {confidence * 100:g} % confidence"
    notes: list[str] = []
    if evaluation is None:
        calibration, held = halved(samples, 0.5, seed)
        given, doubled, what = len(samples), 2, "samples"
    else:
        seen = {s.digest for s in evaluation}
        kept = [s for s in samples if s.digest not in seen]
        if len(kept) < len(samples):
            notes.append(f"{len(samples) - len(kept)} samples of the evaluation data were left out of the calibration")
        if not kept:
            raise UsageError(
                "every sample of the calibration data is in the evaluation data too",
                "leave the evaluation data out, and half of the calibration data is held out",
            )
        calibration, held = Samples.of(kept, samples.layout, samples.notes), evaluation
        given, doubled, what = len(evaluation), 1, "samples of evaluation data"
    sizes = held.counts
    least = needs.of(sizes) + (DEVELOPMENT_LEAST if bar is not None else 1)
    if len(held) < least:
        raise UsageError(
            f"{doubled * least} {what} are needed{why}, and {given} were given",
            f"{needs.of(sizes)} for the proof, {least - needs.of(sizes)} for the search"
            + (", and as many to calibrate on" if doubled == 2 else ""),
        )
    for name, size in sizes.items():
        if size < needs.each:
            whole = doubled * needs.each
            raise UsageError(
                f"the slice {name!r} needs {whole} {what}{why}, and {samples_in(name, samples, evaluation)} were given"
            )
    share = max(FINAL_SHARE, needs.total / len(held))
    share = min(share, 1 - (DEVELOPMENT_LEAST if bar is not None else 1) / len(held))
    least_final = {
        name: max(needs.each if needs.each > 1 else 0, math.ceil(share * size)) for name, size in sizes.items()
    }
    development, final = _divide(held, least_final, seed + 1)
    return Splits(calibration, development, final, tuple(notes))


def samples_in(name: str, samples: Samples, evaluation: Samples | None) -> int:
    """How many samples of a slice were given."""
    return (samples if evaluation is None else evaluation).counts.get(name, 0)


def halved(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Two parts without a common sample; the second has at least ``share`` of every slice."""
    return _divide(samples, {name: math.ceil(share * size) for name, size in samples.counts.items()}, seed)


def _divide(samples: Samples, second: Mapping[str, int], seed: int) -> tuple[Samples, Samples]:
    """Draw at least ``second[slice]`` samples of each slice; equal samples go the way of the first of them."""
    alike: dict[bytes, list[Sample]] = {}
    for sample in samples:
        alike.setdefault(sample.digest, []).append(sample)
    groups: dict[str, list[list[Sample]]] = {name: [] for name in samples.slice_names}
    for group in alike.values():
        groups[group[0].slice].append(group)
    drawn: set[str] = set()
    for name, members in groups.items():
        # each slice has a generator of its own: another slice more or less leaves its division alone
        random.Random(f"{seed}/{name}").shuffle(members)
        taken = 0
        for group in members:
            if taken >= second.get(name, 0):
                break
            drawn |= {s.id for s in group}
            taken += len(group)
    return _keep(samples, drawn, False), _keep(samples, drawn, True)


def _keep(samples: Samples, ids: set[str], inside: bool) -> Samples:
    return Samples.of((s for s in samples if (s.id in ids) is inside), samples.layout, samples.notes)


def overlap(parts: Sequence[Iterable[Sample]]) -> bool:
    """Whether two of the parts share a sample."""
    seen: set[bytes] = set()
    for part in parts:
        digests = {s.digest for s in part}
        if digests & seen:
            return True
        seen |= digests
    return False
