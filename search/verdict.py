"""What a sample of scores says about one condition of a bar, as data and as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .budget import Term


@dataclass(frozen=True)
class Verdict:
    """A term of a bar, judged.

    Attributes:
        term: the condition.
        holds: proved at the stated confidence.
        value: what these samples show, in the metric's unit: the mean; the least favourable slice's mean; or, for ``each`` and
            ``pNN``, the score that the asked-for share of them reaches.
        samples: how many were judged.
        misses: how many of them, taken alone, miss the bound.
        proven: the bound of ``value`` that holds for inputs not seen, at the stated confidence; None where the samples are too
            few to prove any.
        confidence: of the statement.
        by_slice: ``value`` in each slice.
        observed: ``value`` meets the bound, whatever it proves.
        share: for ``each`` and ``pNN`` the share of inputs that is proved to meet the bound.
        asked: the share of inputs that was asked for.
        needed: samples that can prove the term when none misses (``worst-slice``: in every slice).
        proven_by_slice: for ``worst-slice`` the bound in each slice.
    """

    term: Term
    holds: bool
    value: float
    samples: int
    misses: int
    proven: float | None
    confidence: float
    by_slice: Mapping[str, float]
    observed: bool
    share: float | None = None
    asked: float | None = None
    needed: int = 1
    proven_by_slice: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        sure = f"at {self.confidence * 100:g} % confidence"
        if self.share is not None and self.asked is not None:
            return self._of_share(self.share, self.asked, sure)
        return self._of_mean(sure)

    def _of_share(self, share: float, asked: float, sure: str) -> str:
        side = "below" if self.term.upward else "above"
        counted = f"{self.samples} samples, {self.misses} {side}"
        if self.holds:
            return f"at least {percent(share)} % of inputs have {self.term.condition}, {sure}: {counted}"
        few = f", and fewer than {self.needed} samples cannot prove it" if self.samples < self.needed else ""
        return (
            f"only {percent(share)} % of inputs are sure to have {self.term.condition} {sure}, "
            f"where {asked * 100:g} % are asked for: {counted}{few}"
        )

    def _of_mean(self, sure: str) -> str:
        name = self.term.metric + (f"({self.term.output})" if self.term.output else "")
        sliced = self.term.statistic == "worst-slice"
        if sliced:
            worst = (min if self.term.upward else max)(self.by_slice, key=lambda s: self.by_slice[s])
            counted = (
                f"{len(self.by_slice)} slices of {self.samples} samples, the worst, {worst!r}, has {_short(self.value)}"
            )
        else:
            counted = f"{self.samples} samples, mean {_short(self.value)}"
        side = "at least" if self.term.upward else "at most"
        what = f"in every slice the mean {name} is" if sliced else f"the mean {name} is"
        if self.proven is None:
            each = " in every slice" if sliced else ""
            return f"nothing is proved about the mean {name}: {counted}, and {self.needed} are needed{each}"
        if self.holds:
            return f"{what} {side} {_short(self.proven)}, {sure}: {counted}"
        return (
            f"{what} {side} {_short(self.proven)} and no better for sure, {sure}, "
            f"where {self.term.operator} {_short(self.term.bound)} is asked for: {counted}"
        )

    def to_data(self) -> dict[str, Any]:
        """JSON-able data for the report."""
        return {
            "term": str(self.term),
            "holds": self.holds,
            "value": self.value,
            "samples": self.samples,
            "misses": self.misses,
            "proven": self.proven,
            "confidence": self.confidence,
            "share": self.share,
            "by_slice": dict(self.by_slice),
            "sentence": self.sentence,
        }


def percent(share: float) -> str:
    """A proven share in percent, rounded down so that it stays proven."""
    whole = f"{int(share * 1e4 + 1e-9) / 100:.2f}"
    return whole.rstrip("0").rstrip(".") if whole.endswith(".00") else whole


def _short(value: float) -> str:
    return f"{value:.6g}"
