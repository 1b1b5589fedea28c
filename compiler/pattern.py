"""Patterns of rewrite rules: plain Python, traced once into a small graph of what a value has to be like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import PassError
from .ops import schema
from .options import nearest


class Pattern:
    """Something a value has to be like."""

    def __getitem__(self, index: int) -> Pattern:
        raise PassError(f"{self} has no outputs to choose from in a pattern")


@dataclass(eq=False)
class Var(Pattern):
    """Any value; the same name is the same value."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(eq=False)
class Number(Pattern):
    """A constant of one element, or ``full``, that equals ``value`` within the rounding of its type."""

    value: float

    def __str__(self) -> str:
        return f"the constant {self.value:g}"


@dataclass(eq=False)
class AttrVar:
    """Any value of an attribute, captured under ``name``."""

    name: str


@dataclass(eq=False)
class OpPattern(Pattern):
    """A node of one of ``ops`` whose attributes and operands fit; used as an operand it stands for its first output."""

    ops: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    attrs: Mapping[str, Any]
    label: str = ""
    kept: bool = False

    def named(self, name: str) -> OpPattern:
        """Capture the node: ``match.node(name)``."""
        self.label = name
        return self

    def shared(self) -> OpPattern:
        """Allow other readers; the node is read by the match but stays where it is."""
        self.kept = True
        return self

    def outputs(self, count: int) -> tuple[Pattern, ...]:
        """The first ``count`` outputs of a node with several."""
        return tuple(Output(self, i) for i in range(count))

    def __getitem__(self, index: int) -> Pattern:
        return Output(self, index)

    def __iter__(self) -> Iterator[Pattern]:
        raise PassError(f"in a pattern, write op.{self.ops[0]}(...).outputs(n) to take several outputs")

    def __str__(self) -> str:
        attrs = ", ".join(f"{k}={v}" for k, v in self.attrs.items() if not isinstance(v, AttrVar) and not callable(v))
        return " or ".join(self.ops) + (f" with {attrs}" if attrs else "")


@dataclass(eq=False)
class Output(Pattern):
    """Output ``index`` of a node."""

    producer: OpPattern
    index: int

    def __str__(self) -> str:
        return f"output {self.index} of {self.producer}"


@dataclass(eq=False)
class AnyOf(Pattern):
    """The first of ``choices`` that fits."""

    choices: tuple[Pattern, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.choices))


@dataclass(eq=False)
class Maybe(Pattern):
    """An operand that may be absent; its variables are None then."""

    inner: Pattern

    def __str__(self) -> str:
        return f"{self.inner} or nothing"


@dataclass(eq=False)
class Rest(Pattern):
    """All remaining operands, as a tuple."""

    name: str

    def __str__(self) -> str:
        return f"operands {self.name}"


def lift(given: object) -> Pattern:
    """A pattern, or a number as one.

    Raises:
        PassError: it is neither.
    """
    if isinstance(given, Pattern):
        return given
    if isinstance(given, (bool, int, float)):
        return Number(float(given))
    raise PassError(
        f"{given!r} cannot stand in a pattern", "an operand is a variable, an op, a number or op.any_of(...)"
    )


class PatternOps:
    """``op`` inside ``pattern``: ``op.mul(x, 1.702)`` records a node. An attribute constrains (``axis=-1``), offers
    alternatives (``approximate={"none", "tanh"}``), asks (``axes=lambda a: len(a) == 1``) or is captured
    (``eps=op.attr("eps")``); one that is not named may be anything. Operands not named must be absent."""

    def any_of(self, *choices: object) -> Pattern:
        """The first of several alternatives that fits."""
        return AnyOf(tuple(lift(c) for c in choices))

    def one_of(self, ops: tuple[str, ...], *inputs: object, **attrs: Any) -> OpPattern:
        """A node of any of ``ops`` with these operands."""
        for name in ops:
            spec = schema(name)
            for attribute in attrs:
                if attribute not in spec.attributes:
                    hint = nearest(attribute, spec.attributes)
                    raise PassError(f"op {name!r} has no attribute {attribute!r}", hint)
        return OpPattern(tuple(ops), tuple(lift(i) for i in inputs), attrs)

    def optional(self, inner: object) -> Pattern:
        """An operand that may be absent."""
        return Maybe(lift(inner))

    def rest(self, name: str) -> Pattern:
        """All remaining operands of an op with any number of them."""
        return Rest(name)

    def attr(self, name: str) -> AttrVar:
        """Capture an attribute under ``name``."""
        return AttrVar(name)

    def __getattr__(self, name: str) -> Callable[..., OpPattern]:
        if name.startswith("__"):
            raise AttributeError(name)
        schema(name)

        def record(*inputs: object, **attrs: Any) -> OpPattern:
            return self.one_of((name,), *inputs, **attrs)

        return record


def children(p: Pattern) -> tuple[Pattern, ...]:
    """The patterns directly below ``p``."""
    match p:
        case OpPattern():
            return p.inputs
        case Output():
            return (p.producer,)
        case AnyOf():
            return p.choices
        case Maybe():
            return (p.inner,)
    return ()


def variables(p: Pattern) -> set[str]:
    """Names of the variables in ``p``."""
    names = {p.name} if isinstance(p, (Var, Rest)) else set()
    return names.union(*(variables(c) for c in children(p)))


def heads(p: Pattern) -> list[OpPattern]:
    """The nodes that can yield the value ``p``."""
    if isinstance(p, OpPattern):
        return [p]
    return [h for c in children(p) for h in heads(c)] if not isinstance(p, Maybe) else []
