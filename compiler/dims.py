"""Dimensions: canonical integer expressions over bounded symbols.

A dimension is a plain ``int`` or an :class:`Expr`: a polynomial with integer coefficients over atoms, where an atom is a
symbol (``s0``) or a call (``floordiv``, ``mod``, ``min``, ``max``) on other dimensions. Construction canonicalises, so two
dimensions are provably equal exactly when they compare equal; the comparison is conservative (a true equality that needs
reasoning about floor division may be missed, a false one is never claimed).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import Union

Dim = Union[int, "Expr"]
Bounds = tuple[int, int]
Atom = Union[str, "Call"]
Monomial = tuple[Atom, ...]

_CALLS: dict[str, Callable[[int, int], int]] = {
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class Call:
    """A non-polynomial operation on two dimensions."""

    fn: str
    args: tuple[Dim, Dim]

    def __str__(self) -> str:
        a, b = self.args
        if self.fn in ("floordiv", "mod"):
            return f"({a}){'//' if self.fn == 'floordiv' else '%'}({b})"
        return f"{self.fn}({a}, {b})"


def _key(monomial: Monomial) -> tuple[int, tuple[str, ...]]:
    return (-len(monomial), tuple(str(a) for a in monomial))


@dataclass(frozen=True)
class Expr:
    """A polynomial: ``terms`` maps each monomial (a sorted tuple of atoms) to its coefficient; never constant."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        terms = dict(self.terms)
        for monomial, coefficient in _terms(other):
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return _make(terms)

    def __mul__(self, other: Dim) -> Dim:
        terms: dict[Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in _terms(other):
                m = tuple(sorted(m1 + m2, key=str))
                terms[m] = terms.get(m, 0) + c1 * c2
        return _make(terms)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return (-self) + other

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __str__(self) -> str:
        parts = []
        for monomial, coefficient in self.terms:
            factors = [f"({a})" if isinstance(a, Call) and a.fn in ("floordiv", "mod") else str(a) for a in monomial]
            if coefficient != 1 or not factors:
                factors.insert(0, str(coefficient))
            parts.append("*".join(factors))
        return " + ".join(parts).replace("+ -", "- ")

    __repr__ = __str__


def _terms(d: Dim) -> tuple[tuple[Monomial, int], ...]:
    return d.terms if isinstance(d, Expr) else ((((), d),) if d else ())


def _make(terms: Mapping[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if set(kept) == {()}:
        return kept[()]
    return Expr(tuple(sorted(kept.items(), key=lambda item: _key(item[0]))))


def symbol(name: str) -> Expr:
    """The dimension that is the symbol ``name``."""
    return Expr((((name,), 1),))


def _call(fn: str, a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return _CALLS[fn](a, b)
    return Expr((((Call(fn, (a, b)),), 1),))


def divide_exactly(a: Dim, b: Dim) -> Dim | None:
    """a / b where every term of ``a`` is a multiple of the single term ``b``; None otherwise."""
    divisor = _terms(b)
    if len(divisor) != 1:
        return 1 if a == b else None
    (monomial, coefficient), quotient = divisor[0], {}
    for m, c in _terms(a):
        rest = list(m)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % coefficient:
            return None
        quotient[tuple(rest)] = c // coefficient
    return _make(quotient)


def floordiv(a: Dim, b: Dim) -> Dim:
    """``a // b`` for ``b > 0``, exact where every term divides."""
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError("a dimension was divided by zero")
    exact = divide_exactly(a, b)
    if exact is not None:
        return exact
    if isinstance(a, Expr) and isinstance(b, int) and b > 1:
        whole = _make({m: c // b for m, c in a.terms if c % b == 0})
        rest = _make({m: c for m, c in a.terms if c % b})
        common = reduce(gcd, [abs(c) for _, c in _terms(rest)], b)
        if common > 1:
            rest, b = _make({m: c // common for m, c in _terms(rest)}), b // common
        return whole + _call("floordiv", rest, b)
    return _call("floordiv", a, b)


def mod(a: Dim, b: Dim) -> Dim:
    """``a % b`` for ``b > 0``."""
    if divide_exactly(a, b) is not None:
        return 0
    return _call("mod", a, b)


def dim_min(a: Dim, b: Dim) -> Dim:
    """The smaller of two dimensions."""
    return a if a == b else _call("min", a, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions."""
    return a if a == b else _call("max", a, b)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of ``dims`` (1 for none)."""
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


def provably_equal(a: Dim, b: Dim) -> bool:
    """True when ``a == b`` for every value of the symbols; False when that is not known."""
    return a == b


def symbols(d: Dim) -> set[str]:
    """The names of the symbols in ``d``."""
    names: set[str] = set()
    for monomial, _ in _terms(d):
        for atom in monomial:
            if isinstance(atom, Call):
                names |= symbols(atom.args[0]) | symbols(atom.args[1])
            else:
                names.add(atom)
    return names


def substitute(d: Dim, env: Mapping[str, Dim]) -> Dim:
    """``d`` with the symbols in ``env`` replaced."""
    makers = {"floordiv": floordiv, "mod": mod, "min": dim_min, "max": dim_max}
    total: Dim = 0
    for monomial, coefficient in _terms(d):
        term: Dim = coefficient
        for atom in monomial:
            if isinstance(atom, Call):
                value = makers[atom.fn](substitute(atom.args[0], env), substitute(atom.args[1], env))
            else:
                value = env.get(atom, symbol(atom))
            term = term * value
        total = total + term
    return total


def evaluate(d: Dim, env: Mapping[str, int]) -> int:
    """The integer value of ``d``.

    Raises:
        KeyError: a symbol has no value in ``env``.
    """
    if isinstance(d, int):
        return d
    total = 0
    for monomial, coefficient in d.terms:
        value = coefficient
        for atom in monomial:
            value *= (
                _CALLS[atom.fn](evaluate(atom.args[0], env), evaluate(atom.args[1], env))
                if isinstance(atom, Call)
                else env[atom]
            )
        total += value
    return total


def bounds(d: Dim, of: Mapping[str, Bounds]) -> Bounds:
    """Inclusive lower and upper bound of ``d`` by interval arithmetic; ``of`` gives the bounds of the symbols."""
    if isinstance(d, int):
        return d, d
    low = high = 0
    for monomial, coefficient in d.terms:
        lo = hi = coefficient
        for atom in monomial:
            a, b = _call_bounds(atom, of) if isinstance(atom, Call) else of[atom]
            corners = (lo * a, lo * b, hi * a, hi * b)
            lo, hi = min(corners), max(corners)
        low, high = low + lo, high + hi
    return low, high


def _call_bounds(call: Call, of: Mapping[str, Bounds]) -> Bounds:
    (a, b), (c, d) = bounds(call.args[0], of), bounds(call.args[1], of)
    if call.fn == "mod":
        return 0, max(d - 1, 0)
    if call.fn == "floordiv" and c <= 0:
        raise ValueError(f"the divisor of {call} may be zero or negative")
    corners = [_CALLS[call.fn](x, y) for x in (a, b) for y in (c, d)]
    return min(corners), max(corners)


def parse(text: str) -> Dim:
    """Read what ``str`` of a dimension prints.

    Raises:
        ValueError: the text is no integer expression.
    """

    def read(node: ast.expr) -> Dim:
        match node:
            case ast.Constant(value=int() as value):
                return value
            case ast.Name(id=name):
                return symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -read(operand)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = read(left), read(right)
                if isinstance(op, ast.Add):
                    return a + b
                if isinstance(op, ast.Sub):
                    return a - b
                if isinstance(op, ast.Mult):
                    return a * b
                if isinstance(op, ast.FloorDiv):
                    return floordiv(a, b)
                if isinstance(op, ast.Mod):
                    return mod(a, b)
            case ast.Call(func=ast.Name(id="min" | "max" as fn), args=[left, right]):
                return (dim_min if fn == "min" else dim_max)(read(left), read(right))
        raise ValueError(f"{text!r} is no dimension")

    try:
        return read(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no dimension") from error
