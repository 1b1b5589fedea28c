"""Every metric by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..compiler.errors import UsageError
from ..compiler.options import nearest
from .metrics_base import Better, Metric
from .metrics_corpus import PerplexityRatio, Spearman
from .metrics_decision import Accuracy, Flips, Kl, Rank, TopK
from .metrics_distance import Cosine, RelativeError, Sqnr
from .metrics_own import OwnMetric

_FIXED: dict[str, Metric] = {
    m.name: m
    for m in (
        Cosine(),
        Sqnr(),
        RelativeError(),
        Kl(),
        Flips(),
        Accuracy(),
        PerplexityRatio(),
        Spearman(),
        Rank(10, "rank"),
    )
}


def names() -> list[str]:
    """The names of all metrics, for messages; ``topK`` and ``rankK`` take any number for K."""
    return sorted([*_FIXED, "top1", "top5"])


def named(name: str, more: Mapping[str, Any] | None = None) -> Metric:
    """The metric called ``name``.

    Args:
        more: the caller's own, to be named in the hint as well.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name in _FIXED:
        return _FIXED[name]
    found = re.fullmatch(r"(top|rank)([1-9]\d*)", name)
    if found is not None and not (found[1] == "rank" and found[2] == "1"):
        k = int(found[2])
        return TopK(k) if found[1] == "top" else Rank(k, name)
    raise UsageError(f"there is no metric {name!r}", nearest(name, [*names(), *(more or ())]))


def own(name: str, metrics: Mapping[str, Any], better: Better) -> Metric | None:
    """A metric of the caller's: one of ``metrics``, or ``FILE.py:callable``; None where ``name`` is neither.

    Args:
        better: which way round it is, where the function does not say.

    Raises:
        UsageError: it has the name of one of planish's own, or is none; or there is no such file or function.
    """
    if name in metrics:
        if name in names() or re.fullmatch(r"(top|rank)\d*", name):
            raise UsageError(f"{name!r} is a metric of planish's own", "give yours another name")
        return OwnMetric(name, metrics[name], better)
    if ".py:" not in name:
        return None
    from ..compiler.python_file import callable_in

    return OwnMetric(name.rpartition(":")[2], callable_in(name, "a metric"), better)
