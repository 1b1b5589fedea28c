"""What could not be read of a model, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from ...errors import CaptureError
from .importing import Failure


class NotFixed(CaptureError):
    """Inputs of the model decide shapes.

    Attributes:
        fixes: their names; with all of them in ``fixed`` the model is read further.
    """

    def __init__(self, message: str, hint: str | None, fixes: Sequence[str]) -> None:
        super().__init__(message, hint)
        self.fixes = tuple(fixes)


def all_failures(failures: Sequence[Failure], hint: str | None = None) -> CaptureError:
    """The error that names every operator that could not be read, and the way out where there is one.

    Args:
        failures: at least one.
        hint: the way out where the failures themselves know none.
    """
    places: dict[tuple[str, str], list[str]] = {}
    for f in failures:
        places.setdefault((f.op, f.why), []).append(f.node)
    parts = []
    for (op, why), nodes in places.items():
        more = f" and {len(nodes) - 3} more" if len(nodes) > 4 else ""
        shown = ", ".join(nodes[:3] if more else nodes) + more
        parts.append(f"{op}{f' ({why})' if why else ''} at {shown}")
    count = "an operator" if len(parts) == 1 else f"{len(parts)} operators"
    fixes = sorted({name for f in failures for name in f.fixes})
    sizes = sorted({name for f in failures for name in f.sizes})
    message = f"the model uses {count} that cannot be read: " + "; ".join(parts)
    if fixes:
        fix = f"the model's input {fixes[0]!r} decides a shape: fix it, for example with --fix {fixes[0]}=..."
        return NotFixed(message, fix, fixes)
    if sizes:
        return CaptureError(message, f"fix the size that varies, for example with --dim {sizes[0]}=...")
    unknown = next((f.op for f in failures if not f.why and "::" in f.op), None)
    if unknown is not None:
        return CaptureError(
            message,
            f"say what it computes: planish.register_op({unknown!r}, kernel, schema='(Tensor x) -> Tensor'), in a file that "
            "--ops names or in a plugin; see docs/onnx-in.md",
        )
    if hint is None and any(not f.why for f in failures):
        hint = "docs/onnx-ops.md lists the operators that are read"
    return CaptureError(message, hint)


def guesses(failures: Sequence[Failure], symbols: Collection[str]) -> Iterator[tuple[str, str | int]]:
    """Dimensions that a failure speaks of, paired with others, or numbers, that they may have to equal; the likeliest first."""
    for failure in failures:
        words = re.findall(r"[A-Za-z_]\w*|\d+", failure.why)
        names = list(dict.fromkeys(w for w in words if w in symbols))
        numbers = list(dict.fromkeys(int(w) for w in words if w.isdigit() and int(w) > 1))
        once = [n for n in names if words.count(n) == 1]
        yield from ((b, a) for a, b in combinations(once, 2))
        yield from ((name, number) for name in once for number in numbers)
        yield from ((b, a) for a, b in combinations(names, 2) if a not in once or b not in once)
