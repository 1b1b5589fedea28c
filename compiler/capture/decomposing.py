"""Writing ops as simpler ones with torch's own decompositions, and noticing where those hold for some sizes only.

``torch.export`` checks that a program holds for every size it may meet; ``run_decompositions`` traces anew and takes what it
learns about sizes for granted. So the conditions that appear meanwhile are tried here on sizes from the declared ranges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any

import torch
from torch._decomp import decomposition_table as _FURTHER
from torch.export import ExportedProgram

from ..errors import CaptureError
from .exporting import explained, quiet

#: How many sizes of each symbol, and how many combinations of sizes, a condition is tried on.
_SIZES, _COMBINATIONS = 6, 256
#: A range without an upper bound is tried up to here.
_FAR = 4096


def decompose(program: ExportedProgram, table: Mapping[Any, Any], debug: bool = False) -> ExportedProgram:
    """``program`` made functional, with the ops in ``table`` (and no others) written as simpler ones.

    Raises:
        CaptureError: torch fails at it, or what it writes holds for some of the sizes only.
    """
    environment = _environment(program)
    before = _conditions(environment)
    try:
        with quiet(debug), torch.no_grad():
            result = program.run_decompositions(dict(table))
    except Exception as error:
        raise explained(error) from error
    for text, condition in _conditions(environment).items():
        if text not in before and not _holds(condition, program.range_constraints):
            ops = ", ".join(sorted({str(op).removesuffix(".default") for op in table})) or "the program"
            raise CaptureError(
                f"torch writes {ops} as simpler operations for some sizes only (where {text})",
                "let fewer dimensions vary, or narrow their bounds",
            )
    return result


def decompositions(targets: Sequence[Any]) -> dict[Any, Any]:
    """torch's own decompositions of ``targets``, as far as there are any."""
    table = torch.export.default_decompositions()
    found: dict[Any, Any] = {}
    for target in targets:
        if not isinstance(target, torch._ops.OpOverload):
            continue
        if target in table:
            found[target] = table[target]
        elif target in _FURTHER:
            found[target] = _FURTHER[target]
        elif torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd"):
            found[target] = target.decompose
    return found


def _environment(program: ExportedProgram) -> Any:
    """torch's record of what it knows about the sizes of a program, None if none varies; later tracing adds to it."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        varying = [s for s in getattr(value, "shape", ()) if isinstance(s, torch.SymInt)]
        if varying:
            return varying[0].node.shape_env
    return None


def _conditions(environment: Any) -> dict[str, Any]:
    """What torch has assumed about sizes so far, by text."""
    return {} if environment is None else {str(guard.expr): guard.expr for guard in environment.guards}


def _holds(condition: Any, ranges: Mapping[Any, Any]) -> bool:
    """Whether ``condition`` is true for sizes all over the ranges of its symbols.

    That a size is not 0 or 1 is what torch always assumes, and what its shapes do not depend on.
    """
    if type(condition).__name__ in ("Ne", "Unequality"):
        return True
    symbols = sorted(condition.free_symbols, key=str)
    if any(symbol not in ranges for symbol in symbols):
        return True  # of a number that is read out of a tensor nothing is known
    choices = [_sizes(ranges[symbol]) for symbol in symbols]
    tried = islice(product(*choices), _COMBINATIONS)
    return all(condition.subs(dict(zip(symbols, sizes, strict=True))) != False for sizes in tried)  # noqa: E712  (sympy's)


def _sizes(interval: Any) -> Sequence[int]:
    lower = max(int(interval.lower), 2)
    upper = max(min(int(interval.upper), _FAR), lower) if interval.upper.is_finite else _FAR
    step = max((upper - lower) // (_SIZES - 2), 1)
    return sorted({lower, min(lower + 1, upper), *range(lower, upper + 1, step), max(upper - 1, lower), upper})
