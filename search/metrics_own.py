"""A caller's own metric: a Python function of reference, output and perhaps labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ..compiler.errors import PlanishError, UsageError
from .metrics_base import Better, Metric


class OwnMetric(Metric):
    """``f(reference, output)`` or ``f(reference, output, labels)``, each ``[rows, ...]``, gives one score for each row.

    An attribute ``better`` of the function, "higher" or "lower", says which way round it is; without one the bar's comparison
    does. Its loss is how far a score is from the score of the reference itself.
    """

    identical = None

    def __init__(self, name: str, function: Callable[..., Any], better: Better) -> None:
        """Wrap ``function``.

        Raises:
            UsageError: it is none, or takes other arguments.
        """
        if not callable(function):
            raise UsageError(f"the metric {name!r} is a {type(function).__name__}, not a function")
        given = getattr(function, "better", better)
        if given not in ("higher", "lower"):
            raise UsageError(f"the attribute 'better' of the metric {name!r} is {given!r}", "it is 'higher' or 'lower'")
        self.name, self.better, self._function = name, given, function
        self.proxy = name  # its loss at the bar is not known beforehand
        self.worst = -np.inf if given == "higher" else np.inf
        self._takes_labels = False
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError:  # a callable of C code
            return
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        needed = sum(p.default is p.empty for p in positional)
        if needed > 3 or (len(positional) < 2 and not rest):
            raise UsageError(
                f"the metric {name!r} cannot be called with (reference, output) or (reference, output, labels)"
            )
        self.needs_labels = needed == 3
        self._takes_labels = len(positional) >= 3 or rest

    def per_sample(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        arguments = (reference, output, labels) if self._takes_labels else (reference, output)
        try:
            scores = self._function(*arguments)
        except PlanishError:
            raise
        except Exception as error:
            raise UsageError(f"the metric {self.name} raised {type(error).__name__}: {error}") from error
        array = np.asarray(scores.detach().cpu() if hasattr(scores, "detach") else scores)
        if array.dtype.kind not in "biuf" or array.shape != (len(reference),):
            raise UsageError(
                f"the metric {self.name} returned {array.dtype} of shape {list(array.shape)} for {len(reference)} samples",
                f"it has to give one number for each sample: shape [{len(reference)}]",
            )
        return array.astype(np.float64)

    def loss(self, scores: np.ndarray) -> np.ndarray:
        """The distance from 1, or from 0 where lower is better; :meth:`losses` knows the score of the reference itself."""
        return np.maximum(0.0, 1.0 - scores if self.better == "higher" else scores)

    def losses(self, reference: np.ndarray, output: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """How far the output's scores fall short of the reference's own."""
        own, perfect = self.per_sample(reference, output, labels), self.per_sample(reference, reference, labels)
        return np.maximum(0.0, perfect - own if self.better == "higher" else own - perfect)

    def smooth(self, reference: np.ndarray) -> Metric:
        return self
