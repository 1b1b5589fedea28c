"""Operators that work element by element: arithmetic, functions, comparisons, logic, bits, conversion."""

from __future__ import annotations

from functools import partial, reduce

from ...graph import Value
from ...types import DType
from ..unsupported import Unsupported
from .importing import Importer
from .registry import op, refuse
from .types import dtype_of


def _unary(name: str, at: Importer, x: Value) -> Value:
    return at.emit(name, x)


def _binary(name: str, at: Importer, a: Value, b: Value) -> Value:
    return at.emit(name, a, b)


for _theirs, _ours in {
    "Neg": "neg", "Abs": "abs", "Relu": "relu", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Exp": "exp", "Log": "log",
    "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos",
    "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh",
    "Sigmoid": "sigmoid", "Erf": "erf", "Not": "logical_not", "Sign": "sign", "IsNaN": "isnan", "BitwiseNot": "bitwise_not",
    "HardSwish": "hardswish", "Mish": "mish",
}.items():  # fmt: skip
    op(_theirs)(partial(_unary, _ours))
for _theirs, _ours in {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt",
    "LessOrEqual": "le", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
}.items():  # fmt: skip
    op(_theirs, since=7)(partial(_binary, _ours))


@op("Identity", sequences=True)
def identity(at: Importer, x: Value) -> Value:
    return x


def arithmetic(at: Importer, name: str, a: Value, b: Value) -> Value:
    """A binary op that kernels do not have for u8: there in i32, which holds every result."""
    if a.dtype is not DType.u8:
        return at.emit(name, a, b)
    return at.cast(at.emit(name, at.cast(a, DType.i32), at.cast(b, DType.i32)), DType.u8)


@op("Div", since=7)
def div(at: Importer, a: Value, b: Value) -> Value:
    return arithmetic(at, "div", a, b)


@op("Mod", since=10)
def mod(at: Importer, a: Value, b: Value, *, fmod: int = 0) -> Value:
    return arithmetic(at, "fmod" if fmod else "mod", a, b)


@op("Pow", since=7)
def power(at: Importer, x: Value, exponent: Value) -> Value:
    """The result has the type of ``x``; of two types it is computed in the one that holds both."""
    data = at.array(exponent)
    if data is not None and data.size == 1 and exponent.dtype is not DType.bf16 and exponent.type.rank <= x.type.rank:
        match float(data.reshape(())):
            case 1.0:
                return x
            case 2.0:
                return at.emit("square", x)
            case 3.0:
                return at.emit("mul", at.emit("square", x), x)
            case -1.0 if x.dtype.is_float:
                return at.emit("reciprocal", x)
    if x.dtype.is_float:
        return at.emit("pow", x, at.cast(exponent, x.dtype))
    wide = DType.f64 if exponent.dtype.is_float else max(x.dtype, exponent.dtype, key=lambda d: d.size)
    return at.cast(at.emit("pow", at.cast(x, wide), at.cast(exponent, wide)), x.dtype)


# -- many operands --------------------------------------------------------------------------------------------------------
def _many(name: str, at: Importer, *operands: Value) -> Value:
    return reduce(lambda a, b: at.emit(name, a, b), operands)


for _theirs, _ours in {"Max": "maximum", "Min": "minimum", "Sum": "add"}.items():
    op(_theirs, since=6)(partial(_many, _ours))


@op("Mean", since=6)
def mean(at: Importer, *operands: Value) -> Value:
    total = _many("add", at, *operands)
    return at.emit("div", total, at.scalar(len(operands), total.dtype))


# -- bounds and selection --------------------------------------------------------------------------------------------------
@op("Clip", since=6)
def clip(
    at: Importer, x: Value, low: Value | None = None, high: Value | None = None, *, min: float | None = None,
    max: float | None = None,
) -> Value:  # fmt: skip
    """Bounds are attributes before opset 11."""
    bounds: list[float | None] = [min, max]
    for i, value in enumerate((low, high)):
        data = at.array(value)
        if value is None or data is None or value.dtype is DType.bf16 or data.size != 1:
            continue
        bounds[i] = data.reshape(())[()].item()
    if all(v is None or bounds[i] is not None for i, v in enumerate((low, high))):
        return x if bounds == [None, None] else at.emit("clamp", x, min=bounds[0], max=bounds[1])
    if low is not None:
        x = at.emit("maximum", x, at.reshape(low, ()))
    return x if high is None else at.emit("minimum", x, at.reshape(high, ()))


@op("Where", since=9)
def where(at: Importer, condition: Value, a: Value, b: Value) -> Value:
    return at.emit("where", condition, a, b)


