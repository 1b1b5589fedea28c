"""What could not be read of a model, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

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


def all_failures(failures: Sequence[Failure]) -> CaptureError:
    """The error that names every operator that could not be read, and the way out where there is one."""
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
        hint = f"the model's input {fixes[0]!r} decides a shape: fix it, for example with --fix {fixes[0]}=..."
        return NotFixed(message, hint, fixes)
    if sizes:
        return CaptureError(message, f"fix the size that varies, for example with --dim {sizes[0]}=...")
    unknown = next((f.op for f in failures if not f.why and "::" in f.op), None)
    if unknown is not None:
        return CaptureError(
            message,
            f"say what it computes: planish.register_op({unknown!r}, kernel, schema='(Tensor x) -> Tensor'), in a file that "
            "--ops names or in a plugin; see docs/onnx-in.md",
        )
    return CaptureError(message)
