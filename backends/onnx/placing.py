"""Who runs what of a compiled unit: its model opened for real, on the execution provider it was made for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...compiler.artifact.parts import OnnxPart
from ...compiler.errors import UsageError
from .assignment import misplaced
from .providers import find_provider
from .session import open_session, weights_of


def placed(part: OnnxPart, *, strict: bool = False) -> dict[str, Any]:
    """Which provider runs how many nodes, and which nodes run elsewhere than they were meant to.

    Args:
        part: the unit.
        strict: a node on another provider is an error; shape arithmetic, which ONNX Runtime keeps on the CPU, is none.

    Returns:
        ``provider``, ``version``, ``nodes`` (provider -> how many), ``elsewhere`` (a line for each node on another provider) and
        ``why_not`` (None, or why nothing can be seen on this machine).

    Raises:
        LoweringError: the provider refuses the model, or, where ``strict``, nodes of it; the nodes are named.
        UsageError: ``strict``, and the provider is not here to be asked.
    """
    provider = find_provider(str(part.session["provider"]))
    told: dict[str, Any] = {"provider": provider.name, "version": provider.version(), "nodes": {}, "elsewhere": []}
    if reason := provider.missing():
        if strict:
            raise UsageError(
                f"what {provider.name} takes cannot be checked here: it needs {reason}", provider.install_hint()
            )
        return {**told, "why_not": f"it needs {reason}"}
    with open_session(part.binary, weights_of(part), provider, strict=strict) as session:
        counts = Counter(p.provider for p in session.placements if p.provider)
        elsewhere = [str(p) for p in misplaced(session.placements, provider)]
    return {**told, "nodes": dict(counts.most_common()), "elsewhere": elsewhere, "why_not": None}
