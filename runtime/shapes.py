"""Dimensions at run time: reading them from a manifest, solving for the symbols, checking shapes.

Dimensions are integer expressions over named symbols as the manifest prints them: ``128``, ``s0``, ``2*s0 + 1``,
``(s0 + 1)//2``, ``min(s0, 64)``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .errors import ArtifactError, InputError

Evaluate = Callable[[Mapping[str, int]], int]

_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Port:
    """An input, output or state of a model.

    Attributes:
        name: its name.
        dtype: element type (``f32``, ``i64``, ...; ``bf16`` is handed over as ``uint16`` bits).
        shape: per dimension an int, or an expression over symbols as text.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Symbol:
    """A dimension known only at the call, with inclusive bounds."""

    name: str
    lower: int
    upper: int


def parse(text: str) -> Evaluate:
    """A function that evaluates the expression ``text``.

    Raises:
        ArtifactError: the text is no integer expression.
    """

    def read(node: ast.expr) -> Evaluate:
        match node:
            case ast.Constant(value=int() as value):
                return lambda env: value
            case ast.Name(id=name):
                return lambda env: env[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = read(operand)
                return lambda env: -inner(env)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                function, a, b = _OPERATORS[type(op)], read(left), read(right)
                return lambda env: function(a(env), b(env))
            case ast.Call(func=ast.Name(id="min" | "max" as fn), args=[left, right]):
                choose, a, b = (min if fn == "min" else max), read(left), read(right)
                return lambda env: choose(a(env), b(env))
        raise ArtifactError(f"the artifact holds '{text}' where a dimension belongs", "compile the model again")

    try:
        return read(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ArtifactError(
            f"the artifact holds '{text}' where a dimension belongs", "compile the model again"
        ) from error


@dataclass
class Shapes:
    """The shapes of a model's ports over its symbols.

    Raises:
        ArtifactError: a symbol occurs in no dimension of an input from which it can be read.
    """

    symbols: Sequence[Symbol]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    _evaluate: dict[str, Evaluate] = field(default_factory=dict)
    _sources: list[tuple[str, int, int, int, int]] = field(default_factory=list)  # symbol, input, axis, factor, offset

    def __post_init__(self) -> None:
        for port in (*self.inputs, *self.outputs):
            for dim in port.shape:
                if isinstance(dim, str) and dim not in self._evaluate:
                    self._evaluate[dim] = parse(dim)
        self._sources = [self._source(symbol) for symbol in self.symbols]

    def _source(self, symbol: Symbol) -> tuple[str, int, int, int, int]:
        linear = None
        for number, port in enumerate(self.inputs):
            for axis, dim in enumerate(port.shape):
                if dim == symbol.name:
                    return symbol.name, number, axis, 1, 0
                if isinstance(dim, str) and linear is None:
                    linear = self._linear(dim, symbol, number, axis)
        if linear is None:
            raise ArtifactError(f"no input tells the value of the dimension {symbol.name}", "compile the model again")
        return linear

    def _linear(self, dim: str, symbol: Symbol, number: int, axis: int) -> tuple[str, int, int, int, int] | None:
        """``dim`` as factor * symbol + offset, if that is what it is."""
        try:
            values = [self._evaluate[dim]({symbol.name: symbol.lower + step}) for step in (0, 1, 2, 7)]
        except KeyError:  # another symbol is in it
            return None
        factor = values[1] - values[0]
        if factor == 0 or values != [values[0] + factor * step for step in (0, 1, 2, 7)]:
            return None
        return symbol.name, number, axis, factor, values[0] - factor * symbol.lower

    def evaluate(self, port: Port, env: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of ``port`` for given symbols."""
        return tuple(dim if isinstance(dim, int) else self._evaluate[dim](env) for dim in port.shape)

    def solve(self, shapes: Sequence[tuple[int, ...]]) -> dict[str, int]:
        """The symbols' values, from the shapes of the inputs.

        Raises:
            InputError: a rank or a dimension does not fit; says which and what would.
        """
        for port, shape in zip(self.inputs, shapes, strict=True):
            if len(shape) != len(port.shape):
                raise InputError(
                    f"{port.name} has {_dimensions(len(shape))} and this model takes {_dimensions(len(port.shape))}",
                    f"its shape is ({', '.join(map(str, port.shape))})",
                )
        env: dict[str, int] = {}
        for symbol, (_, number, axis, factor, offset) in zip(self.symbols, self._sources, strict=True):
            given = shapes[number][axis]
            value, rest = divmod(given - offset, factor)
            env[symbol.name] = value
            if rest == 0 and not symbol.lower <= value <= symbol.upper:
                low, high = sorted((factor * symbol.lower + offset, factor * symbol.upper + offset))
                raise InputError(
                    f"{self._where(number, axis)} is {given} and this model takes {low} to {high}",
                    "compile it with wider bounds in dynamic_shapes",
                )
        for number, (port, shape) in enumerate(zip(self.inputs, shapes, strict=True)):
            expected = self.evaluate(port, env)
            for axis, (have, want) in enumerate(zip(shape, expected, strict=True)):
                if have != want:
                    raise InputError(self._mismatch(number, axis, have, want), self._because(number, axis))
        return env

    def _where(self, number: int, axis: int) -> str:
        port = self.inputs[number]
        dim = port.shape[axis]
        return f"dimension {axis} of {port.name}" + (f" ({dim})" if isinstance(dim, str) else "")

    def _mismatch(self, number: int, axis: int, have: int, want: int) -> str:
        return f"{self._where(number, axis)} is {have} and has to be {want}"

    def _because(self, number: int, axis: int) -> str | None:
        dim = self.inputs[number].shape[axis]
        if isinstance(dim, int):
            return None
        for name, source, at, _, _ in self._sources:
            if name in dim and (source, at) != (number, axis):
                return f"{name} is taken from dimension {at} of {self.inputs[source].name}"
        return f"it has to have the form {dim}"


def _dimensions(rank: int) -> str:
    return f"{rank} dimension" if rank == 1 else f"{rank} dimensions"
