"""Bounds of run-time dimensions that a model's own tables set, where its file says none."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ... import dims as dims_of
from ...dims import Call, Dim, Expr
from ...graph import Graph


def caps(graph: Graph, unbounded: Collection[str]) -> dict[str, int]:
    """The least that a table cuts a symbol off at.

    A table of 512 positions cut to ``seq`` has ``min(seq, 512)`` rows, which fit beside ``seq`` others up to 512 alone.

    Args:
        graph: as far as it could be read.
        unbounded: names of the symbols whose bounds nobody states.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        for d in (d for value in node.outputs for d in value.shape):
            for name, most in _cuts(d):
                symbol = graph.symbols[name]
                if name in unbounded and symbol.lower <= most < symbol.upper:
                    found[name] = min(most, found.get(name, most))
    return found


def _cuts(d: Dim) -> Iterator[tuple[str, int]]:
    """``seq`` and 512 for every ``min(seq, 512)`` in a dimension."""
    for monomial, _ in d.terms if isinstance(d, Expr) else ():
        for atom in monomial:
            if not isinstance(atom, Call):
                continue
            for one, other in (atom.args, atom.args[::-1]):
                if atom.fn == "min" and isinstance(one, Expr) and isinstance(other, int):
                    names = dims_of.symbols(one)
                    plus = one - dims_of.symbol(next(iter(names)))
                    if len(names) == 1 and isinstance(plus, int):
                        yield next(iter(names)), other - plus
                yield from _cuts(one)
