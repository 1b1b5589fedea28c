"""Emitters of functions: those that ONNX has in f32 alone or not at all are built from what it has.

The 16-bit floats are computed in f32 and rounded once. Where cancellation or the width of a polynomial would cost digits,
f32 is computed in f64, for which ONNX Runtime's CPU provider has the four operations, Exp, Log, Sqrt, Sin and Cos.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...compiler.graph import Node
from ...compiler.types import DType
from .calculation import Calculation
from .emit_elementwise import only_input
from .emitter import Emitter, emits
from .probe_graph import MICROSOFT

Function = Callable[[Calculation, str], str]


def _function(op: str) -> Callable[[Function], Function]:
    """Register a function of one operand that is written in a float type of at least 32 bits."""

    def add(function: Function) -> Function:
        @emits(op)
        def emit(at: Emitter, node: Node) -> str:
            x, dtype = only_input(at, node)
            c = Calculation(at, at.wide(dtype))
            return at.cast(function(c, at.cast(x, c.dtype)), dtype)

        return function

    return add


def _in_f64(op: str) -> Callable[[Function], Function]:
    """Register a function of one operand that is written in f64 whatever the type of the operand."""

    def add(function: Function) -> Function:
        @emits(op)
        def emit(at: Emitter, node: Node) -> str:
            x, dtype = only_input(at, node)
            return at.cast(function(Calculation(at, DType.f64), at.cast(x, DType.f64)), dtype)

        return function

    return add


def _native(c: Calculation, operator: str) -> bool:
    """Whether the provider computes the operator in the type of the calculation."""
    return c.at.work(c.dtype, operator) is c.dtype


# -- exponentials and logarithms -----------------------------------------------------------------------------------------
@_function("exp2")
def _exp2(c: Calculation, x: str) -> str:
    return c("Pow", 2.0, x)


@_function("log2")
def _log2(c: Calculation, x: str) -> str:
    return c("Mul", c("Log", x), 1 / math.log(2))


@_function("log10")
def _log10(c: Calculation, x: str) -> str:
    return c("Mul", c("Log", x), 1 / math.log(10))


@_function("expm1")
def expm1(c: Calculation, x: str) -> str:
    """Near 0 by Kahan's quotient: with u = exp(x) the error of u - 1 is that of log(u) (Higham 2002, section 1.14)."""
    u = c("Exp", x)
    less = c("Sub", u, 1.0)
    near = c("Div", c("Mul", less, x), c("Log", u))
    near = c.where(c("Equal", u, 1.0), x, near)
    return c.where(c("Less", c("Abs", x), 0.5), near, less)


@_function("log1p")
def log1p(c: Calculation, x: str) -> str:
    """Near 0 by Kahan's quotient; see :func:`expm1`."""
    u = c("Add", x, 1.0)
    near = c.where(c("Equal", u, 1.0), x, c("Div", c("Mul", c("Log", u), x), c("Sub", u, 1.0)))
    return c.where(c("Less", c("Abs", x), 0.5), near, c("Log", u))


# -- circular and hyperbolic functions -----------------------------------------------------------------------------------
@_function("tan")
def _tan(c: Calculation, x: str) -> str:
    return c("Tan", x) if _native(c, "Tan") else c("Div", c("Sin", x), c("Cos", x))


def arctangent(c: Calculation, x: str) -> str:
    """In f64 from the f32 operator by one step of the addition theorem: atan(x) = y + atan((x cos y - sin y) / (cos y + x
    sin y)), whose last arctangent is of so small a number that it is that number."""
    if _native(c, "Atan"):
        return c("Atan", x)
    y = c("Atan", x)
    sine, cosine = c("Sin", y), c("Cos", y)
    step = c("Div", c("Sub", c("Mul", x, cosine), sine), c("Add", cosine, c("Mul", x, sine)))
    exact = c("Add", y, step)
    far = c.where(c("Less", x, 0.0), -math.pi / 2, math.pi / 2)
    return c.where(c("Greater", c("Abs", x), 1e30), far, exact)  # f32 holds nothing much larger


