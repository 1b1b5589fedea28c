"""From torch's symbolic sizes to dimensions: names, bounds and expressions. The only reader of sympy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from .. import dims
from ..dims import Dim
from ..graph import Symbol
from .naming import DEFAULT_UPPER, identifier
from .unsupported import Unsupported

#: Where torch states no bound it states one near the largest integer; anything above this counts as none.
_UNBOUNDED = 1 << 40


class SymbolTable:
    """The run-time dimensions of one exported program.

    Args:
        ranges: torch's symbol -> value range (``ExportedProgram.range_constraints``).
        names: torch's symbol name -> the name it gets here.
    """

    def __init__(self, ranges: Mapping[Any, Any], names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self.symbols: dict[str, Symbol] = {}
        self.notes: list[str] = []
        self._cache: dict[Any, Dim] = {}
        self._ranges = {str(symbol): interval for symbol, interval in ranges.items()}
        for name in names:
            self._declare(name)

    def _declare(self, torch_name: str) -> str:
        name = self.names.setdefault(torch_name, torch_name)
        if name in self.symbols:
            return name
        lower, upper = 1, DEFAULT_UPPER
        interval = self._ranges.get(torch_name)
        stated = None if interval is None else _finite(interval.upper)
        if interval is not None:
            low = _finite(interval.lower)
            # 2 is not a bound of the model: torch traces sizes of 0 and 1 as if they were constants.
            lower = 1 if low is None or low <= 2 else low
        if stated is None:
            upper = max(upper, lower)
            self.notes.append(f"the dimension {name!r} has no upper bound; {upper} is assumed")
        else:
            upper = stated
        self.symbols[name] = Symbol(name, lower, upper)
        return name

    @property
    def bounds(self) -> dict[str, dims.Bounds]:
        """Inclusive bounds by name."""
        return {s.name: (s.lower, s.upper) for s in self.symbols.values()}

    def dim(self, size: Any) -> Dim:
        """The dimension that ``size`` (an int, a ``SymInt`` or a sympy expression) stands for.

        Raises:
            Unsupported: the expression is not one of integers.
        """
        if isinstance(size, int):
            return int(size)
        expr = size.node.expr if isinstance(size, torch.SymInt) else size
        found = self._cache.get(expr)
        if found is None:
            found = self._cache[expr] = self._read(expr)
        return found

    def learn(self, size: Any, dim: Dim) -> None:
        """Say which dimension an unbacked symbol of torch is (a number that torch saw come out of a tensor, or the length of
        a slice between two such numbers); sizes that are something else are left alone."""
        if isinstance(size, torch.SymInt):
            expr = size.node.expr
            if expr.is_Symbol and expr not in self._cache and is_unbacked(size):
                self._cache[expr] = dim

    def shape(self, sizes: Iterable[Any]) -> tuple[Dim, ...]:
        """Every size as a dimension."""
        return tuple(self.dim(s) for s in sizes)

    def _read(self, expr: Any) -> Dim:
        kind = type(expr).__name__
        if expr.is_Integer:
            return int(expr)
        if expr.is_Symbol:
            return dims.symbol(self._declare(str(expr)))
        if kind == "Add":
            return sum((self.dim(a) for a in expr.args), start=0)
        if kind == "Mul":
            return dims.product(self.dim(a) for a in expr.args)
        if kind == "Pow" and expr.args[1].is_Integer and int(expr.args[1]) > 0:
            return dims.product([self.dim(expr.args[0])] * int(expr.args[1]))
        if kind in ("FloorDiv", "CleanDiv", "IntTrueDiv"):
            # IntTrueDiv stands for an integer only inside a truncation of sizes, which are not negative
            return dims.floordiv(self.dim(expr.args[0]), self.dim(expr.args[1]))
        if kind in ("Mod", "PythonMod"):
            return dims.mod(self.dim(expr.args[0]), self.dim(expr.args[1]))
        if kind in ("Max", "Min"):
            pick = dims.dim_max if kind == "Max" else dims.dim_min
            result = self.dim(expr.args[0])
            for other in expr.args[1:]:
                result = pick(result, self.dim(other))
            return result
        if kind in ("TruncToInt", "FloorToInt", "Identity"):
            return self.dim(expr.args[0])
        if kind in ("floor", "CeilToInt", "ceiling"):
            numerator, denominator = self._fraction(expr.args[0])
            if kind == "floor":
                return dims.floordiv(numerator, denominator)
            return dims.floordiv(numerator + denominator - 1, denominator)
        raise Unsupported(f"the size {expr} is no expression of integers")

    def _fraction(self, expr: Any) -> tuple[Dim, Dim]:
        if type(expr).__name__ == "IntTrueDiv":
            return self.dim(expr.args[0]), self.dim(expr.args[1])
        top, bottom = expr.as_numer_denom()
        return self.dim(top), self.dim(bottom)


def is_unbacked(size: torch.SymInt) -> bool:
    """Whether torch knows no example of this size, because it depends on what a tensor holds."""
    return not size.node.has_hint()


def _finite(bound: Any) -> int | None:
    try:
        value = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return value if abs(value) < _UNBOUNDED else None


def name_symbols(
    placeholders: Sequence[tuple[str, Any]], requested: Mapping[tuple[int, int], tuple[str, bool]]
) -> dict[str, str]:
    """A readable name for every symbol in the shapes of the inputs.

    Args:
        placeholders: per input its name and fake tensor.
        requested: (input number, axis) -> the name asked for there, and whether the size is the symbol itself
            (False: the size is derived from it, such as ``2 * seq``).
    """
    names: dict[str, str] = {}
    taken: set[str] = set()

    def claim(torch_name: str, wish: str) -> None:
        if torch_name in names:
            return
        wish = identifier(wish)
        name, count = wish, 1
        while name in taken:
            count += 1
            name = f"{wish}_{count}"
        taken.add(name)
        names[torch_name] = name

    def free(size: Any) -> list[str]:
        return sorted(str(s) for s in size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else []

    for exact in (True, False):
        for number, (_, tensor) in enumerate(placeholders):
            for axis, size in enumerate(getattr(tensor, "shape", ())):
                wish = requested.get((number, axis))
                unnamed = [s for s in free(size) if s not in names]
                if wish is not None and wish[1] is exact and len(unnamed) == 1:
                    claim(unnamed[0], wish[0])
    for name, tensor in placeholders:
        for axis, size in enumerate(getattr(tensor, "shape", ())):
            for torch_name in free(size):
                claim(torch_name, f"{name}_dim{axis}")
    return names
