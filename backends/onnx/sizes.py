"""Sizes that are known at run time only, as int64 tensors: expressions over symbols, read off the shapes of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.dims import Call, Dim, Expr, bounds, symbol, symbols
from ...compiler.errors import LoweringError
from ...compiler.types import DType

if TYPE_CHECKING:
    from .emitter import Emitter


class Sizes:
    """What an emitter knows of sizes. Every size is an int64 vector of one element; the emitter appends equal nodes once."""

    def __init__(self, at: Emitter) -> None:
        self._at = at

    def _constant(self, *numbers: int) -> str:
        return self._at.constant(np.array(numbers, np.int64), "ints")

    def _op(self, op: str, *inputs: str, **attrs: Any) -> str:
        return self._at.op(op, inputs, dtype=DType.i64, **attrs)

    def vector(self, dims: Sequence[Dim]) -> str:
        """The sizes behind one another."""
        if all(isinstance(d, int) for d in dims):
            return self._constant(*dims)  # type: ignore[arg-type]
        if len(dims) == 1:
            return self.one(dims[0])
        parts: list[str] = []
        run: list[int] = []
        for d in dims:
            if isinstance(d, int):
                run.append(d)
                continue
            if run:
                parts.append(self._constant(*run))
                run = []
            parts.append(self.one(d))
        if run:
            parts.append(self._constant(*run))
        return self._op("Concat", *parts, axis=0)

    def one(self, dim: Dim) -> str:
        """A single size."""
        if isinstance(dim, int):
            return self._constant(dim)
        total: str | None = None
        constant = 0
        for monomial, coefficient in dim.terms:
            if not monomial:
                constant = coefficient
                continue
            term = self._atom(monomial[0])
            for atom in monomial[1:]:
                term = self._op("Mul", term, self._atom(atom))
            if coefficient != 1:
                term = self._op("Mul", term, self._constant(coefficient))
            total = term if total is None else self._op("Add", total, term)
        assert total is not None, "an expression without a symbol is a number"
        return self._op("Add", total, self._constant(constant)) if constant else total

    def _atom(self, atom: str | Call) -> str:
        if isinstance(atom, str):
            return self._symbol(atom)
        a, b = (self.one(d) for d in atom.args)
        if atom.fn == "mod":
            return self._op("Mod", a, b)
        if atom.fn == "floordiv":
            low, _ = bounds(atom.args[0], self._at.graph.bounds)
            if low < 0:  # Div truncates; less the remainder, which has the sign of the divisor, it is exact
                a = self._op("Sub", a, self._op("Mod", a, b))
            return self._op("Div", a, b)
        return self._op("Min" if atom.fn == "min" else "Max", a, b)

    def _symbol(self, name: str) -> str:
        """The symbol, read off the axis of an input that is it, or a multiple of it and a constant."""
        wanted = symbol(name)
        for exact in (True, False):
            for value in self._at.graph.inputs:
                for axis, d in enumerate(value.shape):
                    if not isinstance(d, Expr) or symbols(d) != {name} or (exact and d != wanted):
                        continue
                    terms = dict(d.terms)
                    constant = terms.pop((), 0)
                    if set(terms) != {(name,)}:
                        continue
                    size = self._op("Shape", value.name, start=axis, end=axis + 1)
                    if constant:
                        size = self._op("Sub", size, self._constant(constant))
                    return size if terms[(name,)] == 1 else self._op("Div", size, self._constant(terms[(name,)]))
        raise LoweringError(f"no input tells the size {name}", f"an axis of an input has to be {name}")

    def literal_shape(self, shape: Sequence[Dim], given: Sequence[Dim] | None) -> list[int] | None:
        """``shape`` as Reshape takes it without anything computed: 0 keeps the size at that axis of ``given``, -1 is what is
        left over; None if that does not do."""
        if all(isinstance(d, int) for d in shape):
            # 0 would keep a size; that is right only where it is zero itself
            kept = all(d != 0 or (given is not None and i < len(given) and given[i] == 0) for i, d in enumerate(shape))
            return [int(d) for d in shape] if kept else None  # type: ignore[arg-type]
        literal: list[int] = []
        for i, d in enumerate(shape):
            if isinstance(d, int) and d != 0:
                literal.append(d)
            elif given is not None and i < len(given) and given[i] == d:
                literal.append(0)
            elif isinstance(d, int) or -1 in literal:
                return None
            else:
                literal.append(-1)
        if -1 in literal:  # what is left over is not determined where another size may be zero
            limits = self._at.graph.bounds
            others = [d for d, n in zip(shape, literal, strict=True) if n != -1]
            if any(bounds(d, limits)[0] <= 0 for d in others):
                return None
        return literal