@_function("atan")
def _atan(c: Calculation, x: str) -> str:
    return arctangent(c, x)


@_function("asin")
def _asin(c: Calculation, x: str) -> str:
    if _native(c, "Asin"):
        return c("Asin", x)
    cosine = c("Sqrt", c("Mul", c("Sub", 1.0, x), c("Add", 1.0, x)))
    return c("Mul", arctangent(c, c("Div", x, c("Add", 1.0, cosine))), 2.0)


@_function("acos")
def _acos(c: Calculation, x: str) -> str:
    if _native(c, "Acos"):
        return c("Acos", x)
    half = c("Sqrt", c("Div", c("Sub", 1.0, x), c("Add", 1.0, x)))
    return c("Mul", arctangent(c, half), 2.0)


@_function("sinh")
def _sinh(c: Calculation, x: str) -> str:
    if _native(c, "Sinh"):
        return c("Sinh", x)
    e = expm1(c, c("Abs", x))  # with e = exp(|x|) - 1: (e + e / (e + 1)) / 2, and e / 2 where e is infinite
    half = c("Mul", c("Add", e, c.where(c("IsInf", e), 1.0, c("Div", e, c("Add", e, 1.0)))), 0.5)
    return c.where(c("Less", x, 0.0), c("Neg", half), half)


@_function("cosh")
def _cosh(c: Calculation, x: str) -> str:
    if _native(c, "Cosh"):
        return c("Cosh", x)
    return c("Mul", c("Add", c("Exp", x), c("Exp", c("Neg", x))), 0.5)


@_function("asinh")
def _asinh(c: Calculation, x: str) -> str:
    """log(|x| + sqrt(x^2 + 1)), written so that small and large numbers keep their digits; the operator loses them."""
    size = c("Abs", x)
    square = c("Mul", size, size)
    near = log1p(c, c("Add", size, c("Div", square, c("Add", c("Sqrt", c("Add", square, 1.0)), 1.0))))
    far = c("Add", c("Log", size), math.log(2))
    result = c.where(c("Greater", size, 1e9), far, near)
    return c.where(c("Less", x, 0.0), c("Neg", result), result)


@_function("acosh")
def _acosh(c: Calculation, x: str) -> str:
    less = c("Sub", x, 1.0)
    near = log1p(c, c("Add", less, c("Sqrt", c("Mul", less, c("Add", x, 1.0)))))
    result = c.where(c("Greater", x, 1e9), c("Add", c("Log", x), math.log(2)), near)
    return c.where(c("Less", x, 1.0), math.nan, result)


@_function("atanh")
def _atanh(c: Calculation, x: str) -> str:
    size = c("Abs", x)
    half = c("Mul", log1p(c, c("Div", c("Mul", size, 2.0), c("Sub", 1.0, size))), 0.5)
    return c.where(c("Less", x, 0.0), c("Neg", half), half)


# -- error function, gamma function --------------------------------------------------------------------------------------
#: Chebyshev coefficients of log(erfc(x) / t) + x^2 over 2 - 4 t, t = 2 / (2 + x): relative error 1.2e-16 on x >= 0 (Press et
#: al., Numerical Recipes, 3rd ed. 2007, section 6.2.2).
_ERFC = (
    -1.3026537197817094, 6.4196979235649026e-1, 1.9476473204185836e-2, -9.561514786808631e-3, -9.46595344482036e-4,
    3.66839497852761e-4, 4.2523324806907e-5, -2.0278578112534e-5, -1.624290004647e-6, 1.303655835580e-6, 1.5626441722e-8,
    -8.5238095915e-8, 6.529054439e-9, 5.059343495e-9, -9.91364156e-10, -2.27365122e-10, 9.6467911e-11, 2.394038e-12,
    -6.886027e-12, 8.94487e-13, 3.13092e-13, -1.12708e-13, 3.81e-16, 7.106e-15, -1.523e-15, -9.4e-17, 1.21e-16, -2.8e-17,
)  # fmt: skip
#: Taylor coefficients of erf(x) / x in x^2, highest power first: below 0.5 the complement would cancel.
_ERF_NEAR = tuple(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in reversed(range(13)))


