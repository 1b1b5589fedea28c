"""The orders in which passes run, each with its why, and the names by which the command line knows the passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..compiler.pipeline import Pipeline, Slot
from .attention import RecognizeAttention
from .canonicalize import Canonicalize
from .custom import DecomposeCustom
from .fold import Fold
from .fold_norm import FoldNorm
from .hoist_casts import HoistCasts
from .merge_linear import MergeLinear
from .precision import ResolvePlan
from .quantised_source import QuantisedSource
from .quantize import Quantize
from .recognize import Recognize
from .rotary import JoinRotary, RecognizeRotary

#: The passes for every target, by name.
PASSES: dict[str, Callable[..., Any]] = {
    p.name: p
    for p in (
        DecomposeCustom,
        Canonicalize,
        QuantisedSource,
        Fold,
        FoldNorm,
        RecognizeAttention,
        Recognize,
        RecognizeRotary,
        JoinRotary,
        ResolvePlan,
        MergeLinear,
        Quantize,
        HoistCasts,
    )
}


def default() -> Pipeline:
    """The order for every target; the target fills the slots ``legalize``, ``fuse`` and ``layout``.

    Custom ops are taken apart before all else, so that nothing else has to know them. Then canonical form, so that the
    recognisers meet one spelling; what came quantised gets its usual form before constants are folded, which would make its
    weights floats; batch norms fold into the weights in front while those are still f32; recognition before the plan is
    resolved, because the plan speaks of linears and attention; the user's passes once the graph is in its final vocabulary;
    merging after the plan, because linears of different precision must stay apart; casts are hoisted after quantisation has
    made them.
    """
    return Pipeline((
        DecomposeCustom(), Canonicalize(), QuantisedSource(), Fold(), FoldNorm(), Canonicalize(), Recognize(),
        RecognizeRotary(), RecognizeAttention(), Canonicalize(), Slot("custom"), ResolvePlan(), MergeLinear(),
        Canonicalize(), JoinRotary(), Quantize(), HoistCasts(), Slot("legalize"), Fold(), Canonicalize(), HoistCasts(),
        Slot("fuse"), Slot("layout"),
    ))  # fmt: skip
