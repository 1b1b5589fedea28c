"""How hard to search: what ``quick``, ``standard``, ``thorough`` or a number of seconds stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..compiler.errors import UsageError
from ..compiler.options import nearest


@dataclass(frozen=True)
class Effort:
    """What a search may spend.

    Attributes:
        name: ``quick``, ``standard``, ``thorough``, or the seconds that were asked for.
        sensitivity: name of the method that estimates losses (``search/sensitivity``).
        samples: samples that losses are estimated on.
        calibration: samples that observers and weight methods see.
        leave_out: precisions that are not tried: each costs the build of a whole model, and these seldom win.
        trials: plans that are built and measured while the limit of the solver is narrowed down.
        refinements: single changes tried from the best of them on.
        pairs: pairs of units whose joint loss is measured.
        seconds: no trial is begun after this; None for no limit.
        weights: precision -> the method that makes its weights, where that is not the default.
    """

    name: str
    sensitivity: str
    samples: int
    calibration: int
    leave_out: tuple[str, ...]
    trials: int
    refinements: int
    pairs: int
    seconds: float | None = None
    weights: Mapping[str, str] = field(default_factory=dict)

    def keeps(self, precision: str) -> bool:
        """Whether ``precision`` is tried."""
        return precision not in self.leave_out


#: Twice the time that smoothing alone takes, and half the loss (MiniLM: a minimum cosine of .9992 where that has .9984).
_CAREFUL = dict.fromkeys(("w8a16", "w8a8-dynamic", "w8a8"), "gptq")
_GROUPS = ("w4a16", "w4a16-g64", "w4a16-g32", "w4a8", "w4a8-g64", "w4a8-g32")
EFFORTS = {
    e.name: e
    for e in (
        Effort("quick", "fisher", 16, 32, (*_GROUPS, "w8a16"), 4, 0, 0),
        Effort("standard", "measured", 16, 64, ("w4a16-g64", "w4a8-g64"), 6, 6, 8, weights=_CAREFUL),
        Effort("thorough", "measured", 64, 256, (), 10, 30, 48, weights=_CAREFUL),
    )
}


def find_effort(given: str | float) -> Effort:
    """The effort of a name, or of a number of seconds: the plan of the nearest name, ended by the clock.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(given, str) and given in EFFORTS:
        return EFFORTS[given]
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        raise UsageError(f"there is no effort {given!r}", nearest(str(given), EFFORTS)) from None
    if not 1 <= seconds < float("inf"):
        raise UsageError(
            f"an effort of {given} seconds makes no sense", "give at least 1, or quick, standard, thorough"
        )
    base = EFFORTS["quick" if seconds < 60 else "standard" if seconds < 600 else "thorough"]
    return replace(base, name=f"{seconds:g} s", seconds=seconds)


def candidates(offered: Sequence[str], effort: Effort, objective: str, pinned: bool) -> tuple[str, ...]:
    """What of the ``offered`` precisions of a unit is tried; a pin is not questioned. Small models want the groups of 4 bits
    even in a hurry, so ``size`` keeps one of each."""
    if pinned:
        return tuple(offered)
    kept = {"w4a16", "w4a8", "w8a16"} if "size" in objective else set()
    return tuple(p for p in offered if effort.keeps(p) or p in kept)