def complement(c: Calculation, x: str) -> str:
    """erfc(x) in f64."""
    size = c("Abs", x)
    t = c("Div", 2.0, c("Add", size, 2.0))
    y = c("Sub", c("Mul", t, 4.0), 2.0)
    last, before = c.operand(_ERFC[-1]), c.operand(0.0)  # Clenshaw's recurrence
    for coefficient in reversed(_ERFC[1:-1]):
        last, before = c("Add", c("Sub", c("Mul", y, last), before), coefficient), last
    series = c("Sub", c("Mul", c("Add", c("Mul", y, last), _ERFC[0]), 0.5), before)
    far = c("Mul", t, c("Exp", c("Sub", series, c("Mul", size, size))))
    far = c.where(c("Greater", size, 30.0), 0.0, far)
    return c.where(c("Less", x, 0.0), c("Sub", 2.0, far), far)


def error_function(c: Calculation, x: str) -> str:
    """erf(x) in f64."""
    near = c("Mul", x, c.polynomial(c("Mul", x, x), _ERF_NEAR))
    return c.where(c("Less", c("Abs", x), 0.5), near, c("Sub", 1.0, complement(c, x)))


@_function("erf")
def erf(c: Calculation, x: str) -> str:
    return c("Erf", x) if _native(c, "Erf") else error_function(c, x)


_in_f64("erfc")(complement)


@_in_f64("erfinv")
def _erfinv(c: Calculation, y: str) -> str:
    """Winitzki's closed form (2008; relative error 2e-3), then Halley's method on erf, which triples the digits three times.

    The residual is taken of the complement where y is near 1, so that it does not cancel.
    """
    size = c("Abs", y)
    log = log1p(c, c("Neg", c("Mul", size, size)))
    a = 0.147
    half = c("Add", c("Mul", log, 0.5), 2 / (math.pi * a))
    x = c("Sqrt", c("Sub", c("Sqrt", c("Sub", c("Mul", half, half), c("Div", log, a))), half))
    rest = c("Sub", 1.0, size)
    for _ in range(3):
        wrong = c.where(c("Less", size, 0.5), c("Sub", error_function(c, x), size), c("Sub", rest, complement(c, x)))
        step = c("Mul", wrong, c("Mul", c("Exp", c("Mul", x, x)), math.sqrt(math.pi) / 2))
        x = c("Sub", x, c("Div", step, c("Add", c("Mul", x, step), 1.0)))
    x = c.where(c("Equal", size, 1.0), math.inf, x)
    x = c.where(c("Equal", size, 0.0), 0.0, x)
    x = c.where(c("Greater", size, 1.0), math.nan, x)
    return c.where(c("Less", y, 0.0), c("Neg", x), x)


#: Lanczos' approximation of the gamma function with g = 7 and nine terms (1964; coefficients of Godfrey 2001): 1e-15.
_LANCZOS = (
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
)  # fmt: skip


@_in_f64("lgamma")
def _lgamma(c: Calculation, x: str) -> str:
    low = c("Less", x, 0.5)
    z = c("Sub", c.where(low, c("Sub", 1.0, x), x), 1.0)
    total = c.operand(_LANCZOS[0])
    for n, coefficient in enumerate(_LANCZOS[1:], 1):
        total = c("Add", total, c("Div", coefficient, c("Add", z, float(n))))
    t = c("Add", z, 7.5)
    gamma = c("Add", c("Sub", c("Mul", c("Add", z, 0.5), c("Log", t)), t), math.log(2 * math.pi) / 2)
    gamma = c("Add", gamma, c("Log", total))
    part = c("Sub", x, c("Round", x))  # the sine of a multiple of pi is to be zero
    reflected = c("Sub", c("Sub", math.log(math.pi), c("Log", c("Abs", c("Sin", c("Mul", part, math.pi))))), gamma)
    result = c.where(low, reflected, gamma)
    return c.where(c("IsInf", x), math.inf, result)


