"""Operators that work element by element."""

from __future__ import annotations

from ...graph import Value
from .importing import Importer
from .registry import Handler, op


def _unary(name: str) -> Handler:
    return lambda at, x: at.emit(name, x)


def _binary(name: str) -> Handler:
    return lambda at, a, b: at.emit(name, a, b)


for _theirs, _ours in {
    "Neg": "neg", "Abs": "abs", "Relu": "relu", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Exp": "exp", "Log": "log",
    "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos",
    "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh",
    "Sigmoid": "sigmoid", "Erf": "erf", "Not": "logical_not", "Sign": "sign", "IsNaN": "isnan",
}.items():  # fmt: skip
    op(_theirs)(_unary(_ours))
for _theirs, _ours in {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}.items():
    op(_theirs, since=7)(_binary(_ours))


@op("Identity")
def identity(at: Importer, x: Value) -> Value:
    return x
