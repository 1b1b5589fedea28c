"""The last step of a search: which plans are tested on the final samples, in which order, and what is said when none passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..compiler.errors import BudgetError
from .budget import Verdict
from .request import Request
from .trials import Trial


def in_order(allowed: Sequence[Trial], best: Trial | None, price: Callable[[Trial], float]) -> list[Trial]:
    """Plans from the safest to the cheapest, each cheaper than the one before: float, one well inside of the bar, the best, and
    one that may just be beyond it.

    Testing them in an order that was fixed before the samples were looked at spends no confidence on their number, up to the
    first that fails (Angelopoulos et al., "Learn then test", arXiv:2110.01052).

    Args:
        allowed: trials that the pins allow, in the order of time.
        best: the cheapest that will likely be proved; None if none will.
        price: what is to be small.
    """
    chain: list[Trial] = []
    if best is not None:
        safer = [t for t in allowed if t.most_used <= 0.7 * best.most_used and t.met]
        chain = [*([min(safer, key=price)] if safer else []), best]
    bolder = [t for t in allowed if 1.0 < t.most_used <= 1.15 and (best is None or price(t) < price(best))]
    chain += sorted(bolder, key=lambda t: t.most_used)[:1]
    if allowed and allowed[0].id == 0 and allowed[0] not in chain:
        chain.insert(0, allowed[0])
    elif not chain and allowed:  # pins forbid float: the best there is
        chain = [min(allowed, key=lambda t: t.most_used)]
    return chain


def infeasible(request: Request, allowed: Sequence[Trial], verdicts: Sequence[Verdict] | None) -> BudgetError:
    """The error that no plan meets the bar: it says the best reached, and why the safest was not proved (``verdicts``)."""
    best = min(allowed, key=lambda t: t.most_used, default=None)
    reached = " and ".join(
        f"{term.metric} {best.quality[str(term)]:.6g} {term.statistic}" for term in request.bar.terms if best
    )
    why = f" ({next(v.sentence for v in verdicts if not v.holds)})" if verdicts else ""
    return BudgetError(
        f"no plan meets {request.bar}; the best reached is {reached}{why}",
        "ask for less, or give more samples" + (", or pin fewer layers" if request.pins.rules else ""),
    )
