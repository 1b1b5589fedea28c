"""Elementwise steps as C++ expressions over the vocabulary of ``templates/cpu/vec.hpp.j2``.

A value is *uniform* when it is one scalar per row (or constant) and *varying* when it differs along the row; the same op
becomes scalar text for uniform arguments and vector text otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..compiler.errors import LoweringError
from .specs import Domain, Storage

#: The C++ vector type of a domain.
VECTOR: dict[Domain, str] = {"f32": "vf", "f64": "vd", "i32": "vi", "i64": "vl", "bool": "vm"}
#: The C++ type of one element in memory.
ELEMENT: dict[Storage, str] = {
    "f64": "f64", "f32": "f32", "f16": "f16", "bf16": "bf16", "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8",
    "u8": "u8", "bool": "b8", "i8b": "i8b",
}  # fmt: skip
#: The domain in which a storage type arrives when it is loaded, and must be in to be stored.
NATURAL: dict[Storage, Domain] = {
    "f64": "f64", "f32": "f32", "f16": "f32", "bf16": "f32", "i64": "i64", "i32": "i32", "i16": "i32", "i8": "i32",
    "u8": "i32", "bool": "bool", "i8b": "i32",
}  # fmt: skip
BYTES: dict[Storage, int] = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1, "i8b": 1,
}  # fmt: skip
DOMAIN_BYTES: dict[Domain, int] = {"f64": 8, "f32": 4, "i64": 8, "i32": 4, "bool": 4}


@dataclass(frozen=True)
class Typed:
    """A C++ expression (a name or something in parentheses), the domain of its value, and whether it is one per row."""

    text: str
    domain: Domain
    uniform: bool = False
    number: int | float | None = None

    @property
    def lanes(self) -> str:
        """The text as a vector."""
        return f"splat({self.text})" if self.uniform else self.text


def literal(value: int | float | bool, domain: Domain) -> Typed:
    """A constant of ``domain``."""
    if domain == "bool":
        return Typed("true" if value else "false", domain, True, bool(value))
    if domain in ("f32", "f64"):
        number = float(value)
        if math.isnan(number):
            text = f"{domain}(NAN)"
        elif math.isinf(number):
            text = f"{domain}({'-' if number < 0 else ''}INFINITY)"
        else:
            text = repr(number) + ("f" if domain == "f32" else "")
            text = f"({text})" if text.startswith("-") else text
        return Typed(text, domain, True, value)
    bits = 32 if domain == "i32" else 64
    wrapped = (int(value) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    if wrapped == -(2 ** (bits - 1)):  # has no literal of its own
        return Typed(f"INT{bits}_MIN", domain, True, value)
    return Typed(f"{domain}({wrapped})", domain, True, value)


def convert(value: Typed, domain: Domain) -> Typed:
    """``value`` in ``domain``: float to int truncates, anything to bool tests for non-zero."""
    if value.domain == domain:
        return value
    if value.number is not None:
        return literal(value.number, domain)
    return Typed(f"to_{domain}({value.text})", domain, value.uniform)


def common(values: Sequence[Typed]) -> Domain:
    """The domain in which values of several are compared; a constant adapts to the others."""
    order: tuple[Domain, ...] = ("bool", "i32", "i64", "f32", "f64")
    named = [v for v in values if v.number is None] or values
    return max((v.domain for v in named), key=order.index)


def _call(name: str, args: Sequence[Typed], domain: Domain) -> Typed:
    uniform = all(a.uniform for a in args)
    texts = [a.text if uniform else a.lanes for a in args]
    return Typed(f"{name}({', '.join(texts)})", domain, uniform)


def _infix(sign: str, args: Sequence[Typed], domain: Domain) -> Typed:
    a, b = args
    uniform = a.uniform and b.uniform
    if domain == "bool" and not uniform:
        return Typed(f"({a.lanes} {sign} {b.lanes})", domain)
    return Typed(f"({a.text} {sign} {b.text})", domain, uniform)


_FAST = frozenset({"exp", "exp2", "sigmoid", "silu", "tanh", "gelu_erf", "gelu_tanh", "gelu_quick"})
_REAL = frozenset(
    ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "asin",
     "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf", "silu", "floor", "ceil", "round",
     "trunc", "hardswish", "hardsigmoid", "mish", "softplus", "elu", "leaky_relu", "erfc", "erfinv", "lgamma")
)  # fmt: skip
_ROUNDINGS = frozenset({"floor", "ceil", "round", "trunc"})
_COMPARE: dict[str, tuple[str, bool]] = {
    "eq": ("eq", False), "ne": ("ne", False), "lt": ("lt", False), "le": ("le", False), "gt": ("lt", True),
    "ge": ("le", True),
}  # fmt: skip
_LOGIC = {"logical_and": "&", "logical_or": "|", "logical_xor": "^"}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*"}
_BOOL_ARITHMETIC = {"add": "|", "mul": "&", "maximum": "|", "minimum": "&"}


def elementwise(op: str, args: Sequence[Typed], domain: Domain, mode: str = "") -> Typed:
    """The expression of one elementwise step.

    Numeric attributes follow the operands as arguments: ``clamp`` (x, min, max; infinities for an absent bound),
    ``leaky_relu`` (x, slope), ``elu`` (x, alpha), ``softplus`` (x, beta, threshold). ``cast`` rounds to a narrower storage
    type named in ``mode``.

    Raises:
        LoweringError: the op is unknown, or not defined in this domain.
    """
    fast = "fast" in mode.split(",")
    if op in _COMPARE:
        name, swapped = _COMPARE[op]
        kind = common(args)
        compared = [convert(a, kind) for a in args]
        return _call(name, compared[::-1] if swapped else compared, "bool")
    if op in _LOGIC:
        return _infix(_LOGIC[op], [convert(a, "bool") for a in args], "bool")
    if op == "logical_not":
        value = convert(args[0], "bool")
        return Typed(f"!{value.text}", "bool", value.uniform)
    if op in ("isnan", "isinf", "isfinite"):
        if args[0].domain not in ("f32", "f64"):
            return literal(op == "isfinite", "bool")
        return _call(f"v_{op}", args, "bool")
    if op == "where":
        condition, a, b = convert(args[0], "bool"), convert(args[1], domain), convert(args[2], domain)
        return _call("select", [condition, a, b], domain)
    if op == "cast":
        return _cast(args[0], domain, mode)
    if op == "quantize_i8":
        return _call(
            "v_quantize_i8_row" if mode == "row" else "v_quantize_i8", [convert(a, "f32") for a in args], "i32"
        )
    if op == "quantize":
        return _quantize(args, mode.split(","))
    values = [convert(a, domain) for a in args]
    if domain == "bool":
        return _boolean(op, values)
    if op in _ARITHMETIC:
        return _infix(_ARITHMETIC[op], values, domain) if domain[0] == "f" else _call(f"v_{op}", values, domain)
    if op in _BITS and domain[0] == "i":
        return _infix(_BITS[op], values, domain)
    if op == "bitwise_not" and domain[0] == "i":
        return Typed(f"(~{values[0].text})", domain, values[0].uniform)
    if op == "div" and domain[0] == "f":
        return _infix("/", values, domain)
    if op == "pow":
        return _power(values, args[1].number, domain)
    if op == "square":
        return elementwise("mul", [values[0], values[0]], domain)
    if op == "gelu":
        spelled = next((part for part in mode.split(",") if part in ("tanh", "quick")), "erf")
        op = f"gelu_{spelled}"
    function = _FUNCTIONS.get(op)
    if function is None and (op in _REAL or op.startswith("gelu_")) and domain[0] == "f":
        function = f"v_{op}_fast" if fast and op in _FAST and domain == "f32" else f"v_{op}"
    if function is None and op in _ROUNDINGS:  # of integers
        return values[0]
    if function is None:
        raise LoweringError(f"the CPU has no kernel for the step '{op}' in {domain}")
    return _call(function, values, domain)


_FUNCTIONS = {
    "maximum": "v_max", "minimum": "v_min", "abs": "v_abs", "neg": "v_neg", "relu": "v_relu", "sign": "v_sign",
    "clamp": "v_clamp", "div": "v_div_trunc", "floordiv": "v_div_floor", "mod": "v_remainder", "fmod": "v_fmod",
    "atan2": "v_atan2", "bitwise_left_shift": "v_shift_left", "bitwise_right_shift": "v_shift_right",
}  # fmt: skip


_RANGES = {"i8": (-128, 127), "u8": (0, 255), "i16": (-32768, 32767)}


def _quantize(args: Sequence[Typed], mode: Sequence[str]) -> Typed:
    x, factor, zero = convert(args[0], "f32"), convert(args[1], "f32"), convert(args[-1], "i32")
    stored = "_stored" if "stored" in mode else ""
    if len(args) == 5:
        bounds = [convert(a, "f32") for a in args[2:4]]
        return _call(f"v_quantize_within{stored}", [elementwise("mul", [x, factor], "f32"), *bounds, zero], "i32")
    if "symmetric" in mode and "division" not in mode:
        return _call(f"v_quantize_i8{stored}", [x, factor], "i32")
    scaled = elementwise("div" if "division" in mode else "mul", [x, factor], "f32")
    low, high = next(_RANGES[part] for part in mode if part in _RANGES)
    return _call(f"v_quantize<{low + ('symmetric' in mode)}, {high}>", [scaled, zero], "i32")


def _boolean(op: str, values: Sequence[Typed]) -> Typed:
    if op in _BOOL_ARITHMETIC or op in _BITS:
        return _infix({**_BOOL_ARITHMETIC, **_BITS}[op], values, "bool")
    if op == "bitwise_not":
        return Typed(f"!{values[0].text}", "bool", values[0].uniform)
    if op in ("abs", "relu", "sign"):
        return values[0]
    raise LoweringError(f"the CPU has no kernel for the step '{op}' in bool")


def _cast(value: Typed, domain: Domain, mode: str) -> Typed:
    result = convert(value, domain)
    narrow = next((part for part in mode.split(",") if part in ("bf16", "f16", "i8", "u8", "i16")), None)
    return result if narrow is None else _call(f"round_to<{narrow}>", [result], domain)


def _power(values: Sequence[Typed], exponent: int | float | None, domain: Domain) -> Typed:
    x = values[0]
    special: dict[float, Callable[[], Typed]] = {
        1.0: lambda: x,
        2.0: lambda: elementwise("mul", [x, x], domain),
        3.0: lambda: elementwise("mul", [elementwise("mul", [x, x], domain), x], domain),
    }
    if domain[0] == "f":
        special |= {
            0.5: lambda: _call("v_sqrt", [x], domain),
            -0.5: lambda: _call("v_rsqrt", [x], domain),
            -1.0: lambda: _call("v_reciprocal", [x], domain),
        }
    if exponent is not None and float(exponent) in special:
        return special[float(exponent)]()
    return _call("v_pow", values, domain)