# -- activations ------------------------------------------------------------------------------------------------------------
def _floating(x: Value) -> Value:
    if not x.dtype.is_float:
        raise Unsupported(f"its operand is {x.dtype.value}, no floating-point number")
    return x


@op("LeakyRelu", since=6)
def leaky_relu(at: Importer, x: Value, *, alpha: float = 0.01) -> Value:
    return at.emit("leaky_relu", x, slope=alpha)


@op("PRelu", since=7)
def prelu(at: Importer, x: Value, slope: Value) -> Value:
    data = at.array(slope)
    if x.dtype.is_float and data is not None and data.size == 1 and slope.dtype is not DType.bf16:
        return at.emit("leaky_relu", x, slope=float(data.reshape(())))
    return at.emit("where", at.emit("lt", x, at.scalar(0, x.dtype)), at.emit("mul", x, slope), x)


@op("Elu", since=6)
def elu(at: Importer, x: Value, *, alpha: float = 1.0) -> Value:
    return at.emit("elu", x, alpha=alpha)


@op("Selu", since=6)
def selu(at: Importer, x: Value, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Value:
    return at.emit("mul", at.emit("elu", x, alpha=alpha), at.scalar(gamma, x.dtype))


@op("Celu", since=12)
def celu(at: Importer, x: Value, *, alpha: float = 1.0) -> Value:
    factor = at.scalar(alpha, x.dtype)
    curve = at.emit("expm1", at.emit("div", at.emit("minimum", x, at.scalar(0, x.dtype)), factor))
    return at.emit("add", at.emit("relu", x), at.emit("mul", curve, factor))


@op("ThresholdedRelu", since=10)
def thresholded_relu(at: Importer, x: Value, *, alpha: float = 1.0) -> Value:
    return at.emit("where", at.emit("gt", x, at.scalar(alpha, x.dtype)), x, at.scalar(0, x.dtype))


@op("Shrink", since=9)
def shrink(at: Importer, x: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    wide = x if x.dtype.is_float else at.cast(x, DType.f64)
    offset, edge = at.scalar(bias, wide.dtype), at.scalar(lambd, wide.dtype)
    above = at.emit("where", at.emit("gt", wide, edge), at.emit("sub", wide, offset), at.scalar(0, wide.dtype))
    below = at.emit("lt", wide, at.scalar(-lambd, wide.dtype))
    return at.cast(at.emit("where", below, at.emit("add", wide, offset), above), x.dtype)


@op("HardSigmoid", since=6)
def hard_sigmoid(at: Importer, x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    if abs(alpha * 6 - 1) < 1e-6 and beta == 0.5:
        return at.emit("hardsigmoid", x)
    line = at.emit("add", at.emit("mul", x, at.scalar(alpha, x.dtype)), at.scalar(beta, x.dtype))
    return at.emit("clamp", line, min=0.0, max=1.0)


@op("Softplus")
def softplus(at: Importer, x: Value) -> Value:
    """Above the threshold the result is ``x``; e to minus it is less than half a unit in the last place of the result."""
    return at.emit("softplus", x, beta=1.0, threshold=40.0 if x.dtype is DType.f64 else 20.0)


@op("Softsign")
def softsign(at: Importer, x: Value) -> Value:
    return at.emit("div", x, at.emit("add", at.emit("abs", x), at.scalar(1, x.dtype)))


@op("Gelu", since=20)
def gelu(at: Importer, x: Value, *, approximate: str = "none") -> Value:
    if approximate not in ("none", "tanh"):
        raise Unsupported(f"there is no approximation {approximate!r}")
    return at.emit("gelu", x, approximate=approximate)


# -- numbers and bits --------------------------------------------------------------------------------------------------------
@op("IsInf", since=10)
def is_inf(at: Importer, x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    if detect_negative and detect_positive:
        return at.emit("isinf", x)
    if not detect_negative and not detect_positive:
        return at.expand(at.scalar(False, DType.bool), x.shape)
    return at.emit("eq", _floating(x), at.scalar(float("inf") if detect_positive else -float("inf"), x.dtype))


@op("BitShift", since=11)
def bit_shift(at: Importer, a: Value, b: Value, *, direction: str) -> Value:
    return at.emit(f"bitwise_{direction.lower()}_shift", a, b)


@op("Cast", since=6)
def cast(at: Importer, x: Value, *, to: int, saturate: int = 1) -> Value:
    """``saturate`` is about float8 alone."""
    return at.cast(x, dtype_of(to))


@op("CastLike", since=15)
def cast_like(at: Importer, x: Value, like: Value, *, saturate: int = 1) -> Value:
    return at.cast(x, like.dtype)


# -- chance ------------------------------------------------------------------------------------------------------------------
refuse("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
       why="it draws random numbers")  # fmt: skip
