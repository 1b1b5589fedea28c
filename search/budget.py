"""The quality bar: ``cosine >= 0.999 each and top1 >= 0.98 mean``, and what a sample of scores proves about it.

A bar is a statement about inputs that were not seen, true at the stated confidence:

- ``each``: at least the stated coverage (99 %) of all inputs meets the bound;
- ``pNN``: at least NN % of all inputs meet it;
- ``mean``: the mean over all inputs meets it;
- ``worst-slice``: in every slice the mean does.

Terms joined by "and", and the slices of ``worst-slice``, are each tested at the full confidence. That needs no correction
for their number: the claim is that *all* of them hold, and it is false only if a certain one of them is false, which passes
its own test with at most the stated probability (intersection-union test; Berger, "Multiparameter hypothesis testing and
acceptance sampling", Technometrics 1982).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..compiler.errors import UsageError
from . import metrics_table, statistics
from .metrics_base import Metric
from .verdict import Verdict

#: The share of inputs that "each" speaks of, and the confidence of every statement.
COVERAGE, CONFIDENCE = 0.99, 0.95
FORM = "METRIC[(output)] >= NUMBER [mean | each | pNN | worst-slice], several joined by 'and'"
_TERM = re.compile(
    r"(?P<metric>[A-Za-z_./~][^\s()<>=]*)\s*(?:\(\s*(?P<output>[^()]*?)\s*\))?\s*(?P<operator>>=|<=|>|<)\s*"
    r"(?P<bound>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?P<percent>\s*%)?(?:\s+(?P<statistic>\S+))?"
)
_QUANTILE = re.compile(r"p(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Term:
    """One condition of a bar.

    Attributes:
        metric: what is measured, by name.
        output: which output of the model; None: the first, or what the score function makes of them.
        upward: whether the score has to be large (``>=``); else small (``<=``).
        bound: the number that is asked for.
        statistic: ``each``, ``mean``, ``pNN`` or ``worst-slice``.
        strict: ``>`` and ``<``: the bound itself does not do.
        own: the metric itself where it is the caller's own.
    """

    metric: str
    output: str | None
    upward: bool
    bound: float
    statistic: str = "each"
    strict: bool = False
    own: Metric | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.condition} {self.statistic}"

    @property
    def kind(self) -> Metric:
        """The metric."""
        return metrics_table.named(self.metric) if self.own is None else self.own

    @property
    def condition(self) -> str:
        """The term without its statistic: ``cosine >= 0.99``."""
        output = f"({self.output})" if self.output else ""
        return f"{self.metric}{output} {self.operator} {number(self.bound)}"

    @property
    def operator(self) -> str:
        """The comparison as text."""
        return (">" if self.upward else "<") + ("" if self.strict else "=")

    @property
    def quantile(self) -> float | None:
        """For ``pNN`` the share of inputs that is asked to meet the bound."""
        found = _QUANTILE.fullmatch(self.statistic)
        return float(found[1]) / 100 if found else None

    def share(self, coverage: float = COVERAGE) -> float | None:
        """The share of inputs that has to meet the bound, for ``each`` and ``pNN``; None for means."""
        return coverage if self.statistic == "each" else self.quantile

    def met(self, scores: np.ndarray) -> np.ndarray:
        """Per score whether it meets the bound; NaN never does."""
        if self.upward:
            return scores > self.bound if self.strict else scores >= self.bound
        return scores < self.bound if self.strict else scores <= self.bound

    def needs(self, confidence: float = CONFIDENCE, coverage: float = COVERAGE) -> int:
        """How many samples can prove the term at all, when none of them misses; for ``worst-slice``: in every slice.

        Raises:
            UsageError: no number of samples can.
        """
        share = self.share(coverage)
        if share is None and self.kind.shares:
            share = max(0.0, self.bound if self.upward else 1 - self.bound)
        elif share is None:
            return statistics.BOOTSTRAP_LEAST
        if share >= 1:
            raise UsageError(
                f"no number of samples can prove '{self}'",
                "ask for 'each', or for a bound that is not the best score there is",
            )
        return statistics.samples_needed(share, confidence)

    def judge(
        self,
        scores: np.ndarray,
        slices: Sequence[str],
        confidence: float = CONFIDENCE,
        coverage: float = COVERAGE,
        *,
        weights: np.ndarray | None = None,
        ids: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Verdict:
        """What the scores of independent samples prove.

        Args:
            scores: f64 ``[samples]``.
            slices: the slice of each sample.
            confidence: of the statement.
            coverage: the share of inputs that ``each`` speaks of.
            weights: what each sample counts in a mean; None: the same.
            ids: names of the samples, for messages.
            seed: of the bootstrap.

        Raises:
            UsageError: there are no scores, or one is NaN; names the metric and the sample.
        """
        scores = np.asarray(scores, np.float64)
        if scores.ndim != 1 or not len(scores):
            raise UsageError(f"there are no scores to judge '{self}' by", "give samples")
        if len(slices) != len(scores):
            raise ValueError(f"{len(scores)} scores, but the slices of {len(slices)} samples")
        if np.isnan(scores).any():
            at = int(np.isnan(scores).argmax())
            raise UsageError(f"{self.metric} is NaN for the sample {ids[at] if ids else at}")
        labels = np.asarray(slices)
        groups = {name: labels == name for name in dict.fromkeys(slices)}
        share = self.share(coverage)
        if share is not None:
            return self._judge_share(scores, groups, share, confidence)
        return self._judge_mean(scores, groups, weights, confidence, seed)

    def _judge_share(
        self, scores: np.ndarray, groups: Mapping[str, np.ndarray], share: float, confidence: float
    ) -> Verdict:
        """``each`` and ``pNN``: a share of inputs."""
        sign = 1.0 if self.upward else -1.0
        n, met = len(scores), self.met(scores)
        proven = statistics.quantile_at_least(sign * scores, share, confidence)
        lower = statistics.share_at_least(int(met.sum()), n, confidence)
        return Verdict(
            term=self, holds=lower >= share, value=sign * _quantile(sign * scores, share), samples=n,
            misses=int(n - met.sum()), proven=None if proven is None else sign * proven, confidence=confidence,
            by_slice={name: sign * _quantile(sign * scores[g], share) for name, g in groups.items()},
            observed=bool(met.mean() >= share), share=lower, asked=share, needed=statistics.samples_needed(share, confidence),
        )  # fmt: skip

    def _judge_mean(
        self, scores: np.ndarray, groups: Mapping[str, np.ndarray], weights: np.ndarray | None,
        confidence: float, seed: int,
    ) -> Verdict:  # fmt: skip
        """``mean`` and ``worst-slice``: the least favourable of the means in question, and of their bounds."""
        everything = {"": np.ones(len(scores), bool)}
        asked = list(groups) if self.statistic == "worst-slice" else [""]
        values: dict[str, float] = {}
        bounds: dict[str, float | None] = {}
        for name, group in {**everything, **groups}.items():
            w = None if weights is None else weights[group]
            values[name] = _mean(self.kind, scores[group], w)
            if name in asked:
                bounds[name] = self._bound_of_mean(scores[group], w, confidence, seed)
        value = (min if self.upward else max)(values[a] for a in asked)
        known = [b for a in asked if (b := bounds[a]) is not None]
        proven = (min if self.upward else max)(known) if len(known) == len(asked) else None
        needed = self.needs(confidence) if not self.kind.shares or 0 < self._share_bound() < 1 else 1
        return Verdict(
            term=self, holds=proven is not None and bool(self.met(np.array([proven]))[0]), value=value,
            samples=len(scores), misses=int((~self.met(scores)).sum()), proven=proven, confidence=confidence,
            by_slice={name: values[name] for name in groups}, observed=bool(self.met(np.array([value]))[0]),
            share=None, asked=None, needed=needed,
            proven_by_slice={name: bounds[name] for name in groups} if self.statistic == "worst-slice" else {},
        )  # fmt: skip

    def _share_bound(self) -> float:
        return self.bound if self.upward else 1 - self.bound

    def _bound_of_mean(
        self, scores: np.ndarray, weights: np.ndarray | None, confidence: float, seed: int
    ) -> float | None:
        """The one-sided bound of a mean on the side that the term asks about; None: too few samples."""
        sign, metric = 1.0 if self.upward else -1.0, self.kind
        if metric.shares:
            shares = scores if self.upward else 1 - scores
            bound = statistics.share_mean_at_least(shares, confidence)
            return bound if self.upward else 1 - bound
        scale = sign * metric.to_mean(scores)
        if not np.isfinite(scale).all():  # one score is infinitely bad, and so is every mean of them
            return sign * -np.inf
        found = statistics.mean_at_least(scale, confidence, weights=weights, seed=seed)
        return None if found is None else metric.from_mean(sign * found)


def _mean(metric: Metric, scores: np.ndarray, weights: np.ndarray | None) -> float:
    return metric.from_mean(float(np.average(metric.to_mean(scores), weights=weights)))


def _quantile(scores: np.ndarray, share: float) -> float:
    """The largest score that at least ``share`` of these scores reach."""
    misses = math.floor(len(scores) * (1 - share) + 1e-9)
    return float(np.partition(scores, misses)[misses])


def number(value: float) -> str:
    """A number as short as it can be read back."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