# -- activations ---------------------------------------------------------------------------------------------------------
@_function("sigmoid")
def sigmoid(c: Calculation, x: str) -> str:
    """The operator's f64 kernel has the digits of f32."""
    if c.dtype is not DType.f64:
        return c("Sigmoid", x)
    return c("Reciprocal", c("Add", c("Exp", c("Neg", x)), 1.0))


@_function("silu")
def _silu(c: Calculation, x: str) -> str:
    return c("Mul", x, sigmoid(c, x))


def log_one_plus_exp(c: Calculation, x: str) -> str:
    """log(1 + exp(x)) without overflow."""
    return (
        c("Softplus", x)
        if _native(c, "Softplus")
        else c("Add", c("Max", x, 0.0), log1p(c, c("Exp", c("Neg", c("Abs", x)))))
    )


@_function("mish")
def _mish(c: Calculation, x: str) -> str:
    return c("Mul", x, c("Tanh", log_one_plus_exp(c, x)))


@_function("hardsigmoid")
def _hardsigmoid(c: Calculation, x: str) -> str:
    if _native(c, "HardSigmoid"):
        return c("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    return c("Div", c("Min", c("Max", c("Add", x, 3.0), 0.0), 6.0), 6.0)


@_function("hardswish")
def _hardswish(c: Calculation, x: str) -> str:
    return c("HardSwish", x) if _native(c, "HardSwish") else c("Mul", x, _hardsigmoid(c, x))


@emits("softplus", "elu", "leaky_relu", "gelu")
def _activation(at: Emitter, node: Node) -> str:
    x, dtype = only_input(at, node)
    c = Calculation(at, at.wide(dtype))
    return at.cast(_ACTIVATIONS[node.op](c, at.cast(x, c.dtype), node), dtype)


def _softplus(c: Calculation, x: str, node: Node) -> str:
    beta, threshold = float(node.attrs["beta"]), float(node.attrs["threshold"])
    scaled = x if beta == 1 else c("Mul", x, beta)
    curve = log_one_plus_exp(c, scaled)
    curve = curve if beta == 1 else c("Div", curve, beta)
    if threshold >= 20 and c.dtype is DType.f32:  # there both are the same number
        return curve
    return c.where(c("Greater", scaled, threshold), x, curve)


def _elu(c: Calculation, x: str, node: Node) -> str:
    alpha = float(node.attrs["alpha"])
    if _native(c, "Elu"):
        return c("Elu", x, alpha=alpha)
    return c.where(c("Greater", x, 0.0), x, c("Mul", expm1(c, x), alpha))


def _leaky_relu(c: Calculation, x: str, node: Node) -> str:
    slope = float(node.attrs["slope"])
    if _native(c, "LeakyRelu"):
        return c("LeakyRelu", x, alpha=slope)
    return c.where(c("Greater", x, 0.0), x, c("Mul", x, slope))


def _gelu(c: Calculation, x: str, node: Node) -> str:
    kind = node.attrs["approximate"]
    if kind == "quick" and c.at.takes("quick-gelu", c.dtype.value):
        name = c.at.op("QuickGelu", [x], domain=MICROSOFT, dtype=c.dtype, alpha=1.702)
        c.at.declare(name, c.dtype, node.output.shape)
        return str(name)
    if kind == "quick":
        return c("Mul", x, sigmoid(c, c("Mul", x, 1.702)))
    if _native(c, "Gelu") and c.at.takes("gelu-20" if kind == "none" else "gelu-tanh-20", c.dtype.value):
        return c("Gelu", x, approximate=kind)
    if kind == "tanh":
        inner = c("Add", x, c("Mul", c("Mul", c("Mul", x, x), x), 0.044715))
        curve = c("Tanh", c("Mul", inner, math.sqrt(2 / math.pi)))
    else:
        curve = erf(c, c("Div", x, math.sqrt(2)))
    return c("Mul", c("Mul", x, c("Add", curve, 1.0)), 0.5)


_ACTIVATIONS: dict[str, Callable[[Calculation, str, Node], str]] = {
    "softplus": _softplus, "elu": _elu, "leaky_relu": _leaky_relu, "gelu": _gelu,
}  # fmt: skip