@dataclass(frozen=True)
class Bar:
    """Conditions that all have to hold; ``str`` gives text that :meth:`parse` reads back."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.terms))

    @staticmethod
    def parse(text: str | Bar, metrics: Mapping[str, Any] | None = None) -> Bar:
        """Read ``METRIC[(output)] OP NUMBER [mean | each | pNN | worst-slice]``, several joined by "and".

        Args:
            text: the bar. OP is ``>=``, ``<=``, ``>`` or ``<``; NUMBER may be a percentage; without a statistic it is ``each``.
            metrics: the caller's own by name, each ``f(reference, output)`` or ``f(reference, output, labels)`` giving one
                score for each row. A metric may also be written as ``FILE.py:callable``.

        Raises:
            UsageError: it is not of this form; a metric or a statistic is not known; or the comparison is the wrong way round.
        """
        if isinstance(text, Bar):
            return text
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"a quality bar is text, not {text!r}", f"write {FORM}")
        parts = re.split(r"(?:^|\s+)and(?:\s+|$)", text.strip(), flags=re.IGNORECASE)
        terms = tuple(_term(part.strip(), text, metrics or {}) for part in parts)
        twice = next((t for i, t in enumerate(terms) if t in terms[:i]), None)
        if twice is not None:
            raise UsageError(f"the bar {text!r} asks for '{twice}' twice")
        return Bar(terms)

    def needs(self, confidence: float = CONFIDENCE, coverage: float = COVERAGE) -> tuple[int, int]:
        """How many samples can prove the bar at all: in all, and in every slice.

        Raises:
            UsageError: no number can.
        """
        need = {True: 1, False: 1}
        for term in self.terms:
            sliced = term.statistic == "worst-slice"
            need[sliced] = max(need[sliced], term.needs(confidence, coverage))
        return need[False], need[True]


def _term(part: str, text: str, metrics: Mapping[str, Any]) -> Term:
    found = _TERM.fullmatch(part)
    if found is None:
        what = f"{part!r} in {text!r}" if part != text.strip() else repr(part)
        raise UsageError(f"{what or repr(text)} is no quality bar", f"write {FORM}")
    name, output, statistic = found["metric"], found["output"], (found["statistic"] or "each").lower()
    if output == "":
        raise UsageError(f"{part!r} names no output between its brackets", f"write {FORM}")
    quantile = _QUANTILE.fullmatch(statistic)
    if statistic not in ("each", "mean", "worst-slice") and quantile is None:
        raise UsageError(
            f"{found['statistic']!r} in {part!r} is no statistic",
            "it is mean, each, worst-slice, or pNN for NN % of the inputs, p95 for example",
        )
    if quantile is not None and not 0 < float(quantile[1]) < 100:
        raise UsageError(f"{statistic!r} in {part!r} is no share of inputs", "pNN lies between p0 and p100")
    upward = found["operator"].startswith(">")
    bound = float(found["bound"]) / (100 if found["percent"] else 1)
    own = metrics_table.own(name, metrics, "higher" if upward else "lower")
    better = (own or metrics_table.named(name, metrics)).better
    if upward != (better == "higher"):
        operator = ">=" if better == "higher" else "<="
        raise UsageError(
            f"{part!r} asks for poor quality: {better} {name} is better", f"write {name} {operator} {number(bound)}"
        )
    return Term(name, output, upward, bound, statistic, len(found["operator"]) == 1, own)


def fixed_sequence(verdicts: Iterable[Sequence[Verdict]]) -> int | None:
    """Choose among plans on one split of data, looked at once, and keep the confidence (Learn then Test).

    The plans are tested in an order that was fixed beforehand, safest first, each at the full confidence, until one fails: the
    probability of choosing a plan that breaks the bar is at most ``1 - confidence``, however many there are (Angelopoulos,
    Bates, Candès, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms to Achieve Risk Control",
    arXiv:2110.01052, section 3: fixed sequence testing).

    Args:
        verdicts: for each plan, from the safest to the cheapest, those of every term on the final split. Nothing is asked of
            it after the first failure, so a generator measures no more plans than it has to.

    Returns:
        The position of the last plan before the first failure; None if the first fails.
    """
    chosen = None
    for position, terms in enumerate(verdicts):
        if not terms:
            raise ValueError("a plan without verdicts cannot be chosen")
        if not all(v.holds for v in terms):
            break
        chosen = position
    return chosen
